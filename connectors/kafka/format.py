"""How Kafka's records look: columns for the engine, the event for the function. Pure; a record is the client's own `ConsumerRecord`.

The event is that of a self-managed Apache Kafka mapping (AWS Lambda guide, "Using Lambda with self-managed Apache Kafka"): the records of
one partition under `topic-partition`; key and value in base64; headers as lists of signed bytes; no `key` where the record has none. A
tombstone's `value` is null, and so is that of a header without one: the guide does not say, and a handler can look at that either way.

A slice of records is of one partition, always: lanes are partitions. What runs for every record is one comprehension, with what does
not change bound before it (engine budget: some 0.3 µs a record for all of this but the base64).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import inf
from operator import attrgetter
from typing import Any, Protocol

import msgspec
import orjson

from poller.filtering import all_readable, readable
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
    """The part of aiokafka's ConsumerRecord that is used here. Sizes are -1 where there is nothing."""

    topic: str
    partition: int
    offset: int
    timestamp: int | None
    timestamp_type: int | None
    key: bytes | None
    value: bytes | None
    serialized_key_size: int
    serialized_value_size: int
    headers: Sequence[tuple[str, bytes | None]]


class KafkaFacts:
    """Columns over records of one partition."""

    __slots__ = ("_records",)

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def tokens(self) -> Sequence[int]:
        return list(map(_offset, self._records))

    def arrivals(self) -> Sequence[float]:
        """The record's timestamp: its producer's clock, or the broker's, as the topic is set. A record without one is never too old."""
        return [inf if (timestamp := record.timestamp) is None or timestamp < 0 else timestamp / 1000 for record in self._records]

    def sizes(self) -> Sequence[int]:
        records = self._records
        if not records:
            return []
        fixed = _ENVELOPE + len(records[0].topic)
        sizes = [
            fixed + (record.serialized_key_size + record.serialized_value_size) * 4 // 3
            if not record.headers
            else fixed + (record.serialized_key_size + record.serialized_value_size) * 4 // 3 + _headers_size(record.headers)
            for record in records
        ]
        if max(sizes) > _EXACT_FROM:
            sizes = [size if size <= _EXACT_FROM else _exact(record) for size, record in zip(sizes, records, strict=True)]
        return sizes

    def keys(self) -> Sequence[bytes | None]:
        return list(map(_key, self._records))


class KafkaEvent:
    """`{"eventSource": "SelfManagedKafka", "bootstrapServers": ..., "records": {"topic-partition": [...]}}`."""

    __slots__ = ("_bootstrap", "_records")

    def __init__(self, records: Sequence[Record], bootstrap: str) -> None:
        self._records = records
        self._bootstrap = bootstrap

    def json(self) -> bytes:
        return _encode(self._whole())

    def mapping(self) -> dict[str, Any]:
        """Fresh objects: the function may change them."""
        event: dict[str, Any] = msgspec.to_builtins(self._whole())
        return event

    def _whole(self) -> dict[str, Any]:
        records = self._records
        return {
            "eventSource": "SelfManagedKafka",
            "bootstrapServers": self._bootstrap,
            "records": {_partition(records[0]): _elements(records)} if records else {},
        }

    def identifiers(self) -> Sequence[Identifier]:
        """`{"partition": "<topic>-<partition>", "offset": ...}`, as sorted pairs."""
        if not self._records:
            return []
        partition = ("partition", _partition(self._records[0]))
        return [(("offset", offset), partition) for offset in map(_offset, self._records)]

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        partition = _partition(self._records[0])
        empty = orjson.dumps({"eventSource": "SelfManagedKafka", "bootstrapServers": self._bootstrap, "records": {partition: []}})
        tail = b"]}}"
        return empty[: -len(tail)], [_encode(element) for element in _elements(self._records)], tail


class KafkaFormat:
    """The format of the records of one cluster. `bootstrap`: its servers, with commas between them, as the event names them."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap

    def __repr__(self) -> str:
        return f"<KafkaFormat {self._bootstrap}>"

    def facts(self, records: Sequence[Record]) -> KafkaFacts:
        return KafkaFacts(records)

    def documents(self, records: Sequence[Record], keys: Collection[str]) -> Iterable[Document]:
        if set(keys) == {"value"}:  # nearly always
            return [{"value": value} for value in all_readable([record.value for record in records])]
        types = TIMESTAMP_TYPES
        return [
            {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "timestampType": types[record.timestamp_type],
                "value": readable(record.value),
            }
            for record in records
        ]

    def event(self, records: Sequence[Record]) -> KafkaEvent:
        return KafkaEvent(records, self._bootstrap)

    def names(self, records: Sequence[Record]) -> Sequence[str]:
        """`topic-partition@offset`."""
        if not records:
            return []
        partition = _partition(records[0])
        return [f"{partition}@{offset}" for offset in map(_offset, records)]


def _partition(record: Record) -> str:
    return f"{record.topic}-{record.partition}"


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


def _elements(records: Sequence[Record]) -> list[_Element]:
    topic, partition, types, absent = records[0].topic, records[0].partition, TIMESTAMP_TYPES, msgspec.UNSET
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


def _exact(record: Record) -> int:
    return len(_encode(_elements((record,))[0])) + 1  # and the comma
