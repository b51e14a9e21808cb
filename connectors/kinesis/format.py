"""How records of Kinesis look: columns for the engine, the event for the function. Pure; a record is a `KinesisRecord`.

A user record of an aggregated one has a sequence number of its own in the event, `<sequence number>:<which, from 0>`: functions name
records by it, and two must not have the same name. AWS has no such event; `aggregated` and `subSequenceNumber` are the names that its own
library for functions gives them (awslabs/kinesis-aggregation).
"""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Collection, Iterable, Sequence
from operator import attrgetter
from typing import Any

import orjson

from connectors.kinesis.client import KinesisRecord
from connectors.kinesis.event import Elements, document
from connectors.sharded.sequence import token
from poller.filtering import readable
from poller.model import Document, Identifier
from poller.quotas import MAXIMUM_EVENT_BYTES

_HEAD, _TAIL = b'{"Records":[', b"]}"

_EXACT_FROM = MAXIMUM_EVENT_BYTES - 64 * 1024
"""Above this bound a record's size is counted, not estimated: it may be over the limit alone."""

_MOST = 2 * len("12345678901234567890123456789012345678901234567890123456:16777215") + len("shardId-000000000000")
_AGGREGATED = len(',"subSequenceNumber":16777215,"aggregated":true')

_arrival = attrgetter("arrival")


class KinesisFacts:
    """Columns over records of one shard."""

    __slots__ = ("_format", "_records")

    def __init__(self, format: KinesisFormat, records: Sequence[KinesisRecord]) -> None:
        self._format = format
        self._records = records

    def tokens(self) -> Sequence[int]:
        return [token(record.sequence, record.sub) for record in self._records]

    def arrivals(self) -> Sequence[float]:
        return list(map(_arrival, self._records))

    def sizes(self) -> Sequence[int]:
        # A character of a key may be escaped to six bytes.
        fixed = self._format.fixed
        sizes = [fixed + 6 * len(record.key) + len(record.data) for record in self._records]
        if sum(sizes) > _EXACT_FROM and max(sizes) > _EXACT_FROM:  # the sum costs a quarter, and nearly always says no
            exact = self._format.elements
            sizes = [
                size if size <= _EXACT_FROM else len(orjson.dumps(exact((record,))[0])) + 1
                for record, size in zip(self._records, sizes, strict=True)
            ]
        return sizes

    def keys(self) -> Sequence[bytes | None]:
        return [record.key.encode() for record in self._records]


class KinesisEvent:
    """`{"Records": [...]}`."""

    __slots__ = ("_format", "_records")

    def __init__(self, format: KinesisFormat, records: Sequence[KinesisRecord]) -> None:
        self._format = format
        self._records = records

    def json(self) -> bytes:
        return orjson.dumps(self.mapping())

    def mapping(self) -> dict[str, Any]:
        return {"Records": self._format.elements(self._records)}

    def identifiers(self) -> Sequence[Identifier]:
        return [_sequence(record) for record in self._records]

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        return _HEAD, [orjson.dumps(element) for element in self._format.elements(self._records)], _TAIL


class KinesisFormat:
    """The format of one stream's records. `role`: see `Elements`."""

    __slots__ = ("_elements", "arn", "fixed")

    def __init__(self, arn: str, role: str) -> None:
        self.arn = arn
        self._elements = Elements(arn, role)
        self.fixed = self._elements.fixed + _MOST + _AGGREGATED

    def __repr__(self) -> str:
        return "<KinesisFormat>"

    def facts(self, records: Sequence[KinesisRecord]) -> KinesisFacts:
        return KinesisFacts(self, records)

    def data(self, records: Sequence[KinesisRecord]) -> list[bytes]:
        return [a2b_base64(record.data) for record in records]

    def documents(self, records: Sequence[KinesisRecord], keys: Collection[str]) -> Iterable[Document]:  # noqa: ARG002
        return [document(element, readable(data)) for data, element in zip(self.data(records), self.elements(records), strict=True)]

    def event(self, records: Sequence[KinesisRecord]) -> KinesisEvent:
        return KinesisEvent(self, records)

    def names(self, records: Sequence[KinesisRecord]) -> Sequence[str]:
        """`shard:sequence`."""
        return [f"{record.shard}:{_sequence(record)}" for record in records]

    def elements(self, records: Sequence[KinesisRecord]) -> list[dict[str, Any]]:
        """Fresh objects: the function may change them."""
        element = self._elements.element
        return [
            element(record.shard, record.sequence, record.key, record.data, record.arrival)
            if not record.aggregated
            else self._user_record(record)
            for record in records
        ]

    def _user_record(self, record: KinesisRecord) -> dict[str, Any]:
        made = self._elements.element(record.shard, _sequence(record), record.key, record.data, record.arrival)
        made["kinesis"]["subSequenceNumber"] = record.sub - 1
        made["kinesis"]["aggregated"] = True
        return made


def _sequence(record: KinesisRecord) -> str:
    return f"{record.sequence}:{record.sub - 1}" if record.aggregated else record.sequence
