"""Records of 200 B in memory, and the Kafka event that a function sees of them: nothing but what the engine needs."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import orjson

from poller.model import Document, Identifier

BYTES = 200
KEYS = 1000
SIZE = 200 + 2 * BYTES
TIMESTAMP = 1763686800000
_NO_HEADERS: list[Any] = []
_SIZE = attrgetter("size")


class Record(msgspec.Struct, frozen=True, gc=False):
    """As a client gives it, with its `size`: at most so many bytes of the event."""

    offset: int
    time: float
    key: bytes
    value: bytes
    size: int


def made(count: int, now: float) -> list[Record]:
    """`count` records, all of them new."""
    return [Record(number, now, b"key-%d" % (number % KEYS), b"%0*d" % (BYTES, number), SIZE) for number in range(count)]


class RecordFacts:
    """Columns over records."""

    __slots__ = ("_records",)

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def tokens(self) -> Sequence[int]:
        return [record.offset for record in self._records]

    def arrivals(self) -> Sequence[float]:
        return [record.time for record in self._records]

    def sizes(self) -> Sequence[int]:
        return list(map(_SIZE, self._records))

    def keys(self) -> Sequence[bytes | None]:
        return [record.key for record in self._records]


class RecordEvent:
    """`{"eventSource": "aws:kafka", ..., "records": {"orders-0": [...]}}`."""

    __slots__ = ("_records",)

    def __init__(self, records: Sequence[Record]) -> None:
        self._records = records

    def json(self) -> bytes:
        return orjson.dumps(self.mapping())

    def mapping(self) -> dict[str, Any]:
        encoded = b2a_base64
        elements = [
            {
                "topic": "orders",
                "partition": 0,
                "offset": record.offset,
                "timestamp": TIMESTAMP,
                "timestampType": "CREATE_TIME",
                "key": encoded(record.key, newline=False).decode("ascii"),
                "value": encoded(record.value, newline=False).decode("ascii"),
                "headers": _NO_HEADERS,
            }
            for record in self._records
        ]
        return {"eventSource": "SelfManagedKafka", "bootstrapServers": "broker:9092", "records": {"orders-0": elements}}

    def identifiers(self) -> Sequence[Identifier]:
        return [("orders-0", record.offset) for record in self._records]

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        elements = self.mapping()["records"]["orders-0"]
        return b'{"records":{"orders-0":[', [orjson.dumps(element) for element in elements], b"]}}"


class RecordFormat:
    """The format of `Record`s."""

    __slots__ = ()

    def facts(self, records: Sequence[Record]) -> RecordFacts:
        return RecordFacts(records)

    def documents(self, records: Sequence[Record], keys: Collection[str]) -> Iterable[Document]:  # noqa: ARG002
        return self.event(records).mapping()["records"]["orders-0"]  # type: ignore[no-any-return]

    def event(self, records: Sequence[Record]) -> RecordEvent:
        return RecordEvent(records)

    def names(self, records: Sequence[Record]) -> Sequence[str]:
        return [f"orders-0@{record.offset}" for record in records]


FORMAT = RecordFormat()
