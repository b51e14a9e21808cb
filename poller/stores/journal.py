"""The journal in SQLite: failures with their records, kept until they are replayed or dropped.

    append -> kept --claim--> claimed --ack--> replayed
               |  <--failed again, or given back--'  |
               '--> dropped          claimed again by another once `until` is past
    append, park -> parked --released--> kept

Writing an entry is entries.py, reading rows is rows.py, what is parked is held.py; this is what the engine sees of them.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

from poller.failures.fingerprint import fingerprint
from poller.failures.journal import OPEN, Entry, Row, RowState, Selection
from poller.model import Fault
from poller.stores.entries import append, chunks, encode_fault
from poller.stores.held import close, release
from poller.stores.rows import count, select
from poller.stores.upkeep import work_out
from poller.stores.writer import Writer

_MARKED = 500
# State -> (what changes besides state and time, from which rows). The parameters are named: all of one statement.
_TRANSITIONS: dict[RowState, tuple[str, str]] = {
    "claimed": ("owner = :owner, until = :until", "(state = 'kept' OR (state = 'claimed' AND (owner = :owner OR until <= :now)))"),
    "kept": ("owner = '', until = 0", "state = 'claimed' AND owner = :owner"),
    "replayed": ("owner = '', until = 0", "state = 'claimed' AND owner = :owner"),
    "dropped": ("owner = '', until = 0", "state IN ('kept', 'parked')"),
}
_FAILED_AGAIN = ", fault = :fault, failures = failures + 1, fingerprint = iif(fingerprint = '', '', :fingerprint)"


class SqliteJournal:
    """`poller.protocols.Journal` over one SQLite file. Appends that come together share one fsync."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        """All of them or, if this raises, none. Raises StoreUnavailable when the file cannot be written now."""

        def work(connection: sqlite3.Connection) -> list[str]:
            return [append(connection, entry) for entry in entries]

        return await self._writer.run(work) if entries else ()

    async def select(self, selection: Selection) -> Sequence[Row]:
        """Oldest first, whole rows. Raises ConfigError, which names candidates, for an ambiguous id."""
        if selection.group is not None:
            await work_out(self._writer)
        return await self._writer.read(lambda connection: select(connection, selection))

    async def count(self, selection: Selection) -> int:
        """How many rows `select` would give, without reading them."""
        if selection.group is not None:
            await work_out(self._writer)
        return await self._writer.read(lambda connection: count(connection, selection))

    async def mark(
        self, ids: Sequence[str], state: RowState, now: float, owner: str = "", until: float = 0.0, fault: Fault | None = None
    ) -> Sequence[str]:
        """The ids, in their order, whose rows could be and are changed. Ids are whole here. The transitions: protocols.Journal.mark."""

        def work(connection: sqlite3.Connection) -> list[str]:
            done = mark(connection, ids, state, now, owner, until, fault)
            if state not in OPEN:
                release(connection, [key for number in done.values() if number for key in close(connection, number)], now)
            return list(done)

        return await self._writer.run(work) if ids else ()


def mark(
    connection: sqlite3.Connection,
    ids: Sequence[str],
    state: RowState,
    now: float,
    owner: str = "",
    until: float = 0.0,
    fault: Fault | None = None,
) -> dict[str, int]:
    """`protocols.Journal.mark`, inside the writer's transaction. The rows, each with its number if it holds keys, else 0: those of rows
    that are not open any more are the caller's to close, and to release."""
    changes, condition = _TRANSITIONS[state]
    if state == "kept" and fault is not None:
        changes += _FAILED_AGAIN
    values = {"state": state, "now": now, "owner": owner, "until": until, "fault": encode_fault(fault)}
    if fault is not None:
        values["fingerprint"] = fingerprint(fault)
    wanted, done = list(dict.fromkeys(ids)), dict[str, int]()
    for chunk in chunks(wanted, _MARKED):
        done.update(_mark(connection, chunk, changes, condition, values))
    return {one: done[one] for one in wanted if one in done}


def _mark(connection: sqlite3.Connection, ids: Sequence[str], changes: str, condition: str, values: dict[str, Any]) -> dict[str, int]:
    names = {f"id{n}": one for n, one in enumerate(ids)}
    query = f"""
        UPDATE failures SET state = :state, changed = :now, {changes}
        WHERE id IN ({",".join(":" + name for name in names)}) AND {condition} RETURNING id, iif(holds, number, 0)
    """
    return dict(connection.execute(query, values | names).fetchall())
