"""Leases in SQLite: one row a lane.

    free --claim, counter + 1--> held by A --drop--> free
                    held by A --until is past, B claims, counter + 1--> held by B
                    held by A --B asks--> held by A, wanted by B --drop--> kept for B --B claims--> held by B
                                                                              '--the asking's time is past--> free

Every claim takes a new counter, the owner's own too: a save that it sent before is refused then. A lease that is past its time is only
ever taken by a claim, never renewed; it is kept for nobody, so that a lane whose owner crashed is read again at once.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from poller.model import Holding, LaneKey, Lease
from poller.stores.fencing import lost
from poller.stores.writer import Writer

_CLAIM = """
    INSERT INTO leases (mapping, source, lane, owner, counter, until) VALUES (:mapping, :source, :lane, :owner, 1, :until)
    ON CONFLICT (mapping, source, lane) DO UPDATE
        SET counter = counter + 1, owner = excluded.owner, until = excluded.until, wanted = iif(wanted = excluded.owner, '', wanted)
        WHERE owner = excluded.owner
           OR (owner = '' AND (wanted IN ('', excluded.owner) OR wanted_until <= :now))
           OR (owner <> '' AND until <= :now)
    RETURNING counter
"""
# Only a lease that somebody holds is asked for: one that is kept for another stays his.
_ASK = """
    UPDATE leases SET wanted = :owner, wanted_until = :until
    WHERE mapping = :mapping AND source = :source AND lane = :lane AND owner <> ''
"""
_RENEW = """
    UPDATE leases SET until = :until
    WHERE mapping = :mapping AND source = :source AND lane = :lane AND owner = :owner AND counter = :counter AND until > :now
"""
_DROP = """
    UPDATE leases SET owner = '', until = 0
    WHERE mapping = :mapping AND source = :source AND lane = :lane AND owner = :owner AND counter = :counter
"""
_HELD = """
    SELECT lane, iif(until > :now, owner, ''), iif(wanted_until > :now AND (owner = '' OR until > :now), wanted, '') FROM leases
    WHERE mapping = :mapping AND source = :source
"""
_HOLDS = "SELECT 1 FROM leases WHERE mapping = ? AND source = ? AND lane = ? AND owner = ? AND counter = ?"


def check_held(connection: sqlite3.Connection, lease: Lease) -> None:
    """Raises LaneLost if the lease has another owner or counter, or was dropped. Call it in the transaction of the change: under the write
    lock of the group nobody can take the lease between this look and the write."""
    place = (lease.key.mapping, lease.key.source, lease.key.lane)
    if connection.execute(_HOLDS, (*place, lease.owner, lease.counter)).fetchone() is None:
        raise lost(lease)


def _place(key: LaneKey) -> dict[str, str | int | float]:
    return {"mapping": key.mapping, "source": key.source, "lane": key.lane}


class SqliteLeases:
    """`poller.protocols.Leases` over one SQLite file. `now` is epoch seconds, the same clock for all who share the file."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        """The lease until `now + duration`, or None while it is another's, or kept for another. `owner` must not be empty."""
        values = _place(key) | {"owner": owner, "now": now, "until": now + duration}

        def work(connection: sqlite3.Connection) -> int | None:
            rows = connection.execute(_CLAIM, values).fetchall()
            if not rows and ask:
                connection.execute(_ASK, values)
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

    async def held(self, mapping: str, source: str, now: float) -> Sequence[Holding]:
        """Who has each lane that was ever claimed; whoever saved progress had claimed its lane."""
        values = {"mapping": mapping, "source": source, "now": now}
        return await self._writer.read(lambda connection: [Holding(*row) for row in connection.execute(_HELD, values)])
