"""Which messages a failure is of, in the manner of AWS's invocation records, of which it has none for queues. Pure."""

from __future__ import annotations

import json
from typing import Any

from poller.failures.invocation import milliseconds
from poller.failures.journal import Entry


def described(entry: Entry) -> dict[str, Any]:
    """SQSBatchInfo: for every source whose records are SQS's messages."""
    first, last = entry.records[0], entry.records[-1]
    return {
        "SQSBatchInfo": {
            "firstMessageId": first.id,
            "lastMessageId": last.id,
            "approximateArrivalOfFirstRecord": milliseconds(first.arrival),
            "approximateArrivalOfLastRecord": milliseconds(last.arrival),
            "batchSize": len(entry.records),
            # Not orjson: a body may hold half of a surrogate pair.
            "queueArn": json.loads(first.json)["eventSourceARN"],
        }
    }
