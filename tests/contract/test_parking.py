"""Every store keeps the contract of parking; broken ones are found out."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import pytest

from poller.failures.journal import Entry
from poller.protocols import Store
from poller.stores.memory import MemoryStore
from poller.stores.memory_journal import MemoryJournal
from poller.stores.memory_parking import Key, MemoryParking
from poller.stores.memory_runs import MemoryRuns
from poller.stores.memory_upkeep import MemoryUpkeep
from poller.testing.parkings import ParkingContract


class TestParking(ParkingContract):
    @pytest.fixture
    def store(self, each_store: Store) -> Store:
        return each_store


# --- counter-tests: each broken store is rejected by the property it breaks, and by the model ---------------------------------------------


class Stuck(MemoryJournal):
    """Releases nothing."""

    def release(self, keys: Iterable[Key], now: float | None = None) -> list[str]:
        return []


class Eager(MemoryJournal):
    """Releases all that is parked at once."""

    def release(self, keys: Iterable[Key], now: float | None = None) -> list[str]:
        released = list[str]()
        for key in keys:
            for row in self.held.holders(key):
                kept = self._rows[row]
                if kept.row.state == "parked":
                    kept.row = replace(kept.row, state="kept", changed=now or 0.0)
                    released.append(row)
        return released


class Careless(MemoryJournal):
    """Releases a row though another before it is still open."""

    def _heads(self, key: Key) -> list[str]:
        return [] if len(self.held.holders(key)) < 3 else super()._heads(key)


class Unplaced(MemoryJournal):
    """Puts what failed of a row behind what was parked behind it."""

    def put(self, entry: Entry, places: Mapping[str, int] | None = None) -> str:
        return super().put(entry)


class Losing(MemoryJournal):
    """Forgets the keys of a row when somebody claims it."""

    async def mark(self, ids: Sequence[str], state: object, *rest: object, **named: object) -> Sequence[str]:
        for row in ids if state == "claimed" else ():
            self.held.close(row)
        return await super().mark(ids, state, *rest, **named)  # type: ignore[arg-type]


class Trusting(MemoryParking):
    """Parks behind nothing."""

    async def park(self, entries: Sequence[Entry]) -> Sequence[str]:
        return [self._journal.put(entry) for entry in entries]


class Racing(MemoryParking):
    """Looks first, and parks in another transaction."""

    async def park(self, entries: Sequence[Entry]) -> Sequence[str]:
        behind = [self._journal.behind(entry) for entry in entries]
        await asyncio.sleep(0)
        ids = [self._journal.put(entry) if there else "" for entry, there in zip(entries, behind, strict=True)]
        for kept in [self._journal._rows[row] for row in ids if row]:
            kept.row = replace(kept.row, state="parked")
        return ids


def store_of(broken: type[MemoryJournal | MemoryParking]) -> MemoryStore:
    store = MemoryStore()
    if issubclass(broken, MemoryJournal):
        store.journal = journal = broken(store.outbox)
        store.parking, store.runs, store.upkeep = MemoryParking(journal), MemoryRuns(journal), MemoryUpkeep(journal)
    else:
        store.parking = broken(store.journal)
    return store


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Stuck, "test_rows_are_released_one_at_a_time_in_order"),
        (Stuck, "test_what_upkeep_removes_releases_too"),
        (Eager, "test_rows_are_released_one_at_a_time_in_order"),
        (Careless, "test_nothing_of_reason_parked_is_lost"),
        (Unplaced, "test_what_failed_of_a_row_stays_before_what_is_behind_it"),
        (Losing, "test_keys_are_held_while_a_row_that_holds_them_is_open"),
        (Trusting, "test_what_comes_behind_is_parked_and_the_rest_refused"),
        (Racing, "test_parking_and_releasing_come_one_after_the_other"),
        *((broken, "test_a_plain_model_says_the_same") for broken in (Stuck, Eager, Careless, Unplaced, Losing, Trusting)),
    ],
)
async def test_a_broken_store_is_rejected(broken: type[MemoryJournal | MemoryParking], law: str) -> None:
    with pytest.raises(AssertionError):
        await getattr(ParkingContract(), law)(store_of(broken))
