"""Aggregated records taken apart: made here by an encoder of its own, written from the format's description."""

from __future__ import annotations

import hashlib
import os
from base64 import b64decode, b64encode
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kinesis.aggregation import UserRecord, expanded, user_records
from connectors.kinesis.client import KinesisRecord
from connectors.kinesis.format import KinesisFormat
from poller.testing.strategies import laws


@dataclass(frozen=True)
class Put:
    """What a producer puts."""

    key: str
    data: bytes
    hash: str | None = None
    tags: tuple[tuple[str, str], ...] = ()


def varint(value: int) -> bytes:
    """Protocol Buffers, "Base 128 varints"."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F)
    return bytes(group | 0x80 for group in groups[:-1]) + bytes([groups[-1]])


def number(field: int, value: int) -> bytes:
    return varint(field * 8) + varint(value)


def text(field: int, value: bytes) -> bytes:
    return varint(field * 8 + 2) + varint(len(value)) + value


def message(puts: list[Put], tables_last: bool = False) -> bytes:
    """`AggregatedRecord`."""
    keys = list(dict.fromkeys(put.key for put in puts))
    hashes = list(dict.fromkeys(put.hash for put in puts if put.hash is not None))
    tables = b"".join(text(1, key.encode()) for key in keys) + b"".join(text(2, each.encode()) for each in hashes)
    records = b""
    for put in puts:
        record = number(1, keys.index(put.key))
        if put.hash is not None:
            record += number(2, hashes.index(put.hash))
        record += text(3, put.data)
        for tag, value in put.tags:
            record += text(4, text(1, tag.encode()) + text(2, value.encode()))
        records += text(3, record)
    return records + tables if tables_last else tables + records


def aggregate(body: bytes) -> bytes:
    return b"\xf3\x89\x9a\xc2" + body + hashlib.md5(body, usedforsecurity=False).digest()


def record(data: bytes, sequence: str = "49", key: str = "a") -> KinesisRecord:
    return KinesisRecord(sequence, 1545084650.987, key, b64encode(data).decode(), "shardId-000000000000")


words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
puts = st.builds(
    Put,
    words,
    st.binary(max_size=300),
    st.none() | st.integers(0, 2**128 - 1).map(str),
    st.lists(st.tuples(words, words), max_size=2).map(tuple),
)


@laws(200)
@given(st.lists(puts, min_size=1, max_size=30), st.booleans())
def test_what_was_aggregated_comes_out_again(put: list[Put], tables_last: bool) -> None:
    assert user_records(aggregate(message(put, tables_last))) == [UserRecord(each.key, each.data) for each in put]


@laws(300)
@given(st.lists(puts, min_size=1, max_size=5), st.data())
def test_a_damaged_one_is_handed_on_as_it_is(put: list[Put], data: st.DataObject) -> None:
    whole = bytearray(aggregate(message(put)))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    damaged = record(bytes(whole))
    assert user_records(bytes(whole)) is None
    assert expanded([damaged]) == [damaged]
    assert b64decode(damaged.data) == bytes(whole)


@laws(300)
@given(st.binary(max_size=80))
def test_any_message_with_the_right_digest_is_read_or_handed_on(body: bytes) -> None:
    """A producer of someone else's may have made it; nothing else than user records or None comes of it."""
    found = user_records(aggregate(body))
    assert found is None or all(isinstance(each, UserRecord) for each in found)


GOOD = text(1, b"key")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        GOOD,
        GOOD + text(3, text(3, b"data")),
        GOOD + text(3, number(1, 0)),
        GOOD + text(3, number(1, 1) + text(3, b"data")),
        GOOD + text(3, number(1, 0) + number(2, 0) + text(3, b"data")),
        text(1, b"\xff") + text(3, number(1, 0) + text(3, b"data")),
        GOOD + text(3, number(1, 0) + varint(3 * 8 + 2) + varint(9) + b"short"),
        GOOD + text(3, number(1, 0) + text(3, b"data")) + varint(9 * 8 + 1) + b"short",
        GOOD + text(3, number(1, 0) + text(3, b"data")) + varint(9 * 8 + 3),
        GOOD + text(3, varint(8) + b"\xff" * 10 + b"\x01" + text(3, b"data")),
        GOOD + text(3, number(1, 0) + text(3, b"data")) + b"\x80",
    ],
    ids=["empty", "no-records", "no-key", "no-data", "key-index", "hash-index", "key-utf-8", "short", "fixed", "group", "number", "cut"],
)
def test_what_only_looks_like_one_is_handed_on(body: bytes) -> None:
    assert user_records(aggregate(body)) is None


def test_fields_that_nobody_knows_yet_are_passed_over() -> None:
    unknown = number(9, 7) + text(10, b"x") + varint(11 * 8 + 1) + b"8 bytes!" + varint(12 * 8 + 5) + b"four"
    body = unknown + GOOD + text(3, number(1, 0) + unknown + text(3, b"data")) + unknown
    assert user_records(aggregate(body)) == [UserRecord("key", b"data")]


def test_records_keep_their_order_and_are_numbered() -> None:
    plain, last = record(b"plain", "50", "p"), record(b"", "52")
    found = expanded([plain, record(aggregate(message([Put("a", b"1"), Put("b", b"2"), Put("a", b"3")])), "51"), last])
    assert [(each.sequence, each.sub, each.key, b64decode(each.data), each.aggregated) for each in found] == [
        ("50", 1, "p", b"plain", False),
        ("51", 1, "a", b"1", True),
        ("51", 2, "b", b"2", True),
        ("51", 3, "a", b"3", True),
        ("52", 1, "a", b"", False),
    ]
    assert {(each.shard, each.arrival) for each in found} == {(plain.shard, plain.arrival)}
    tokens = KinesisFormat("arn:aws:kinesis:eu-west-1:1:stream/s", "r").facts(found).tokens()
    assert list(tokens) == sorted(set(tokens))


def test_every_aggregate_begins_so_in_base64() -> None:
    """Else one would be taken for a plain record."""
    for following in range(256):
        whole = b"\xf3\x89\x9a\xc2" + bytes([following]) + os.urandom(40)
        assert b64encode(whole).startswith(b"84maw")
