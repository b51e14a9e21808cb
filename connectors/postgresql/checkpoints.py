"""Progress in PostgreSQL: a column of the lane's row, which holds its lease too."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from connectors.postgresql.changes import Changes, Save
from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.groups import Group
from connectors.postgresql.texts import place, text
from poller.errors import StoreError
from poller.model import LaneKey, Lease
from poller.progress import Progress, decode, encode

_LOAD = """
    SELECT asked.nth, lanes.progress
    FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS asked (mapping, source, lane, nth)
    JOIN poller_lanes AS lanes USING (mapping, source, lane)
"""
_SOURCES = "SELECT DISTINCT source FROM poller_lanes WHERE mapping = $1 AND progress IS NOT NULL ORDER BY source"


class PostgresCheckpoints:
    """`poller.protocols.Checkpoints`. Calls for many lanes that come together share a round trip."""

    def __init__(self, connections: Connections, changes: Changes) -> None:
        self._connections = connections
        self._changes = changes
        self._loads: Group[LaneKey, bytes | None] = Group(self._load, key=lambda key: key)

    async def load(self, key: LaneKey) -> Progress | None:
        """Raises StoreError, which names the lane, if what is saved cannot be read: starting anew would lose or repeat records."""
        saved = await self._loads.ask(key)
        try:
            return None if saved is None else decode(saved)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreError(
                f"{self._connections.place}: the progress of lane {key.lane} of mapping {key.mapping} (source {key.source}) is damaged: "
                f"{error}; restore a backup, or set progress of its row in poller_lanes to NULL to begin at the starting position"
            ) from error

    async def save(self, lease: Lease, progress: Progress) -> None:
        """Durable when it returns. Raises LaneLost, StoreUnavailable."""
        await self._changes.make(Save(lease, encode(progress)))

    async def forget(self, lease: Lease) -> None:
        """The lane has no progress any more; durable when it returns. Its lease stays. Raises LaneLost, StoreUnavailable."""
        await self._changes.make(Save(lease, None))

    async def sources(self, mapping: str) -> Sequence[str]:
        """The identities of all sources that this mapping has progress for, in order: also those it no longer has."""

        async def work(connection: Connection) -> list[str]:
            return [source for (source,) in await connection.fetch(_SOURCES, text(mapping))]

        return await self._connections.run(work)

    async def aclose(self) -> None:
        await self._loads.aclose()

    async def _load(self, keys: Sequence[LaneKey]) -> Sequence[bytes | None]:
        columns = [list(column) for column in zip(*map(place, keys), strict=True)]

        async def work(connection: Connection) -> dict[int, bytes | None]:
            return dict(await connection.fetch(_LOAD, *columns))

        found = await self._connections.run(work)
        return [found.get(nth) for nth in range(1, len(keys) + 1)]
