"""What idempotency windows remember, in SQLite: a row a record, found by its name, and removed by its time.

    put --until is past--> not known --trim--> (gone)
     '--forget--> (gone)

Names begin with a time, so what is put together lies together. A transaction removes few rows, for appends wait for it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from math import inf

from poller.stores.posts import text
from poller.stores.writer import Writer

REMOVED = 1_000
"""Rows that one transaction removes."""

_NUMBER = "SELECT number, forgotten FROM acknowledged_mappings WHERE mapping = ?"
_MAPPINGS = "SELECT number, mapping FROM acknowledged_mappings"
_ADD = "INSERT INTO acknowledged_mappings (mapping, forgotten) VALUES (?, ?)"
_FORGET = """
    INSERT INTO acknowledged_mappings (mapping, forgotten) VALUES (?, ?)
    ON CONFLICT (mapping) DO UPDATE SET forgotten = max(forgotten, excluded.forgotten) RETURNING number
"""
_PUT = """
    INSERT INTO acknowledged (mapping, name, until) VALUES (?, ?, ?)
    ON CONFLICT (mapping, name) DO UPDATE SET until = excluded.until WHERE until < excluded.until
"""
# "+": by name, never by time: most of what is remembered is not over.
KNOWN = """
    SELECT name FROM acknowledged
    WHERE mapping = (SELECT number FROM acknowledged_mappings WHERE mapping = ?) AND +until > ? AND name IN ({marks})
"""
_COUNT = "SELECT count(*) FROM acknowledged INDEXED BY acknowledged_by_time WHERE mapping = ?"
_REMOVE = """
    DELETE FROM acknowledged WHERE mapping = ?1 AND name IN (
        SELECT name FROM acknowledged INDEXED BY acknowledged_by_time WHERE mapping = ?1 AND until <= ?2 ORDER BY until LIMIT ?3
    )
"""


class SqliteAcknowledged:
    """`poller.protocols.Acknowledged` over one SQLite file. Puts that come together share one fsync."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def put(self, mapping: str, names: Sequence[bytes], now: float, until: float) -> None:
        """See the protocol. Raises StoreUnavailable when the file cannot be written now."""

        def work(connection: sqlite3.Connection) -> None:
            number, forgotten = connection.execute(_NUMBER, (text(mapping),)).fetchone() or (None, -inf)
            if number is None:
                number = connection.execute(_ADD, (text(mapping), -inf)).lastrowid
            if now > forgotten:
                connection.executemany(_PUT, [(number, name, until) for name in names])

        if names:
            await self._writer.run(work)

    async def known(self, mapping: str, names: Sequence[bytes], now: float) -> Collection[bytes]:
        """See the protocol."""
        query = KNOWN.format(marks=", ".join("?" * len(names)))

        def work(connection: sqlite3.Connection) -> set[bytes]:
            return {name for (name,) in connection.execute(query, (text(mapping), now, *names))}

        return await self._writer.read(work) if names else ()

    async def forget(self, mapping: str, now: float) -> None:
        """See the protocol. Late puts are refused first: else what they put down would stay."""

        def work(connection: sqlite3.Connection) -> int:
            return int(connection.execute(_FORGET, (text(mapping), now)).fetchone()[0])

        await self._remove(await self._writer.run(work), inf)

    async def trim(self, now: float, most: Mapping[str, int]) -> int:
        """See the protocol."""
        limits = {text(mapping): limit for mapping, limit in most.items()}
        gone = 0
        for number, mapping in await self._writer.read(lambda connection: connection.execute(_MAPPINGS).fetchall()):
            gone += await self._remove(number, now)
            if mapping in limits:
                count = await self._count(number)
                gone += await self._remove(number, inf, count - limits[mapping])
        return gone

    async def _count(self, number: int) -> int:
        return await self._writer.read(lambda connection: int(connection.execute(_COUNT, (number,)).fetchone()[0]))

    async def _remove(self, number: int, before: float, enough: float = inf) -> int:
        gone = 0
        while gone < enough:
            limit = int(min(REMOVED, enough - gone))
            removed = await self._writer.run(partial(_removed, number, before, limit))
            gone += removed
            if removed < limit:
                break
        return gone


def _removed(number: int, before: float, limit: int, connection: sqlite3.Connection) -> int:
    return connection.execute(_REMOVE, (number, before, limit)).rowcount
