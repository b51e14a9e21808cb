"""Idempotency windows in the simulator: law 27 and all others hold, whatever crashes; and every broken guard is found out."""

from __future__ import annotations

import asyncio
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import ClassVar

import pytest

from poller.idempotency import IdempotencyGuard
from poller.model import Ack, Action, Batch
from poller.protocols import Guard, Lane, Store
from poller.settings import IdempotencySettings
from poller.stores.memory import MemoryStore
from poller.testing.clock import run_virtually
from poller.testing.oracle import Broken
from poller.testing.report import Report
from poller.testing.scenario import Scenario
from poller.testing.simulator import World
from poller.work import Work
from tests.engine.seeds import replayable

SEEDS = max(8, int(os.environ.get("POLLER_SEEDS", "30")) // 3)

PLAYS = 30
"""In so many runs a broken guard must be found out; most are in the first few."""

EVENTS = (
    "record remembered",
    "record forgotten in time",
    "put names refused",
    "put names answer lost",
    "known names refused",
    "fault: crash",
)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def play(world: type[World], seed: int) -> Report:
    """A run with an idempotency window, partial answers in most, and every fault that there is."""
    random = Random(seed)
    scenario = Scenario.draw(random).remembering(Random(f"idempotency of {seed}"), chance=1.0)
    scenario = replace(scenario, poison=0.1, transient=0.05, faults=0.15, late=0.15, stumbles=0.05)
    return run_virtually(world(seed, random, scenario, MemoryStore()).run())


@cache
def reports() -> tuple[Report, ...]:
    return tuple(_played(seed) for seed in range(SEEDS))


def _played(seed: int) -> Report:
    with replayable(seed, f"tests.engine.test_idempotency_simulation.play(World, {seed})"):
        return play(World, seed)


def test_what_was_acknowledged_does_not_begin_again() -> None:
    total: Counter[str] = sum((run.counts for run in reports()), Counter())
    assert [event for event in EVENTS if not total[event]] == []


# --- broken guards ----------------------------------------------------------------------------------------------------------------------


class Deaf(IdempotencyGuard):
    """Never asks."""

    async def admit(self, batch: Batch) -> tuple[Batch | None, tuple[Action, ...]]:
        return batch, ()


class Stubborn(IdempotencyGuard):
    """Asks, and lets everything run."""

    async def admit(self, batch: Batch) -> tuple[Batch | None, tuple[Action, ...]]:
        await super().admit(batch)
        return batch, ()


class Late(IdempotencyGuard):
    """Puts while the lane settles."""

    async def settling(self, batch: Batch, actions: Sequence[Action]) -> None:
        putting = asyncio.ensure_future(super().settling(batch, actions))
        putting.add_done_callback(lambda done: done.cancelled() or done.exception())


class Generous(IdempotencyGuard):
    """Takes what was not named, and what failed too, for acknowledged."""

    async def settling(self, batch: Batch, actions: Sequence[Action]) -> None:
        await super().settling(batch, (Ack(batch.records),))


class Rigged(World):
    guard: ClassVar[type[IdempotencyGuard]]

    def guarding(self, work: Work, store: Store) -> Callable[[Lane], Sequence[Guard]]:
        return lambda _: (self.guard(work, work.settings.idempotency or IdempotencySettings(0.0), store.acknowledged),)


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Deaf, r"law 27: \w+ begins, and nobody has looked"),
        (Stubborn, r"law 27: \w+ was known to be acknowledged, and begins again"),
        (Late, r"law 27: .* are settled, and were not put before"),
        (Generous, r"law 7: |law 12: |lost: |law 14: "),
    ],
)
@pytest.mark.counterpart
def test_a_broken_guard_is_found_out(broken: type[IdempotencyGuard], law: str) -> None:
    world = type(broken.__name__, (Rigged,), {"guard": broken})
    for seed in range(PLAYS):
        try:
            play(world, seed)
        except Broken as found:
            if re.search(law, str(found)):
                return
    pytest.fail(f"{broken.__name__} broke no law ({law}) in {PLAYS} runs")
