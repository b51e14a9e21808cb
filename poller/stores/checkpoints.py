"""Progress in SQLite: one row a lane, written under its lease."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from poller.errors import LaneLost, StoreError
from poller.model import LaneKey, Lease
from poller.progress import Progress, decode, encode
from poller.stores.writer import Writer

_LOAD = "SELECT progress FROM checkpoints WHERE mapping = ? AND source = ? AND lane = ?"
_HOLDS = "SELECT 1 FROM leases WHERE mapping = ? AND source = ? AND lane = ? AND owner = ? AND counter = ?"
_SAVE = """
    INSERT INTO checkpoints (mapping, source, lane, progress) VALUES (?, ?, ?, ?)
    ON CONFLICT (mapping, source, lane) DO UPDATE SET progress = excluded.progress
"""
_SOURCES = "SELECT DISTINCT source FROM checkpoints WHERE mapping = ? ORDER BY source"


def lost(lease: Lease) -> LaneLost:
    """What a save under a stale lease raises."""
    key = lease.key
    return LaneLost(f"lane {key.lane} of mapping {key.mapping} is no longer held by {lease.owner} (lease {lease.counter})")


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
            # Under the write lock of the group: nobody can take the lease between this look and the write.
            if connection.execute(_HOLDS, (*place, lease.owner, lease.counter)).fetchone() is None:
                raise lost(lease)
            connection.execute(_SAVE, (*place, text))

        await self._writer.run(work)

    async def sources(self, mapping: str) -> Sequence[str]:
        """The identities of all sources that this mapping has progress for, in order: also those it no longer has."""

        def work(connection: sqlite3.Connection) -> list[str]:
            return [source for (source,) in connection.execute(_SOURCES, (mapping,))]

        return await self._writer.read(work)
