"""Circuit breakers in the simulator: every law holds over outages of the function, whatever crashes; and every broken part is found out."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import pytest

from poller.breaker import Open
from poller.stores.memory import MemoryStore
from poller.testing.clock import run_virtually
from poller.testing.lives import WatchedCircuit
from poller.testing.oracle import Broken
from poller.testing.report import Report
from poller.testing.scenario import Scenario
from poller.testing.simulator import STORM_SECONDS, World
from tests.engine.seeds import replayable

SEEDS = max(8, int(os.environ.get("POLLER_SEEDS", "30")) // 3)

PLAYS = 40
"""In so many runs a broken part must be found out; most are in the first few."""

EVENTS = ("outage", "breaker opened", "breaker closed", "attempt spared", "probe", "batch split", "fault: crash", "fault: stop", "release")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def play(world: type[World], seed: int) -> Report:
    """A run with a circuit breaker and outages, and every second one with every fault that there is."""
    random = Random(seed)
    scenario = Scenario.draw(random).tumbling(Random(f"windows of {seed}"), chance=0.2)
    scenario = scenario.breaking(Random(f"breaker of {seed}"), STORM_SECONDS, chance=1.0)
    if seed % 2:
        scenario = replace(scenario, poison=0.05, transient=0.05, throttled=0.2, faults=0.15, late=0.15, stumbles=0.05)
    return run_virtually(world(seed, random, replace(scenario, keys=20), MemoryStore()).run())


@cache
def reports() -> tuple[Report, ...]:
    return tuple(_played(seed) for seed in range(SEEDS))


def _played(seed: int) -> Report:
    with replayable(seed, f"tests.engine.test_circuit_simulation.play(World, {seed})"):
        return play(World, seed)


def test_the_laws_hold_over_outages() -> None:
    assert len(reports()) == SEEDS


def test_every_kind_of_event_is_reached() -> None:
    total: Counter[str] = sum((run.counts for run in reports()), Counter())
    assert [event for event in EVENTS if not total[event]] == []


# --- broken parts -----------------------------------------------------------------------------------------------------------------------


class Impatient(WatchedCircuit):
    """Lets everybody probe."""

    async def admitted(self) -> int:
        await asyncio.sleep(1.0)
        if not isinstance(self._state, Open):
            return 0
        self._probes += 1
        self._probe = self._probes
        return self._probe


class Sleepy(WatchedCircuit):
    """Once a probe has failed, no other is due."""

    def _due(self) -> None:
        pass


def world(kind: type[WatchedCircuit]) -> type[World]:
    return type(kind.__name__, (World,), {"circuit": kind})


@pytest.mark.parametrize(
    ("kind", "law"),
    [(Impatient, "law 19"), (Sleepy, "not done")],
)
@pytest.mark.counterpart
def test_a_broken_part_is_found_out(kind: type[WatchedCircuit], law: str, tell: Callable[[str], None]) -> None:
    for seed in range(PLAYS):
        try:
            play(world(kind), seed)
        except Broken as broken:
            if re.search(law, str(broken)):
                tell(f"{kind.__name__}: seed {seed}")
                return
    pytest.fail(f"{kind.__name__} broke no law ({law}) in {PLAYS} runs")
