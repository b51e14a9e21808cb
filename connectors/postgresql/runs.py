"""Replays and their trail in PostgreSQL: a row is marked in the transaction that says who did it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.entries import Origin, append, number_origins, origin_of
from connectors.postgresql.journal import APPEND_SECONDS, SELECT_SECONDS, mark
from connectors.postgresql.texts import text
from poller.failures.journal import Entry
from poller.failures.runs import Finished, Run, Step, decode, encode

_MADE = "INSERT INTO poller_runs (name, version, began, body) VALUES ($1, 1, $2, $3) ON CONFLICT DO NOTHING RETURNING number"
_CHANGED = "UPDATE poller_runs SET version = version + 1, body = $2 WHERE name = $1 AND version = $3 RETURNING number"
_RUNS = """
    SELECT version, body, ARRAY(
        SELECT outcome || ' ' || count(*) FROM poller_steps AS steps WHERE steps.run = runs.number GROUP BY outcome
    )
    FROM poller_runs AS runs WHERE cardinality($1::text[]) = 0 OR name = ANY($1::text[])
    ORDER BY began DESC, number DESC LIMIT $2
"""
# Numbers are given in the order of the rows.
_STEP = """
    INSERT INTO poller_steps (run, failure, outcome, time, who, failures, edited)
    SELECT runs.number, given.failure, given.outcome, $2, $3, string_to_array(given.failures, ' '), given.edited
    FROM unnest($4::text[], $5::text[], $6::text[], $7::boolean[]) WITH ORDINALITY AS given (failure, outcome, failures, edited, nth),
         poller_runs AS runs
    WHERE runs.name = $1 ORDER BY nth
"""
_TRAIL = """
    SELECT failure, outcome, steps.time, who, failures, edited, steps.number
    FROM poller_steps AS steps JOIN poller_runs AS runs ON runs.number = steps.run
    WHERE runs.name = $1 AND (cardinality($2::text[]) = 0 OR failure = ANY($2::text[])) AND steps.number > $3
    ORDER BY steps.number LIMIT $4
"""


class PostgresRuns:
    """`poller.failures.protocols.Runs`."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def put(self, run: Run) -> bool:
        """Durable when it returns. Raises StoreUnavailable when the server does not answer."""
        name, body = text(run.name), encode(run)
        if run.version:
            return bool(await self._connections.run(lambda connection: connection.fetch(_CHANGED, name, body, run.version)))
        return bool(await self._connections.run(lambda connection: connection.fetch(_MADE, name, run.began, body)))

    async def select(self, names: Sequence[str] = (), limit: int | None = None) -> Sequence[Run]:
        """Newest first. Raises StoreError for a row that is damaged."""
        wanted = [text(name) for name in names]
        found = await self._connections.run(lambda connection: connection.fetch(_RUNS, wanted, limit))
        return [
            decode(body, version, {outcome: int(count) for outcome, count in map(str.split, counts)}) for version, body, counts in found
        ]

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[str]:
        """The rows, in their order, that this was done for. Raises StoreUnavailable: then it was done for none, or nobody knows."""
        if not done:
            return ()
        rests = [rest for one in done for rest in one.rests]
        origins: dict[Origin, int] = {}
        if rests:
            wanted = list({origin_of(rest) for rest in rests})
            origins = await self._connections.run(lambda connection: number_origins(connection, wanted))

        async def work(connection: Connection) -> set[str]:
            marked = await _marked(connection, done, now, owner)
            finished = [one for one in done if text(one.row) in marked]
            kept = await _kept(connection, finished, origins)
            if finished:
                columns = [[text(one.row) for one in finished], [one.outcome for one in finished], kept, [one.edited for one in finished]]
                await connection.execute(_STEP, text(run), now, text(who), *columns)
            return marked

        marked = await self._connections.run(work, begin="BEGIN", seconds=APPEND_SECONDS)
        return [one.row for one in done if text(one.row) in marked]

    async def trail(self, run: str, rows: Sequence[str] = (), after: int = 0, limit: int | None = None) -> Sequence[Step]:
        """In the order in which the steps were written."""
        values: tuple[Any, ...] = (text(run), [text(row) for row in rows], after, limit)
        found = await self._connections.run(lambda connection: connection.fetch(_TRAIL, *values), seconds=SELECT_SECONDS)
        return [
            Step(run, row, outcome, time, who, tuple(failures), edited, number)
            for row, outcome, time, who, failures, edited, number in found
        ]


async def _marked(connection: Connection, done: Sequence[Finished], now: float, owner: str) -> set[str]:
    """Those that are handled in one statement; those that failed one by one, for each has a fault of its own."""
    handled = [one.row for one in done if one.outcome != "failed_again"]
    marked = await mark(connection, handled, "replayed", None, now, owner) if handled else set()
    # In one order for everybody: two runs that hold each other's rows would wait for one another for ever.
    for one in sorted((one for one in done if one.outcome == "failed_again"), key=lambda one: one.row):
        marked |= await mark(connection, (one.row,), "kept", None, now, owner, fault=one.fault)
    return marked


async def _kept(connection: Connection, finished: Sequence[Finished], origins: dict[Origin, int]) -> list[str]:
    """For each, the ids of the rows that hold what failed again, with spaces between."""
    rests: list[Entry] = [rest for one in finished for rest in one.rests]
    ids = iter(await append(connection, rests, origins) if rests else ())
    return [text(one.row) if one.outcome == "failed_again" else " ".join(next(ids) for _ in one.rests) for one in finished]
