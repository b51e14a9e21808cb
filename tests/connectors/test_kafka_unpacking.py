"""Unpacking a broker's answer: the same records as aiokafka's own, in slices, and the same position after them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.consumer.fetcher import READ_COMMITTED, READ_UNCOMMITTED, PartitionRecords
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.unpacking import Unpacked

PLACE = TopicPartition("orders", 0)
CONTROL = 0x20
ABORT, COMMIT = b"\x00\x00\x00\x00", b"\x00\x00\x00\x01"


@dataclass(frozen=True)
class Written:
    """A batch as a broker has it: `gap` offsets after it hold nothing any more, as compaction leaves them."""

    records: int
    producer: int | None = None
    marker: bytes | None = None
    gap: int = 0
    codec: int = 0

    def packed(self, offset: int) -> bytes:
        """From that offset on."""
        producer = -1 if self.producer is None else self.producer
        builder = DefaultRecordBatchBuilder(2, self.codec, int(producer >= 0), producer, 0, 0, 1 << 20)
        for number in range(self.records):
            assert builder.append(number, 1_700_000_000_000 + offset + number, self.marker or b"key", b"value", [("n", b"%d" % number)])
        batch = bytearray(builder.build())
        batch[:8] = struct.pack(">q", offset)
        (attributes, last) = struct.unpack_from(">hi", batch, 21)
        struct.pack_into(">hi", batch, 21, attributes | (CONTROL if self.marker else 0), last + self.gap)
        struct.pack_into(">I", batch, 17, calc_crc32c(bytes(batch[21:])))
        return bytes(batch)


def log_of(batches: list[Written], first: int = 0) -> tuple[bytes, list[tuple[int, int]]]:
    """The bytes, and the transactions in it that were aborted, as a broker lists them: producer, first offset."""
    packed, aborted, begun, offset = b"", list[tuple[int, int]](), dict[int, int](), first
    for batch in batches:
        packed += batch.packed(offset)
        if batch.producer is not None:
            start = begun.setdefault(batch.producer, offset)
            if batch.marker:
                del begun[batch.producer]
                aborted += [(batch.producer, start)] if batch.marker == ABORT else []
        offset += batch.records + batch.gap
    return packed, aborted


def answer(log: bytes, aborted: list[tuple[int, int]], position: int, isolation: int = READ_COMMITTED) -> PartitionRecords:
    return PartitionRecords(PLACE, MemoryRecords(log), aborted, position, None, None, True, isolation)


def shape(record: object) -> tuple[object, ...]:
    names = ("offset", "timestamp", "timestamp_type", "key", "value", "headers")
    return tuple(tuple(value) if isinstance(value := getattr(record, name), list) else value for name in names)


def drained(unpacked: Unpacked, limits: Callable[[], int]) -> list[tuple[object, ...]]:
    found: list[tuple[object, ...]] = []
    while not unpacked.over:
        limit = limits()
        records = unpacked.take(limit)
        assert len(records) <= limit
        assert len(records) == limit or unpacked.over
        if records:
            assert unpacked.next_fetch_offset > records[-1].offset
        found += map(shape, records)
    return found


plain = st.builds(Written, st.integers(1, 9), gap=st.integers(0, 3), codec=st.sampled_from([0, 0, 1]))
of_transactions = st.builds(Written, st.integers(1, 5), st.integers(1, 2), gap=st.integers(0, 2))
markers = st.builds(Written, st.just(1), st.integers(1, 2), st.sampled_from([ABORT, COMMIT]))


@given(st.lists(plain | of_transactions | markers, max_size=12), st.data(), st.sampled_from([READ_COMMITTED, READ_UNCOMMITTED]))
def test_it_gives_what_aiokafka_gives(batches: list[Written], data: st.DataObject, isolation: int) -> None:
    first = data.draw(st.integers(0, 1000))
    log, aborted = log_of(batches, first)
    # A broker answers from the batch on that holds the position.
    position = first + data.draw(st.integers(0, batches[0].records - 1 if batches else 0))
    theirs = answer(log, aborted, position, isolation)
    expected = list(map(shape, theirs))
    unpacked = Unpacked(answer(log, aborted, position, isolation))
    assert drained(unpacked, lambda: data.draw(st.integers(1, 20))) == expected
    assert unpacked.next_fetch_offset == theirs.next_fetch_offset
    assert unpacked.take(5) == []


@pytest.mark.parametrize("magic", [0, 1])
def test_messages_of_old_brokers_too(magic: int) -> None:
    packed = b""
    for offset in range(5):
        builder = LegacyRecordBatchBuilder(magic, 0, 1 << 10)
        assert builder.append(offset, 7 if magic else None, b"key", b"%d" % offset)
        packed += builder.build()
    unpacked = Unpacked(answer(packed, [], 2))
    assert drained(unpacked, lambda: 2) == list(map(shape, answer(packed, [], 2)))
    assert unpacked.next_fetch_offset == 5


def test_a_slice_ends_where_it_is_asked_to_and_the_next_begins_there() -> None:
    log, _ = log_of([Written(4), Written(4), Written(4)])
    unpacked = Unpacked(answer(log, [], 0))
    slices = []
    while not unpacked.over:
        slices.append([record.offset for record in unpacked.take(5)])
    assert slices == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11]]


def test_a_damaged_batch_is_told_after_what_lies_before_it_and_passed_by_no_position() -> None:
    log, _ = log_of([Written(4), Written(4), Written(4)])
    at = len(log) * 2 // 3 - 2  # in the value of the second batch's last record
    unpacked = Unpacked(answer(log[:at] + b"\xff" + log[at + 1 :], [], 0))
    assert [record.offset for record in unpacked.take(10)] == [0, 1, 2, 3]
    for _ in range(2):
        with pytest.raises(kafka.CorruptRecordException, match="orders-0"):
            unpacked.take(10)
        assert unpacked.next_fetch_offset == 4
    assert not unpacked.over
