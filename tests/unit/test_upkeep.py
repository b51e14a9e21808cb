"""Upkeep of the journal: what is over goes, what is to be replayed only by its age and loudly; one worker at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from poller.cli.template import write
from poller.config import Config, load
from poller.errors import StoreUnavailable
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import KeptRecord, RowState, Selection
from poller.failures.upkeep import LOOK_SECONDS, ROWS, Upkeep
from poller.metrics import MappingCounters
from poller.registry import Registry
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


async def test_one_worker_at_a_time(world: World) -> None:
    await world.upkeep("a").look()
    await world.fill(ROWS_OF_AGES)
    await world.upkeep("b", journal_retention=30 * DAY).look()
    assert len(await held(world.store.journal)) == len(ROWS_OF_AGES)
    world.now += LOOK_SECONDS
    await world.upkeep("b").look()
    assert len(await held(world.store.journal)) == 3


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
