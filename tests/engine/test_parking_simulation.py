"""Parking in the simulator: every law holds while a person replays and drops what failed, whatever crashes; broken parts are found out."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import pytest

from poller.failures.journal import Entry
from poller.failures.protocols import Parking
from poller.model import Action, Batch
from poller.parking import ParkingGuard
from poller.protocols import Guard, Lane, Store
from poller.stores.memory import MemoryStore
from poller.stores.memory_parking import MemoryParking
from poller.testing.clock import run_virtually
from poller.testing.oracle import Broken
from poller.testing.report import Report
from poller.testing.scenario import Scenario
from poller.testing.simulator import World
from poller.work import Work
from tests.engine.seeds import replayable

pytestmark = pytest.mark.longest

SEEDS = max(10, int(os.environ.get("POLLER_SEEDS", "30")) // 3)

PLAYS = 100
"""In so many runs a broken part must be found out; most are in the first few."""

EVENTS = (
    *("record parked", "row replayed", "row dropped", "row failed again", "park refused", "park answer lost"),
    *("held keys refused", "held keys answered late", "ErrorParked", "fault: crash", "fault: stop", "lane lost", "batch split"),
)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scenario(seed: int, random: Random) -> Scenario | None:
    """One with parking, and every second one with every fault that there is. None: the source that was drawn keeps no order."""
    drawn = Scenario.draw(random).ruled(Random(f"rules of {seed}"), chance=0.8).parking(Random(f"parking of {seed}"), chance=1.0)
    if seed % 2:
        drawn = replace(drawn, poison=0.05, transient=0.05, faults=0.15, late=0.15, stumbles=0.05)
    return None if drawn.kind == "queue" else drawn


def play(world: type[World], seed: int, store: MemoryStore, kinds: Collection[str] = ("stream", "fifo")) -> Report | None:
    random = Random(seed)
    drawn = scenario(seed, random)
    return None if drawn is None or drawn.kind not in kinds else run_virtually(world(seed, random, drawn, store).run())


@cache
def reports() -> tuple[Report, ...]:
    runs = (_played(seed) for seed in range(SEEDS * 5 // 4))
    return tuple(run for run in runs if run is not None)


def _played(seed: int) -> Report | None:
    with replayable(seed, f"tests.engine.test_parking_simulation.play(World, {seed}, MemoryStore())"):
        return play(World, seed, MemoryStore())


def test_the_laws_hold() -> None:
    assert {run.scenario.kind for run in reports()} == {"stream", "fifo"}


def test_every_kind_of_event_is_reached() -> None:
    total: Counter[str] = sum((run.counts for run in reports()), Counter())
    assert [event for event in EVENTS if not total[event]] == []


# --- broken parts -----------------------------------------------------------------------------------------------------------------------


class Deaf(ParkingGuard):
    """Does not remember what it gives up itself."""

    async def settling(self, batch: Batch, actions: Sequence[Action]) -> None:
        pass


class Amnesiac(ParkingGuard):
    """Knows of no earlier life."""

    async def _loaded(self) -> set[str] | None:
        if self._held is None and self._lane.strands.assign == "hash":
            self._held = set()
        return self._held


class Trusting(ParkingGuard):
    """Asks once, where another worker may have the group next."""

    async def _held_of(self, batch: Batch) -> Collection[str]:
        self._held = self._held or await self._parking.held(self._work.settings.id, self._work.source)
        return self._held


class Blind(MemoryParking):
    """Parks whatever it is given."""

    async def park(self, entries: Sequence[Entry]) -> Sequence[str]:
        return [self._journal.put(entry) for entry in entries]


class Refusing(MemoryParking):
    """Says of everything that it is held no more."""

    async def park(self, entries: Sequence[Entry]) -> Sequence[str]:
        return ["" for _ in entries]


def guarded(kind: Callable[[Lane, Work, Parking], Guard]) -> type[World]:
    def guarding(_world: World, work: Work, store: Store) -> Callable[[Lane], Sequence[Guard]]:
        return lambda lane: [kind(lane, work, store.parking)]

    return type("Broken", (World,), {"guarding": guarding})


@pytest.mark.parametrize(
    ("part", "law"),
    [
        (Deaf, "law 24"),
        (Amnesiac, "law 24"),
        (Trusting, "law 24"),
        (Blind, "law 26"),
        (Refusing, "law 24|law 25"),
    ],
)
@pytest.mark.counterpart
def test_a_broken_part_is_found_out(part: type[ParkingGuard] | type[MemoryParking], law: str, tell: Callable[[str], None]) -> None:
    for seed in range(PLAYS):
        store, world = MemoryStore(), guarded(part if issubclass(part, ParkingGuard) else ParkingGuard)
        if issubclass(part, MemoryParking):
            store.parking = part(store.journal)
        try:
            play(world, seed, store, ("fifo",) if part is Trusting else ("stream", "fifo"))
        except Broken as broken:
            if re.search(law, str(broken)):
                tell(f"{part.__name__}: seed {seed}")
                return
    pytest.fail(f"{part.__name__} broke no law ({law}) in {PLAYS} runs")
