"""Which records of a shard a failure is of, as AWS's invocation records tell it: KinesisBatchInfo and DDBStreamBatchInfo. Pure.

Source: AWS Lambda guide, "Retain discarded batch records for a Kinesis Data Streams (DynamoDB) event source"; records that AWS sent.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from poller.failures.journal import Entry, KeptRecord

Element = dict[str, Any]


def batch_info(entry: Entry, sequence: Callable[[Element], str], arrival: Callable[[Element], str]) -> dict[str, Any]:
    """`sequence` and `arrival` read an element of the event. A window's final invocation, which has no records, has neither."""
    first, last = _element(entry.records[0]), _element(entry.records[-1])
    if first is None or last is None:
        event = orjson.loads(entry.head + entry.tail)
        return {"shardId": event["shardId"], "batchSize": 0, "streamArn": event["eventSourceARN"]}
    return {
        "shardId": entry.records[0].id.partition(":")[0],
        "startSequenceNumber": sequence(first),
        "endSequenceNumber": sequence(last),
        "approximateArrivalOfFirstRecord": arrival(first),
        "approximateArrivalOfLastRecord": arrival(last),
        "batchSize": len(entry.records),
        "streamArn": first["eventSourceARN"],
    }


def _element(record: KeptRecord) -> Element | None:
    element: Element | None = orjson.loads(record.json) if record.json else None
    return element
