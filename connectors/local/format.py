"""How local records look to functions: exactly SQS's and Kinesis's events. Pure.

Source of the shapes: AWS Lambda developer guide, "Using Lambda with Amazon SQS" and "... with Amazon Kinesis". Account and region are
`000000000000` and `local`.
"""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from connectors import fields
from connectors.kinesis.event import Elements, document
from poller.filtering import readable
from poller.model import Document, Identifier
from poller.quotas import MAXIMUM_EVENT_BYTES

_EXACT_FROM = MAXIMUM_EVENT_BYTES - 64 * 1024
"""Above this bound a record's size is counted, not estimated: it may be over the limit alone."""

_HEAD, _TAIL = b'{"Records":[', b"]}"


class Message(msgspec.Struct, frozen=True, gc=False):
    """A message as one receive brought it. Times are epoch seconds. `attributes`: messageAttributes as JSON text.

    `receives` counts in this queue, `earlier` in the queue it was redriven from (`origin`); (id, receives) is the receipt.
    """

    id: int
    receives: int
    earlier: int
    received: float
    sent: float
    first: float
    message_id: str
    body: str
    md5: str
    size: int
    attributes: str | None
    attributes_md5: str | None
    group: str | None
    deduplication: str | None
    origin: str | None

    @property
    def receipt(self) -> tuple[int, int]:
        return self.id, self.receives


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A record of a stream. `arrival`: epoch seconds."""

    shard: str
    sequence: int
    arrival: float
    key: str
    data: bytes


def queue_arn(name: str) -> str:
    return f"arn:aws:sqs:local:000000000000:{name}"


def stream_arn(name: str) -> str:
    return f"arn:aws:kinesis:local:000000000000:stream/{name}"


@dataclass(frozen=True, slots=True)
class _Event:
    """Elements of the event, built anew for each call."""

    format: MessageFormat | EntryFormat
    records: Sequence[Any]

    def json(self) -> bytes:
        return orjson.dumps(self.mapping())

    def mapping(self) -> dict[str, Any]:
        return {"Records": self.format.elements(self.records)}

    def identifiers(self) -> Sequence[Identifier]:
        return self.format.identifiers(self.records)

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        return _HEAD, [orjson.dumps(element) for element in self.format.elements(self.records)], _TAIL


@dataclass(frozen=True, slots=True)
class _MessageFacts:
    format: MessageFormat
    records: Sequence[Message]

    def tokens(self) -> Sequence[str]:
        return [f"{message.id}-{message.receives}" for message in self.records]

    def arrivals(self) -> Sequence[float]:
        return [message.sent for message in self.records]

    def sizes(self) -> Sequence[int]:
        overhead = self.format.overhead
        sizes = [overhead + message.size for message in self.records]
        return _exact(self.format, self.records, sizes) if max(sizes, default=0) > _EXACT_FROM else sizes

    def keys(self) -> Sequence[bytes | None]:
        return [None if message.group is None else message.group.encode() for message in self.records]

    def receives(self) -> Sequence[int]:
        return [message.receives for message in self.records]


def _exact(format: MessageFormat | EntryFormat, records: Sequence[Any], sizes: list[int]) -> list[int]:
    """Bounds, but exact (comma included) for those that may be over the limit alone."""
    return [
        size if size <= _EXACT_FROM else len(orjson.dumps(format.elements((record,))[0])) + 1
        for record, size in zip(records, sizes, strict=True)
    ]


class MessageFormat:
    """The format of one queue: a `Format` over `Message`s."""

    __slots__ = ("arn", "overhead")

    def __init__(self, name: str) -> None:
        self.arn = queue_arn(name)
        # The longest envelope around body, message attributes, group and deduplication id (all in `Message.size`), comma included.
        self.overhead = 800 + 2 * len(self.arn)

    def facts(self, records: Sequence[Message]) -> _MessageFacts:
        return _MessageFacts(self, records)

    def data(self, records: Sequence[Message]) -> list[str]:
        return [message.body for message in records]

    def documents(self, records: Sequence[Message], keys: Collection[str] = fields.MESSAGE.keys) -> Iterable[Document]:  # noqa: ARG002
        return [{**element, "body": readable(element["body"])} for element in self.elements(records)]

    def event(self, records: Sequence[Message]) -> _Event:
        return _Event(self, records)

    def names(self, records: Sequence[Message]) -> Sequence[str]:
        return [message.message_id for message in records]

    identifiers = names

    def elements(self, records: Sequence[Message]) -> list[dict[str, Any]]:
        arn = self.arn
        return [
            {
                "messageId": message.message_id,
                "receiptHandle": f"{message.id}-{message.receives}",
                "body": message.body,
                "attributes": _attributes(message),
                **_message_attributes(message),
                "md5OfBody": message.md5,
                "eventSource": "aws:sqs",
                "eventSourceARN": arn,
                "awsRegion": "local",
            }
            for message in records
        ]


def _attributes(message: Message) -> dict[str, str]:
    attributes = {
        "ApproximateReceiveCount": str(message.earlier + message.receives),
        "SentTimestamp": str(int(message.sent * 1000)),
        "SenderId": "local",
        "ApproximateFirstReceiveTimestamp": str(int(message.first * 1000)),
    }
    if message.group is not None:
        attributes["SequenceNumber"] = f"{message.id:020d}"
        attributes["MessageGroupId"] = message.group
        attributes["MessageDeduplicationId"] = message.deduplication or ""
    if message.origin is not None:
        attributes["DeadLetterQueueSourceArn"] = message.origin
    return attributes


def _message_attributes(message: Message) -> dict[str, Any]:
    if message.attributes is None:
        return {"messageAttributes": {}}
    return {"messageAttributes": orjson.loads(message.attributes), "md5OfMessageAttributes": message.attributes_md5}


@dataclass(frozen=True, slots=True)
class _EntryFacts:
    format: EntryFormat
    records: Sequence[Entry]

    def tokens(self) -> Sequence[int]:
        return [entry.sequence for entry in self.records]

    def arrivals(self) -> Sequence[float]:
        return [entry.arrival for entry in self.records]

    def sizes(self) -> Sequence[int]:
        overhead = self.format.overhead
        sizes = [overhead + 6 * len(entry.key) + (len(entry.data) + 2) // 3 * 4 for entry in self.records]
        return _exact(self.format, self.records, sizes) if max(sizes, default=0) > _EXACT_FROM else sizes

    def keys(self) -> Sequence[bytes | None]:
        return [entry.key.encode() for entry in self.records]


class EntryFormat:
    """The format of one stream: a `Format` over `Entry`s."""

    __slots__ = ("_elements", "arn", "overhead")

    def __init__(self, name: str) -> None:
        self.arn = stream_arn(name)
        self._elements = Elements(self.arn, "arn:aws:iam::000000000000:role/local")
        # The envelope around key and data, with the longest sequence number twice.
        self.overhead = self._elements.fixed + 2 * 13 + len("shardId-000000000000")

    def facts(self, records: Sequence[Entry]) -> _EntryFacts:
        return _EntryFacts(self, records)

    def data(self, records: Sequence[Entry]) -> list[bytes]:
        return [entry.data for entry in records]

    def documents(self, records: Sequence[Entry], keys: Collection[str] = fields.RECORD.keys) -> Iterable[Document]:  # noqa: ARG002
        return [document(element, readable(entry.data)) for entry, element in zip(records, self.elements(records), strict=True)]

    def event(self, records: Sequence[Entry]) -> _Event:
        return _Event(self, records)

    def names(self, records: Sequence[Entry]) -> Sequence[str]:
        return [f"{entry.shard}:{entry.sequence}" for entry in records]

    def identifiers(self, records: Sequence[Entry]) -> Sequence[str]:
        return [str(entry.sequence) for entry in records]

    def elements(self, records: Sequence[Entry]) -> list[dict[str, Any]]:
        element, base64 = self._elements.element, b2a_base64
        return [
            element(entry.shard, str(entry.sequence), entry.key, base64(entry.data, newline=False).decode("ascii"), entry.arrival)
            for entry in records
        ]
