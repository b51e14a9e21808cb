"""The store in one PostgreSQL database: checkpoints, states, leases and journal, for all workers of a fleet."""

from __future__ import annotations

from connectors.postgresql.acknowledged import PostgresAcknowledged
from connectors.postgresql.changes import Changes
from connectors.postgresql.checkpoints import PostgresCheckpoints
from connectors.postgresql.connections import SECONDS, Connections
from connectors.postgresql.journal import PostgresJournal
from connectors.postgresql.leases import Clock, PostgresLeases
from connectors.postgresql.outbox import PostgresOutbox
from connectors.postgresql.parking import PostgresParking
from connectors.postgresql.runs import PostgresRuns
from connectors.postgresql.schema import migrate
from connectors.postgresql.states import PostgresStates
from connectors.postgresql.upkeep import PostgresUpkeep


class PostgresStore:
    """`poller.protocols.Store` over a few connections. Used from one event loop."""

    def __init__(self, connections: Connections, clock: Clock = lambda _: None) -> None:
        """Use `open_store`."""
        self._connections = connections
        self._changes = Changes(connections)
        self.checkpoints = PostgresCheckpoints(connections, self._changes)
        self.states = PostgresStates(connections, self._changes)
        self.leases = PostgresLeases(connections, clock)
        self.journal = PostgresJournal(connections, clock)
        self.parking = PostgresParking(connections, self.journal.appends)
        self.upkeep = PostgresUpkeep(connections)
        self.outbox = PostgresOutbox(connections)
        self.runs = PostgresRuns(connections)
        self.acknowledged = PostgresAcknowledged(connections)

    async def aclose(self) -> None:
        """Everything asked for is written, or refused. Tolerated twice."""
        for part in (self._changes, self.checkpoints, self.leases, self.journal, self.outbox, self.acknowledged):
            await part.aclose()
        await self._connections.aclose()

    def __repr__(self) -> str:
        return f"<PostgresStore {self._connections!r}>"


async def open_store(url: str, *, seconds: float = SECONDS, clock: Clock = lambda _: None) -> PostgresStore:
    """Open the store at `url`, and make its tables if they are missing. `seconds`: what a call may take.

    Raises StoreError for a newer schema, a login that is refused, a missing right; StoreUnavailable if trying again may help.
    """
    connections = Connections(url, seconds)
    try:
        await migrate(connections)
    except BaseException:
        await connections.aclose()
        raise
    return PostgresStore(connections, clock)
