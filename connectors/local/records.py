"""Records in the database: Kinesis's rules as transactions. A shard's sequence numbers are dense: first <= every record's < next.

A record's row is `shard << 40 | sequence`, so that a shard is read and trimmed as one stretch of the table, without an index. Arrival times
never go back within a shard, whatever the clock does: a time is found by bisection.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import md5
from sqlite3 import Connection

from connectors.local.format import Entry
from poller.errors import SourceError

_SEQUENCE_BITS = 40
_HASHES = 2**128
_TRIM_LIMIT = 5000


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream as it is set up now: the row ids of its shards, in order. `retention` in seconds."""

    id: int
    name: str
    shards: tuple[int, ...]
    retention: float


@dataclass(frozen=True, slots=True)
class Stretch:
    """What a read found: the records, the position after them, and how many records before them were `trimmed` unread.

    `end`: the position of the next record to be written.
    """

    entries: list[Entry]
    following: int
    end: int
    trimmed: int


def shard_name(number: int) -> str:
    return f"shardId-{number:012d}"


def shard_of(key: str, shards: int) -> int:
    """Kinesis: the MD5 of the partition key as a number falls into a shard's range; the ranges are even, the last one takes the rest."""
    digest = md5(key.encode(), usedforsecurity=False).digest()
    return min(int.from_bytes(digest, "big") // (_HASHES // shards), shards - 1)


def ensure(connection: Connection, name: str, shards: int, retention: float) -> Stream:
    """The stream, made if it is not there. Raises SourceError when its shards would have to change."""
    row = connection.execute("SELECT id, retention FROM streams WHERE name=?", (name,)).fetchone()
    if row is None:
        cursor = connection.execute("INSERT INTO streams (name, retention) VALUES (?, ?)", (name, retention))
        assert cursor.lastrowid is not None
        identity = cursor.lastrowid
        connection.executemany("INSERT INTO shards (stream, number) VALUES (?, ?)", [(identity, number) for number in range(shards)])
    else:
        identity = row[0]
        if row[1] != retention:
            connection.execute("UPDATE streams SET retention=? WHERE id=?", (retention, identity))
    ids = tuple(shard for (shard,) in connection.execute("SELECT id FROM shards WHERE stream=? ORDER BY number", (identity,)))
    if len(ids) != shards:
        raise SourceError(
            f"local stream {name!r} has {len(ids)} shards and the configuration says {shards}; resharding is not offered: "
            f"set shards = {len(ids)}, or give the new stream another name"
        )
    return Stream(identity, name, ids, retention)


def put(connection: Connection, stream: Stream, records: Sequence[tuple[str, bytes]], now: float) -> set[int]:
    """Append (key, data) in order; returns the numbers of the shards that got some."""
    state = {
        number: [shard, following, max(arrival, now)]
        for number, shard, following, arrival in connection.execute(
            "SELECT number, id, next, arrival FROM shards WHERE stream=?", (stream.id,)
        )
    }
    count = len(stream.shards)
    rows, touched = [], set()
    for key, data in records:
        number = shard_of(key, count) if count > 1 else 0
        shard, sequence, arrival = state[number]
        rows.append((shard << _SEQUENCE_BITS | sequence, arrival, key, data))
        state[number][1] += 1
        touched.add(number)
    connection.executemany("INSERT INTO records (id, arrival, key, data) VALUES (?, ?, ?, ?)", rows)
    ends = [(following, arrival, shard) for shard, following, arrival in (state[number] for number in touched)]
    connection.executemany("UPDATE shards SET next=?, arrival=? WHERE id=?", ends)
    return touched


def read(connection: Connection, shard: int, name: str, start: int, limit: int) -> Stretch:
    """Records from sequence `start` on. What was trimmed before they could be read is counted."""
    first, end, _ = bounds(connection, shard)
    begin = max(start, first)
    base = shard << _SEQUENCE_BITS
    entries = [
        Entry(name, row - base, arrival, key, data)
        for row, arrival, key, data in connection.execute(
            "SELECT id, arrival, key, data FROM records WHERE id>=? AND id<? ORDER BY id LIMIT ?",
            (base | begin, (shard + 1) << _SEQUENCE_BITS, limit),
        )
    ]
    return Stretch(entries, begin + len(entries), end, begin - start)


def bounds(connection: Connection, shard: int) -> tuple[int, int, float]:
    """(the first sequence number kept, the one the next record gets, when the newest came: 0 for never)."""
    first, following, arrival = connection.execute("SELECT first, next, arrival FROM shards WHERE id=?", (shard,)).fetchone()
    return first, following, arrival


def position_at(connection: Connection, shard: int, time: float) -> int:
    """The first record that came at `time` or later; the next one to be written if there is none."""
    low, high, newest = bounds(connection, shard)
    if newest < time:
        return high
    base = shard << _SEQUENCE_BITS
    while low < high:
        middle = (low + high) // 2
        row = connection.execute("SELECT arrival FROM records WHERE id=?", (base | middle,)).fetchone()
        if row[0] < time:
            low = middle + 1
        else:
            high = middle
    return low


def trim(connection: Connection, stream: Stream, now: float) -> int:
    """Delete what is older than the retention, at most some thousands a shard; returns how many."""
    trimmed = 0
    for shard in stream.shards:
        first, _, _ = bounds(connection, shard)
        until = min(position_at(connection, shard, now - stream.retention), first + _TRIM_LIMIT)
        if until > first:
            base = shard << _SEQUENCE_BITS
            connection.execute("DELETE FROM records WHERE id>=? AND id<?", (base | first, base | until))
            connection.execute("UPDATE shards SET first=? WHERE id=?", (until, shard))
            trimmed += until - first
    return trimmed
