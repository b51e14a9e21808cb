"""A store in PostgreSQL keeps the contracts of its four parts, on a real server; and it cannot be told apart from the one in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from connectors.postgresql.store import PostgresStore, open_store
from poller.protocols import Store
from poller.stores.memory import MemoryStore
from poller.testing.journals import JournalContract
from poller.testing.states import StatesContract
from poller.testing.stores import KEY, OTHERS, CheckpointsContract, LeasesContract, at, claimed
from tests.contract.test_stores import STEPS, play
from tests.servers.postgresql import PostgreSQL

pytestmark = pytest.mark.servers

TABLES = ("poller_records", "poller_failures", "poller_origins", "poller_states", "poller_lanes")


@pytest.fixture(scope="module")
def database(postgresql: PostgreSQL) -> str:
    return postgresql.database()


async def opened(url: str) -> PostgresStore:
    """Empty. The suites pass times in, so those are taken as they are."""
    return await emptied(await open_store(url, clock=lambda now: now))


async def emptied(store: PostgresStore) -> PostgresStore:
    # Faster than TRUNCATE, which makes files anew.
    await store._connections.run(lambda connection: connection.execute("; ".join(f"DELETE FROM {table}" for table in TABLES)))
    return store


@pytest.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    store = await opened(database)
    yield store
    await store.aclose()


class TestCheckpoints(CheckpointsContract):
    pass


class TestStates(StatesContract):
    pass


class TestLeases(LeasesContract):
    pass


class TestJournal(JournalContract):
    pass


async def test_it_is_a_store(store: Store) -> None:
    assert isinstance(store, Store)


async def test_it_names_the_sources_that_a_mapping_has_progress_for(store: PostgresStore) -> None:
    for key in (KEY, *OTHERS):
        await store.checkpoints.save(await claimed(store, key, "a"), at(1))
    assert list(await store.checkpoints.sources("orders")) == [KEY.source, OTHERS[1].source]
    assert list(await store.checkpoints.sources("nobody")) == []


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=15))
def test_memory_and_postgresql_cannot_be_told_apart(database: str, steps: list[tuple[Any, ...]]) -> None:
    async def on_postgresql() -> list[Any]:
        store = await opened(database)
        try:
            return await play(store, steps)
        finally:
            await store.aclose()

    assert asyncio.run(on_postgresql()) == asyncio.run(play(MemoryStore(), steps))
