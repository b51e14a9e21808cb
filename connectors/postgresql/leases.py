"""Leases in PostgreSQL: a row a lane, by the server's clock.

The states and changes of a lease are those of poller/stores/leases.py. `now` of a caller is not used: the hosts of a fleet have clocks of
their own, and a lease that runs out by one of them has not run out by another. The server reads its clock while it holds the lane's row, or
before, so a lease lasts at least as long as its holder believes: that counts from before it sent the claim.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.groups import Group
from connectors.postgresql.texts import place, text
from poller.model import Holding, LaneKey, Lease

Clock = Callable[[float], float | None]
"""What a caller's `now` stands for: None is the server's own time. Suites that pass times in take them as they are."""


def _now(parameter: str) -> str:
    return f"coalesce({parameter}::float8, extract(epoch FROM clock_timestamp())::float8)"


_NOW = _now("$1")
_CLAIM = f"""
    INSERT INTO poller_lanes AS lanes (mapping, source, lane, owner, counter, until)
    SELECT mapping, source, lane, owner, 1, {_NOW} + duration
    FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::float8[]) AS asked (mapping, source, lane, owner, duration)
    ORDER BY mapping COLLATE "C", source COLLATE "C", lane COLLATE "C"
    ON CONFLICT (mapping, source, lane) DO UPDATE
        SET counter = lanes.counter + 1, owner = excluded.owner, until = excluded.until, serial = 0,
            wanted = CASE lanes.wanted WHEN excluded.owner THEN '' ELSE lanes.wanted END
        WHERE lanes.owner = excluded.owner
           OR (lanes.owner = '' AND (lanes.wanted IN ('', excluded.owner) OR lanes.wanted_until <= {_NOW}))
           OR (lanes.owner <> '' AND lanes.until <= {_NOW})
    RETURNING mapping, source, lane, counter
"""
# Rows are locked in one order, and looked at once they are locked.
_ASK = f"""
    WITH held AS MATERIALIZED (
        SELECT lanes.number, asked.owner, asked.duration
        FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::float8[]) AS asked (mapping, source, lane, owner, duration)
        JOIN poller_lanes AS lanes USING (mapping, source, lane)
        WHERE lanes.owner <> '' ORDER BY lanes.mapping, lanes.source, lanes.lane FOR NO KEY UPDATE OF lanes
    )
    UPDATE poller_lanes AS lanes SET wanted = held.owner, wanted_until = {_NOW} + held.duration
    FROM held WHERE lanes.number = held.number
"""
_OURS = """
    WITH held AS MATERIALIZED (
        SELECT lanes.number, asked.nth
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[])
             WITH ORDINALITY AS asked (mapping, source, lane, owner, counter, nth)
        JOIN poller_lanes AS lanes USING (mapping, source, lane)
        WHERE lanes.owner = asked.owner AND lanes.counter = asked.counter
        ORDER BY lanes.mapping, lanes.source, lanes.lane FOR NO KEY UPDATE OF lanes
    )
"""
_RENEW = f"""
    {_OURS}
    UPDATE poller_lanes AS lanes SET until = {_now("$6")} + $7::float8
    FROM held WHERE lanes.number = held.number AND lanes.until > {_now("$6")}
    RETURNING held.nth
"""
_DROP = f"""
    {_OURS}
    UPDATE poller_lanes AS lanes SET owner = '', until = 0
    FROM held WHERE lanes.number = held.number
"""
_HELD = f"""
    SELECT lane, CASE WHEN until > {_NOW} THEN owner ELSE '' END,
        CASE WHEN wanted_until > {_NOW} AND (owner = '' OR until > {_NOW}) THEN wanted ELSE '' END
    FROM poller_lanes WHERE mapping = $2 AND source = $3
"""


@dataclass(frozen=True, slots=True)
class _Claim:
    key: LaneKey
    owner: str
    now: float | None
    duration: float
    ask: bool


class PostgresLeases:
    """`poller.protocols.Leases`. Claims and drops of many lanes that come together share a round trip."""

    def __init__(self, connections: Connections, clock: Clock = lambda _: None) -> None:
        self._connections = connections
        self._clock = clock
        self._claims: Group[_Claim, int | None] = Group(self._claim, key=lambda claim: claim.key, kind=lambda claim: claim.now)
        self._drops: Group[Lease, None] = Group(self._drop, key=lambda lease: lease.key)

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        """The lease for `duration`, or None while it is another's, or kept for another. `owner` must not be empty."""
        counter = await self._claims.ask(_Claim(key, owner, self._clock(now), duration, ask))
        return None if counter is None else Lease(key, owner, counter)

    async def renew(self, leases: Sequence[Lease], now: float, duration: float) -> Sequence[Lease]:
        """Those that were still ours and not past their time, now held for `duration`. One round trip, however many there are."""
        if not leases:
            return ()

        async def work(connection: Connection) -> set[int]:
            return {nth for (nth,) in await connection.fetch(_RENEW, *_columns(leases), self._clock(now), duration)}

        renewed = await self._connections.run(work)
        return [lease for nth, lease in enumerate(leases, 1) if nth in renewed]

    async def drop(self, lease: Lease) -> None:
        """Free it at once; nothing happens if it is another's by now."""
        await self._drops.ask(lease)

    async def held(self, mapping: str, source: str, now: float) -> Sequence[Holding]:
        """Who has each lane that was ever claimed; whoever saved progress had claimed its lane."""

        async def work(connection: Connection) -> list[Holding]:
            return [Holding(*row) for row in await connection.fetch(_HELD, self._clock(now), text(mapping), text(source))]

        return await self._connections.run(work)

    async def aclose(self) -> None:
        await self._claims.aclose()
        await self._drops.aclose()

    async def _claim(self, claims: Sequence[_Claim]) -> Sequence[int | None]:
        now = claims[0].now

        async def work(connection: Connection) -> list[int | None]:
            rows = await connection.fetch(_CLAIM, now, *_asked(claims))
            counters = {(mapping, source, lane): counter for mapping, source, lane, counter in rows}
            found = [counters.get(place(claim.key)) for claim in claims]
            asking = [claim for claim, counter in zip(claims, found, strict=True) if counter is None and claim.ask]
            if asking:
                await connection.execute(_ASK, now, *_asked(asking))
            return found

        return await self._connections.run(work)

    async def _drop(self, leases: Sequence[Lease]) -> Sequence[None]:
        async def work(connection: Connection) -> None:
            await connection.execute(_DROP, *_columns(leases))

        await self._connections.run(work)
        return [None] * len(leases)


def _asked(claims: Sequence[_Claim]) -> list[list[object]]:
    rows = [(*place(claim.key), text(claim.owner), claim.duration) for claim in claims]
    return [list(column) for column in zip(*rows, strict=True)]


def _columns(leases: Sequence[Lease]) -> list[list[object]]:
    rows = [(*place(lease.key), text(lease.owner), lease.counter) for lease in leases]
    return [list(column) for column in zip(*rows, strict=True)]
