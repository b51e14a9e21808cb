"""How fast failures are journaled, durably: our append beside bare SQLite, on the same disk.

Both write the same rows, 1,000 records of 1 kB a commit, fsynced (WAL, synchronous=FULL). Bare SQLite has the same columns but no index of
record ids, no check for records that are there already, no thread and no event loop. What is compared is records a second, for durability
is waiting for a disk.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.comparison import Comparison, Limit, Reading, Side
from poller.failures.journal import Entry, KeptRecord, Selection
from poller.model import Fault
from poller.stores.sqlite import open_store

BATCH = 1000
"""Records a commit."""
ENTRY = 100
"""Records a failure."""
FAULT = Fault("error", "ValueError", "no such order", ("app.py:7 handle",))

_BARE = (
    """CREATE TABLE failures (number INTEGER PRIMARY KEY, id TEXT, mapping TEXT, source TEXT, lane TEXT, function TEXT, reason TEXT,
       attempts INTEGER, fault TEXT, first TEXT, last TEXT, time REAL, head BLOB, tail BLOB, kept TEXT, run TEXT, state TEXT)""",
    "CREATE TABLE records (number INTEGER PRIMARY KEY, failure INTEGER, id TEXT, key TEXT, arrival REAL, identifier TEXT, json BLOB)",
)
_FAILURE = f"INSERT INTO failures VALUES ({','.join('?' * 17)})"
_RECORD = "INSERT INTO records (failure, id, key, arrival, identifier, json) VALUES (?, ?, ?, ?, ?, ?)"


def batches(records: int) -> Iterator[list[Entry]]:
    """What is journaled: BATCH records at a time, ENTRY of them a failure."""
    text = b'{"kinesis":{"data":"%s"}}' % (b"x" * 975)
    for batch in range(records // BATCH):
        yield [_entry(batch * BATCH + first, text) for first in range(0, BATCH, ENTRY)]


def _entry(first: int, text: bytes) -> Entry:
    names = [f"shardId-000000000000:{number:056d}" for number in range(first, first + ENTRY)]
    return Entry(
        id=f"{first:032x}",
        mapping="orders",
        source="arn:aws:kinesis:eu-west-1:123456789012:stream/orders",
        lane="shardId-000000000000",
        function="orders",
        reason="RetryAttemptsExhausted",
        attempts=11,
        fault=FAULT,
        first=names[0],
        last=names[-1],
        time=1763686800.0 + first,
        head=b'{"Records":[',
        tail=b"]}",
        records=tuple(KeptRecord(name, "customer-1", 1763686800.0, text) for name in names),
        identifiers=tuple(names),
    )


async def ours(records: int, folder: str) -> Reading:
    """Records a second through the store."""
    work = list(batches(records))
    store = await open_store(Path(folder) / "ours.db")
    began = time.perf_counter()
    for batch in work:
        await store.journal.append(batch)
    took = time.perf_counter() - began
    kept = await store.journal.count(Selection())
    await store.aclose()
    if kept != len(work) * BATCH // ENTRY:
        raise SystemExit(f"{kept} failures are in the journal: not what was appended")
    return Reading(records / took)


def bare(records: int, folder: str) -> Reading:
    """Records a second straight into SQLite."""
    work = list(batches(records))
    connection = sqlite3.connect(Path(folder) / "bare.db", isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    for statement in _BARE:
        connection.execute(statement)
    began = time.perf_counter()
    for batch in work:
        connection.execute("BEGIN")
        for entry in batch:
            number = connection.execute(_FAILURE, _columns(entry)).lastrowid
            rows = zip(entry.records, entry.identifiers, strict=True)
            connection.executemany(_RECORD, [(number, one.id, one.key, one.arrival, identifier, one.json) for one, identifier in rows])
        connection.execute("COMMIT")
    took = time.perf_counter() - began
    connection.close()
    return Reading(records / took)


def _columns(entry: Entry) -> tuple[object, ...]:
    place = (entry.mapping, entry.source, entry.lane, entry.function, entry.reason, entry.attempts, repr(entry.fault))
    return (None, entry.id, *place, entry.first, entry.last, entry.time, entry.head, entry.tail, entry.kept, entry.run, "kept")


SIDES = {"ours": ours, "bare": bare}


def comparisons(quick: bool) -> list[Comparison]:
    parameters = {"records": 10_000 if quick else 50_000}
    ours, bare = Side("journal", "ours", parameters, in_folder=True), Side("journal", "bare", parameters, in_folder=True)
    return [Comparison("the journal, beside SQLite", "records/s", ours, bare, Limit("times", at_least=0.5))]
