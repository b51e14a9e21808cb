"""Appends a line per record to the file named by OUT: process id, request id, body. A body may ask for trouble.

{"do": "fail"} raises, {"do": "exit"} ends the process, {"do": "hang"} never returns, {"do": "print"} prints; anything else is good.
"""

import base64
import json
import os
import sys
import time


def body(record):
    """The text of a record of any source."""
    if "kinesis" in record:
        return base64.b64decode(record["kinesis"]["data"]).decode()
    if "value" in record:
        return base64.b64decode(record["value"]).decode()
    return record["body"]


def records(event):
    """The records of any source's event: Kafka's come by partition."""
    if isinstance(event.get("records"), dict):
        return [record for partition in event["records"].values() for record in partition]
    return event["Records"]


def identifier(record):
    """What a partial batch response names."""
    if "kinesis" in record:
        return record["kinesis"]["sequenceNumber"]
    if "messageId" in record:
        return record["messageId"]
    return {"partition": f"{record['topic']}-{record['partition']}", "offset": record["offset"]}


def work(record, context):
    text = body(record)
    # One write a line, appended: so that environments can share the file, and a kill leaves only whole lines.
    with open(os.environ["OUT"], "ab", buffering=0) as out:
        out.write(f"{os.getpid()} {context.aws_request_id} {text}\n".encode())
    try:
        deed = json.loads(text).get("do")
    except (ValueError, AttributeError):
        return
    if deed == "fail":
        raise ValueError(f"asked to fail by {text}")
    if deed == "exit":
        sys.exit(1)
    if deed == "hang":
        time.sleep(3600)
    if deed == "print":
        print(text)


def handle(event, context):
    for record in records(event):
        work(record, context)


def report(event, context):
    failed = []
    for record in records(event):
        try:
            work(record, context)
        except ValueError:
            failed.append({"itemIdentifier": identifier(record)})
    return {"batchItemFailures": failed}
