"""How fast failures are journaled, durably: our append beside bare SQLite, in the same run, on the same disk.

Both write the same rows, 1,000 records of 1 kB a commit, fsynced (WAL, synchronous=FULL). Bare SQLite has the same columns but no index of
record ids, no check for records that are there already, no thread and no event loop. A B A B ...; the medians are compared.

    python benchmarks/journal.py [--quick] [--folder FOLDER]

Ends with 1 when our median is below TARGET of bare SQLite's.
"""

from __future__ import annotations

import argparse
import asyncio
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from poller.model import Entry, Fault, KeptRecord, Selection
from poller.stores.sqlite import open_store

TARGET = 0.5
PAIRS = 5
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


async def ours(path: Path, work: list[list[Entry]]) -> float:
    """Records a second through the store."""
    store = await open_store(path)
    began = time.perf_counter()
    for batch in work:
        await store.journal.append(batch)
    took = time.perf_counter() - began
    kept = await store.journal.count(Selection())
    await store.aclose()
    if kept != len(work) * BATCH // ENTRY:
        raise SystemExit(f"{kept} failures are in the journal: not what was appended")
    return len(work) * BATCH / took


def bare(path: Path, work: list[list[Entry]]) -> float:
    """Records a second straight into SQLite."""
    connection = sqlite3.connect(path, isolation_level=None)
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
    return len(work) * BATCH / took


def _columns(entry: Entry) -> tuple[object, ...]:
    place = (entry.mapping, entry.source, entry.lane, entry.function, entry.reason, entry.attempts, repr(entry.fault))
    return (None, entry.id, *place, entry.first, entry.last, entry.time, entry.head, entry.tail, entry.kept, entry.run, "kept")


def measure(folder: Path, records: int, pairs: int) -> float:
    """Our median as a share of bare SQLite's; prints each pair."""
    work = list(batches(records))
    of_ours, of_bare = [], []
    for pair in range(pairs):
        of_ours.append(asyncio.run(ours(folder / f"ours-{pair}.db", work)))
        of_bare.append(bare(folder / f"bare-{pair}.db", work))
        print(f"pair {pair + 1}: journal {of_ours[-1]:9,.0f} records/s   bare SQLite {of_bare[-1]:9,.0f} records/s")
        for used in folder.iterdir():
            used.unlink()
    ratio = statistics.median(of_ours) / statistics.median(of_bare)
    print(f"median: journal {statistics.median(of_ours):9,.0f} records/s   bare SQLite {statistics.median(of_bare):9,.0f} records/s")
    print(f"ratio: {ratio:.2f} (target {TARGET})   SQLite {sqlite3.sqlite_version}, Python {sys.version.split()[0]}")
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description="The journal beside bare SQLite.")
    parser.add_argument("--quick", action="store_true", help="a fifth of the records, and two pairs")
    parser.add_argument("--folder", type=Path, default=None, help="where to write: a folder on the disk that is meant")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        ratio = measure(Path(folder), 10_000 if options.quick else 50_000, 2 if options.quick else PAIRS)
    sys.exit(0 if ratio >= TARGET else 1)


if __name__ == "__main__":
    main()
