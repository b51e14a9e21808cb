"""A function for very many records of Kafka: a line in the file named by OUT when an invocation begins, and one when it ends.

It fails when a record's value is "poison". SLOW: seconds that each invocation takes.
"""

import base64
import json
import os
import time
from typing import Any

POISON = base64.b64encode(b"poison").decode()


def handle(event: dict[str, Any], context: Any) -> None:
    testify("begun", event, context)
    time.sleep(float(os.environ.get("SLOW", "0")))
    if any(record["value"] == POISON for records in event["records"].values() for record in records):
        testify("failed", event, context)
        raise ValueError("poison")
    testify("ended", event, context)


def testify(what: str, event: dict[str, Any], context: Any) -> None:
    """One write of one line, appended: environments share the file, and a kill leaves only whole lines."""
    ((_, records),) = event["records"].items()
    line = {
        "what": what,
        "request": context.aws_request_id,
        "time": time.time(),
        "daemon": os.getppid(),
        "partition": records[0]["partition"],
        "offsets": [record["offset"] for record in records],
    }
    out = os.open(os.environ["OUT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(out, json.dumps(line).encode() + b"\n")
    os.close(out)
