"""Values beside a lane's progress in SQLite: one row a number, written under the lane's lease."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection

from poller.model import LaneKey, Lease
from poller.stores.leases import check_held
from poller.stores.writer import Writer

_PUT = """
    INSERT INTO states (mapping, source, lane, number, value) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (mapping, source, lane, number) DO UPDATE SET value = excluded.value
"""
_GET = "SELECT value FROM states WHERE mapping = ? AND source = ? AND lane = ? AND number = ?"
_NUMBERS = "SELECT number FROM states WHERE mapping = ? AND source = ? AND lane = ?"
_DELETE = "DELETE FROM states WHERE mapping = ? AND source = ? AND lane = ? AND number = ?"


def _place(key: LaneKey) -> tuple[str, str, str]:
    return key.mapping, key.source, key.lane


class SqliteStates:
    """`poller.protocols.States` over the file that holds leases and checkpoints. A number has 63 bits."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def put(self, lease: Lease, number: int, value: bytes) -> None:
        """Durable, and whole, when it returns. Raises LaneLost, and changes nothing, under a stale lease."""

        def work(connection: sqlite3.Connection) -> None:
            check_held(connection, lease)
            connection.execute(_PUT, (*_place(lease.key), number, value))

        await self._writer.run(work)

    async def get(self, key: LaneKey, number: int) -> bytes | None:
        """The value, whole; None if there is none of this number."""

        def work(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(_GET, (*_place(key), number)).fetchone()
            return None if row is None else row[0]

        return await self._writer.read(work)

    async def prune(self, lease: Lease, keep: Collection[int]) -> None:
        """Only these are kept, of those that are there. Raises LaneLost, and changes nothing, under a stale lease."""
        place = _place(lease.key)

        def work(connection: sqlite3.Connection) -> None:
            check_held(connection, lease)
            there = [number for (number,) in connection.execute(_NUMBERS, place)]
            connection.executemany(_DELETE, [(*place, number) for number in there if number not in keep])

        await self._writer.run(work)
