"""Values beside a lane's progress in PostgreSQL, in parts: a row of megabytes would be copied whole at each change of it."""

from __future__ import annotations

from collections.abc import Collection

from connectors.postgresql.changes import Changes, Prune, Put
from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.texts import place
from poller.model import LaneKey, Lease

_GET = """
    SELECT states.value FROM poller_lanes AS lanes
    JOIN poller_states AS first ON first.lane = lanes.number AND first.number = $4 AND first.part = 0
    JOIN poller_states AS states ON states.lane = lanes.number AND states.number = $4 AND states.part < first.parts
    WHERE lanes.mapping = $1 AND lanes.source = $2 AND lanes.lane = $3
    ORDER BY states.part
"""


class PostgresStates:
    """`poller.protocols.States`. A number has 63 bits."""

    def __init__(self, connections: Connections, changes: Changes) -> None:
        self._connections = connections
        self._changes = changes

    async def put(self, lease: Lease, number: int, value: bytes) -> None:
        """Durable, and whole, when it returns: its parts are written by one statement. Raises LaneLost, StoreUnavailable."""
        await self._changes.make(Put(lease, number, value))

    async def get(self, key: LaneKey, number: int) -> bytes | None:
        """The value, whole; None if there is none of this number."""

        async def work(connection: Connection) -> bytes | None:
            parts = await connection.fetch(_GET, *place(key), number)
            return b"".join(value for (value,) in parts) if parts else None

        return await self._connections.run(work)

    async def prune(self, lease: Lease, keep: Collection[int]) -> None:
        """Only these are kept, of those that are there. Raises LaneLost, StoreUnavailable."""
        await self._changes.make(Prune(lease, tuple(keep)))
