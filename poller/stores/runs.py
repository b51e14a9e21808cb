"""Replays and their trail in SQLite, in the journal's file: a row is marked in the transaction that says who did it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from poller.errors import StoreError
from poller.failures.runs import Finished, Run, Step, decode, encode, over
from poller.stores.entries import append, chunks, marks
from poller.stores.held import Key, close, places_of, release
from poller.stores.journal import mark
from poller.stores.posts import text
from poller.stores.writer import Writer

_LOOKED_UP = 500
_COUNTS = "SELECT outcome, count(*) FROM steps WHERE run = ? GROUP BY outcome"
_RUNS_BEGUN = "SELECT number, version, body FROM runs WHERE began < ? ORDER BY began, number"
_FORGET = "DELETE FROM steps WHERE number IN (SELECT number FROM steps WHERE run = ? LIMIT ?)"
_STEP = "INSERT INTO steps (run, failure, outcome, time, who, failures, edited, released) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"


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

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[Step]:
        """In the order of the rows. Raises StoreUnavailable: then nothing was done."""

        def work(connection: sqlite3.Connection) -> list[Step]:
            number = connection.execute("SELECT number FROM runs WHERE name = ?", (text(run),)).fetchone()
            steps = _finished(connection, run, done, now, owner, who)
            if number is not None:
                connection.executemany(_STEP, [(number[0], *_columns(step)) for step in steps])
            return steps

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

    async def forget(self, before: float, limit: int) -> int:
        """See the protocol. A run that is damaged stays."""
        return await self._writer.run(lambda connection: _forget(connection, before, limit))


def _forget(connection: sqlite3.Connection, before: float, limit: int) -> int:
    for number, version, body in connection.execute(_RUNS_BEGUN, (before,)).fetchall():
        try:
            run = decode(body, version, {})
        except StoreError:
            continue
        if over(run, before):
            # In any order: whoever starts it again meanwhile leaves out what is there then, and later lines have higher numbers.
            gone = connection.execute(_FORGET, (number, limit)).rowcount
            if gone < limit:
                connection.execute("DELETE FROM runs WHERE number = ?", (number,))
            return gone + (gone < limit)
    return 0


def _finished(connection: sqlite3.Connection, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> list[Step]:
    marked = _marked(connection, done, now, owner)
    steps, held = list[Step](), list[list[Key]]()
    for one in done:
        if one.row in marked:
            number = marked[one.row] if one.outcome != "failed_again" else 0
            places = places_of(connection, one.row) if number and one.rests else {}
            held.append(close(connection, number) if number else [])
            failures = [one.row] if one.outcome == "failed_again" else [append(connection, rest, places) for rest in one.rests]
            steps.append(Step(run, one.row, one.outcome, now, who, tuple(failures), one.edited))
    # When all rests are there: what failed again holds its key, and what is parked behind it stays.
    return [replace(step, released=tuple(release(connection, keys, now))) if keys else step for step, keys in zip(steps, held, strict=True)]


def _marked(connection: sqlite3.Connection, done: Sequence[Finished], now: float, owner: str) -> dict[str, int]:
    """Those that are handled, many a statement; those that failed one by one, for each has a fault of its own."""
    handled = [one.row for one in done if one.outcome != "failed_again"]
    marked = mark(connection, handled, "replayed", now, owner)
    for one in done:
        if one.outcome == "failed_again":
            marked |= mark(connection, (one.row,), "kept", now, owner, fault=one.fault)
    return marked


def _columns(step: Step) -> tuple[Any, ...]:
    failures, released = (json.dumps(rows) if rows else "" for rows in (step.failures, step.released))
    return step.row, step.outcome, step.time, text(step.who), failures, step.edited, released


def _steps(connection: sqlite3.Connection, run: str, which: str, rows: Sequence[str], after: int, limit: int | None) -> list[Step]:
    found = connection.execute(
        f"""
        SELECT failure, outcome, time, who, failures, edited, number, released FROM steps
        WHERE run = (SELECT number FROM runs WHERE name = ?) {which} AND number > ? ORDER BY number LIMIT ?
        """,
        (text(run), *rows, after, -1 if limit is None else limit),
    )
    return [
        Step(run, row, outcome, time, who, tuple(json.loads(failures or "[]")), bool(edited), number, tuple(json.loads(released or "[]")))
        for row, outcome, time, who, failures, edited, number, released in found
    ]
