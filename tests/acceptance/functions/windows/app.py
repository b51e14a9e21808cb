"""A function with a tumbling window: its state is the texts of its records, and PADDING bytes. It appends each of its events, in short, to
the file OUT."""

import base64
import json
import os
import time
from typing import Any

PADDING = "".join(f"{n}," for n in range(200_000))[: int(os.environ.get("PADDING", "0"))]


def body(record: dict[str, Any]) -> str:
    if "kinesis" in record:
        return base64.b64decode(record["kinesis"]["data"]).decode()
    return str(record["dynamodb"]["NewImage"]["body"]["S"])


def handle(event: dict[str, Any], context: Any) -> dict[str, Any]:
    bodies = [body(record) for record in event["Records"]]
    given = event["state"].get("bodies", [])
    line = {
        "window": event["window"],
        "shard": event["shardId"],
        "source": event["eventSourceARN"],
        "final": event["isFinalInvokeForWindow"],
        "early": event["isWindowTerminatedEarly"],
        "given": given,
        "bodies": bodies,
        "whole": event["state"] in ({}, {"bodies": given, "padding": PADDING}),
    }
    time.sleep(float(os.environ.get("SLOW", "0")))
    out = os.open(os.environ["OUT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(out, json.dumps(line).encode() + b"\n")
    os.close(out)
    return {"state": {"bodies": [*given, *bodies], "padding": PADDING}}
