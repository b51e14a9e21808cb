"""Leases in SQLite: one row a lane.

    free --claim, counter + 1--> held by A --drop--> free
                    held by A --until is past, B claims, counter + 1--> held by B

Every claim takes a new counter, the owner's own too: a save that it sent before is refused then. A lease that is past its time is only
ever taken by a claim, never renewed.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from poller.model import LaneKey, Lease
from poller.stores.writer import Writer

_CLAIM = """
    INSERT INTO leases (mapping, source, lane, owner, counter, until) VALUES (:mapping, :source, :lane, :owner, 1, :until)
    ON CONFLICT (mapping, source, lane) DO UPDATE
        SET counter = counter + 1, owner = excluded.owner, until = excluded.until
        WHERE owner = excluded.owner OR owner = '' OR until <= :now
    RETURNING counter
"""
_RENEW = """
    UPDATE leases SET until = :until
    WHERE mapping = :mapping AND source = :source AND lane = :lane AND owner = :owner AND counter = :counter AND until > :now
"""
_DROP = """
    UPDATE leases SET owner = '', until = 0
    WHERE mapping = :mapping AND source = :source AND lane = :lane AND owner = :owner AND counter = :counter
"""


def _place(key: LaneKey) -> dict[str, str | int | float]:
    return {"mapping": key.mapping, "source": key.source, "lane": key.lane}


class SqliteLeases:
    """`poller.protocols.Leases` over one SQLite file. `now` is epoch seconds, the same clock for all who share the file."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float) -> Lease | None:
        """The lease until `now + duration`, or None while it is another's. `owner` must not be empty."""
        values = _place(key) | {"owner": owner, "now": now, "until": now + duration}

        def work(connection: sqlite3.Connection) -> int | None:
            rows = connection.execute(_CLAIM, values).fetchall()
            return rows[0][0] if rows else None

        counter = await self._writer.run(work)
        return None if counter is None else Lease(key, owner, counter)

    async def renew(self, leases: Sequence[Lease], now: float, duration: float) -> Sequence[Lease]:
        """Those that were still ours and not past their time, now held until `now + duration`."""
        if not leases:
            return ()
        times = {"now": now, "until": now + duration}

        def work(connection: sqlite3.Connection) -> list[Lease]:
            held = []
            for lease in leases:
                values = _place(lease.key) | {"owner": lease.owner, "counter": lease.counter} | times
                if connection.execute(_RENEW, values).rowcount == 1:
                    held.append(lease)
            return held

        return await self._writer.run(work)

    async def drop(self, lease: Lease) -> None:
        """Free it at once; nothing happens if it is another's by now."""
        values = _place(lease.key) | {"owner": lease.owner, "counter": lease.counter}

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_DROP, values)

        await self._writer.run(work)
