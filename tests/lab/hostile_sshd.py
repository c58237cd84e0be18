"""An ssh server that is a stranger. Its arguments are a file with its host key, and one of these:

TYPE SIZE: it lets everybody in, answers the first command of a connection, and then, asked for another one, sends packets of this type and
size without end, which nobody asked for.

half -: it does the same, but what it sends is the beginning of an exchange of keys, and of another packet a part.

debug TEXT, farewell TEXT, offer TEXT: to the ssh client of the system it says this text before the exchange of keys, as a message for its log,
as the reason for hanging up, or as the algorithms that it has for host keys. From others it takes any password, and prints it.

It prints its port, and ends with its input.
"""

import os
import select
import socket
import struct
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
        serve = self.greet if command.startswith(b"echo ") else self.halve if HALVES else self.flood
        threading.Thread(target=serve, args=(channel,), daemon=True).start()
        return True

    def greet(self, channel):
        channel.sendall(b"# blat 1\n")
        channel.sendall(channel.recv(4096))

    def flood(self, channel):
        message = paramiko.Message()
        message.add_byte(bytes([TYPE]))
        message.add_bytes(bytes(SIZE))
        while self.transport.is_active():
            self.transport.packetizer.send_message(message)

    def halve(self, channel):
        parts = []
        packetizer = self.transport.packetizer
        packetizer.write_all = lambda part: parts.append(bytes(part))
        for message in (exchange(b"ssh-ed25519"), b"\x02" + framed(bytes(1000))):
            packetizer.send_message(paramiko.Message(message))
        self.transport.sock.sendall(parts[0] + parts[1][:300])


class Collector(paramiko.ServerInterface):
    """Prints passwords."""

    def get_allowed_auths(self, username):
        return "publickey,password"

    def check_auth_publickey(self, username, key):
        return paramiko.AUTH_FAILED

    def check_auth_password(self, username, password):
        print("password", password, flush=True)
        return paramiko.AUTH_FAILED


def framed(part):
    return struct.pack(">I", len(part)) + part


def packet(message):
    """A packet of SSH before anything is encrypted."""
    filling = 16 - (len(message) + 5) % 8
    return struct.pack(">IB", len(message) + filling + 1, filling) + message + bytes(filling)


def exchange(algorithms):
    """The message that begins an exchange of keys, these being the algorithms for host keys."""
    lists = [b"curve25519-sha256", algorithms] + 2 * [b"aes128-ctr"] + 2 * [b"hmac-sha2-256"] + 2 * [b"none"] + 2 * [b""]
    return b"\x14" + os.urandom(16) + b"".join(map(framed, lists)) + bytes(5)


def lie(connection):
    # The ssh client of the system and libssh2 both say first who they are.
    readable = select.select([connection], [], [], 20)[0]
    version = connection.recv(64, socket.MSG_PEEK) if readable else b""
    if b"OpenSSH" not in version:
        serve(connection, lambda _: Collector())
        return
    text = sys.argv[3].encode()
    lies = {
        "debug": packet(b"\x04\x01" + framed(text) + framed(b"")) + packet(exchange(b"ssh-dss")),
        "farewell": packet(b"\x01" + struct.pack(">I", 2) + framed(text) + framed(b"")),
        "offer": packet(exchange(text.replace(b",", b""))),
    }
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n" + lies[sys.argv[2]])
    while connection.recv(4096):
        pass


def serve(connection, whom=Everybody):
    transport = paramiko.Transport(connection)
    transport.add_server_key(KEY)
    transport.start_server(server=whom(transport))


KEY = paramiko.Ed25519Key(filename=sys.argv[1])
HALVES = sys.argv[2] == "half"
LIES = not HALVES and not sys.argv[2].isdigit()
TYPE, SIZE = (0, 0) if HALVES or LIES else map(int, sys.argv[2:4])
# What a client does that hangs up is not of interest.
threading.excepthook = lambda _: None
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
while True:
    threading.Thread(target=lie if LIES else serve, args=(listener.accept()[0],), daemon=True).start()
