"""Every store's outbox keeps the contract: in memory, in SQLite, in PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from sqlite3 import connect

import pytest

from poller.errors import StoreError
from poller.protocols import Store
from poller.stores.memory import MemoryStore
from poller.stores.sqlite import open_store
from poller.testing.outboxes import DEAD, OutboxContract, TextOutboxContract, due, failed


class TestMemory(OutboxContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestSqlite(TextOutboxContract):
    @pytest.fixture
    def store(self, sqlite_store: Store) -> Store:
        return sqlite_store


@pytest.mark.servers
class TestPostgres(TextOutboxContract):
    @pytest.fixture
    def store(self, postgresql_store: Store) -> Store:
        return postgresql_store


async def test_an_outbox_outlives_its_process_and_names_what_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "poller.db"
    store = await open_store(path)
    await store.journal.append([failed("f1"), failed("f2")])
    await store.outbox.settle((await due(store))[0].number, 1500.0, "no route")
    await store.aclose()
    store = await open_store(path)
    try:
        assert [(each.id, each.attempts, each.error) for each in await due(store)] == [("f1", 1, "no route"), ("f2", 0, "")]
        with closing(connect(path)) as connection, connection:
            connection.execute("UPDATE outbox SET entry = x'c1' WHERE id = 'f2'")
        with pytest.raises(StoreError, match=r"the delivery f2 in the outbox is damaged"):
            await store.outbox.due("orders", DEAD, 9e9, 9)
    finally:
        await store.aclose()
