"""Parking in PostgreSQL, in the journal's tables: held.py has the rows that hold keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from connectors.postgresql.appending import Asked
from connectors.postgresql.connections import Connections
from connectors.postgresql.journal import SELECT_SECONDS, Appends
from connectors.postgresql.keys import content, digest
from connectors.postgresql.texts import text
from poller.failures.journal import Entry

_HELD = """
    SELECT DISTINCT held.key FROM poller_held AS held JOIN poller_origins AS origins ON origins.number = held.origin
    WHERE origins.mapping = $1 AND origins.source = $2 AND origins.lane = '' AND ($3::bytea[] IS NULL OR held.digest = ANY($3::bytea[]))
"""


class PostgresParking:
    """`poller.failures.protocols.Parking`. What is parked shares transactions with what is appended."""

    def __init__(self, connections: Connections, appends: Appends) -> None:
        self._connections, self._appends = connections, appends

    async def held(self, mapping: str, source: str, keys: Collection[str] | None = None) -> set[str]:
        """See the protocol. Raises StoreUnavailable when the server does not answer."""
        digests = None if keys is None else [digest(content(key)) for key in keys]
        values = (text(mapping), text(source), digests)
        found = await self._connections.run(lambda connection: connection.fetch(_HELD, *values), seconds=SELECT_SECONDS)
        return {key.decode("utf-8", "surrogatepass") for (key,) in found}

    async def park(self, entries: Sequence[Entry]) -> Sequence[str]:
        """All of them or, if this raises StoreUnavailable, none, or nobody knows."""
        return await self._appends.ask([Asked(entry, park=True) for entry in entries])
