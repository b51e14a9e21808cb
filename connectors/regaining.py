"""The records of an event as the journal keeps them, for every source whose event is `{"Records": [...]}`. Vendor-free.

The text of each record is kept as it is: numbers and escapes are the producer's.

Nothing is asked of a source unless its identity or records need it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Raw

from poller.errors import SourceError
from poller.failures.journal import KeptRecord
from poller.redrive.letters import Regained

Read = Callable[[bytes], tuple[KeptRecord, str]]
"""An element's text -> the record, and its identifier in a partial batch response. Raises SourceError, KeyError, TypeError, ValueError."""


def regained(event: bytes, read: Read, source: str, lane: str, what: str) -> Regained:
    """`what`: of what the event should be, for the error. Raises SourceError: it is another's."""
    head, texts, tail = parted(event, what)
    try:
        found = [read(text) for text in texts]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SourceError(f"its event is none of {what} ({type(error).__name__}: {error})") from error
    if not found:
        raise SourceError("its event has no records: a window's final invocation cannot be run again")
    return Regained(
        source, lane, tuple(record for record, _ in found), tuple(msgspec.json.encode(name).decode() for _, name in found), head, tail
    )


def of_queue(check: Callable[[str], None]) -> Read:
    """Of messages of SQS's kind. `check` is told each one's queue (an ARN), and raises SourceError for another's."""

    def read(text: bytes) -> tuple[KeptRecord, str]:
        found = element(text)
        check(str(found["eventSourceARN"]))
        attributes, name = found["attributes"], str(found["messageId"])
        return KeptRecord(name, attributes.get("MessageGroupId"), int(attributes["SentTimestamp"]) / 1000, text), name

    return read


def of_shards(check: Callable[[str], None]) -> Read:
    """Of records of Kinesis's kind, likewise."""

    def read(text: bytes) -> tuple[KeptRecord, str]:
        found = element(text)
        check(str(found["eventSourceARN"]))
        record = found["kinesis"]
        arrival = float(record["approximateArrivalTimestamp"])
        return KeptRecord(str(found["eventID"]), str(record["partitionKey"]), arrival, text), str(record["sequenceNumber"])

    return read


def parted(event: bytes, what: str) -> tuple[bytes, list[bytes], bytes]:
    """What stands before the records, their texts, and what stands behind them. Raises SourceError."""
    try:
        parts = msgspec.json.decode(event, type=dict[str, Raw])
        records = [bytes(each) for each in msgspec.json.decode(parts.pop("Records"), type=list[Raw])]
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        raise SourceError(f"its event is none of {what}: it has no list of Records") from error
    rest = b"".join(b"," + msgspec.json.encode(name) + b":" + bytes(text) for name, text in parts.items())
    return b'{"Records":[', records, b"]" + rest + b"}"


def element(text: bytes) -> Any:
    """Parsed. Raises ValueError."""
    return json.loads(text)  # neither msgspec nor orjson: a text may hold half of a surrogate pair


def told_of(told: dict[str, Any] | Any, key: str) -> dict[str, Any]:
    """The batch's description in an invocation record. Raises SourceError: it is of another kind of source, or of none."""
    found = told.get(key)
    if not isinstance(found, dict):
        other = next((name for name in told if name.endswith("BatchInfo")), None)
        raise SourceError(f"it tells of another kind of source ({other})" if other else f"it does not tell which records failed (no {key})")
    return found
