"""Upkeep of the journal: what is over goes, what is to be replayed only by its age and loudly; one worker at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from poller.cli.template import write
from poller.config import Config, load
from poller.errors import StoreUnavailable
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import KeptRecord, RowState, Selection
from poller.failures.runs import Finished, Run
from poller.failures.upkeep import DOUBT_SECONDS, LEAP_SECONDS, LINES, LOOK_SECONDS, ROWS, Reckoning, Upkeep, reckoned
from poller.metrics import MappingCounters
from poller.registry import Registry
from poller.settings import IdempotencySettings
from poller.stores.kept import PORTION_BYTES, PORTION_RECORDS, portion
from poller.stores.memory import MemoryStore
from poller.testing.clock import run_virtually
from poller.testing.journals import ANY, held, make_entry

DAY = 86_400.0


@dataclass
class World:
    """A store with rows, and an upkeep of it with a clock of its own."""

    config: Config
    store: MemoryStore = field(default_factory=MemoryStore)
    now: float = 100 * DAY
    counters: MappingCounters = field(default_factory=MappingCounters)

    def upkeep(self, owner: str = "a", **limits: float | int | None) -> Upkeep:
        self.config = replace(self.config, **limits)  # type: ignore[arg-type]
        return Upkeep(self.store, owner, lambda: self.now, lambda: self.config, self._counters)

    def _counters(self, name: str) -> MappingCounters:
        return self.counters if name == "first" else MappingCounters()

    async def fill(self, rows: dict[str, tuple[RowState, float]], size: int = 1) -> None:
        """Row -> its state, and how many days ago it failed and was changed last."""
        for name, (state, days) in rows.items():
            time = self.now - days * DAY
            records = tuple(KeptRecord(f"{name}-{n}", None, time, b"x" * size) for n in range(2))
            await self.store.journal.append([make_entry(name, records=records, identifiers=(), time=time, mapping="first")])
            if state in ("claimed", "replayed"):
                await self.store.journal.mark([name], "claimed", time, "r", time + 1)
            if state in ("replayed", "dropped"):
                await self.store.journal.mark([name], state, time, "r")


@pytest.fixture
def world(tmp_path: Path) -> World:
    write(tmp_path)
    return World(load(tmp_path / "poller.toml", Registry(), {}))


ROWS_OF_AGES: dict[str, tuple[RowState, float]] = {
    "old kept": ("kept", 31.0),
    "old dropped": ("dropped", 40.0),
    "old replayed": ("replayed", 35.0),
    "old claimed": ("claimed", 50.0),
    "new kept": ("kept", 29.0),
    "new replayed": ("replayed", 1.0),
}


async def test_without_limits_everything_stays(world: World) -> None:
    await world.fill(ROWS_OF_AGES)
    await world.upkeep().look()
    assert {*await held(world.store.journal)} == {*ROWS_OF_AGES}


async def test_what_is_over_age_goes_and_what_nobody_handled_loudly(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.fill(ROWS_OF_AGES)
    await world.upkeep(journal_retention=30 * DAY).look()
    assert {*await held(world.store.journal)} == {"old claimed", "new kept", "new replayed"}
    assert world.counters.given_up == 2
    (line,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.getMessage().startswith("journal_retention: 1 failures with 2 records are given up and removed")
    caplog.clear()
    world.now += LOOK_SECONDS
    await world.upkeep().look()
    assert caplog.records == []  # once


async def test_what_was_replayed_or_dropped_goes_in_silence(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.fill({name: row for name, row in ROWS_OF_AGES.items() if row[0] != "kept"})
    await world.upkeep(journal_retention=30 * DAY).look()
    assert (await held(world.store.journal)).keys() == {"old claimed", "new replayed"}
    assert (caplog.records, world.counters.given_up) == ([], 0)


async def test_a_journal_that_is_too_large_loses_what_is_done_the_oldest_first(world: World, caplog: pytest.LogCaptureFixture) -> None:
    days = {f"r{n}": ("replayed", 10.0 - n / 100) for n in range(2 * ROWS + 50)}
    await world.fill({"kept": ("kept", 90.0), **days}, size=1000)  # type: ignore[dict-item]
    size = await world.store.upkeep.size()
    await world.upkeep(journal_maximum_size=size - 1).look()
    left = await held(world.store.journal)
    assert len(left) == ROWS + 51 and "kept" in left and "r0" not in left and f"r{2 * ROWS + 49}" in left
    assert caplog.records == []


async def test_what_is_still_to_be_replayed_is_never_removed_for_its_size(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.fill({"kept": ("kept", 90.0), "claimed": ("claimed", 90.0), "done": ("dropped", 1.0)}, size=1000)
    upkeep = world.upkeep(journal_maximum_size=10)
    for _ in range(3):
        await upkeep.look()
    assert (await held(world.store.journal)).keys() == {"kept", "claimed"}
    assert [record.getMessage()[:20] for record in caplog.records] == ["journal_maximum_size"]  # told once


async def test_what_went_for_its_age_counts_for_the_size(world: World) -> None:
    await world.fill({"done": ("dropped", 1.0)}, size=1000)
    enough = await world.store.upkeep.size()
    await world.fill({"over": ("kept", 31.0), "over too": ("dropped", 31.0)}, size=1000)
    await world.upkeep(journal_retention=30 * DAY, journal_maximum_size=enough).look()
    assert (await held(world.store.journal)).keys() == {"done"}


async def test_what_is_removed_is_given_back_and_no_more_is_asked_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [700, 300]

    async def compact(limit: int) -> int:
        return left.pop() if left else 0

    monkeypatch.setattr(world.store.upkeep, "compact", compact)
    await world.fill({"young": ("kept", 1.0)})
    upkeep = world.upkeep(journal_retention=30 * DAY)
    await upkeep.look()
    assert len(left) == 2
    await world.fill({"over": ("dropped", 31.0)})
    await upkeep.look()
    assert not left


async def test_what_windows_remember_is_trimmed(world: World) -> None:
    mapping = world.config.mappings["first"]
    window = replace(mapping, settings=replace(mapping.settings, idempotency=IdempotencySettings(DAY, 1)))
    await world.store.acknowledged.put("first", [b"a"], world.now, world.now + 1)
    await world.store.acknowledged.put("first", [b"b"], world.now, world.now + 2)
    world.config = replace(world.config, mappings={**world.config.mappings, "first": window})
    await world.upkeep().look()
    assert {*await world.store.acknowledged.known("first", [b"a", b"b"], world.now)} == {b"b"}


async def test_one_worker_at_a_time(world: World) -> None:
    await world.upkeep("a").look()
    await world.fill(ROWS_OF_AGES)
    await world.upkeep("b", journal_retention=30 * DAY).look()
    assert len(await held(world.store.journal)) == len(ROWS_OF_AGES)
    world.now += LOOK_SECONDS
    await world.upkeep("b").look()
    assert len(await held(world.store.journal)) == 3


def test_a_clock_that_leaps_ahead_removes_nothing_before_it_has_stayed_so(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        await world.fill({"young": ("kept", 1.0), "done": ("dropped", 29.5), "over": ("dropped", 31.0)})
        upkeep = world.upkeep(journal_retention=30 * DAY)
        began, leap = world.now - asyncio.get_running_loop().time(), 0.0

        async def looks(seconds: float) -> set[str]:
            for _ in range(round(seconds / LOOK_SECONDS)):
                world.now = began + asyncio.get_running_loop().time() + leap
                await upkeep.look()
                await asyncio.sleep(LOOK_SECONDS)
            return {*await held(world.store.journal)}

        assert await looks(LOOK_SECONDS) == {"young", "done"}
        leap = 365 * DAY  # and it is set right
        assert await looks(DOUBT_SECONDS / 2) == {"young", "done"}
        leap = 0.0
        assert await looks(2 * DOUBT_SECONDS) == {"young", "done"}
        leap = 7 * DAY
        assert await looks(DOUBT_SECONDS - LOOK_SECONDS) == {"young", "done"}
        assert await looks(2 * LOOK_SECONDS) == {"young"}  # it was meant so
        assert world.counters.given_up == 0

    run_virtually(main())
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2 and texts[0].startswith("the clock has leapt 365d ahead"), texts


STEPS = st.lists(st.tuples(st.floats(0.0, 600.0), st.one_of(st.just(0.0), st.floats(-1e6, 1e9))), max_size=60)


def laws_of_reckoning(steps: Sequence[tuple[float, float]], reckon: Callable[[Reckoning | None, float, float], Reckoning]) -> None:
    """Each step: so much time passes, then the wall clock is set by so much. By how much a clock is ahead of the steady one:"""
    wall = steady = 1e9
    last, shown = reckon(None, wall, steady), [(steady, 0.0)]
    for passed, leap in steps:
        wall, steady = wall + passed + leap, steady + passed
        shown.append((steady, wall - steady))
        last = reckon(last, wall, steady)
        assert (last.time == wall) == (last.since is None)
        # Believed is what the wall clock has been ahead by for the whole of the last hour, no more; small leaps are, each time.
        lately = [ahead for at, ahead in shown if at > steady - DOUBT_SECONDS]
        assert last.time - steady <= min(lately) + LEAP_SECONDS * len(lately) + 1e-3
        # And no less than for two hours, whatever has leapt since.
        long = [ahead for at, ahead in shown if at >= steady - 2 * (DOUBT_SECONDS + 600.0)]
        if len(long) < len(shown):
            assert last.time - steady >= min(long) - LEAP_SECONDS - 1e-3


@given(STEPS)
@example([(600.0, 600.0)] * 60)
def test_a_leap_is_believed_when_it_is_an_hour_old_whatever_comes_then(steps: list[tuple[float, float]]) -> None:
    laws_of_reckoning(steps, reckoned)


def impatient(last: Reckoning | None, wall: float, steady: float) -> Reckoning:
    return Reckoning(wall, steady)


def wary(last: Reckoning | None, wall: float, steady: float) -> Reckoning:
    """Doubts anew at every leap."""
    now = reckoned(last, wall, steady)
    leapt = last is not None and last.since is not None and wall - last.time - (steady - last.steady) > last.ahead + LEAP_SECONDS
    return now if not leapt or last is None else Reckoning(last.time + steady - last.steady, steady, steady, wall - last.time)


@pytest.mark.parametrize("broken", [impatient, wary])
@pytest.mark.counterpart
def test_a_broken_reckoning_is_rejected(broken: Callable[[Reckoning | None, float, float], Reckoning]) -> None:
    with pytest.raises(AssertionError):
        laws_of_reckoning([(600.0, 600.0)] * 60, broken)


async def test_replays_that_ended_go_with_their_trails(world: World) -> None:
    old, young = world.now - 31 * DAY, world.now - 29 * DAY
    runs = {"done": ("done", old), "aborted": ("aborted", old), "paused": ("paused", old), "late": ("done", young)}
    for name, (state, time) in runs.items():
        await world.store.runs.put(Run(name, "ada", old, state="running", changed=old))
        rows = [f"{name}-{n}" for n in range(LINES + 1 if name == "done" else 2)]
        await world.fill(dict.fromkeys(rows, ("claimed", 31.0)))
        await world.store.runs.finish(name, [Finished(row, "replayed") for row in rows], young, "r", "ada")
        (run,) = await world.store.runs.select([name])
        await world.store.runs.put(replace(run, state=state, changed=time))  # type: ignore[arg-type]
    await world.upkeep().look()
    assert len(await world.store.runs.select()) == 4  # without a retention
    world.now += LOOK_SECONDS
    await world.upkeep(journal_retention=30 * DAY).look()
    assert {run.name: dict(run.counts) for run in await world.store.runs.select()} == {"paused": {"replayed": 2}, "late": {"replayed": 2}}


async def test_rows_of_an_older_version_get_their_fingerprints(world: World) -> None:
    await world.fill({"old": ("kept", 1.0)})
    await world.upkeep().look()
    (row,) = await world.store.journal.select(ANY)
    assert row.entry.group == fingerprint(row.entry.fault)


def test_a_store_that_is_away_is_asked_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    class Away(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.size = self.upkeep.size
            self.upkeep.size = self._size  # type: ignore[method-assign]

        async def _size(self) -> int:
            self.calls += 1
            if self.calls < 3:
                raise StoreUnavailable("away")
            return await self.size()

    async def main() -> None:
        world.store = store = Away()
        await world.fill(ROWS_OF_AGES)
        task = world.upkeep(journal_retention=30 * DAY).start()
        for _ in range(3):
            world.now += LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
        assert store.calls == 3
        assert await store.journal.count(Selection(states=())) == 3
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtually(main())
    assert [record.getMessage() for record in caplog.records][:2] == ["the journal's upkeep has to wait: away"] * 2


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], 0),
        ([(PORTION_RECORDS + 1, 1)], 1),
        ([(1, PORTION_BYTES * 9), (1, 1)], 1),
        ([(PORTION_RECORDS - 1, 1), (1, 1), (1, 1)], 2),
        ([(1, 1)] * 50, 50),
    ],
)
def test_a_transaction_removes_little(sizes: Sequence[tuple[int, int]], expected: int) -> None:
    assert len(portion([("row", *size) for size in sizes])) == expected
