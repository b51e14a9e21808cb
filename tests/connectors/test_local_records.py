"""Kinesis's rules, as transactions over a real file."""

import sqlite3
from hashlib import md5
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.local import records
from connectors.local.database import SCHEMA
from poller.errors import SourceError

NOW = 1_700_000_000.0


@pytest.fixture
def connection(tmp_path: Path):
    connection = sqlite3.connect(tmp_path / "local.db", isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    for statement in SCHEMA.migrations[0]:
        connection.execute(statement)
    yield connection
    connection.close()


def put(connection, stream, *datas, key="k", now=NOW):
    return records.put(connection, stream, [(key, data.encode()) for data in datas], now)


def read(connection, stream, start=1, limit=100, number=0):
    return records.read(connection, stream.shards[number], records.shard_name(number), start, limit)


def test_sequence_numbers_grow_without_gaps_from_put_to_put(connection):
    stream = records.ensure(connection, "clicks", 1, 3600.0)
    assert put(connection, stream, "a", "b") == {0}
    put(connection, stream, "c")
    found = read(connection, stream)
    assert [(entry.sequence, entry.data, entry.key) for entry in found.entries] == [(1, b"a", "k"), (2, b"b", "k"), (3, b"c", "k")]
    assert found.entries[0].shard == "shardId-000000000000"
    assert (found.following, found.end, found.trimmed) == (4, 4, 0)


def test_a_read_starts_at_its_position_and_keeps_its_limit(connection):
    stream = records.ensure(connection, "clicks", 1, 3600.0)
    put(connection, stream, *"abcdef")
    found = read(connection, stream, 3, 2)
    assert ([entry.data for entry in found.entries], found.following) == ([b"c", b"d"], 5)
    assert read(connection, stream, 7).following == 7


@given(st.text(min_size=1, max_size=256), st.integers(1, 200))
def test_law_a_key_goes_to_the_shard_whose_range_holds_its_hash(key, shards):
    # The ranges as Kinesis makes them: even, the last one takes the rest.
    width = 2**128 // shards
    ranges = [(n * width, (n + 1) * width - 1 if n < shards - 1 else 2**128 - 1) for n in range(shards)]
    hashed = int(md5(key.encode()).hexdigest(), 16)
    low, high = ranges[records.shard_of(key, shards)]
    assert low <= hashed <= high


def test_keys_spread_over_the_shards_and_each_stays_on_its_own(connection):
    stream = records.ensure(connection, "clicks", 4, 3600.0)
    keys = [f"key-{n % 20}" for n in range(200)]
    records.put(connection, stream, [(key, str(n).encode()) for n, key in enumerate(keys)], NOW)
    seen: dict[str, int] = {}
    counts = []
    for number in range(4):
        entries = read(connection, stream, number=number, limit=1000).entries
        counts.append(len(entries))
        assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
        for entry in entries:
            assert seen.setdefault(entry.key, number) == number
            assert records.shard_of(entry.key, 4) == number
    assert sum(counts) == 200 and min(counts) > 0


def test_resharding_is_refused_and_the_last_retention_holds(connection):
    first = records.ensure(connection, "clicks", 2, 3600.0)
    assert records.ensure(connection, "clicks", 2, 7200.0).shards == first.shards
    assert connection.execute("SELECT retention FROM streams").fetchall() == [(7200.0,)]
    with pytest.raises(SourceError, match="has 2 shards and the configuration says 3; resharding is not offered"):
        records.ensure(connection, "clicks", 3, 3600.0)


def test_trimmed_records_are_counted_by_who_missed_them(connection):
    stream = records.ensure(connection, "clicks", 1, 60.0)
    put(connection, stream, "a", "b", "c")
    put(connection, stream, "d", now=NOW + 50)
    assert records.trim(connection, stream, NOW + 61) == 3
    assert records.bounds(connection, stream.shards[0]) == (4, 5, NOW + 50)
    found = read(connection, stream, 2)
    assert ([entry.data for entry in found.entries], found.following, found.trimmed) == ([b"d"], 5, 2)
    assert records.trim(connection, stream, NOW + 1000) == 1
    found = read(connection, stream, 4)
    assert (found.entries, found.following, found.trimmed) == ([], 5, 1)
    put(connection, stream, "e", now=NOW + 1000)
    assert [entry.sequence for entry in read(connection, stream, 5).entries] == [5], "numbers never start again"


def test_much_is_trimmed_piece_by_piece(connection):
    stream = records.ensure(connection, "clicks", 1, 60.0)
    put(connection, stream, *(["x"] * 6000))
    assert [records.trim(connection, stream, NOW + 100) for _ in range(3)] == [5000, 1000, 0]


@given(st.lists(st.integers(0, 20), max_size=30), st.integers(-2, 25), st.integers(0, 10))
def test_law_a_time_is_the_first_record_at_it_or_later(steps, wanted, trimmed_after):
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for statement in SCHEMA.migrations[0]:
        connection.execute(statement)
    stream = records.ensure(connection, "clicks", 1, 5.0)
    arrivals = sorted(float(NOW + step) for step in steps)
    for arrival in arrivals:
        put(connection, stream, "x", now=arrival)
    records.trim(connection, stream, NOW + trimmed_after)
    first, following, _ = records.bounds(connection, stream.shards[0])
    kept = list(enumerate(arrivals, 1))[first - 1 :]
    expected = next((sequence for sequence, arrival in kept if arrival >= NOW + wanted), following)
    assert records.position_at(connection, stream.shards[0], NOW + wanted) == expected
    connection.close()


def test_arrivals_never_go_back_when_the_clock_does(connection):
    stream = records.ensure(connection, "clicks", 1, 3600.0)
    put(connection, stream, "a")
    put(connection, stream, "b", now=NOW - 500)
    assert [entry.arrival for entry in read(connection, stream).entries] == [NOW, NOW]
