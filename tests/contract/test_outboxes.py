"""Every store's outbox keeps the contract: in memory, in SQLite, in PostgreSQL."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from connectors.postgresql.store import PostgresStore
from poller.errors import StoreError
from poller.failures.journal import Damaged, Delivery, Waiting
from poller.protocols import Store
from poller.stores.memory import MemoryStore
from poller.stores.memory_journal import MemoryJournal
from poller.stores.memory_outbox import MemoryOutbox
from poller.stores.sqlite import SqliteStore, open_store
from poller.testing.outboxes import OutboxContract, TextOutboxContract, due, failed


class TestMemory(OutboxContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()

    async def damage(self, store: Store, id: str, mend: bool = False) -> None:
        assert isinstance(store, MemoryStore)
        store.outbox.damage(id, not mend)


class TestSqlite(TextOutboxContract):
    @pytest.fixture
    def store(self, sqlite_store: Store) -> Store:
        return sqlite_store

    async def damage(self, store: Store, id: str, mend: bool = False) -> None:
        assert isinstance(store, SqliteStore)
        entry = "substr(entry, 2)" if mend else "cast(x'c1' || entry AS BLOB)"
        await store._writer.run(lambda connection: connection.execute(f"UPDATE outbox SET entry = {entry} WHERE id = ?", (id,)))


@pytest.mark.servers
class TestPostgres(TextOutboxContract):
    @pytest.fixture
    def store(self, postgresql_store: Store) -> Store:
        return postgresql_store

    async def damage(self, store: Store, id: str, mend: bool = False) -> None:
        assert isinstance(store, PostgresStore)
        entry = "substr(entry, 2)" if mend else r"'\xc1'::bytea || entry"
        await store._connections.run(lambda connection: connection.execute(f"UPDATE poller_outbox SET entry = {entry} WHERE id = $1", id))


# --- counter-tests: each broken outbox is rejected by the property it breaks --------------------------------------------------------------


class Stuck(MemoryOutbox):
    """Nothing is told once one cannot be read."""

    def _told(self, each: Delivery) -> Delivery | Damaged:
        told = super()._told(each)
        if isinstance(told, Damaged):
            raise StoreError(told.error)
        return told


class Mute(MemoryOutbox):
    """Does not say what it has set aside."""

    async def settle(self, number: int, due: float | None, error: str = "", damaged: bool = False) -> None:
        await super().settle(number, due, error)


class Sweeping(MemoryOutbox):
    """Drops what has come since it was looked at, too."""

    async def drop(self, line: Waiting, limit: int, damaged: bool = False) -> int:
        return await super().drop(replace(line, newest=sys.maxsize), limit, damaged)


class Rash(MemoryOutbox):
    """Drops what could not be read once, and can be by now."""

    async def drop(self, line: Waiting, limit: int, damaged: bool = False) -> int:
        self._unreadable |= self._set_aside
        return await super().drop(line, limit, damaged)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Sweeping, "test_what_was_looked_at_is_dropped_and_nothing_else"),
        (Rash, "test_of_what_is_set_aside_that_is_dropped_which_cannot_be_read"),
        (Stuck, "test_one_that_cannot_be_read_is_told_beside_the_others"),
        (Mute, "test_one_that_is_set_aside_waits_and_is_counted_for_itself"),
    ],
)
async def test_a_broken_outbox_is_rejected(broken: type[MemoryOutbox], law: str) -> None:
    store = MemoryStore()
    store.outbox = broken()
    store.journal = MemoryJournal(store.outbox)
    with pytest.raises((AssertionError, StoreError)):
        await getattr(TestMemory(), law)(store)


# --- what only a file can promise -------------------------------------------------------------------------------------------------------


async def test_an_outbox_outlives_its_process(tmp_path: Path) -> None:
    path = tmp_path / "poller.db"
    store = await open_store(path)
    await store.journal.append([failed("f1"), failed("f2")])
    await store.outbox.settle((await due(store))[0].number, 1500.0, "no route")
    await store.aclose()
    store = await open_store(path)
    try:
        assert [(each.id, each.attempts, each.error) for each in await due(store)] == [("f1", 1, "no route"), ("f2", 0, "")]
    finally:
        await store.aclose()
