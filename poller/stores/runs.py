"""Replays and their trail in SQLite, in the journal's file: a row is marked in the transaction that says who did it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from poller.failures.runs import Finished, Run, Step, decode, encode
from poller.stores.entries import append, chunks, marks
from poller.stores.journal import mark
from poller.stores.posts import text
from poller.stores.writer import Writer

_LOOKED_UP = 500
_COUNTS = "SELECT outcome, count(*) FROM steps WHERE run = ? GROUP BY outcome"
_STEP = "INSERT INTO steps (run, failure, outcome, time, who, failures, edited) VALUES (?, ?, ?, ?, ?, ?, ?)"


class SqliteRuns:
    """`poller.failures.protocols.Runs` over the file of the journal."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def put(self, run: Run) -> bool:
        """Durable when it returns. Raises StoreUnavailable when the file cannot be written now."""

        def work(connection: sqlite3.Connection) -> bool:
            if run.version:
                changed = "UPDATE runs SET version = version + 1, body = ? WHERE name = ? AND version = ?"
                return connection.execute(changed, (encode(run), text(run.name), run.version)).rowcount == 1
            made = "INSERT INTO runs (name, version, began, body) VALUES (?, 1, ?, ?) ON CONFLICT DO NOTHING"
            return connection.execute(made, (text(run.name), run.began, encode(run))).rowcount == 1

        return await self._writer.run(work)

    async def select(self, names: Sequence[str] = (), limit: int | None = None) -> Sequence[Run]:
        """Newest first. Raises StoreError for a row that is damaged."""

        def work(connection: sqlite3.Connection) -> list[Run]:
            which = f"WHERE name IN ({marks(len(names))})" if names else ""
            query = f"SELECT number, version, body FROM runs {which} ORDER BY began DESC, number DESC LIMIT ?"
            found = connection.execute(query, (*map(text, names), -1 if limit is None else limit)).fetchall()
            return [decode(body, version, dict(connection.execute(_COUNTS, (number,)).fetchall())) for number, version, body in found]

        return await self._writer.read(work)

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[str]:
        """The rows, in their order, that this was done for. Raises StoreUnavailable: then it was done for none."""

        def work(connection: sqlite3.Connection) -> list[str]:
            number = connection.execute("SELECT number FROM runs WHERE name = ?", (text(run),)).fetchone()
            finished = _marked(connection, done, now, owner)
            steps = [_step(connection, number[0], one, now, who) for one in done if one.row in finished]
            connection.executemany(_STEP, steps)
            return [one.row for one in done if one.row in finished]

        return await self._writer.run(work) if done else ()

    async def trail(self, run: str, rows: Sequence[str] = (), after: int = 0, limit: int | None = None) -> Sequence[Step]:
        """In the order in which the steps were written."""

        def work(connection: sqlite3.Connection) -> list[Step]:
            if not rows:
                return _steps(connection, run, "", (), after, limit)
            found = [
                step
                for chunk in chunks(rows, _LOOKED_UP)
                for step in _steps(connection, run, f"AND failure IN ({marks(len(chunk))})", chunk, after, limit)
            ]
            return sorted(found, key=lambda step: step.number)[:limit]

        return await self._writer.read(work)


def _marked(connection: sqlite3.Connection, done: Sequence[Finished], now: float, owner: str) -> set[str]:
    """Those that are handled, many a statement; those that failed one by one, for each has a fault of its own."""
    handled = [one.row for one in done if one.outcome != "failed_again"]
    finished = {*mark(connection, handled, "replayed", now, owner)}
    for one in done:
        if one.outcome == "failed_again":
            finished.update(mark(connection, (one.row,), "kept", now, owner, fault=one.fault))
    return finished


def _step(connection: sqlite3.Connection, run: int, one: Finished, now: float, who: str) -> tuple[Any, ...]:
    failures = [one.row] if one.outcome == "failed_again" else [append(connection, rest) for rest in one.rests]
    return run, one.row, one.outcome, now, text(who), json.dumps(failures) if failures else "", one.edited


def _steps(connection: sqlite3.Connection, run: str, which: str, rows: Sequence[str], after: int, limit: int | None) -> list[Step]:
    found = connection.execute(
        f"""
        SELECT failure, outcome, time, who, failures, edited, number FROM steps
        WHERE run = (SELECT number FROM runs WHERE name = ?) {which} AND number > ? ORDER BY number LIMIT ?
        """,
        (text(run), *rows, after, -1 if limit is None else limit),
    )
    return [
        Step(run, row, outcome, time, who, tuple(json.loads(failures or "[]")), bool(edited), number)
        for row, outcome, time, who, failures, edited, number in found
    ]
