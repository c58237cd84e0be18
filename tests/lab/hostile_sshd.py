"""An ssh server that lets everybody in, answers the first command of a connection, and then sends packets that nobody asked for, without end.

Its arguments are a file with its host key and the packets' type and size. It prints its port, and ends with its input.
"""

import os
import socket
import sys
import threading

import paramiko


class Everybody(paramiko.ServerInterface):
    """Takes any key for the right one, and the first command of a connection as its heartbeat."""

    def __init__(self, transport):
        self.transport = transport

    def get_allowed_auths(self, username):
        return "publickey"

    def check_auth_publickey(self, username, key):
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind, chanid):
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel, command):
        if command.startswith(b"echo "):
            threading.Thread(target=self.greet, args=(channel,), daemon=True).start()
        return True

    def greet(self, channel):
        channel.sendall(b"# blat 1\n")
        channel.sendall(channel.recv(4096))
        message = paramiko.Message()
        message.add_byte(bytes([TYPE]))
        message.add_bytes(bytes(SIZE))
        while self.transport.is_active():
            self.transport.packetizer.send_message(message)


def serve(connection):
    transport = paramiko.Transport(connection)
    transport.add_server_key(KEY)
    transport.start_server(server=Everybody(transport))


KEY, TYPE, SIZE = paramiko.Ed25519Key(filename=sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
# What a client does that hangs up is not of interest.
threading.excepthook = lambda _: None
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
