"""The journal in PostgreSQL as a whole: error groups, how large it is, removing what is over.

A row that an older version put down has no fingerprint. It gets one when groups are asked for the first time, or by the daemon's upkeep:
poller/stores/upkeep.py says why.
"""

from __future__ import annotations

from collections.abc import Sequence

from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.held import close, lock, release
from connectors.postgresql.rows import narrowed
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import ErrorGroup, Removed, RowState, Selection
from poller.stores.kept import RECORD_BYTES, ROW_BYTES, fault_of, grouped, portion

SECONDS = 30.0
"""All that ever failed may have to be counted, or removed."""

_WITHOUT = """
    SELECT number, id, reason, fault FROM poller_failures WHERE fingerprint = '' ORDER BY number LIMIT 500 FOR NO KEY UPDATE SKIP LOCKED
"""
_WORK_OUT = f"""
    UPDATE poller_failures AS failures
    SET fingerprint = given.fingerprint, size = its.size, bytes = octet_length(head) + octet_length(tail) + {ROW_BYTES} + its.bytes
    FROM unnest($1::bigint[], $2::text[]) AS given (number, fingerprint), LATERAL (
        SELECT count(*) AS size, coalesce(sum(octet_length(json) + {RECORD_BYTES}), 0) AS bytes FROM poller_records
        WHERE failure = given.number
    ) AS its
    WHERE failures.number = given.number
"""
_LEFT = "SELECT EXISTS (SELECT FROM poller_failures WHERE fingerprint = '')"
# Counted by origin first, which an index alone tells; origins are few.
_GROUPS = """
    WITH counted AS MATERIALIZED (
        SELECT fingerprint, origin, count(*) AS rows, sum(size) AS records, min(time) AS first, max(time) AS last, max(number) AS newest
        FROM poller_failures AS failures WHERE {where} GROUP BY fingerprint, origin
    ), groups AS (
        SELECT counted.fingerprint, sum(rows)::bigint AS rows, sum(records)::bigint AS records, min(first) AS first, max(last) AS last,
               array_agg(DISTINCT mapping) AS mappings, max(newest) AS newest
        FROM counted JOIN poller_origins AS origins ON origins.number = counted.origin GROUP BY counted.fingerprint
    )
    SELECT groups.fingerprint, rows, records, groups.first, groups.last, mappings, failures.id, failures.reason, failures.fault
    FROM groups JOIN poller_failures AS failures ON failures.number = groups.newest
"""
# A state at a time, so that an index has them in their order: else all that are over would be sorted, for each few that go.
_OVER = """
    SELECT over.number, over.origin, over.id, origins.mapping, over.size, over.bytes
    FROM unnest($1::text[]) AS asked (state), LATERAL (
        SELECT number, origin, id, time, size, bytes FROM poller_failures AS failures
        WHERE failures.state = asked.state AND failures.state <> 'claimed' AND time < $2::float8 AND changed < $2::float8
        ORDER BY time LIMIT $3::bigint
    ) AS over JOIN poller_origins AS origins ON origins.number = over.origin
    ORDER BY over.time, over.number LIMIT $3::bigint
"""
# Asked under the lock of their origins: an append that has found a record in a row takes it for kept, and what was over may not be by now.
_STILL_OVER = """
    SELECT number, holds FROM poller_failures
    WHERE number = ANY($1::bigint[]) AND state = ANY($2::text[]) AND state <> 'claimed' AND time < $3::float8 AND changed < $3::float8
    FOR UPDATE SKIP LOCKED
"""
_REMOVE = ("DELETE FROM poller_records WHERE failure = ANY($1::bigint[])", "DELETE FROM poller_failures WHERE number = ANY($1::bigint[])")


class PostgresUpkeep:
    """`poller.failures.protocols.Upkeep`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def groups(self, selection: Selection) -> Sequence[ErrorGroup]:
        """See the protocol."""
        await work_out(self._connections)

        async def work(connection: Connection) -> list[ErrorGroup]:
            where, values = await narrowed(connection, selection)
            return grouped(tuple(columns) for columns in await connection.fetch(_GROUPS.format(where=where), *values))

        return await self._connections.run(work, begin="BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", seconds=SECONDS)

    async def size(self) -> int:
        """See the protocol."""
        await work_out(self._connections)
        query = "SELECT coalesce(sum(bytes), 0)::bigint FROM poller_failures"
        return int(await self._connections.run(lambda connection: connection.fetchval(query), seconds=SECONDS))

    async def remove(self, states: Sequence[RowState], before: float, limit: int) -> Sequence[Removed]:
        """See the protocol. Appends to the same lanes are waited for; rows that somebody else has locked are left for the next time."""

        async def work(connection: Connection) -> list[Removed]:
            found = portion(await connection.fetch(_OVER, list(states), before, limit))
            locked = await lock(connection, (origin for _, origin, *_ in found), [columns[0] for columns in found])
            still = await connection.fetch(_STILL_OVER, [columns[0] for columns in found], list(states), before)
            numbers = {number for number, _ in still}
            if holding := [number for number, holds in still if holds]:
                await release(connection, [closed.key for closed in await close(connection, holding, locked)])
            for statement in _REMOVE:
                await connection.execute(statement, list(numbers))
            return [Removed(*columns) for number, _, *columns in found if number in numbers]

        return await self._connections.run(work, begin="BEGIN", seconds=SECONDS) if states else ()

    async def compact(self, limit: int) -> int:  # noqa: ARG002
        """Nothing: the server's vacuum makes room for what comes next by itself; only an administrator gives it back."""
        return 0


async def work_out(connections: Connections) -> None:
    """Every row has a fingerprint, but for those that somebody has locked just now; a few rows at a time."""
    while await connections.run(lambda connection: connection.fetchval(_LEFT)):
        if not await connections.run(_work_out, begin="BEGIN", seconds=SECONDS):
            return


async def _work_out(connection: Connection) -> int:
    found = await connection.fetch(_WITHOUT)
    fingerprints = [fingerprint(fault_of(name, fault), reason) for _, name, reason, fault in found]
    await connection.execute(_WORK_OUT, [columns[0] for columns in found], fingerprints)
    return len(found)
