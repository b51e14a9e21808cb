"""Replays and their trail in PostgreSQL: a row is marked in the transaction that says who did it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.postgresql.appending import Asked
from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.entries import Origin, append, number_origins, origins_of
from connectors.postgresql.held import close, lock, places, release
from connectors.postgresql.journal import APPEND_SECONDS, SELECT_SECONDS, mark
from connectors.postgresql.texts import text
from poller.errors import StoreError
from poller.failures.runs import Finished, Run, Step, decode, encode, over

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
    INSERT INTO poller_steps (run, failure, outcome, time, who, failures, edited, released)
    SELECT runs.number, given.failure, given.outcome, $2, $3, string_to_array(given.failures, ' '), given.edited,
           string_to_array(given.released, ' ')
    FROM unnest($4::text[], $5::text[], $6::text[], $7::boolean[], $8::text[])
         WITH ORDINALITY AS given (failure, outcome, failures, edited, released, nth),
         poller_runs AS runs
    WHERE runs.name = $1 ORDER BY nth
"""
_TRAIL = """
    SELECT failure, outcome, steps.time, who, failures, edited, steps.number, released
    FROM poller_steps AS steps JOIN poller_runs AS runs ON runs.number = steps.run
    WHERE runs.name = $1 AND (cardinality($2::text[]) = 0 OR failure = ANY($2::text[])) AND steps.number > $3
    ORDER BY steps.number LIMIT $4
"""
_BEGUN = "SELECT number, version, body FROM poller_runs WHERE began < $1 ORDER BY began, number"
# Looked at once more under its lock: who starts it again changes it, and waits, or has been waited for.
_STILL = "SELECT version FROM poller_runs WHERE number = $1 AND version = $2 FOR UPDATE"
_FORGET = """
    WITH gone AS (DELETE FROM poller_steps WHERE number IN (SELECT number FROM poller_steps WHERE run = $1 LIMIT $2) RETURNING 1)
    SELECT count(*) FROM gone
"""

_LOCK = "SELECT FROM poller_failures WHERE id = ANY($1::text[]) ORDER BY number FOR NO KEY UPDATE"


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

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[Step]:
        """In the order of the rows. Raises StoreUnavailable: then nothing was done, or nobody knows."""
        if not done:
            return ()
        origins: dict[Origin, int] = {}
        if wanted := list(origins_of(rest for one in done for rest in one.rests)):
            origins = await self._connections.run(lambda connection: number_origins(connection, wanted))

        async def work(connection: Connection) -> list[Step]:
            steps = await _finished(connection, run, done, now, owner, who, origins)
            if steps:
                lines = [(text(step.row), step.outcome, _joined(step.failures), step.edited, _joined(step.released)) for step in steps]
                await connection.execute(_STEP, text(run), now, text(who), *([line[n] for line in lines] for n in range(5)))
            return steps

        return await self._connections.run(work, begin="BEGIN", seconds=APPEND_SECONDS)

    async def trail(self, run: str, rows: Sequence[str] = (), after: int = 0, limit: int | None = None) -> Sequence[Step]:
        """In the order in which the steps were written."""
        values: tuple[Any, ...] = (text(run), [text(row) for row in rows], after, limit)
        found = await self._connections.run(lambda connection: connection.fetch(_TRAIL, *values), seconds=SELECT_SECONDS)
        return [
            Step(run, row, outcome, time, who, tuple(failures), edited, number, tuple(released))
            for row, outcome, time, who, failures, edited, number, released in found
        ]

    async def forget(self, before: float, limit: int) -> int:
        """See the protocol. A run that is damaged stays."""

        async def work(connection: Connection) -> int:
            for number, version, body in await connection.fetch(_BEGUN, before):
                try:
                    ended = over(decode(body, version, {}), before)
                except StoreError:
                    continue
                if ended and await connection.fetch(_STILL, number, version):
                    gone = int(await connection.fetchval(_FORGET, number, limit))
                    if gone < limit:
                        await connection.execute("DELETE FROM poller_runs WHERE number = $1", number)
                    return gone + (gone < limit)
            return 0

        return await self._connections.run(work, begin="BEGIN", seconds=APPEND_SECONDS)


async def _finished(
    connection: Connection, run: str, done: Sequence[Finished], now: float, owner: str, who: str, origins: dict[Origin, int]
) -> list[Step]:
    # All at once, before any row: whoever else wants both takes them in this order.
    locked = await lock(connection, origins.values(), ids=[text(one.row) for one in done if one.outcome != "failed_again"])
    marked = await _marked(connection, done, now, owner)
    finished = [one for one in done if text(one.row) in marked]
    closing = {text(one.row): number for one in finished if one.outcome != "failed_again" and (number := marked[text(one.row)])}
    closed = await close(connection, list(closing.values()), locked) if closing else []
    stood = places(closed)
    rests = [Asked(rest, places=stood.get(marked[text(one.row)], {})) for one in finished for rest in one.rests]
    ids = iter(await append(connection, rests, origins) if rests else ())
    failures = [(one.row,) if one.outcome == "failed_again" else tuple(next(ids) for _ in one.rests) for one in finished]
    # When all rests are there: what failed again holds its key, and what is parked behind it stays.
    freed = await release(connection, [each.key for each in closed], now)
    released: dict[int, list[str]] = {}
    for each in closed:
        if each.key in freed:
            released.setdefault(each.row, []).append(freed.pop(each.key))
    return [
        Step(run, one.row, one.outcome, now, who, kept, one.edited, released=tuple(released.get(closing.get(text(one.row), 0), ())))
        for one, kept in zip(finished, failures, strict=True)
    ]


async def _marked(connection: Connection, done: Sequence[Finished], now: float, owner: str) -> dict[str, int]:
    """Those that are handled in one statement; those that failed one by one, for each has a fault of its own."""
    handled = [one.row for one in done if one.outcome != "failed_again"]
    if len(handled) < len(done):
        # In the order in which `mark` locks many: who renews the claims of these rows just now would wait for us, and we for him.
        await connection.execute(_LOCK, [text(one.row) for one in done])
    marked = await mark(connection, handled, "replayed", None, now, owner) if handled else {}
    for one in done:
        if one.outcome == "failed_again":
            marked |= await mark(connection, (one.row,), "kept", None, now, owner, fault=one.fault)
    return marked


def _joined(rows: Sequence[str]) -> str:
    return " ".join(map(text, rows))
