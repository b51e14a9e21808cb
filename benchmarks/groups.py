"""How long `poller failures groups` takes in a large journal: CPU of all threads, of the store's whole call. Alone: nobody else has them.

The rows are put into the tables as `append` leaves them, without their records: a million appends would take longer than all the rest.
"""

from __future__ import annotations

import sqlite3
import time
from functools import partial
from pathlib import Path

from benchmarks.comparison import Comparison, Limit, Reading, Side
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import Selection
from poller.model import Fault
from poller.stores.entries import encode_fault
from poller.stores.sqlite import open_store

GROUPS, LANES, MAPPINGS = 300, 64, 4
BEGAN, SPACED = 1_763_686_800.0, 0.1
"""When the first failure came, and seconds between two."""
PART = 100_000
"""Rows a transaction."""

_LANES = "INSERT INTO lanes (number, mapping, source, lane) VALUES (?, ?, 'arn:aws:kinesis:eu-west-1:123456789012:stream/orders', ?)"
_ERRORS = "CREATE TEMP TABLE errors (number INTEGER PRIMARY KEY, fingerprint TEXT, fault BLOB)"
# Half of all failures are of the first few errors, as they are in life; one in eight is done.
_ROWS = f"""
    WITH RECURSIVE counted (n) AS (SELECT :first UNION ALL SELECT n + 1 FROM counted WHERE n + 1 < :last)
    INSERT INTO failures (id, lane, function, reason, attempts, fault, first, last, time, head, tail, kept, run, request_id,
                          fingerprint, size, bytes, state, failures, changed, owner, until)
    SELECT printf('%032x', n * 7919), 1 + n % {LANES}, 'orders', 'RetryAttemptsExhausted', 11, fault, 'a', 'b', {BEGAN} + n * {SPACED},
           x'7b7d', x'7b7d', 'failure', '', '', errors.fingerprint, 10, 9000, iif(n % 8, 'kept', 'replayed'), 0, {BEGAN}, '', 0
    FROM counted JOIN errors ON errors.number = iif(n % 2, n / 2 % 7, n / 2 % {GROUPS})
"""


def _lanes(connection: sqlite3.Connection) -> None:
    connection.executemany(_LANES, [(lane + 1, f"mapping-{lane % MAPPINGS}", f"shardId-{lane:012}") for lane in range(LANES)])


def _part(connection: sqlite3.Connection, *, first: int, last: int) -> None:
    connection.execute(_ERRORS)
    faults = [
        Fault("error", f"Error{chr(97 + n % 26)}{chr(97 + n // 26)}", "no such order: 7", ("app.py:7 handle",)) for n in range(GROUPS)
    ]
    rows = [(n, fingerprint(each), encode_fault(each)) for n, each in enumerate(faults)]
    connection.executemany("INSERT INTO errors VALUES (?, ?, ?)", rows)
    connection.execute(_ROWS, {"first": first, "last": last})
    connection.execute("DROP TABLE errors")


async def groups(failures: int, narrowed: bool, folder: str) -> Reading:
    """Milliseconds of CPU for all groups. Raises SystemExit unless they hold what was put there."""
    store = await open_store(Path(folder) / "groups.db")
    await store._writer.run(_lanes)
    for first in range(0, failures, PART):
        await store._writer.run(partial(_part, first=first, last=min(first + PART, failures)))
    half = BEGAN + failures * SPACED / 2
    selection = Selection(mapping="mapping-1", after=half) if narrowed else Selection(states=())
    began = time.process_time()
    found = await store.upkeep.groups(selection)
    took = time.process_time() - began
    count = await store.journal.count(selection)
    await store.aclose()
    if sum(group.rows for group in found) != count or (not narrowed and (len(found), count) != (GROUPS, failures)):
        raise SystemExit(f"{len(found)} groups of {count} failures: not what was put there")
    return Reading(took * 1e3)


SIDES = {"groups": groups}


def comparisons(quick: bool) -> list[Comparison]:
    failures = 100_000 if quick else 1_000_000
    of = {"all": False, "of a mapping, since a time": True}
    sides = {name: Side("groups", "groups", {"failures": failures, "narrowed": narrowed}, in_folder=True) for name, narrowed in of.items()}
    limit = Limit("figure", at_most=1000)
    return [Comparison(f"groups of {failures:,} failures, {name}", "ms", side, None, limit) for name, side in sides.items()]
