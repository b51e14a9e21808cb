"""What the holder of a lane changes: its progress and its states. One queue, so that a lane's changes are made in their order.

Each statement first locks the rows of the lanes that are still held under the lease that the change presents, all in one order (so that
two workers that meet wait for one another, and never both), and changes only those. A claim waits for it, or has been there before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeAlias

from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.groups import Group
from connectors.postgresql.texts import place, text
from poller.errors import PollerError
from poller.model import Lease
from poller.stores.fencing import lost

PART_BYTES = 350_000
"""A state's value is kept in parts of at most so many bytes."""


@dataclass(frozen=True, slots=True)
class Save:
    lease: Lease
    progress: bytes | None
    """None: the lane has no progress any more."""


@dataclass(frozen=True, slots=True)
class Put:
    lease: Lease
    number: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Prune:
    lease: Lease
    keep: tuple[int, ...]


Change: TypeAlias = Save | Put | Prune

# $1 to $6: mapping, source, lane, owner, counter, serial. `nth` says which of the changes it is.
_HELD = """
    WITH held AS MATERIALIZED (
        SELECT lanes.number AS lane, asked.serial, asked.nth
        FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::bigint[], $6::bigint[])
             WITH ORDINALITY AS asked (mapping, source, lane, owner, counter, serial, nth)
        JOIN poller_lanes AS lanes USING (mapping, source, lane)
        WHERE lanes.owner = asked.owner AND lanes.counter = asked.counter AND lanes.serial < asked.serial
        ORDER BY lanes.mapping, lanes.source, lanes.lane FOR NO KEY UPDATE OF lanes
    )
"""
_SAVE = f"""
    {_HELD}
    UPDATE poller_lanes AS lanes SET serial = held.serial, progress = ($7::bytea[])[held.nth]
    FROM held WHERE lanes.number = held.lane
    RETURNING held.nth
"""
_PUT = f"""
    {_HELD},
    fenced AS (UPDATE poller_lanes AS lanes SET serial = held.serial FROM held WHERE lanes.number = held.lane),
    given AS (
        SELECT held.lane, ($7::bigint[])[held.nth] AS number, parts.part, ($8::int[])[held.nth] AS parts, parts.value
        FROM held JOIN unnest($9::bigint[], $10::int[], $11::bytea[]) AS parts (nth, part, value) ON parts.nth = held.nth
    ),
    written AS (
        INSERT INTO poller_states (lane, number, part, parts, value) SELECT lane, number, part, parts, value FROM given
        ON CONFLICT (lane, number, part) DO UPDATE SET parts = excluded.parts, value = excluded.value
    ),
    gone AS (
        DELETE FROM poller_states AS states USING held
        WHERE states.lane = held.lane AND states.number = ($7::bigint[])[held.nth] AND states.part >= ($8::int[])[held.nth]
    )
    SELECT nth FROM held
"""
_PRUNE = f"""
    {_HELD},
    fenced AS (UPDATE poller_lanes AS lanes SET serial = held.serial FROM held WHERE lanes.number = held.lane),
    gone AS (
        DELETE FROM poller_states AS states USING held
        WHERE states.lane = held.lane AND NOT EXISTS (
            SELECT FROM unnest($7::bigint[], $8::bigint[]) AS kept (nth, number)
            WHERE kept.nth = held.nth AND kept.number = states.number
        )
    )
    SELECT nth FROM held
"""


class Changes:
    """Raises LaneLost, and changes nothing, under a stale lease; StoreUnavailable when it was not done, or nobody knows."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._serials = count(1)
        self._group: Group[Change, None] = Group(self._perform, key=lambda change: change.lease.key, kind=type, weight=_weight)

    async def make(self, change: Change) -> None:
        """Durable when it returns. Changes of many lanes that come together share a statement."""
        await self._group.ask(change)

    async def aclose(self) -> None:
        await self._group.aclose()

    async def _perform(self, changes: Sequence[Change]) -> Sequence[PollerError | None]:
        # Numbered here, where the order is settled: no change of a lane is numbered before an earlier one was answered.
        fence = [*_columns([change.lease for change in changes]), [next(self._serials) for _ in changes]]
        statement, values = _statement(changes)

        async def work(connection: Connection) -> set[int]:
            return {row[0] for row in await connection.fetch(statement, *fence, *values)}

        done = await self._connections.run(work)
        return [None if nth in done else lost(change.lease) for nth, change in enumerate(changes, 1)]


def _columns(leases: Sequence[Lease]) -> list[list[Any]]:
    columns = zip(*((*place(lease.key), text(lease.owner), lease.counter) for lease in leases), strict=True)
    return [list(column) for column in columns]


def _statement(changes: Sequence[Change]) -> tuple[str, list[list[Any]]]:
    """Of changes of one kind: the statement, and its parameters from the seventh on."""
    match changes[0]:
        case Save():
            return _SAVE, [[change.progress for change in changes if isinstance(change, Save)]]
        case Put():
            puts = [(nth, change, split(change.value)) for nth, change in enumerate(changes, 1) if isinstance(change, Put)]
            rows = [(nth, part, value) for nth, _, parts in puts for part, value in enumerate(parts)]
            return _PUT, [[change.number for _, change, _ in puts], [len(parts) for *_, parts in puts], *_transposed(rows, 3)]
        case Prune():
            kept = [(nth, number) for nth, change in enumerate(changes, 1) if isinstance(change, Prune) for number in change.keep]
            return _PRUNE, _transposed(kept, 2)


def _transposed(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    return [[row[n] for row in rows] for n in range(width)]


def split(value: bytes) -> list[bytes]:
    """In parts of at most PART_BYTES; an empty value is one empty part."""
    return [value[start : start + PART_BYTES] for start in range(0, len(value), PART_BYTES)] or [b""]


def _weight(change: Change) -> int:
    match change:
        case Save(progress=progress):
            return len(progress or b"")
        case Put(value=value):
            return len(value)
        case Prune(keep=keep):
            return 8 * len(keep)
