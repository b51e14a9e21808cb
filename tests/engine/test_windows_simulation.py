"""Tumbling windows in the simulator: laws 15 and 16 hold whatever crashes, and every broken part is found out."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, ClassVar

import pytest

from poller import windows
from poller.model import Action, Batch, Fetched, Outcome, Partial
from poller.ordered_source import OrderedSource
from poller.policy import Block
from poller.progress import Progress
from poller.protocols import Source
from poller.settings import Context
from poller.stores.memory import MemoryStore
from poller.testing.clock import run_virtually
from poller.testing.fakes import FORMAT, FakeShards, Gate
from poller.testing.faults import Line
from poller.testing.oracle import Broken
from poller.testing.report import Report
from poller.testing.scenario import Scenario
from poller.testing.simulator import World
from poller.tumbling import TumblingLane, TumblingStrands

SEEDS = max(6, int(os.environ.get("POLLER_SEEDS", "30")) // 5)

PLAYS = 40
"""In so many runs a broken part must be found out; most are in the first few."""

EVENTS = (
    *("window ended", "window ended early", "window given up", "large state", "no state", "fault: crash"),
    *("put refused", "put answer lost", "put done twice", "get refused", "prune refused"),
)


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


class Windowed(World):
    """A world in which some part may be of another class."""

    lane: ClassVar[type[TumblingLane]] = TumblingLane
    policy: ClassVar[type[Block]] = Block

    def _source(self, context: Context, gate: Gate, line: Line) -> Source:
        drawn, shards = self.scenario.policy, FakeShards(self.stream, gate, line.fault)
        assert isinstance(drawn, Block)
        policy = self.policy(drawn.maximum_retry_attempts, drawn.maximum_record_age, drawn.bisect, drawn.backoff, drawn.partial)
        return OrderedSource(context, identity="fake", format=FORMAT, policy=policy, shards=shards, origin="TRIM_HORIZON", lane=self.lane)

    def _watch(self, what: str, about: Any) -> None:
        super()._watch(what, about)
        if what in {"saving", "saved"}:
            key = about[0].key
            progress, states = self._memory.checkpoints._saved.get(key), self._memory.states._values.get(key, {})
            if progress is not None and progress.window is not None and progress.window.state not in {0, *states}:
                self.oracle.violated(
                    f"law 16: a save of {key.lane} names state {progress.window.state}, of {sorted(states)} that there are"
                )

    @property
    def _memory(self) -> MemoryStore:
        assert isinstance(self.store, MemoryStore)
        return self.store


def windowed_seeds() -> Iterator[int]:
    return (seed for seed in range(10_000) if Scenario.draw(Random(seed)).kind == "stream")


def play(world: type[World], seed: int, faults: float = 0.15, lateness: float = 0.0) -> Report:
    """A run with windows and every fault that there is."""
    random = Random(seed)
    scenario = Scenario.draw(random).tumbling(Random(f"windows of {seed}"), chance=1.0)
    harsh = replace(scenario, poison=0.05, transient=0.05, faults=faults, late=0.15, stumbles=0.05, lateness=lateness)
    return run_virtually(world(seed, random, harsh, MemoryStore()).run())


@cache
def reports() -> tuple[Report, ...]:
    return tuple(play(World, seed, lateness=seed % 2 * 6.0) for seed, _ in zip(windowed_seeds(), range(SEEDS), strict=False))


def test_the_laws_of_windows_hold_whatever_happens() -> None:
    assert len(reports()) == SEEDS


def test_every_kind_of_event_is_reached() -> None:
    total: Counter[str] = sum((run.counts for run in reports()), Counter())
    assert [event for event in EVENTS if not total[event]] == []


# --- broken parts -----------------------------------------------------------------------------------------------------------------------


class OneNumber(TumblingLane):
    """Keeps each state under the number of the one before."""

    def _progress(self, closed: bool) -> Progress:
        progress = super()._progress(closed)
        if progress.window is None or not progress.window.state:
            return progress
        self._stored = 0
        return replace(progress, window=replace(progress.window, state=1))


class StateLast(TumblingLane):
    """Saves first, and then the state that the save names."""

    async def _write(self, progress: Progress) -> None:
        state, number = self.windows.state, 0 if progress.window is None else progress.window.state
        await self._context.store.checkpoints.save(self.lease, progress)
        if number:
            await self._context.store.states.put(self.lease, number, state)


class StateOfLater(TumblingLane):
    """Writes the state as it is when the store takes it, not as it was at the checkpoint."""

    async def _write(self, progress: Progress) -> None:
        number = 0 if progress.window is None else progress.window.state
        if number:
            await self._context.store.states.put(self.lease, number, b"{}")
            await self._context.store.states.put(self.lease, number, self.windows.state)
        await self._context.store.checkpoints.save(self.lease, progress)


class PrunesFirst(TumblingLane):
    """Removes the state of the last save before the next one is there."""

    async def _write(self, progress: Progress) -> None:
        number = 0 if progress.window is None else progress.window.state
        await self._context.store.states.prune(self.lease, (number,))
        await super()._write(progress)


class BeginsAnew(TumblingLane):
    """A save does not say which state its window has."""

    def _progress(self, closed: bool) -> Progress:
        progress = super()._progress(closed)
        return progress if progress.window is None else replace(progress, window=replace(progress.window, state=0))


class Impatient(TumblingLane):
    """Ends a window as soon as what was read of it is done."""

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        self._strands.hear(self._context.clock() + 20.0, 0)
        return fetched


class _Unaligned(TumblingStrands):
    def _can_cut(self, strand: Any, batching: Any, now: float) -> bool:
        self._mix()
        return super()._can_cut(strand, batching, now)

    def _mix(self) -> None:
        """All that waits is of one window."""
        if len(self._runs) > 1:
            first = self._runs[0].bounds
            size = sum(run.size for run in self._runs)
            self._runs.clear()
            self._runs.append(windows.Run(first, size))


class Mixing(TumblingLane):
    """Batches go over the edges of windows."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.strands = self._strands = _Unaligned(self.windows, self.format)


class ForgetsState(Block):
    """The state of the part before the cut is dropped."""

    __slots__ = ()

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        return super().decide(batch, replace(outcome, state=None) if isinstance(outcome, Partial) else outcome, now, dice)


@dataclass(frozen=True)
class Counterpart:
    part: type[TumblingLane] | type[Block]
    law: str = "law 1[56]|lost|not done"

    def __repr__(self) -> str:
        return self.part.__name__

    def world(self) -> type[Windowed]:
        field = "lane" if issubclass(self.part, TumblingLane) else "policy"
        return type(self.part.__name__, (Windowed,), {field: self.part})


COUNTERPARTS = (  # those that simulations find rarely are in test_windows.py
    Counterpart(OneNumber),
    Counterpart(StateLast),
    Counterpart(StateOfLater),
    Counterpart(PrunesFirst),
    Counterpart(BeginsAnew),
    Counterpart(Impatient),
    Counterpart(Mixing),
    Counterpart(ForgetsState),
)


@contextmanager
def _silent() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize("counterpart", COUNTERPARTS, ids=repr)
@pytest.mark.counterpart
def test_a_broken_part_is_found_out(counterpart: Counterpart) -> None:
    with _silent():
        for _, seed in zip(range(PLAYS), windowed_seeds(), strict=False):
            try:
                play(counterpart.world(), seed, faults=0.3)
            except Broken as broken:
                if re.search(counterpart.law, str(broken)):
                    return
    pytest.fail(f"{counterpart!r} broke no law in {PLAYS} runs")
