"""From the places of the configuration to one store: who is opened, for what, and what an error names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from poller.errors import ConfigError, PluginError, StoreError, StoreUnavailable
from poller.protocols import Store
from poller.registry import STORES, Registry
from poller.stores.memory import MemoryStore
from poller.stores.opening import Places, open_journal, open_store
from poller.stores.sqlite import SqliteStore
from poller.testing.journals import make_entry, row_of
from poller.testing.stores import KEY, at, claimed


class Fleet:
    """A kind of store whose openings are counted. `refusal`: what is raised instead."""

    shared = True

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.open = 0
        self.refusal: dict[str, Exception] = {}

    def check(self, url: str, base: Path) -> None:
        pass

    async def ledger(self, url: str, base: Path) -> Store:
        return await self._opened("ledger", url)

    async def store(self, url: str, base: Path) -> Store:
        return await self._opened("store", url)

    async def _opened(self, what: str, url: str) -> Store:
        if what in self.refusal:
            raise self.refusal[what]
        self.opened.append(f"{what} {url}")
        self.open += 1
        fleet = self

        class Counted(MemoryStore):
            async def aclose(self) -> None:
                fleet.open -= 1

        return Counted()


@pytest.fixture
def fleet() -> Fleet:
    return Fleet()


@pytest.fixture
def registry(fleet: Fleet) -> Registry:
    dist = SimpleNamespace(name="acme", version="1")

    def points(group: str) -> Iterable[Any]:
        return [SimpleNamespace(name="fleet", value="x:fleet", dist=dist, load=lambda: fleet)] if group == STORES else []

    return Registry(points)


async def test_one_place_is_opened_once(fleet: Fleet, registry: Registry, tmp_path: Path) -> None:
    for places in (Places("fleet:a"), Places("sqlite:x", "fleet:a", "fleet:a")):
        store = await open_store(places, tmp_path, registry)
        assert fleet.opened == ["store fleet:a"]
        await store.aclose()
        assert fleet.open == 0
        fleet.opened.clear()
    assert not (tmp_path / "x").exists()


async def test_lanes_and_journal_come_from_their_places(fleet: Fleet, registry: Registry, tmp_path: Path) -> None:
    store = await open_store(Places("sqlite:poller.db", leases="fleet:a"), tmp_path, registry)
    assert isinstance(store, Store) and fleet.opened == ["ledger fleet:a"]
    lease = await claimed(store, KEY, "a")
    await store.checkpoints.save(lease, at(1))
    await store.states.put(lease, 1, b"x")
    await store.journal.append([make_entry("f1", "m1")])
    await store.aclose()
    assert fleet.open == 0
    alone = await open_journal(Places("sqlite:poller.db", leases="fleet:a"), tmp_path, registry)
    assert isinstance(alone, SqliteStore) and len(fleet.opened) == 1
    assert (await row_of(alone.journal, "f1")).entry == make_entry("f1", "m1")
    assert await alone.checkpoints.load(KEY) is None
    await alone.aclose()


async def test_the_store_has_the_lanes_where_only_the_journal_is_elsewhere(fleet: Fleet, registry: Registry, tmp_path: Path) -> None:
    store = await open_store(Places("fleet:a", journal="sqlite:j.db"), tmp_path, registry)
    assert fleet.opened == ["ledger fleet:a"] and (tmp_path / "j.db").exists()
    await store.aclose()


async def test_what_is_refused_names_its_key_and_leaves_nothing_open(fleet: Fleet, registry: Registry, tmp_path: Path) -> None:
    table: list[tuple[Places, str, Exception, str]] = [
        (Places("fleet:a"), "store", StoreUnavailable("no answer"), "[poller] store: no answer"),
        (Places("memory:", leases="fleet:a"), "ledger", StoreError("no table"), "[poller] leases: no table"),
        (Places("fleet:b", journal="fleet:a"), "store", ConfigError("keeps no journal"), "[poller] journal: keeps no journal"),
    ]
    for places, what, error, text in table:
        fleet.refusal = {what: error}
        with pytest.raises(type(error)) as caught:
            await open_store(places, tmp_path, registry)
        assert caught.type is type(error) and str(caught.value) == text
        assert fleet.open == 0


async def test_a_kind_that_is_not_installed_is_named(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match="redis"):
        await open_store(Places("redis:x"), tmp_path, registry)


def test_places_show_no_password() -> None:
    shown = repr(Places("postgresql://u:hunter2@db/x", "dynamodb://t?token=hunter2", "sqlite:j.db"))
    assert "hunter2" not in shown and "sqlite:j.db" in shown
