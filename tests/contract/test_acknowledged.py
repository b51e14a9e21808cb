"""What every store remembers for idempotency windows keeps the contract: in memory, in SQLite, in PostgreSQL."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from random import Random
from sqlite3 import connect

import pytest

from connectors.postgresql.store import open_store as open_postgresql
from poller.protocols import Store
from poller.stores.acknowledged import KNOWN
from poller.stores.memory import MemoryStore
from poller.stores.sqlite import open_store
from poller.testing.acknowledged import AcknowledgedContract, known, put


class TestMemory(AcknowledgedContract):
    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore()


class TestSqlite(AcknowledgedContract):
    @pytest.fixture
    def store(self, sqlite_store: Store) -> Store:
        return sqlite_store


@pytest.mark.servers
class TestPostgres(AcknowledgedContract):
    @pytest.fixture
    def store(self, postgresql_store: Store) -> Store:
        return postgresql_store


@pytest.mark.servers
async def test_hosts_that_put_the_same_names_wait_for_one_another_and_never_for_good(postgresql_store: Store, database: str) -> None:
    """In any order, while a third removes what is over, and a fourth forgets."""
    dice, others = Random(1), [await open_postgresql(database) for _ in range(3)]

    async def one(store: Store, number: int) -> None:
        await put(store, *dice.sample(range(400), 300), now=1_000.0 + number, until=1_000.0 + number % 3)
        await known(store, range(400))

    try:
        for number in range(15):
            puts = (one(store, number) for store in (postgresql_store, *others[:2]))
            await asyncio.gather(*puts, others[2].acknowledged.trim(1_000.0 + number % 2, {"orders": 100}))
            if number % 5 == 4:
                await asyncio.gather(
                    *(one(store, number) for store in others[:2]), others[2].acknowledged.forget("orders", 1_000.0 + number)
                )
                assert await known(postgresql_store, range(400), now=0.0) == []
    finally:
        for store in others:
            await store.aclose()


async def test_records_are_looked_up_by_their_names(tmp_path: Path) -> None:
    """And not by their time, which most of what is remembered has still before it: it would all be read, for every batch."""
    store = await open_store(tmp_path / "poller.db")
    await store.aclose()
    with closing(connect(tmp_path / "poller.db")) as connection:
        plan = connection.execute(f"EXPLAIN QUERY PLAN {KNOWN.format(marks='?, ?')}", ("orders", 1.0, b"a", b"b")).fetchall()
    assert plan[0][-1] == "SEARCH acknowledged USING PRIMARY KEY (mapping=? AND name=?)"


async def test_what_was_put_outlives_its_process(tmp_path: Path) -> None:
    store = await open_store(tmp_path / "poller.db")
    await put(store, 1, 2)
    await store.acknowledged.forget("other", 1_000.0)
    await store.aclose()
    store = await open_store(tmp_path / "poller.db")
    try:
        assert await known(store, (1, 2, 3)) == [1, 2]
        await put(store, 1, mapping="other", now=999.0)
        assert await known(store, (1,), mapping="other") == []
    finally:
        await store.aclose()
