"""Replays by name in a world of bad lines, crashes, pauses, aborts and resumes: nothing is lost, and nothing is run twice in one run."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from connectors.local import StreamOptions
from poller.admin.replaying import Replaying
from poller.config import MappingConfig
from poller.errors import StoreError, StoreUnavailable
from poller.failures.delivery import Invoker, Opening
from poller.failures.journal import Entry, Selection
from poller.failures.runs import RUN_SECONDS, Plan, aborted, paused, planned
from poller.functions import Function
from poller.model import Call, Fault, Response, Returned
from poller.protocols import Event
from poller.registry import Registry
from poller.replay.claims import CLAIM_SECONDS
from poller.replay.format import ReplayEvent
from poller.replay.hold import change
from poller.settings import Backoff, Batching, FailureSettings, FunctionSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.testing.clock import VirtualLoop, run_virtually
from poller.testing.fakes import Dead, Gate
from poller.testing.faults import Line, LineStore
from poller.testing.journals import make_entry

FAILURE = FailureSettings(maximum_retry_attempts=1, bisect=True, backoff=Backoff(1.0, 1.0))
MAPPING = MappingConfig(MappingSettings("m", "m", "f", Batching(5), FAILURE, 1), "local-stream", StreamOptions(name="m"))


@dataclass
class World:
    """The store, the function, and the breaches that were seen. It outlives every life."""

    random: Random
    poison: set[str] = field(default_factory=set)
    seconds: float = 0.0
    store: MemoryStore = field(default_factory=MemoryStore)
    running: dict[str, Gate] = field(default_factory=dict)
    handled: set[str] = field(default_factory=set)
    breaches: list[str] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)

    def row(self, name: str, size: int, time: float) -> Entry:
        names = tuple(f"{name}-{n}" for n in range(size))
        self.poison.update(each for each in names if self.random.random() < 0.25)
        return make_entry(name, *names, mapping="m", time=time, identifiers=tuple(f'"{each}"' for each in names))

    async def live(self, run: str, gate: Gate, line: Line, again: bool = False) -> None:
        """One process that goes on with a run, until it is done or told to leave; or crashes."""
        loop = cast("VirtualLoop", asyncio.get_running_loop())
        function = Function(FunctionSettings("f", "f", Path(), concurrency=4), Worker(self, run, gate))
        opening = Opening(Registry(), Path(), Path(), loop.now, Invoker({}, loop.now, lambda: 1))
        store = cast("Any", LineStore(cast("Any", self.store), line))
        functions = {"f": function}
        random = Random(self.random.random())
        replaying = Replaying(store, [MAPPING], Registry(), functions.__getitem__, opening, loop.now, random, 5.0, gate.life)
        async with aclosing(replaying.run(run, again)) as tallies:
            async for _ in tallies:
                pass


@dataclass
class Worker:
    """The function in one life of one run."""

    world: World
    run: str
    gate: Gate

    async def invoke(self, event: Event, call: Call) -> Response:
        self.gate.check()
        entry, world = cast("ReplayEvent", event).entry(), self.world
        names = [record.id for record in entry.records]
        world.calls[self.run] += 1
        await self._judge(entry, names)
        world.running.update(dict.fromkeys(names, self.gate))
        try:
            await asyncio.sleep(world.seconds)
            self.gate.check()
        finally:
            for name in names:
                if world.running.get(name) is self.gate:
                    del world.running[name]
        if world.poison & {*names}:
            return Fault("error", "Poison", "again")
        world.handled.update(names)
        return Returned(b"null")

    async def _judge(self, entry: Entry, names: Sequence[str]) -> None:
        world = self.world
        (run,) = await world.store.runs.select((self.run,))
        done = {step.row for step in await world.store.runs.trail(self.run, after=run.since)}
        others = {world.running[name].life for name in names if name in world.running and not world.running[name].shut}
        if entry.id in done:
            world.breaches.append(f"{self.run} runs {entry.id}, which it has finished")
        if others:
            world.breaches.append(f"{self.gate.life} runs {entry.id}, and so does {others}")
        if not run.since and entry.time >= run.began:
            world.breaches.append(f"{self.run} runs {entry.id}, which failed after it had begun")

    async def aclose(self) -> None:
        return None


async def play(seed: int) -> World:
    random = Random(seed)
    world, loop = World(random, seconds=random.choice((0.0, 2.0, 40.0))), cast("VirtualLoop", asyncio.get_running_loop())
    await world.store.journal.append([world.row(f"r{n}", random.choice((1, 2, 5)), float(n)) for n in range(10)])
    for number in range(3):
        plan = Plan(only_failing=random.random() < 0.3, concurrency=random.choice((1, 3)), rate=random.choice((0.0, 0.0, 2.0)))
        await world.store.runs.put(planned(f"run-{number}", "ada", plan, loop.now()))
        await asyncio.sleep(1.0)
        await world.store.journal.append([world.row(f"late-{number}", 2, loop.now())])
    for life in range(8):
        await episode(world, random, life)
    await asyncio.sleep(RUN_SECONDS + CLAIM_SECONDS + 2)
    calm = Gate("last")
    await world.store.runs.put(planned("last", "ada", Plan(), loop.now()))
    await asyncio.wait_for(world.live("last", calm, Line(calm, random, Counter())), 10_000.0)
    return world


async def episode(world: World, random: Random, life: int) -> None:
    """One or two lives, over bad lines, for a while; what is left of them crashes, or is told to leave."""
    loop, lives = cast("VirtualLoop", asyncio.get_running_loop()), []
    for half in "ab"[: random.choice((1, 2))]:
        gate, run = Gate(f"life-{life}{half}"), f"run-{random.randrange(3)}"
        line = Line(gate, random, Counter(), random.choice((0.0, 0.1, 0.3)))
        lives.append((gate, run, asyncio.create_task(world.live(run, gate, line, random.random() < 0.2))))
    await asyncio.sleep(random.choice((1.0, 20.0, 150.0)))
    for gate, run, task in lives:
        if task.done():
            continue
        if random.random() < 0.5:
            gate.shut = True
            task.cancel()
        else:
            told = paused if random.random() < 0.8 else aborted
            try:
                await change(world.store.runs, run, lambda run, told=told: told(run, loop.now()))  # type: ignore[misc]
            except StoreError:
                gate.shut = True
                task.cancel()
    await asyncio.sleep(10.0)
    for gate, _, task in lives:
        gate.shut = True
        task.cancel()
    for result in await asyncio.gather(*(task for _, _, task in lives), return_exceptions=True):
        if isinstance(result, Exception) and not isinstance(result, Dead | StoreUnavailable | StoreError):
            raise result


@pytest.mark.parametrize("seed", range(25))
def test_whatever_happens_to_runs_nothing_is_lost_or_run_twice_in_one(seed: int) -> None:
    async def whole() -> None:
        world = await play(seed)
        assert world.breaches == []
        rows = await world.store.journal.select(Selection(states=()))
        kept = Counter(record.id for row in rows if row.state != "replayed" for record in row.entry.records)
        assert kept == dict.fromkeys(world.poison, 1)
        every = {f"r{n}" for n in range(10)} | {f"late-{n}" for n in range(3)}
        names = {record.id for row in rows if row.entry.id in every for record in row.entry.records}
        assert world.handled == names - world.poison
        assert {row.state for row in rows} <= {"kept", "replayed"}
        (last,) = await world.store.runs.select(("last",))
        assert (last.state, last.owner) == ("done", "")

    run_virtually(whole())
