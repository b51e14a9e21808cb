"""A function for very many records of a stream: a line in the file named by OUT when an invocation begins, and one when it ends.

A record's data is its number in the stream, and "poison" behind it if the function is to fail. SLOW: seconds that each invocation takes.
Lines are those of functions/offsets; the partition is always 0, for shards come and go, and a number is of the whole stream.
"""

import base64
import json
import os
import time
from typing import Any


def handle(event: dict[str, Any], context: Any) -> None:
    texts = [base64.b64decode(record["kinesis"]["data"]).decode().split() for record in event["Records"]]
    numbers = [int(text[0]) for text in texts]
    testify("begun", numbers, context)
    time.sleep(float(os.environ.get("SLOW", "0")))
    if any(text[1:] for text in texts):
        testify("failed", numbers, context)
        raise ValueError("poison")
    testify("ended", numbers, context)


def testify(what: str, numbers: list[int], context: Any) -> None:
    """One write of one line, appended: environments share the file, and a kill leaves only whole lines."""
    line = {
        "what": what,
        "request": context.aws_request_id,
        "time": time.time(),
        "daemon": os.getppid(),
        "partition": 0,
        "offsets": numbers,
    }
    out = os.open(os.environ["OUT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(out, json.dumps(line).encode() + b"\n")
    os.close(out)
