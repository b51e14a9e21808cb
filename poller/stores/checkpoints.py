"""Progress in SQLite: one row a lane, written under its lease."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from poller.errors import StoreError
from poller.model import LaneKey, Lease
from poller.progress import Progress, decode, encode
from poller.stores.leases import check_held
from poller.stores.writer import Writer

_LOAD = "SELECT progress FROM checkpoints WHERE mapping = ? AND source = ? AND lane = ?"
_SAVE = """
    INSERT INTO checkpoints (mapping, source, lane, progress) VALUES (?, ?, ?, ?)
    ON CONFLICT (mapping, source, lane) DO UPDATE SET progress = excluded.progress
"""
_FORGET = "DELETE FROM checkpoints WHERE mapping = ? AND source = ? AND lane = ?"
_SOURCES = "SELECT DISTINCT source FROM checkpoints WHERE mapping = ? ORDER BY source"


class SqliteCheckpoints:
    """`poller.protocols.Checkpoints` over one SQLite file, which also holds the leases: check and save are one transaction."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def load(self, key: LaneKey) -> Progress | None:
        """Raises StoreError, which names the lane, if what is saved cannot be read: starting anew would lose or repeat records."""

        def work(connection: sqlite3.Connection) -> bytes | None:
            row = connection.execute(_LOAD, (key.mapping, key.source, key.lane)).fetchone()
            return None if row is None else row[0]

        text = await self._writer.read(work)
        try:
            return None if text is None else decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(
                f"{self._writer.path}: the progress of lane {key.lane} of mapping {key.mapping} (source {key.source}) is damaged: {error}; "
                "restore a backup, or delete its row of the table checkpoints to begin at the starting position"
            ) from error

    async def save(self, lease: Lease, progress: Progress) -> None:
        """Durable when it returns. Raises LaneLost, and changes nothing, once the lease has another owner or counter, or was dropped."""
        place, text = (lease.key.mapping, lease.key.source, lease.key.lane), encode(progress)

        def work(connection: sqlite3.Connection) -> None:
            check_held(connection, lease)
            connection.execute(_SAVE, (*place, text))

        await self._writer.run(work)

    async def forget(self, lease: Lease) -> None:
        """The lane has no progress any more; durable when it returns. Its lease stays. Raises LaneLost as `save`."""
        place = (lease.key.mapping, lease.key.source, lease.key.lane)

        def work(connection: sqlite3.Connection) -> None:
            check_held(connection, lease)
            connection.execute(_FORGET, place)

        await self._writer.run(work)

    async def sources(self, mapping: str) -> Sequence[str]:
        """The identities of all sources that this mapping has progress for, in order: also those it no longer has."""

        def work(connection: sqlite3.Connection) -> list[str]:
            return [source for (source,) in connection.execute(_SOURCES, (mapping,))]

        return await self._writer.read(work)
