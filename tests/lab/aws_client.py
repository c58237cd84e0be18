"""The AWS command-line client, asked many times: it takes longer to start than to do what the tests want of it.

Each line of input is a JSON list of arguments. Each answer is one line of JSON: a list of its exit code, its output and its errors.
"""

import io
import json
import sys

import awscli.clidriver

requests, answers = sys.stdin, sys.stdout
driver = awscli.clidriver.create_clidriver()
for request in requests:
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    try:
        code = driver.main(json.loads(request))
    except SystemExit as end:
        code = end.code
    said = [stream.buffer.getvalue().decode() for stream in (sys.stdout, sys.stderr)]
    print(json.dumps([code, *said]), file=answers, flush=True)
