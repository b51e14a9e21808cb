"""The outbox in PostgreSQL: what is still to be delivered to destinations, for all hosts of a fleet.

Numbers are given once (IDENTITY). Times are the callers': one worker at a time delivers to a destination, and a host whose clock differs
only sends a little earlier or later.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count as numbers

from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.groups import Group
from connectors.postgresql.texts import text
from poller.failures.journal import Damaged, Delivery, Waiting
from poller.stores.posts import delivery, encode, torn

PUT_SECONDS = 15.0
"""A batch may have six megabytes, and a group several of them."""

# Of successes the same id is there once for a destination (a partial index); failures are told apart by the journal.
_PUT = """
    INSERT INTO poller_outbox (id, mapping, destination, outcome, time, entry, result, due)
    SELECT id, mapping, destination, outcome, time, entry, result, due
    FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::float8[], $6::bytea[], $7::bytea[], $8::float8[])
         WITH ORDINALITY AS put (id, mapping, destination, outcome, time, entry, result, due, nth)
    ORDER BY nth
    ON CONFLICT DO NOTHING
"""
_DUE = """
    SELECT number, id, destination, outcome, entry, result, attempts, due, error FROM poller_outbox
    WHERE mapping = $1 AND destination = $2 AND due <= $3 ORDER BY number LIMIT $4
"""
_ARRIVED = "DELETE FROM poller_outbox WHERE number = $1"
_FAILED = "UPDATE poller_outbox SET attempts = attempts + 1, due = $2, error = $3, damaged = $4 WHERE number = $1"
# The counting reads indexes alone; of each destination, two rows are looked up.
_WAITING = """
    SELECT each.mapping, each.destination, each.count, oldest.time, coalesce(failed.attempts, 0), coalesce(failed.error, ''),
           (SELECT count(*) FROM poller_outbox AS torn
            WHERE torn.mapping = each.mapping AND torn.destination = each.destination AND torn.damaged),
           each.newest
    FROM (SELECT mapping, destination, count(*) AS count, min(number) AS first, max(number) AS newest
          FROM poller_outbox GROUP BY mapping, destination) AS each
    JOIN poller_outbox AS oldest ON oldest.number = each.first
    LEFT JOIN LATERAL (
        SELECT attempts, error FROM poller_outbox AS tried
        WHERE tried.mapping = each.mapping AND tried.destination = each.destination AND tried.attempts > 0 AND NOT tried.damaged
        ORDER BY tried.number LIMIT 1
    ) AS failed ON true
    ORDER BY each.mapping, each.destination
"""
_DROP = """
    WITH oldest AS MATERIALIZED (
        SELECT number FROM poller_outbox WHERE mapping = $1 AND destination = $2 AND number <= $3 ORDER BY number LIMIT $4 FOR UPDATE
    ), gone AS (
        DELETE FROM poller_outbox AS outbox USING oldest WHERE outbox.number = oldest.number RETURNING 1
    )
    SELECT count(*) FROM gone
"""
_SET_ASIDE = """
    SELECT number FROM poller_outbox WHERE mapping = $1 AND destination = $2 AND damaged AND number <= $3 ORDER BY number FOR UPDATE
"""
_CONTENT = "SELECT id, entry FROM poller_outbox WHERE number = $1"


async def post(connection: Connection, deliveries: Sequence[Delivery]) -> None:
    """Put deliveries into the outbox. Called inside a transaction."""
    rows = [
        (
            text(each.id),
            text(each.entry.mapping),
            text(each.destination),
            each.outcome,
            each.entry.time,
            encode(each.entry),
            each.result,
            each.due,
        )
        for each in deliveries
    ]
    if rows:
        await connection.execute(_PUT, *([row[n] for row in rows] for n in range(8)))


class PostgresOutbox:
    """`poller.failures.protocols.Outbox`. Puts that come together share a transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        every = numbers()
        self._puts: Group[Sequence[Delivery], None] = Group(self._put, key=lambda _: next(every), weight=_bytes)

    async def put(self, deliveries: Sequence[Delivery]) -> None:
        """All of them or, if this raises, none. Raises StoreUnavailable when the server does not answer."""
        if deliveries:
            await self._puts.ask(deliveries)

    async def due(self, mapping: str, destination: str, now: float, limit: int) -> Sequence[Delivery | Damaged]:
        """Those whose time has come, oldest first."""
        values = (text(mapping), text(destination), now, limit)
        found = await self._connections.run(lambda connection: connection.fetch(_DUE, *values), seconds=PUT_SECONDS)
        return [delivery(*columns) for columns in found]

    async def settle(self, number: int, due: float | None, error: str = "", damaged: bool = False) -> None:
        """None: it has arrived; else it failed and is due then. What is not there any more is left so."""
        statement, values = (_ARRIVED, (number,)) if due is None else (_FAILED, (number, due, text(error), damaged))
        await self._connections.run(lambda connection: connection.execute(statement, *values))

    async def waiting(self) -> Sequence[Waiting]:
        """A line for each mapping and destination that has anything waiting."""
        return [Waiting(*columns) for columns in await self._connections.run(lambda connection: connection.fetch(_WAITING))]

    async def drop(self, line: Waiting, limit: int, damaged: bool = False) -> int:
        """See the protocol. Raises StoreUnavailable: then nothing was dropped, or nobody knows."""
        values = (text(line.mapping), text(line.destination), line.newest)

        async def work(connection: Connection) -> int:
            if not damaged:
                return int(await connection.fetchval(_DROP, *values, limit))
            gone = list[int]()
            for (number,) in await connection.fetch(_SET_ASIDE, *values):
                # One by one, for each may be large. What is set aside may be readable by now: poller/stores/outbox.py says why.
                if len(gone) < limit and torn(*(await connection.fetchrow(_CONTENT, number))):
                    gone.append(number)
            await connection.executemany(_ARRIVED, [(number,) for number in gone])
            return len(gone)

        return await self._connections.run(work, begin="BEGIN", seconds=PUT_SECONDS)

    async def aclose(self) -> None:
        await self._puts.aclose()

    async def _put(self, groups: Sequence[Sequence[Delivery]]) -> Sequence[None]:
        deliveries = [each for group in groups for each in group]
        await self._connections.run(lambda connection: post(connection, deliveries), begin="BEGIN", seconds=PUT_SECONDS)
        return [None for _ in groups]


def _bytes(deliveries: Sequence[Delivery]) -> int:
    return sum(len(record.json) for each in deliveries for record in each.entry.records)
