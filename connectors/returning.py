"""What records of the journal were when they were put, for sources that take them back: told by the shape of their event. Pure.

Each raises SourceError where the event is not of this kind, or was edited so that it cannot be put.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from poller.errors import SourceError
from poller.failures.journal import KeptRecord


@dataclass(frozen=True, slots=True)
class SentMessage:
    """A message of SQS. `attributes` are its message attributes, each with its data type; `trace`: the AWS X-Ray header, "" without."""

    body: str
    group: str | None
    attributes: Mapping[str, tuple[str, str | bytes]]
    trace: str


def message(record: KeptRecord) -> SentMessage:
    """Of an event of SQS."""
    with understood(record) as element:
        system = element.get("attributes", {})
        attributes = {name: (_text(each["dataType"]), _value(each)) for name, each in element.get("messageAttributes", {}).items()}
        group = _text(system["MessageGroupId"]) if "MessageGroupId" in system else None
        return SentMessage(_text(element["body"]), group, attributes, _text(system.get("AWSTraceHeader", "")))


def streamed(record: KeptRecord) -> tuple[str, bytes]:
    """Of an event of Kinesis: partition key and data. A record that was taken out of an aggregated one goes back alone."""
    with understood(record) as element:
        inner = element["kinesis"]
        return _text(inner["partitionKey"]), b64decode(inner["data"], validate=True)


def _value(attribute: Mapping[str, Any]) -> str | bytes:
    return b64decode(attribute["binaryValue"], validate=True) if "binaryValue" in attribute else _text(attribute["stringValue"])


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    value.encode()  # half of a surrogate pair can be kept, and not be sent
    return value


@contextmanager
def understood(record: KeptRecord) -> Iterator[Any]:
    """The record's element of the event; whatever is wrong with it is told, without what it says."""
    try:
        yield json.loads(record.json)  # not orjson: a text may hold half of a surrogate pair
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(
            f"record {record.id} of the journal is not of this kind of source, or holds what it does not take ({type(error).__name__}), "
            "so it cannot be put back"
        ) from error
