"""The journal in SQLite as a whole: error groups, how large it is, removing what is over.

A row that an older version put down has no fingerprint. It gets one when groups are asked for the first time, or by the daemon's upkeep.
Not by the migration: that would hold the file for as long as it takes to read a million faults, and could not know the rows that a daemon
of the older version, which still runs, puts down later.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial

from poller.failures.fingerprint import fingerprint
from poller.failures.journal import ErrorGroup, Removed, RowState, Selection
from poller.stores.entries import chunks, marks
from poller.stores.held import close, release
from poller.stores.kept import RECORD_BYTES, ROW_BYTES, fault_of, grouped, portion
from poller.stores.rows import narrowed
from poller.stores.writer import Writer

WORKED_OUT = 500
"""Rows that get their fingerprint in one transaction: appends wait for it."""

_WITHOUT = f"SELECT number, id, reason, fault FROM failures WHERE fingerprint = '' LIMIT {WORKED_OUT}"
_WORK_OUT = f"""
    UPDATE failures SET fingerprint = ?, size = its.size, bytes = length(head) + length(tail) + {ROW_BYTES} + its.bytes
    FROM (SELECT count(*) AS size, coalesce(sum(length(json) + {RECORD_BYTES}), 0) AS bytes FROM records WHERE failure = ?) AS its
    WHERE number = ?
"""
# An index holds all of it, in the order of the groups; lanes are few, and told apart on the way.
GROUPS = """
    SELECT fingerprint, count(*), sum(size), min(time), max(time), group_concat(DISTINCT lane), max(number)
    FROM failures INDEXED BY failures_by_fingerprint WHERE {where} GROUP BY fingerprint
"""
_SAMPLES = "SELECT number, id, reason, fault FROM failures WHERE number IN ({marks})"
_LANES = "SELECT number, mapping FROM lanes"
# A state at a time, so that an index has them in their order: else all that are over would be sorted, for each few that go.
_OVER = "SELECT number FROM failures WHERE state = ? AND time < ? AND changed < ? ORDER BY time LIMIT ?"
_STILL_OVER = """
    SELECT failures.number, failures.id, lanes.mapping, size, bytes FROM failures JOIN lanes ON lanes.number = failures.lane
    WHERE failures.number IN ({numbers}) AND state IN ({states}) AND time < ? AND changed < ? ORDER BY time LIMIT ?
"""
_PAGES = 500


class SqliteUpkeep:
    """`poller.failures.protocols.Upkeep` over one SQLite file."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def groups(self, selection: Selection) -> Sequence[ErrorGroup]:
        """See the protocol. Over a million rows in a part of a second, unless ids, copies or a key narrow it, for which rows are read."""
        await work_out(self._writer)
        return await self._writer.read(lambda connection: _groups(connection, selection))

    async def size(self) -> int:
        """See the protocol. The file may be larger: it holds lanes too, and what removed rows have left until it is given back."""
        await work_out(self._writer)
        query = "SELECT coalesce(sum(bytes), 0) FROM failures INDEXED BY failures_by_fingerprint"
        return await self._writer.read(lambda connection: int(connection.execute(query).fetchone()[0]))

    async def remove(self, states: Sequence[RowState], before: float, limit: int) -> Sequence[Removed]:
        """See the protocol."""
        removable = [state for state in states if state != "claimed"]
        # Looked for outside of the transaction: where many are old that were changed lately, that takes longer than appends should wait.
        while over := await self._writer.read(lambda connection: _over(connection, removable, before, limit)):
            if removed := await self._writer.run(partial(_remove, over=over, states=removable, before=before, limit=limit)):
                return removed
            # Another has removed them, or they were changed meanwhile.
        return []

    async def compact(self, limit: int) -> int:
        """See the protocol. Only a file that was made with incremental vacuum can; an older one keeps its size, and uses it again."""
        return await self._writer.run(lambda connection: _compact(connection, limit))


async def work_out(writer: Writer) -> None:
    """Every row has a fingerprint; a few rows at a time."""
    while await writer.read(lambda connection: connection.execute("SELECT 1 FROM failures WHERE fingerprint = '' LIMIT 1").fetchone()):
        await writer.run(_work_out)


def _work_out(connection: sqlite3.Connection) -> None:
    found = connection.execute(_WITHOUT).fetchall()
    values = [(fingerprint(fault_of(name, fault), reason), number, number) for number, name, reason, fault in found]
    connection.executemany(_WORK_OUT, values)


def _groups(connection: sqlite3.Connection, selection: Selection) -> list[ErrorGroup]:
    where, values = narrowed(connection, selection)
    found = connection.execute(GROUPS.format(where=where), values).fetchall()
    mappings = {str(number): mapping for number, mapping in connection.execute(_LANES)}
    samples = {}
    for chunk in chunks([columns[-1] for columns in found], _PAGES):
        for number, *sample in connection.execute(_SAMPLES.format(marks=marks(len(chunk))), chunk):
            samples[number] = sample
    return grouped(
        (name, *counts, [mappings[lane] for lane in lanes.split(",")], *samples[number]) for name, *counts, lanes, number in found
    )


def _over(connection: sqlite3.Connection, states: Sequence[RowState], before: float, limit: int) -> list[int]:
    """The numbers of the oldest in each state."""
    return [number for state in states for (number,) in connection.execute(_OVER, (state, before, before, limit))]


def _remove(connection: sqlite3.Connection, over: Sequence[int], states: Sequence[RowState], before: float, limit: int) -> list[Removed]:
    query = _STILL_OVER.format(numbers=marks(len(over)), states=marks(len(states)))
    found = portion(connection.execute(query, (*over, *states, before, before, limit)).fetchall())
    # Before the rows: `held` refers to them.
    keys = [key for columns in found for key in close(connection, columns[0])]
    for chunk in chunks([columns[0] for columns in found], _PAGES):
        for table, column in (("records", "failure"), ("failures", "number")):
            connection.execute(f"DELETE FROM {table} WHERE {column} IN ({marks(len(chunk))})", chunk)
    release(connection, keys)
    return [Removed(*columns) for _, *columns in found]


def _compact(connection: sqlite3.Connection, limit: int) -> int:
    free, page, mode = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("freelist_count", "page_size", "auto_vacuum"))
    if mode != 2 or not free:
        return 0
    pages = max(1, min(free, limit // page))
    for _ in range(pages):
        # A page each: the statement ends at its first step, which is one page, whatever number it is given.
        connection.execute("PRAGMA incremental_vacuum(1)")
    left = connection.execute("PRAGMA freelist_count").fetchone()[0]
    return int((free - left) * page)
