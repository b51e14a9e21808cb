"""How changes of a table look: columns for the engine, the event for the function. Pure; a record is a `ChangeRecord`.

The event is AWS Lambda's (guide, "Using Lambda with Amazon DynamoDB"; recorded on AWS). Keys and images go into it as DynamoDB wrote them,
unparsed: only a function in this process, or a filter, has them parsed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from decimal import Context, Decimal
from math import inf
from typing import Any

import msgspec
import orjson
from msgspec import UNSET, UnsetType

from connectors.dynamodb_streams.client import Change, ChangeRecord
from connectors.sharded.sequence import token
from poller.model import Document, Identifier
from poller.quotas import MAXIMUM_EVENT_BYTES

_HEAD, _TAIL = b'{"Records":[', b"]}"

_EXACT_FROM = MAXIMUM_EVENT_BYTES - 64 * 1024
"""Above this bound a record's size is counted, not estimated: it may be over the limit alone."""

_FIXED = 1024
"""At most, in bytes: an element without keys, images and ARN (eventID 32, sequence number 40, all names), its comma included."""


class _Identity(msgspec.Struct, gc=False, frozen=True):
    """`userIdentity` of the event: in other letters than the API's."""

    type: str | UnsetType
    principal: str | UnsetType = msgspec.field(name="principalId")


class _Element(msgspec.Struct, gc=False, frozen=True):
    """One of `Records`; keys in AWS's order."""

    id: str = msgspec.field(name="eventID")
    name: str = msgspec.field(name="eventName")
    version: str = msgspec.field(name="eventVersion")
    source: str = msgspec.field(name="eventSource")
    region: str = msgspec.field(name="awsRegion")
    change: Change = msgspec.field(name="dynamodb")
    arn: str = msgspec.field(name="eventSourceARN")
    identity: _Identity | UnsetType = msgspec.field(name="userIdentity")


_NUMBERS = Context(prec=50)
"""DynamoDB's numbers have up to 38 digits."""

_encode = msgspec.json.Encoder().encode


class ChangeFacts:
    """Columns over records of one shard."""

    __slots__ = ("_format", "_records")

    def __init__(self, format: ChangeFormat, records: Sequence[ChangeRecord]) -> None:
        self._format = format
        self._records = records

    def tokens(self) -> Sequence[int]:
        return [token(record.change.sequence) for record in self._records]

    def arrivals(self) -> Sequence[float]:
        """DynamoDB tells whole seconds. A record without a time is never too old."""
        return [inf if isinstance(created := record.change.created, UnsetType) else created for record in self._records]

    def sizes(self) -> Sequence[int]:
        fixed = self._format.fixed
        sizes = [fixed + _size(record.change) for record in self._records]
        if max(sizes, default=0) > _EXACT_FROM:
            exact = self._format.elements
            sizes = [
                size if size <= _EXACT_FROM else len(exact((record,))[0]) + 1 for record, size in zip(self._records, sizes, strict=True)
            ]
        return sizes

    def keys(self) -> Sequence[bytes | None]:
        """The item's: partition and sort key with their types, as JSON, in one form whatever their order and spelling in the record."""
        return [item_key(memoryview(record.change.keys)) for record in self._records]


class ChangeEvent:
    """`{"Records": [...]}`."""

    __slots__ = ("_format", "_records")

    def __init__(self, format: ChangeFormat, records: Sequence[ChangeRecord]) -> None:
        self._format = format
        self._records = records

    def json(self) -> bytes:
        return b"".join((_HEAD, b",".join(self._format.elements(self._records)), _TAIL))

    def mapping(self) -> dict[str, Any]:
        event: dict[str, Any] = orjson.loads(self.json())
        return event

    def identifiers(self) -> Sequence[Identifier]:
        return [record.change.sequence for record in self._records]

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        return _HEAD, self._format.elements(self._records), _TAIL


class ChangeFormat:
    """The format of a table's records. `arn`: of its stream; a record that says so is of another one (the table's stream before, or after,
    whose ARN is as long)."""

    __slots__ = ("_arn", "_region", "fixed")

    def __init__(self, arn: str) -> None:
        self._arn = arn
        self._region = arn.split(":")[3]
        self.fixed = _FIXED + len(arn) + len(self._region)

    def __repr__(self) -> str:
        return f"<ChangeFormat {self._arn}>"

    @property
    def arn(self) -> str:
        return self._arn

    def facts(self, records: Sequence[ChangeRecord]) -> ChangeFacts:
        return ChangeFacts(self, records)

    def documents(self, records: Sequence[ChangeRecord], keys: Collection[str]) -> Iterable[Document]:
        """The element of the event."""
        if set(keys) == {"eventName"}:
            return [{"eventName": record.name} for record in records]
        if set(keys) == {"dynamodb"}:
            return [{"dynamodb": orjson.loads(_encode(record.change))} for record in records]
        return [orjson.loads(element) for element in self.elements(records)]

    def event(self, records: Sequence[ChangeRecord]) -> ChangeEvent:
        return ChangeEvent(self, records)

    def names(self, records: Sequence[ChangeRecord]) -> Sequence[str]:
        """`shard:sequence`."""
        return [f"{record.shard}:{record.change.sequence}" for record in records]

    def elements(self, records: Sequence[ChangeRecord]) -> list[bytes]:
        """JSON, one a record."""
        arn, region, encode = self._arn, self._region, _encode
        return [
            encode(
                _Element(
                    record.id,
                    record.name,
                    record.version,
                    record.source,
                    record.region or region,
                    record.change,
                    record.stream or arn,
                    UNSET if (who := record.identity) is None else _Identity(who.type, who.principal),
                )
            )
            for record in records
        ]


def item_key(text: bytes | memoryview) -> bytes:
    """What order is kept by, from an item's `Keys` as JSON text."""
    keys: dict[str, dict[str, str]] = orjson.loads(text)
    for value in keys.values():
        if (number := value.get("N")) is not None:
            # DynamoDB writes a number one way, but its imitations write it as it was asked for: 1.00 is the item 1.
            value["N"] = f"{_NUMBERS.normalize(_NUMBERS.plus(Decimal(number))):f}"
    return orjson.dumps(keys, option=orjson.OPT_SORT_KEYS)


def _size(change: Change) -> int:
    """Bytes of keys and images."""
    texts = (change.keys, change.new_image, change.old_image)
    return sum([memoryview(text).nbytes for text in texts if not isinstance(text, UnsetType)])
