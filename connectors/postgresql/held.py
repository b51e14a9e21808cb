"""Which keys are held in PostgreSQL: by which rows of the journal, and in which order these were put down.

poller_held: one line for each key of an open row that holds it, as poller/stores/held.py has it, and keys.py tells keys. A source is
the origin of a mapping and source without a lane, for a key may come from any.

Who holds, parks or releases keys of a source locks that origin first, so all of this comes one after the other. Called inside a
transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from connectors.postgresql.connections import Connection
from connectors.postgresql.keys import Hold, Key
from poller.failures.journal import OPEN

# Origins in one order for everybody, all at once, and before rows of the journal: nobody waits for who waits for him.
_LOCK = "SELECT number FROM poller_origins WHERE number = ANY($1::bigint[]) ORDER BY number FOR NO KEY UPDATE"
# And the sources whose keys these rows hold, by number, or by id.
_LOCK_SOURCES = """
    SELECT number FROM poller_origins
    WHERE number IN (
        SELECT unnest($1::bigint[])
        UNION ALL
        SELECT held.origin FROM poller_held AS held WHERE held.failure = ANY($2::bigint[])
        UNION ALL
        SELECT held.origin FROM poller_held AS held JOIN poller_failures AS failures ON failures.number = held.failure
        WHERE failures.id = ANY($3::text[])
    )
    ORDER BY number FOR NO KEY UPDATE
"""
_IS_BEHIND = """
    SELECT DISTINCT origin, digest FROM poller_held JOIN unnest($1::bigint[], $2::bytea[]) AS asked (origin, digest) USING (origin, digest)
    WHERE NOT parked
"""
# The rows that were there already stay open until this is committed, and who closes them then sees that they hold keys.
_HOLDS = """
    WITH meant AS MATERIALIZED (
        SELECT number FROM poller_failures WHERE id = ANY($1::text[]) AND state = ANY($2::text[]) ORDER BY number FOR NO KEY UPDATE
    )
    UPDATE poller_failures AS failures SET holds = true FROM meant WHERE failures.number = meant.number
"""
_HOLD = """
    INSERT INTO poller_held (failure, origin, digest, key, parked, place)
    SELECT failures.number, given.origin, given.digest, given.key, failures.state = 'parked', given.place
    FROM unnest($1::text[], $2::bigint[], $3::bytea[], $4::bytea[], $5::bigint[])
         WITH ORDINALITY AS given (failure, origin, digest, key, place, nth)
    JOIN poller_failures AS failures ON failures.id = given.failure AND failures.state = ANY($6::text[])
    ORDER BY given.nth
    ON CONFLICT (failure, digest) DO NOTHING
"""
_CLOSE = """
    DELETE FROM poller_held WHERE failure = ANY($1::bigint[]) RETURNING failure, origin, digest, coalesce(place, number)
"""
# Of a key the rows that are kept or claimed come first: if the first one is parked, there is none.
_RELEASE = """
    WITH first AS MATERIALIZED (
        SELECT asked.origin, asked.digest, its.failure
        FROM unnest($1::bigint[], $2::bytea[]) AS asked (origin, digest), LATERAL (
            SELECT failure, parked FROM poller_held AS held WHERE held.origin = asked.origin AND held.digest = asked.digest
            ORDER BY parked, coalesce(place, number), number LIMIT 1
        ) AS its
        WHERE its.parked
    ), freed AS (
        UPDATE poller_held AS held SET parked = false FROM first WHERE held.failure = first.failure
    )
    UPDATE poller_failures AS failures SET state = 'kept', changed = coalesce($3::float8, changed)
    FROM first WHERE failures.number = first.failure RETURNING first.origin, first.digest, failures.id
"""


class Closed(NamedTuple):
    """A key that a row, by its number, held, and its place there."""

    row: int
    key: Key
    place: int


async def lock(connection: Connection, origins: Iterable[int], rows: Sequence[int] = (), ids: Sequence[str] = ()) -> set[int]:
    """Until the transaction ends nobody else adds to what has come from these origins, or removes any of it; nor parks behind these rows,
    or releases what is. What is locked."""
    wanted = sorted(set(origins))
    if rows or ids:
        return {number for (number,) in await connection.fetch(_LOCK_SOURCES, wanted, list(rows), list(ids))}
    return {number for (number,) in await connection.fetch(_LOCK, wanted)} if wanted else set()


async def behind(connection: Connection, keys: Iterable[Key]) -> set[Key]:
    """Those of these keys that a row holds which is kept or claimed."""
    return {Key(*columns) for columns in await connection.fetch(_IS_BEHIND, *_columns(list(keys), 2))}


async def hold(connection: Connection, holds: Sequence[Hold], there: Sequence[str]) -> None:
    """Behind all that hold these keys already, or at their places. `there`: ids of those rows that were not made just now."""
    if there:
        await connection.execute(_HOLDS, list(there), list(OPEN))
    lines = [(row, *key, text, place) for row, key, text, place in holds]
    await connection.execute(_HOLD, *_columns(lines, 5), list(OPEN))


async def close(connection: Connection, rows: Sequence[int], locked: set[int]) -> list[Closed]:
    """The rows of these numbers hold nothing any more; what they held. `locked`: what the transaction has locked."""
    found = [Closed(row, Key(origin, digest), place) for row, origin, digest, place in await connection.fetch(_CLOSE, list(rows))]
    if late := {closed.key.origin for closed in found} - locked:
        await lock(connection, late)  # an append made them hold keys after we had looked for what to lock
    return found


async def release(connection: Connection, keys: Iterable[Key], now: float | None = None) -> dict[Key, str]:
    """Of each key that no row holds which is kept or claimed, the first parked row is kept. The ids of these rows."""
    wanted = list(dict.fromkeys(keys))
    if not wanted:
        return {}
    return {Key(origin, digest): row for origin, digest, row in await connection.fetch(_RELEASE, *_columns(wanted, 2), now)}


def places(closed: Sequence[Closed]) -> Mapping[int, Mapping[bytes, int]]:
    """Row -> hash of a key -> place."""
    found: dict[int, dict[bytes, int]] = {}
    for row, key, place in closed:
        found.setdefault(row, {})[key.digest] = place
    return found


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[n] for row in rows] for n in range(width)]
