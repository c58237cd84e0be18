"""The AWS command-line client, asked many times: it takes longer to start than to do what the tests want of it.

    aws_client.py           answers its standard input
    aws_client.py SOCKET    answers everybody who comes there, each by a process of its own

Each line of input is a JSON list of arguments. Each answer is one line of JSON: a list of its exit code, its output and its errors.
"""

import io
import json
import os
import socketserver
import sys

import awscli.clidriver


driver = awscli.clidriver.create_clidriver()


def answer(requests, answers):
    for request in requests:
        sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        try:
            code = driver.main(json.loads(request))
        except SystemExit as end:
            code = end.code
        said = [stream.buffer.getvalue().decode() for stream in (sys.stdout, sys.stderr)]
        print(json.dumps([code, *said]), file=answers, flush=True)


class Visitor(socketserver.StreamRequestHandler):
    def handle(self):
        answer(io.TextIOWrapper(self.rfile), io.TextIOWrapper(self.wfile))


class Server(socketserver.ForkingMixIn, socketserver.UnixStreamServer):
    request_queue_size = 64


if len(sys.argv) == 1:
    answer(sys.stdin, sys.stdout)
else:
    # Others see it once it answers.
    with Server(sys.argv[1] + ".new", Visitor) as server:
        os.rename(sys.argv[1] + ".new", sys.argv[1])
        server.serve_forever()
