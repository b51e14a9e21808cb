"""A shop's two Lambda functions. Nothing in here knows of poller: it would run on AWS as it is."""

import base64
import json
import time


def bill(event, context):
    """Called with orders of a stream (Kinesis's event)."""
    orders = [json.loads(base64.b64decode(record["kinesis"]["data"])) for record in event["Records"]]
    invoices = [{"order": order["id"], "total": total(order)} for order in orders]
    save(invoices)


def confirm(event, context):
    """Called with orders of a queue (SQS's event); says which of them failed."""
    failed = []
    for record in event["Records"]:
        try:
            order = json.loads(record["body"])
            save(f"Dear {order['customer']}, that makes {total(order):.2f}.")
        except Exception as error:
            print(f"order {order['id']} not confirmed: {error!r}")
            failed.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failed}


def total(order):
    """What the customer pays."""
    full = sum(line["price"] * line["quantity"] for line in order["lines"])
    return round(full * (1 - order["discount"]), 2)


def save(what):
    """A database, or a mail server, would take a moment too."""
    time.sleep(0.02)
