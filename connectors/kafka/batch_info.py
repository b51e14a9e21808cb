"""Which records of a partition a failure is of, as AWS's invocation records tell it. Pure.

Source: AWS Lambda guide, "Retain discarded batch records for ... Apache Kafka event sources".
"""

from __future__ import annotations

from typing import Any

import orjson

from poller.failures.invocation import event, milliseconds
from poller.failures.journal import Entry


def described(entry: Entry) -> dict[str, Any]:
    """KafkaBatchInfo. `eventSourceArn` only where the event has one: a self-managed cluster has none. A record without a timestamp is given
    none."""
    envelope = orjson.loads(entry.head + entry.tail)
    first, last = orjson.loads(entry.records[0].json), orjson.loads(entry.records[-1].json)
    return {
        "KafkaBatchInfo": {
            "batchSize": len(entry.records),
            **({"eventSourceArn": envelope["eventSourceArn"]} if "eventSourceArn" in envelope else {}),
            "bootstrapServers": envelope["bootstrapServers"],
            "payloadSize": len(event(entry)),
            "recordsInfo": {
                f"{first['topic']}-{first['partition']}": {
                    "firstRecordOffset": str(first["offset"]),
                    "lastRecordOffset": str(last["offset"]),
                    "firstRecordTimestamp": _moment(first["timestamp"]),
                    "lastRecordTimestamp": _moment(last["timestamp"]),
                }
            },
        }
    }


def _moment(timestamp: int | None) -> str | None:
    return None if timestamp is None or timestamp < 0 else milliseconds(timestamp / 1000)
