"""Every store keeps the contracts of its four parts; broken ones are found out; memory and SQLite cannot be told apart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poller.failures.journal import Entry, RowState, Selection
from poller.model import Fault, LaneKey, Lease
from poller.protocols import Store
from poller.stores.memory import MemoryCheckpoints, MemoryLeases, MemoryStates, MemoryStore
from poller.stores.memory_journal import MemoryJournal
from poller.stores.sqlite import SqliteStore, open_store
from poller.testing.journals import JournalContract, make_entry
from poller.testing.states import StatesContract
from poller.testing.stores import KEY, OTHERS, CheckpointsContract, LeasesContract, at, claimed, holdings


@pytest.fixture(params=["memory", "sqlite"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    opened: Store = MemoryStore() if request.param == "memory" else await open_store(tmp_path / "poller.db")
    yield opened
    await opened.aclose()


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


async def test_it_names_the_sources_that_a_mapping_has_progress_for(store: MemoryStore | SqliteStore) -> None:
    for key in (KEY, *OTHERS):
        await store.checkpoints.save(await claimed(store, key, "a"), at(1))
    assert list(await store.checkpoints.sources("orders")) == [KEY.source, OTHERS[1].source]
    assert list(await store.checkpoints.sources("nobody")) == []


async def test_it_counts_what_is_selected(store: MemoryStore | SqliteStore) -> None:
    await store.journal.append([make_entry(f"f{n}", f"m{n}", mapping="orders" if n % 2 else "returns") for n in range(5)])
    assert await store.journal.count(Selection()) == 5
    assert await store.journal.count(Selection(mapping="orders")) == 2
    assert await store.journal.count(Selection(mapping="orders", limit=1)) == 1
    assert await store.journal.count(Selection(ids=("f3", "f4"))) == 2


# --- counter-tests: each broken store is rejected by the property it breaks -------------------------------------------------------------


class Unfenced(MemoryCheckpoints):
    """Saves without looking at the lease."""

    async def save(self, lease: Lease, progress: Any) -> None:
        self._saved[lease.key] = progress


class Greedy(MemoryLeases):
    """Gives a lane to whoever asks."""

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        if key in self._held:
            self._held[key].until = now
        return await super().claim(key, owner, now, duration, ask)


class Forgetful(MemoryLeases):
    """Starts the counter anew with each drop."""

    async def drop(self, lease: Lease) -> None:
        if self.holds(lease):
            del self._held[lease.key]


class Impolite(MemoryLeases):
    """Gives what was dropped to whoever comes first."""

    async def drop(self, lease: Lease) -> None:
        await super().drop(lease)
        self._held[lease.key].wanted = ""


class Insistent(MemoryLeases):
    """Keeps the word of who has the lane by now."""

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        before = replace(self._held[key]) if key in self._held else None
        lease = await super().claim(key, owner, now, duration, ask)
        if before is not None and lease is not None:
            self._held[key].wanted = before.wanted
        return lease


class Believing(MemoryLeases):
    """Shows owners whose time is over."""

    async def held(self, mapping: str, source: str, now: float) -> Sequence[Any]:
        return await super().held(mapping, source, 0.0)


class Careless(MemoryCheckpoints):
    """Forgets for anyone."""

    async def forget(self, lease: Lease) -> None:
        self._saved.pop(lease.key, None)


class OpenStates(MemoryStates):
    """Lets anyone put."""

    async def put(self, lease: Lease, number: int, value: bytes) -> None:
        self._values[lease.key][number] = value


class Cutting(MemoryStates):
    """Keeps what a row of its own can hold."""

    async def put(self, lease: Lease, number: int, value: bytes) -> None:
        await super().put(lease, number, value[:350_000])


class Hoarding(MemoryStates):
    """Keeps everything."""

    async def prune(self, lease: Lease, keep: Collection[int]) -> None:
        pass


class Doubling(MemoryJournal):
    """Adds records that are there."""

    def _holder(self, *_: Any) -> None:
        return None


class Overwriting(MemoryJournal):
    """The last append of an id wins."""

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        for entry in entries:
            if self._rows.pop(entry.id, None) is not None:
                self._holders.clear()
        return await super().append(entries)


class Lenient(MemoryJournal):
    """Lets anyone answer for a claimed row."""

    async def mark(
        self, ids: Sequence[str], state: RowState, now: float, owner: str = "", until: float = 0.0, fault: Fault | None = None
    ) -> Sequence[str]:
        for one in ids:
            self._rows[one].owner = owner
        return await super().mark(ids, state, now, owner, until, fault)


class Hasty(MemoryJournal):
    """Shows the newest first."""

    async def select(self, selection: Selection) -> Sequence[Any]:
        return list(await super().select(selection))[::-1]


BROKEN: list[tuple[str, Callable[[MemoryStore], Any], Callable[[Store], Awaitable[None]]]] = [
    ("checkpoints", lambda store: Unfenced(store.leases), TestCheckpoints().test_a_lane_that_another_has_claimed_is_not_saved),
    ("checkpoints", lambda store: Unfenced(store.leases), TestCheckpoints().test_a_dropped_lease_saves_nothing),
    ("leases", lambda _: Greedy(), TestLeases().test_a_held_lane_is_refused_until_its_time_is_over),
    ("leases", lambda _: Greedy(), TestLeases().test_of_many_who_claim_at_once_one_has_it),
    ("leases", lambda _: Forgetful(), TestLeases().test_a_dropped_lane_is_free_at_once_and_its_counter_goes_on),
    ("leases", lambda _: Impolite(), TestLeases().test_a_wanted_lane_is_kept_for_who_asked_once_it_is_dropped),
    ("leases", lambda _: Insistent(), TestLeases().test_the_claim_of_who_asked_takes_the_word_back),
    ("leases", lambda _: Believing(), TestLeases().test_leases_that_are_dropped_or_past_their_time_are_shown_without_owner),
    ("checkpoints", lambda store: Careless(store.leases), TestCheckpoints().test_a_stale_lease_forgets_nothing),
    ("states", lambda store: OpenStates(store.leases), TestStates().test_a_stale_lease_changes_nothing),
    ("states", lambda store: Cutting(store.leases), TestStates().test_large_values_come_back_whole),
    ("states", lambda store: Hoarding(store.leases), TestStates().test_only_what_is_to_be_kept_is_kept),
    ("journal", lambda _: Doubling(), TestJournal().test_records_in_a_kept_row_are_not_added_again),
    ("journal", lambda _: Doubling(), TestJournal().test_appends_that_come_together_share_no_record),
    ("journal", lambda _: Overwriting(), TestJournal().test_an_id_that_is_there_stays_as_it_is),
    ("journal", lambda _: Lenient(), TestJournal().test_of_two_claimers_one_has_the_row),
    ("journal", lambda _: Hasty(), TestJournal().test_the_oldest_comes_first_and_of_one_time_what_was_appended_first),
]


@pytest.mark.parametrize(("part", "broken", "prove"), BROKEN, ids=lambda value: getattr(value, "__name__", None))
async def test_a_broken_store_is_rejected(
    part: str, broken: Callable[[MemoryStore], Any], prove: Callable[[Store], Awaitable[None]]
) -> None:
    store = MemoryStore()
    setattr(store, part, broken(store))
    with pytest.raises((AssertionError, ValueError)):
        await prove(store)


# --- memory and SQLite answer alike -----------------------------------------------------------------------------------------------------

NAMES = st.sampled_from("abc")
TIMES = st.integers(0, 8).map(float)
STATES: st.SearchStrategy[RowState] = st.sampled_from(["kept", "claimed", "replayed", "dropped"])
ENTRIES = st.builds(
    lambda name, records, time, run: make_entry(f"f{name}", *(f"m{record}" for record in records), time=time, run=run),
    st.integers(0, 9),
    st.lists(st.integers(0, 5), max_size=4, unique=True),
    TIMES,
    st.sampled_from(["", "", "replay-1"]),
)
IDS = st.lists(st.integers(0, 9).map("f{}".format), max_size=4)
STEPS = st.one_of(
    st.tuples(st.just("append"), st.lists(ENTRIES, max_size=3)),
    st.tuples(st.just("mark"), IDS, STATES, TIMES, NAMES, TIMES, st.sampled_from([None, Fault("exit", "Runtime.ExitError", "1")])),
    st.tuples(st.just("claim"), st.sampled_from([KEY, OTHERS[0]]), NAMES, TIMES, st.integers(1, 4).map(float), st.booleans()),
    st.tuples(st.just("renew"), st.integers(0, 3), TIMES),
    st.tuples(st.just("drop"), st.integers(0, 3)),
    st.tuples(st.just("held"), TIMES),
    st.tuples(st.just("save"), st.integers(0, 3), st.integers(0, 99)),
    st.tuples(st.just("forget"), st.integers(0, 3)),
    st.tuples(st.just("put"), st.integers(0, 3), st.integers(0, 3), st.binary(max_size=3)),
    st.tuples(st.just("prune"), st.integers(0, 3), st.lists(st.integers(0, 3), max_size=3)),
)


async def change(store: Store, what: str, lease: Lease, values: Sequence[Any]) -> None:
    """One step that presents a lease."""
    match what, *values:
        case ("drop",):
            await store.leases.drop(lease)
        case ("save", frontier):
            await store.checkpoints.save(lease, at(frontier))
        case ("forget",):
            await store.checkpoints.forget(lease)
        case ("put", number, value):
            await store.states.put(lease, number, value)
        case ("prune", keep):
            await store.states.prune(lease, keep)


async def play(store: Store, steps: Sequence[tuple[Any, ...]]) -> list[Any]:
    """What a caller sees of a store that takes these steps: every answer, every refusal, and all that is there in the end."""
    seen: list[Any] = []
    leases: list[Lease] = []
    for step in steps:
        try:
            match step:
                case ("append", entries):
                    seen.append(list(await store.journal.append(entries)))
                case ("mark", ids, state, now, owner, until, fault):
                    seen.append(list(await store.journal.mark(ids, state, now, owner, until, fault)))
                case ("claim", key, owner, now, duration, ask):
                    lease = await store.leases.claim(key, owner, now, duration, ask)
                    leases += [] if lease is None else [lease]
                    seen.append(lease)
                case ("renew", which, now):
                    seen.append(list(await store.leases.renew(leases[which:], now, 3.0)))
                case ("held", now):
                    seen.append([await holdings(store, now, key) for key in (KEY, OTHERS[1])])
                case (what, which, *values) if which < len(leases):
                    await change(store, what, leases[which], values)
        except Exception as error:
            seen.append((type(error), str(error)))
    seen.append([await store.checkpoints.load(key) for key in (KEY, OTHERS[0])])
    seen.append([await store.states.get(key, number) for key in (KEY, OTHERS[0]) for number in range(4)])
    seen.append(list(await store.journal.select(Selection(states=()))))
    seen.append(list(await store.journal.select(Selection(after=3.0, before=7.0))))
    return seen


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, max_size=15))
def test_memory_and_sqlite_cannot_be_told_apart(steps: list[tuple[Any, ...]]) -> None:
    async def on_sqlite() -> list[Any]:
        with TemporaryDirectory() as folder:
            store = await open_store(Path(folder) / "poller.db")
            try:
                return await play(store, steps)
            finally:
                await store.aclose()

    assert asyncio.run(on_sqlite()) == asyncio.run(play(MemoryStore(), steps))
