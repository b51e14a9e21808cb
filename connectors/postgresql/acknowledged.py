"""What idempotency windows remember, in PostgreSQL, for all hosts of a fleet: poller/stores/acknowledged.py says how.

Times are the callers': a host whose clock differs remembers a little longer or shorter.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from itertools import count as numbers
from math import inf
from typing import NamedTuple

from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.groups import Group
from connectors.postgresql.texts import text

SECONDS = 30.0
"""All that is remembered of a mapping may have to be counted."""
REMOVED = 1_000
"""Rows that one transaction removes."""
NAME_WEIGHT = 1_024
"""What a name counts for in a group: 16,000 of them take a part of a second, whatever bytes they have."""

_ADD = "INSERT INTO poller_acknowledged_mappings (mapping, forgotten) VALUES ($1, '-infinity') ON CONFLICT DO NOTHING"
_MAPPINGS = "SELECT number, mapping FROM poller_acknowledged_mappings"
_FORGET = """
    INSERT INTO poller_acknowledged_mappings AS kept (mapping, forgotten) VALUES ($1, $2)
    ON CONFLICT (mapping) DO UPDATE SET forgotten = greatest(kept.forgotten, excluded.forgotten) RETURNING number
"""
# FOR SHARE: a mapping that is being forgotten is waited for, and then seen as it is. In one order, so that those who put the same names at
# once never deadlock.
_PUT = """
    WITH mappings AS (
        SELECT number, mapping, forgotten FROM poller_acknowledged_mappings WHERE mapping = ANY($1::text[]) ORDER BY number FOR SHARE
    )
    INSERT INTO poller_acknowledged AS kept (mapping, name, until)
    SELECT mappings.number, given.name, max(given.until)
    FROM unnest($1::text[], $2::bytea[], $3::float8[], $4::float8[]) AS given (mapping, name, asked, until)
    JOIN mappings ON mappings.mapping = given.mapping AND given.asked > mappings.forgotten
    GROUP BY 1, 2 ORDER BY 1, 2
    ON CONFLICT (mapping, name) DO UPDATE SET until = excluded.until WHERE kept.until < excluded.until
"""
_KNOWN = """
    SELECT given.mapping, given.name, kept.until
    FROM (SELECT DISTINCT * FROM unnest($1::text[], $2::bytea[])) AS given (mapping, name)
    JOIN poller_acknowledged_mappings AS mappings ON mappings.mapping = given.mapping
    JOIN poller_acknowledged AS kept ON kept.mapping = mappings.number AND kept.name = given.name
"""
_COUNT = "SELECT count(*) FROM poller_acknowledged WHERE mapping = $1"
_REMOVE = """
    DELETE FROM poller_acknowledged WHERE mapping = $1 AND name IN (
        SELECT name FROM poller_acknowledged WHERE mapping = $1 AND until <= $2 ORDER BY until LIMIT $3 FOR UPDATE SKIP LOCKED
    )
"""


class _Names(NamedTuple):
    """What one caller asks. `until` is of a put."""

    mapping: str
    names: Sequence[bytes]
    now: float
    until: float = 0.0


class PostgresAcknowledged:
    """`poller.protocols.Acknowledged`. Calls that come together share a round trip, and puts an fsync."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._there = set[str]()
        every = numbers()
        self._puts: Group[_Names, None] = Group(self._put, key=lambda _: next(every), weight=_weight)
        self._looks: Group[_Names, Collection[bytes]] = Group(self._look, key=lambda _: next(every), weight=_weight)

    async def put(self, mapping: str, names: Sequence[bytes], now: float, until: float) -> None:
        """See the protocol. Raises StoreUnavailable when the server does not answer."""
        if names:
            await self._puts.ask(_Names(text(mapping), names, now, until))

    async def known(self, mapping: str, names: Sequence[bytes], now: float) -> Collection[bytes]:
        """See the protocol."""
        return await self._looks.ask(_Names(text(mapping), names, now)) if names else ()

    async def forget(self, mapping: str, now: float) -> None:
        """See the protocol. Late puts are refused first: else what they put down would stay."""
        number = await self._connections.run(lambda connection: connection.fetchval(_FORGET, text(mapping), now))
        await self._remove(number, inf)

    async def trim(self, now: float, most: Mapping[str, int]) -> int:
        """See the protocol."""
        limits = {text(mapping): limit for mapping, limit in most.items()}
        gone = 0
        for number, mapping in await self._connections.run(lambda connection: connection.fetch(_MAPPINGS)):
            gone += await self._remove(number, now)
            if mapping in limits:
                gone += await self._remove(number, inf, await self._count(number) - limits[mapping])
        return gone

    async def aclose(self) -> None:
        for group in (self._puts, self._looks):
            await group.aclose()

    async def _put(self, asked: Sequence[_Names]) -> Sequence[None]:
        for mapping in {each.mapping for each in asked} - self._there:
            await self._connections.run(partial(_add, mapping))
            self._there.add(mapping)
        rows = [(each.mapping, name, each.now, each.until) for each in asked for name in each.names]
        await self._connections.run(lambda connection: connection.execute(_PUT, *([row[n] for row in rows] for n in range(4))))
        return [None for _ in asked]

    async def _look(self, asked: Sequence[_Names]) -> Sequence[Collection[bytes]]:
        mappings, names = zip(*((each.mapping, name) for each in asked for name in each.names), strict=True)
        found = defaultdict[str, dict[bytes, float]](dict)
        for mapping, name, until in await self._connections.run(lambda connection: connection.fetch(_KNOWN, mappings, names)):
            found[mapping][name] = until
        return [{name for name in each.names if found[each.mapping].get(name, -inf) > each.now} for each in asked]

    async def _count(self, number: int) -> int:
        return int(await self._connections.run(lambda connection: connection.fetchval(_COUNT, number), seconds=SECONDS))

    async def _remove(self, number: int, before: float, enough: float = inf) -> int:
        gone = 0
        while gone < enough:
            limit = int(min(REMOVED, enough - gone))
            removed = await self._connections.run(partial(_remove, number, before, limit), seconds=SECONDS)
            gone += removed
            if removed < limit:
                break
        return gone


async def _add(mapping: str, connection: Connection) -> None:
    await connection.execute(_ADD, mapping)


async def _remove(number: int, before: float, limit: int, connection: Connection) -> int:
    return int((await connection.execute(_REMOVE, number, before, limit)).split()[-1])


def _weight(asked: _Names) -> int:
    return NAME_WEIGHT * len(asked.names)
