"""How Kafka's records look: columns for the engine, the event for the function. Pure; a record is what the client decodes from a batch.

The event is that of a self-managed Apache Kafka mapping (AWS Lambda guide, "Using Lambda with self-managed Apache Kafka"): the records of
one partition under `topic-partition`; key and value in base64; headers as lists of signed bytes; no `key` where the record has none. A
tombstone's `value` is null, and so is that of a header without one: the guide does not say, and a handler can look at that either way.

A format is of one partition: lanes are partitions, and a record does not know its own. What runs for every record is one comprehension,
with what does not change bound before it (engine budget: some 0.3 µs a record for all of this but the base64).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple, Protocol

import msgspec
import orjson

from poller.filtering import readable
from poller.model import Document, Identifier
from poller.quotas import MAXIMUM_EVENT_BYTES

TIMESTAMP_TYPES = {0: "CREATE_TIME", 1: "LOG_APPEND_TIME", None: "NO_TIMESTAMP_TYPE"}
"""What the client says, in Kafka's words."""

_EXACT_FROM = MAXIMUM_EVENT_BYTES - 64 * 1024
"""Above this bound a record's size is counted, not estimated: it may be over the limit alone."""

# The largest numbers, the longest timestamp type, both sizes -1 (null), and the padding of both base64 texts; the comma included.
_ENVELOPE = (
    len(
        '{"topic":"","partition":2147483647,"offset":9223372036854775807,"timestamp":-9223372036854775808,'
        '"timestampType":"NO_TIMESTAMP_TYPE","key":"","value":"","headers":[]},'
    )
    + 12
)
_HEADER = len('{"":[]},') + len("null")

_encode = msgspec.json.Encoder().encode
_offset = attrgetter("offset")
_key = attrgetter("key")


class Record(Protocol):
    """What aiokafka's `DefaultRecord` and `ConsumerRecord` have in common."""

    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int | None: ...
    @property
    def timestamp_type(self) -> int | None: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Partition(NamedTuple):
    """Whose records they are, and the servers of their cluster, with commas between them, as the event names them."""

    bootstrap: str
    topic: str
    number: int

    @property
    def name(self) -> str:
        """`topic-partition`."""
        return f"{self.topic}-{self.number}"


class KafkaFacts:
    """Columns over records of one partition."""

    __slots__ = ("_of", "_records")

    def __init__(self, records: Sequence[Record], of: Partition) -> None:
        self._records = records
        self._of = of

    def tokens(self) -> Sequence[int]:
        return list(map(_offset, self._records))

    def arrivals(self) -> Sequence[float]:
        """The record's timestamp: its producer's clock, or the broker's, as the topic is set. A record without one is never too old."""
        return [inf if (timestamp := record.timestamp) is None or timestamp < 0 else timestamp / 1000 for record in self._records]

    def sizes(self) -> Sequence[int]:
        records, fixed, none = self._records, _ENVELOPE + len(self._of.topic), b""
        sizes = [
            fixed + (len(record.key or none) + len(record.value or none)) * 4 // 3
            if not record.headers
            else fixed + (len(record.key or none) + len(record.value or none)) * 4 // 3 + _headers_size(record.headers)
            for record in records
        ]
        if max(sizes, default=0) > _EXACT_FROM:
            sizes = [size if size <= _EXACT_FROM else _exact(record, self._of) for size, record in zip(sizes, records, strict=True)]
        return sizes

    def keys(self) -> Sequence[bytes | None]:
        return list(map(_key, self._records))


class KafkaEvent:
    """`{"eventSource": "SelfManagedKafka", "bootstrapServers": ..., "records": {"topic-partition": [...]}}`."""

    __slots__ = ("_of", "_records")

    def __init__(self, records: Sequence[Record], of: Partition) -> None:
        self._records = records
        self._of = of

    def json(self) -> bytes:
        return _encode(self._whole())

    def mapping(self) -> dict[str, Any]:
        """Fresh objects: the function may change them."""
        event: dict[str, Any] = msgspec.to_builtins(self._whole())
        return event

    def _whole(self) -> dict[str, Any]:
        records, of = self._records, self._of
        return {
            "eventSource": "SelfManagedKafka",
            "bootstrapServers": of.bootstrap,
            "records": {of.name: _elements(records, of)} if records else {},
        }

    def identifiers(self) -> Sequence[Identifier]:
        """`{"partition": "<topic>-<partition>", "offset": ...}`, as sorted pairs."""
        partition = ("partition", self._of.name)
        return [(("offset", offset), partition) for offset in map(_offset, self._records)]

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        of, tail = self._of, b"]}}"
        empty = orjson.dumps({"eventSource": "SelfManagedKafka", "bootstrapServers": of.bootstrap, "records": {of.name: []}})
        return empty[: -len(tail)], [_encode(element) for element in _elements(self._records, of)], tail


class KafkaFormat:
    """The format of the records of one partition; see `Partition`."""

    def __init__(self, bootstrap: str, topic: str, partition: int) -> None:
        self._of = Partition(bootstrap, topic, partition)

    def __repr__(self) -> str:
        return f"<KafkaFormat {self._of.name} of {self._of.bootstrap}>"

    def facts(self, records: Sequence[Record]) -> KafkaFacts:
        return KafkaFacts(records, self._of)

    def data(self, records: Sequence[Record]) -> list[bytes | None]:
        return [record.value for record in records]

    def documents(self, records: Sequence[Record], keys: Collection[str]) -> Iterable[Document]:  # noqa: ARG002 (all are cheap)
        types, of = TIMESTAMP_TYPES, self._of
        return [
            {
                "topic": of.topic,
                "partition": of.number,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "timestampType": types[record.timestamp_type],
                "value": readable(record.value),
            }
            for record in records
        ]

    def event(self, records: Sequence[Record]) -> KafkaEvent:
        return KafkaEvent(records, self._of)

    def names(self, records: Sequence[Record]) -> Sequence[str]:
        """`topic-partition@offset`."""
        partition = self._of.name
        return [f"{partition}@{offset}" for offset in map(_offset, records)]


class _Element(msgspec.Struct, gc=False):
    """One record of the event, keys in AWS's order. What is made of it, text or dictionary, has bytes in base64."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    timestampType: str  # noqa: N815 (AWS's name)
    key: bytes | msgspec.UnsetType
    value: bytes | None
    headers: list[dict[str, list[int] | None]]


def _elements(records: Sequence[Record], of: Partition) -> list[_Element]:
    (_, topic, partition), types, absent = of, TIMESTAMP_TYPES, msgspec.UNSET
    return [
        _Element(
            topic,
            partition,
            record.offset,
            record.timestamp,
            types[record.timestamp_type],
            absent if (key := record.key) is None else key,
            record.value,
            _headers(record.headers) if record.headers else [],
        )
        for record in records
    ]


def _headers(headers: Sequence[tuple[str, bytes | None]]) -> list[dict[str, list[int] | None]]:
    """Bytes as Java has them: from -128 to 127. A name may come several times."""
    return [{name: None if value is None else memoryview(value).cast("b").tolist()} for name, value in headers]


def _headers_size(headers: Sequence[tuple[str, bytes | None]]) -> int:
    """At most: a character of a name may be escaped to six bytes, and a byte written as `-128,`."""
    return sum(_HEADER + 6 * len(name) + (0 if value is None else 5 * len(value)) for name, value in headers)


def _exact(record: Record, of: Partition) -> int:
    return len(_encode(_elements((record,), of)[0])) + 1  # and the comma
