"""The journal in PostgreSQL: failures with their records, kept until they are replayed or dropped, for all hosts of a fleet.

The states of a row are those of poller/stores/journal.py. Claims run out by the server's clock, as leases do.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import count as numbers
from typing import TypeVar

from connectors.postgresql import rows
from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.entries import Origin, append, encode_fault, number_origins, origin_of
from connectors.postgresql.groups import Group
from connectors.postgresql.leases import Clock
from connectors.postgresql.texts import text
from connectors.postgresql.upkeep import work_out
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import Entry, Row, RowState, Selection
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
    "dropped": "(state = 'kept')",
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
    RETURNING failures.id
"""


class PostgresJournal:
    """`poller.protocols.Journal`. Appends that come together share a transaction."""

    def __init__(self, connections: Connections, clock: Clock = lambda _: None) -> None:
        self._connections = connections
        self._clock = clock
        self._origins: dict[Origin, int] = {}
        every = numbers()
        self._appends: Group[Sequence[Entry], list[str]] = Group(self._append, key=lambda _: next(every), weight=_bytes)

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        """All of them or, if this raises, none. Raises StoreUnavailable when the server does not answer."""
        return await self._appends.ask(entries) if entries else ()

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
        done = await self._connections.run(lambda connection: mark(connection, wanted, state, clock, now, owner, until - now, fault))
        return [one for one in wanted if text(one) in done]

    async def aclose(self) -> None:
        await self._appends.aclose()

    async def _read(self, work: Callable[[Connection], Awaitable[T]], seconds: float | None = None) -> T:
        return await self._connections.run(work, begin="BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY", seconds=seconds)

    async def _append(self, groups: Sequence[Sequence[Entry]]) -> Sequence[list[str]]:
        entries = [entry for group in groups for entry in group]
        new = {origin_of(entry) for entry in entries} - self._origins.keys()
        if new:
            self._origins |= await self._connections.run(lambda connection: number_origins(connection, list(new)))
        answers = iter(
            await self._connections.run(
                lambda connection: append(connection, entries, self._origins), begin="BEGIN", seconds=APPEND_SECONDS
            )
        )
        return [[next(answers) for _ in group] for group in groups]


async def mark(
    connection: Connection,
    ids: Sequence[str],
    state: RowState,
    clock: float | None,
    now: float,
    owner: str,
    seconds: float = 0.0,
    fault: Fault | None = None,
) -> set[str]:
    """`protocols.Journal.mark`, in one statement. `clock`: None is the server's; `seconds`: for how long a row is claimed."""
    again = encode_fault(fault) if state == "kept" else None
    statement = _MARK.format(condition=_FROM[state], now=_NOW)
    values = ([text(one) for one in ids], state, clock, text(owner), now, seconds, again, fingerprint(fault) if fault else "")
    return {one for (one,) in await connection.fetch(statement, *values)}


def _bytes(entries: Sequence[Entry]) -> int:
    return sum(len(entry.head) + len(entry.tail) + sum(len(record.json) for record in entry.records) for entry in entries)
