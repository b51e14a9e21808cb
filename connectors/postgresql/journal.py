"""The journal in PostgreSQL: failures with their records, kept until they are replayed or dropped, for all hosts of a fleet.

The states of a row are those of poller/stores/journal.py. Claims run out by the server's clock, as leases do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import count as numbers
from typing import TypeVar

from connectors.postgresql import rows
from connectors.postgresql.appending import Asked
from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.entries import Origin, append, encode_fault, number_origins, origins_of
from connectors.postgresql.groups import Group
from connectors.postgresql.held import close, lock, release
from connectors.postgresql.leases import Clock
from connectors.postgresql.texts import text
from connectors.postgresql.upkeep import work_out
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import OPEN, Entry, Row, RowState, Selection
from poller.model import Fault

T = TypeVar("T")

APPEND_SECONDS = 15.0
"""A batch may have six megabytes, and a group several of them."""
SELECT_SECONDS = 30.0
"""A selection may be all that ever failed."""

_NOW = "coalesce($3::float8, extract(epoch FROM clock_timestamp())::float8)"
# State -> from which rows.
_FROM: dict[RowState, str] = {
    "claimed": f"(state = 'kept' OR (state = 'claimed' AND (owner = $4 OR until <= {_NOW})))",
    "kept": "(state = 'claimed' AND owner = $4)",
    "replayed": "(state = 'claimed' AND owner = $4)",
    "dropped": "(state IN ('kept', 'parked'))",
}
# Rows are locked in one order, and looked at once they are locked. The parameters are those of all states, used or not.
_MARK = """
    WITH meant AS MATERIALIZED (
        SELECT number FROM poller_failures
        WHERE id = ANY($1::text[]) AND {condition} AND ($3::float8 IS NULL OR true) AND ($4::text IS NULL OR true)
        ORDER BY number FOR NO KEY UPDATE
    )
    UPDATE poller_failures AS failures
    SET state = $2, changed = $5::float8, owner = CASE WHEN $2 = 'claimed' THEN $4 ELSE '' END,
        until = CASE WHEN $2 = 'claimed' THEN {now} + $6::float8 ELSE 0 END,
        fault = CASE WHEN $7::bytea IS NULL THEN fault ELSE $7::bytea END,
        failures = failures.failures + CASE WHEN $7::bytea IS NULL THEN 0 ELSE 1 END,
        fingerprint = CASE WHEN $7::bytea IS NULL OR fingerprint = '' THEN fingerprint ELSE $8::text END
    FROM meant WHERE failures.number = meant.number
    RETURNING failures.id, CASE WHEN failures.holds THEN failures.number ELSE 0 END
"""


class Appends:
    """Appends and parks that come together share a transaction."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._origins: dict[Origin, int] = {}
        every = numbers()
        self._group: Group[Sequence[Asked], list[str]] = Group(self._append, key=lambda _: next(every), weight=_bytes)

    async def ask(self, asked: Sequence[Asked]) -> Sequence[str]:
        """All of them or, if this raises, none. Raises StoreUnavailable when the server does not answer."""
        return await self._group.ask(asked) if asked else ()

    async def aclose(self) -> None:
        await self._group.aclose()

    async def _append(self, groups: Sequence[Sequence[Asked]]) -> Sequence[list[str]]:
        asked = [each for group in groups for each in group]
        new = origins_of(each.entry for each in asked) - self._origins.keys()
        if new:
            self._origins |= await self._connections.run(lambda connection: number_origins(connection, list(new)))
        answers = iter(
            await self._connections.run(lambda connection: append(connection, asked, self._origins), begin="BEGIN", seconds=APPEND_SECONDS)
        )
        return [[next(answers) for _ in group] for group in groups]


class PostgresJournal:
    """`poller.protocols.Journal`."""

    def __init__(self, connections: Connections, clock: Clock = lambda _: None) -> None:
        self.appends = Appends(connections)
        self._connections = connections
        self._clock = clock

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        """All of them or, if this raises, none. Raises StoreUnavailable when the server does not answer."""
        return await self.appends.ask([Asked(entry) for entry in entries])

    async def select(self, selection: Selection) -> Sequence[Row]:
        """Oldest first, whole rows. Raises ConfigError, which names candidates, for an ambiguous id."""
        if selection.group is not None:
            await work_out(self._connections)
        return await self._read(lambda connection: rows.select(connection, selection), SELECT_SECONDS)

    async def count(self, selection: Selection) -> int:
        """How many rows `select` would give, without reading them."""
        if selection.group is not None:
            await work_out(self._connections)
        return await self._read(lambda connection: rows.count(connection, selection))

    async def mark(
        self, ids: Sequence[str], state: RowState, now: float, owner: str = "", until: float = 0.0, fault: Fault | None = None
    ) -> Sequence[str]:
        """The ids, in their order, whose rows could be and are changed. Ids are whole here. The transitions: protocols.Journal.mark.

        Of `now` and `until` the difference counts: for how long a row is claimed."""
        wanted = list(dict.fromkeys(ids))
        if not wanted:
            return ()
        clock = self._clock(now)

        async def work(connection: Connection) -> dict[str, int]:
            closing = state not in OPEN
            locked = await lock(connection, (), ids=[text(one) for one in wanted]) if closing else set[int]()
            done = await mark(connection, wanted, state, clock, now, owner, until - now, fault)
            if closing and (holding := [number for number in done.values() if number]):
                await release(connection, [closed.key for closed in await close(connection, holding, locked)], now)
            return done

        done = await self._connections.run(work, begin="" if state in OPEN else "BEGIN")
        return [one for one in wanted if text(one) in done]

    async def aclose(self) -> None:
        await self.appends.aclose()

    async def _read(self, work: Callable[[Connection], Awaitable[T]], seconds: float | None = None) -> T:
        return await self._connections.run(work, begin="BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", seconds=seconds)


async def mark(
    connection: Connection,
    ids: Sequence[str],
    state: RowState,
    clock: float | None,
    now: float,
    owner: str,
    seconds: float = 0.0,
    fault: Fault | None = None,
) -> dict[str, int]:
    """`protocols.Journal.mark`, in one statement. `clock`: None is the server's; `seconds`: for how long a row is claimed. The rows, each
    with its number if it holds keys, else 0: those of rows that are not open any more are the caller's to close, and to release."""
    again = encode_fault(fault) if state == "kept" else None
    statement = _MARK.format(condition=_FROM[state], now=_NOW)
    values = ([text(one) for one in ids], state, clock, text(owner), now, seconds, again, fingerprint(fault) if fault else "")
    return dict(await connection.fetch(statement, *values))


def _bytes(asked: Sequence[Asked]) -> int:
    entries = [each.entry for each in asked]
    return sum(len(entry.head) + len(entry.tail) + sum(len(record.json) for record in entry.records) for entry in entries)
