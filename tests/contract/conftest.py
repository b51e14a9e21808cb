"""Stores that have a journal, each empty: for the suites of what is kept beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from connectors.postgresql.store import PostgresStore
from connectors.postgresql.store import open_store as open_postgresql
from poller.protocols import Store
from poller.stores.memory import MemoryStore
from poller.stores.sqlite import open_store
from tests.servers.postgresql import PostgreSQL

TABLES = (
    "poller_acknowledged",
    "poller_acknowledged_mappings",
    "poller_steps",
    "poller_runs",
    "poller_outbox",
    "poller_records",
    "poller_failures",
    "poller_origins",
)


@pytest.fixture(scope="module")
def database(postgresql: PostgreSQL) -> str:
    """Of one file of tests: making one takes longer than emptying it."""
    return postgresql.database()


@pytest.fixture
async def postgresql_store(database: str) -> AsyncIterator[PostgresStore]:
    store = await open_postgresql(database, clock=lambda now: now)
    await store._connections.run(lambda connection: connection.execute("; ".join(f"DELETE FROM {table}" for table in TABLES)))
    yield store
    await store.aclose()


@pytest.fixture
async def sqlite_store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await open_store(tmp_path / "poller.db")
    yield store
    await store.aclose()


@pytest.fixture(params=["memory", "sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def each_store(request: pytest.FixtureRequest) -> Store:
    """One of each kind, after another."""
    if request.param == "memory":
        return MemoryStore()
    found: Store = request.getfixturevalue(f"{request.param}_store")
    return found
