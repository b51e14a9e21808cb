"""The outbox in SQLite: what is still to be delivered to destinations.

    Journal.append, put -> due --settled: it has arrived--> removed
                            ^ '--settled: it failed, or cannot be read--> due later
                            '---------------------------------------------'

Numbers are never given twice: a sender that was away for long must not settle another delivery than it sent.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from poller.failures.journal import Damaged, Delivery, Waiting
from poller.stores.posts import delivery, encode, text, torn
from poller.stores.writer import Writer

# Of successes the same id is there once for a destination (a partial index); failures are told apart by the journal.
_PUT = """
    INSERT INTO outbox (id, mapping, destination, outcome, time, entry, result, attempts, due, error)
    VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, '') ON CONFLICT DO NOTHING
"""
_DUE = """
    SELECT number, id, destination, outcome, entry, result, attempts, due, error FROM outbox
    WHERE mapping = ? AND destination = ? AND due <= ? ORDER BY number LIMIT ?
"""
_ARRIVED = "DELETE FROM outbox WHERE number = ?"
_FAILED = "UPDATE outbox SET attempts = attempts + 1, due = ?, error = ?, damaged = ? WHERE number = ?"
# The counting reads indexes alone; of each destination, two rows are looked up.
_WAITING = """
    SELECT each.mapping, each.destination, each.count, oldest.time, coalesce(failed.attempts, 0), coalesce(failed.error, ''),
           (SELECT count(*) FROM outbox WHERE mapping = each.mapping AND destination = each.destination AND damaged = 1),
           each.newest
    FROM (SELECT mapping, destination, count(*) AS count, min(number) AS first, max(number) AS newest
          FROM outbox GROUP BY mapping, destination) AS each
    JOIN outbox AS oldest ON oldest.number = each.first
    LEFT JOIN outbox AS failed ON failed.number = (
        SELECT min(number) FROM outbox WHERE mapping = each.mapping AND destination = each.destination AND attempts > 0 AND damaged = 0
    )
    ORDER BY each.mapping, each.destination
"""
_DROP = """
    DELETE FROM outbox
    WHERE number IN (SELECT number FROM outbox WHERE mapping = ? AND destination = ? AND number <= ? ORDER BY number LIMIT ?)
"""
_SET_ASIDE = "SELECT number FROM outbox WHERE mapping = ? AND destination = ? AND damaged = 1 AND number <= ? ORDER BY number"


def post(connection: sqlite3.Connection, deliveries: Iterable[Delivery]) -> None:
    """Put deliveries into the outbox. Called inside the writer's transaction."""
    for each in deliveries:
        entry = each.entry
        key = (each.id, text(entry.mapping), text(each.destination))
        connection.execute(_PUT, (*key, each.outcome, entry.time, encode(entry), each.result, each.due))


class SqliteOutbox:
    """`poller.failures.protocols.Outbox` over one SQLite file. What is put and settled together shares one fsync."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def put(self, deliveries: Sequence[Delivery]) -> None:
        """All of them or, if this raises, none. Raises StoreUnavailable when the file cannot be written now."""
        if deliveries:
            await self._writer.run(lambda connection: post(connection, deliveries))

    async def due(self, mapping: str, destination: str, now: float, limit: int) -> Sequence[Delivery | Damaged]:
        """Those whose time has come, oldest first."""
        values = (text(mapping), text(destination), now, limit)
        found = await self._writer.read(lambda connection: connection.execute(_DUE, values).fetchall())
        return [delivery(*columns) for columns in found]

    async def settle(self, number: int, due: float | None, error: str = "", damaged: bool = False) -> None:
        """None: it has arrived; else it failed and is due then. What is not there any more is left so."""
        statement, values = (_ARRIVED, (number,)) if due is None else (_FAILED, (due, text(error), damaged, number))
        await self._writer.run(lambda connection: connection.execute(statement, values))

    async def waiting(self) -> Sequence[Waiting]:
        """A line for each mapping and destination that has anything waiting."""
        found = await self._writer.read(lambda connection: connection.execute(_WAITING).fetchall())
        return [Waiting(*columns) for columns in found]

    async def drop(self, line: Waiting, limit: int, damaged: bool = False) -> int:
        """See the protocol."""
        values = (text(line.mapping), text(line.destination), line.newest)
        if damaged:
            return await self._writer.run(lambda connection: _drop_torn(connection, values, limit))
        return await self._writer.run(lambda connection: connection.execute(_DROP, (*values, limit)).rowcount)


def _drop_torn(connection: sqlite3.Connection, values: tuple[str, str, int], limit: int) -> int:
    """One that is set aside may be readable by now: what an older version could not read, for one."""
    gone = 0
    for (number,) in connection.execute(_SET_ASIDE, values).fetchall():
        if gone < limit and torn(*connection.execute("SELECT id, entry FROM outbox WHERE number = ?", (number,)).fetchone()):
            gone += connection.execute(_ARRIVED, (number,)).rowcount
    return gone
