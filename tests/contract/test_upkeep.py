"""Every journal keeps the contract of error groups and upkeep; broken ones are found out; a journal of an earlier version is whole here."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from connectors.postgresql.connections import Connection, Connections
from connectors.postgresql.schema import MIGRATIONS
from connectors.postgresql.store import open_store as open_postgresql
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import ErrorGroup, KeptRecord, Removed, RowState, Selection
from poller.protocols import Store
from poller.stores.entries import append, encode_fault
from poller.stores.memory import MemoryStore
from poller.stores.memory_upkeep import MemoryUpkeep
from poller.stores.rows import narrowed
from poller.stores.schema import SCHEMA
from poller.stores.sqlite import SqliteStore, open_store
from poller.stores.upkeep import GROUPS
from poller.stores.writer import Writer
from poller.testing.journals import ANY, FAULT, make_entry
from poller.testing.upkeeps import UpkeepContract
from tests.servers.postgresql import PostgreSQL


class TestUpkeep(UpkeepContract):
    @pytest.fixture
    def store(self, each_store: Store) -> Store:
        return each_store


# --- counter-tests: each broken store is rejected by the property it breaks -------------------------------------------------------------


class Lumping(MemoryUpkeep):
    """One group for all."""

    async def groups(self, selection: Selection) -> Sequence[ErrorGroup]:
        return [replace(group, id="") for group in await super().groups(selection)][:1]


class Deaf(MemoryUpkeep):
    """Counts everything, whatever is selected."""

    async def groups(self, selection: Selection) -> Sequence[ErrorGroup]:
        return await super().groups(ANY)


class Careless(MemoryUpkeep):
    """Removes by the time of failing alone."""

    async def remove(self, states: Sequence[RowState], before: float, limit: int) -> Sequence[Removed]:
        rows = [row for row in self._journal.all(Selection(states=tuple(states), before=before)) if states][:limit]
        for row in rows:
            self._journal.remove(row.entry.id)
        return [Removed(row.entry.id, row.entry.mapping, len(row.entry.records), 0) for row in rows]


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Lumping, "test_failures_are_counted_by_their_fingerprint"),
        (Deaf, "test_groups_are_narrowed_as_rows_are"),
        (Careless, "test_only_what_is_over_is_removed"),
        (Careless, "test_what_is_claimed_is_never_removed"),
        (Careless, "test_the_size_is_that_of_what_is_there"),
    ],
)
async def test_a_broken_store_is_rejected(broken: type[MemoryUpkeep], law: str) -> None:
    store = MemoryStore()
    store.upkeep = broken(store.journal)
    with pytest.raises(AssertionError):
        await getattr(UpkeepContract(), law)(store)


# --- a journal of an earlier version ----------------------------------------------------------------------------------------------------

OLD = make_entry("f1", time=5.0, records=(KeptRecord("m1", "k1", 1.0, b"{}"), KeptRecord("m2", None, 1.0, b"[1]")), identifiers=())
_DROPPED = (2, "f2", 1, "orders", "RetryAttemptsExhausted", 3, encode_fault(FAULT), "", "", 5.0, OLD.head, OLD.tail, "failure", "", 5.0)
_FAILURE = (1, "f1", 1, "orders", "RetryAttemptsExhausted", 3, encode_fault(FAULT), "", "", 5.0, OLD.head, OLD.tail, "failure", "", 5.0)
_RECORDS = (
    (1, 1, 1, "m1", "k1", 1.0, None, b"{}"),
    (2, 1, 1, "m2", None, 1.0, None, b"[1]"),
    (3, 2, 1, "m9", None, 1.0, None, b"[9]"),
)


async def whole(store: Store) -> None:
    """The journal lists, groups and replays what it held; the row that was dropped fails again before anybody asks for groups."""
    again = make_entry("f2", "m9", "m10", time=6.0, group=fingerprint(FAULT))
    assert await store.journal.append([again]) == ["f2"]
    row, other = await store.journal.select(ANY)
    assert row.entry == replace(OLD, group=row.entry.group)
    assert await store.journal.count(Selection(key="k1")) == 1
    assert [(group.id, group.rows, group.records) for group in await store.upkeep.groups(ANY)] == [(fingerprint(FAULT), 2, 4)]
    assert (other.entry.id, len(other.entry.records)) == ("f2", 2)
    assert await store.journal.count(Selection(group=fingerprint(FAULT))) == 2
    assert 2400 < await store.upkeep.size() < 4000
    assert await store.journal.mark(["f1"], "claimed", 6.0, "a", 9.0) == ["f1"]
    assert await store.journal.mark(["f1"], "replayed", 7.0, "a") == ["f1"]
    assert [row.id for row in await store.upkeep.remove(("replayed",), 8.0, 9)] == ["f1"]


async def test_a_file_of_an_earlier_version_is_whole(tmp_path: Path) -> None:
    for version in range(1, SCHEMA.version):
        path = tmp_path / f"{version}.db"
        await (await Writer.open(path, replace(SCHEMA, migrations=SCHEMA.migrations[:version]))).aclose()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("INSERT INTO lanes VALUES (1, ?, ?, ?)", (OLD.mapping, OLD.source, OLD.lane))
            columns = "number, id, lane, function, reason, attempts, fault, first, last, time, head, tail, kept, run, changed"
            marks = ",".join("?" * len(_FAILURE))
            connection.execute(
                f"INSERT INTO failures ({columns}, state, failures, owner, until) VALUES ({marks}, 'kept', 0, '', 0)", _FAILURE
            )
            connection.execute(
                f"INSERT INTO failures ({columns}, state, failures, owner, until) VALUES ({marks}, 'dropped', 0, '', 0)", _DROPPED
            )
            connection.executemany("INSERT INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", _RECORDS)
            connection.commit()
        store = await open_store(path)
        await whole(store)
        await store.aclose()


@pytest.mark.servers
async def test_tables_of_an_earlier_version_are_whole(postgresql: PostgreSQL) -> None:
    url = postgresql.database()
    connections = Connections(url, 30.0)

    async def work(connection: Connection) -> None:
        await connection.execute("CREATE TABLE poller_version (version INTEGER NOT NULL)")
        await connection.execute("INSERT INTO poller_version VALUES (1)")
        for statement in MIGRATIONS[0]:
            await connection.execute(statement)
        origin = (OLD.mapping, OLD.source, OLD.lane)
        await connection.execute("INSERT INTO poller_origins (mapping, source, lane) VALUES ($1, $2, $3)", *origin)
        columns = "id, origin, function, reason, attempts, fault, first, last, time, head, tail, kept, run, changed"
        await connection.execute(f"INSERT INTO poller_failures ({columns}) VALUES ({_marks(14)})", *_FAILURE[1:])
        await connection.execute(f"INSERT INTO poller_failures ({columns}, state) VALUES ({_marks(14)}, 'dropped')", *_DROPPED[1:])
        for record in _RECORDS:
            columns = "failure, origin, id, key, arrival, identifier, json"
            await connection.execute(f"INSERT INTO poller_records ({columns}) VALUES ({_marks(7)})", *record[1:])

    await connections.run(work, begin="BEGIN")
    await connections.aclose()
    store = await open_postgresql(url, clock=lambda now: now)
    await whole(store)
    await store.aclose()


def _marks(count: int) -> str:
    return ", ".join(f"${n}" for n in range(1, count + 1))


# --- what only a file can promise -------------------------------------------------------------------------------------------------------


async def test_groups_are_counted_from_the_index_alone(tmp_path: Path) -> None:
    """No row is read for them, however many there are."""
    store = await open_store(tmp_path / "poller.db")
    plans: list[Any] = []

    def explain(connection: sqlite3.Connection) -> None:
        for selection in (Selection(), Selection(mapping="orders", after=1.0, before=2.0), ANY):
            where, values = narrowed(connection, selection)
            plans.append(connection.execute("EXPLAIN QUERY PLAN " + GROUPS.format(where=where), values).fetchall())

    await store._writer.read(explain)
    await store.aclose()
    for plan in plans:
        assert "COVERING INDEX failures_by_fingerprint" in str(plan)


async def test_what_fails_for_the_first_time_pays_nothing_for_what_fails_once_more(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "poller.db")

    async def statements(name: str) -> list[str]:
        seen: list[str] = []

        def work(connection: sqlite3.Connection) -> None:
            connection.set_trace_callback(seen.append)
            append(connection, make_entry(name, "m1"))
            connection.set_trace_callback(None)

        await store._writer.run(work)
        return [each for each in seen if each.lstrip().startswith("UPDATE")]

    await store.journal.append([make_entry("f0", "m0")])
    first, again = await statements("f1"), await statements("f1")
    await store.aclose()
    assert first == []
    assert len(again) == 1


async def test_a_file_gives_back_what_was_removed(tmp_path: Path) -> None:
    path = tmp_path / "poller.db"
    store = await open_store(path)
    payload = b"x" * 100_000
    entries = [make_entry(f"f{n}", records=(KeptRecord(f"m{n}", None, 1.0, payload),), identifiers=(), time=1.0) for n in range(50)]
    await store.journal.append(entries)
    while await store.upkeep.remove(("kept",), 2.0, 50):
        pass
    steps = 0
    while await store.upkeep.compact(1_000_000):
        steps += 1
    assert steps < 10  # about as much at a time as it was asked for
    await store.aclose()
    assert path.stat().st_size < 500_000


async def test_what_few_rows_cost_to_remove_does_not_grow_with_the_journal(tmp_path: Path) -> None:
    """Appends wait for it: what the removing of two rows out of few takes of SQLite, those out of many take too."""
    store = await open_store(tmp_path / "poller.db")
    cost = list[int]()
    try:
        for rows in (20, 2000):
            await store.journal.append([make_entry(f"f{rows}-{n}", f"{rows}-{n}", time=float(n), group="g") for n in range(rows)])
            await store.journal.mark([f"f{rows}-{n}" for n in range(rows)], "dropped", 3000.0)
            cost.append(await _steps_of(store, lambda: store.upkeep.remove(("replayed", "dropped"), 1e9, 2)))
    finally:
        await store.aclose()
    assert cost[1] < 2 * cost[0]


async def _steps_of(store: SqliteStore, work: Callable[[], Awaitable[Sequence[Removed]]]) -> int:
    """How many of SQLite's instructions it takes, in tens."""
    steps = 0

    def step() -> None:
        nonlocal steps
        steps += 1

    for ask in (store._writer.run, store._writer.read):
        await ask(lambda connection: connection.set_progress_handler(step, 10))
    assert len(await work()) == 2
    return steps
