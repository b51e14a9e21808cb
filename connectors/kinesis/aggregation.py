"""Aggregated records of the Kinesis Producer Library, taken apart. Pure.

Source: awslabs/amazon-kinesis-producer, aggregation-format.md. An aggregate is four magic bytes, a protobuf message `AggregatedRecord`
(1: partition keys, 2: explicit hash keys, 3: records of 1: index of the partition key, 2: index of the explicit hash key, 3: data, 4: tags)
and the MD5 of that message. What only looks like one is a record as any other, and so is a damaged one: it is handed on as it is.

Explicit hash keys are checked and ignored: who sent a user record to a shard that has been split since may send it again to its new shard,
and a duplicate is better than a record that neither shard gives.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from collections.abc import Iterator, Sequence
from hashlib import md5
from typing import NamedTuple

from connectors.kinesis.client import KinesisRecord
from connectors.sharded.sequence import MOST_SUBS

MAGIC = b"\xf3\x89\x9a\xc2"
_ENCODED = "84maw"
"""How an aggregate begins in base64: what begins otherwise need not be decoded."""

_DIGEST = 16


class UserRecord(NamedTuple):
    """What a producer put, before it was aggregated."""

    key: str
    data: bytes


def expanded(records: Sequence[KinesisRecord]) -> list[KinesisRecord]:
    """User records in place of aggregates, in order; each record has a sub-sequence number."""
    found = list[KinesisRecord]()
    for record in records:
        users = user_records(a2b_base64(record.data)) if record.data.startswith(_ENCODED) else None
        if users is None:
            record.sub = 1
            found.append(record)
        else:
            found += [
                KinesisRecord(record.sequence, record.arrival, user.key, _encoded(user.data), record.shard, number, True)
                for number, user in enumerate(users, 1)
            ]
    return found


def _encoded(data: bytes) -> str:
    return b2a_base64(data, newline=False).decode("ascii")


def user_records(data: bytes) -> list[UserRecord] | None:
    """Those of an aggregate, at least one; None if this is none, is damaged, or holds more than anyone can number."""
    if not data.startswith(MAGIC) or len(data) < len(MAGIC) + _DIGEST:
        return None
    message = data[len(MAGIC) : -_DIGEST]
    if md5(message, usedforsecurity=False).digest() != data[-_DIGEST:]:
        return None
    try:
        users = list(_aggregated(message))
    except (ValueError, IndexError):
        return None
    return users if 0 < len(users) <= MOST_SUBS else None


def _aggregated(message: bytes) -> Iterator[UserRecord]:
    """Raises ValueError, IndexError for what is no such message."""
    keys, hashes, records = list[str](), list[int](), list[bytes]()
    for field, value in _fields(message):
        if isinstance(value, bytes):
            if field == 1:
                keys.append(value.decode())
            elif field == 2:
                hashes.append(int(value))
            elif field == 3:
                records.append(value)
    # The tables may come after the records that point into them.
    for record in records:
        yield _user_record(record, keys, hashes)


def _user_record(record: bytes, keys: Sequence[str], hashes: Sequence[int]) -> UserRecord:
    key = explicit = data = None
    for field, value in _fields(record):
        match field, value:
            case 1, int():
                key = value
            case 2, int():
                explicit = value
            case 3, bytes():
                data = value
    if key is None or data is None:
        raise ValueError("a user record without a partition key, or without data")
    if explicit is not None:
        hashes[explicit]
    return UserRecord(keys[key], data)


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, a number or bytes), as protobuf encodes them."""
    at = 0
    while at < len(message):
        tag, at = _number(message, at)
        match tag & 7:
            case 0:
                value, at = _number(message, at)
                yield tag >> 3, value
            case 2:
                size, at = _number(message, at)
                if at + size > len(message):
                    raise ValueError("a field is longer than its message")
                yield tag >> 3, message[at : at + size]
                at += size
            case 1 | 5 as wire:
                at += 8 if wire == 1 else 4
            case wire:
                raise ValueError(f"wire type {wire}")
    if at > len(message):
        raise ValueError("a field is longer than its message")


def _number(message: bytes, at: int) -> tuple[int, int]:
    """A varint, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
