"""One simulated worker: its function, its lanes and its source, all watched by the oracle, and its end by crash or stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from poller.breaker import Open
from poller.circuit import Actions, Circuit
from poller.mapping import MappingRunner
from poller.model import Ack, Action, Batch, Busy, Call, Discard, Fault, Fetched, Outcome, Response, Retry
from poller.protocols import Event, Following, Format, Lane, Prompt, Saving, Source
from poller.strands import Strands
from poller.testing.fakes import Gate
from poller.testing.faults import Line
from poller.turn import Turn

if TYPE_CHECKING:
    from poller.testing.simulator import World


class WatchedHandler:
    """The function, in one life: it knows the poison records, and tells the oracle."""

    def __init__(self, world: World, life: Life) -> None:
        self._world, self._life = world, life

    async def invoke(self, event: Event, call: Call) -> Response:
        world, life = self._world, self._life
        life.gate.check()
        names = [str(identifier) for identifier in event.identifiers()]
        invocation = world.oracle.begin(life.name, call.lane, names)
        if world.remembering:
            world.remembering.begin(life.name, names)
        probe = life.circuit.begun()
        windows, given = world.windows, event.mapping() if world.windows else {}
        if windows:
            windows.begin(given, names)
        try:
            await asyncio.sleep(world.random.expovariate(4.0))
        except asyncio.CancelledError:
            if life.gate.shut or life.losing(call.lane):
                world.oracle.died(invocation)
            else:
                world.count("handed back")
                world.oracle.free(invocation)
                if windows:
                    windows.free(given)
            raise
        finally:
            life.circuit.over(probe)
        if life.gate.shut:
            world.oracle.died(invocation)
            life.gate.check()
        response, handled = world.behave(names)
        if windows:
            forgetful = not world.calm and world.happens(world.scenario.transient)
            response, handled = windows.answer(given, response, handled, forgetful)
        if isinstance(response, Busy):
            world.oracle.free(invocation)
            if windows:
                windows.free(given)
        else:
            world.oracle.end(invocation, handled)
        return response

    @property
    def suspends(self) -> bool:
        return True

    async def run(self, event: Event, call: Call, following: Following) -> Response:
        """One after the other, mostly: a handler may come back whenever it likes."""
        while True:
            response = await self.invoke(event, call)
            after = following(response) if self._world.happens(0.85) else None
            if after is None:
                return response
            self._world.count("in a row")
            event, call, pause = after
            if pause:
                await asyncio.sleep(0)

    async def aclose(self) -> None:
        return None


class ChanceTurn(Turn):
    """Its slice is over by chance: by the clock of a simulation it always is."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def over(self) -> bool:
        return self._world.happens(0.25)


class WatchedCircuit(Circuit):
    """A circuit breaker whose laws are checked: while it is open one batch begins at a time (19); what it spares is no attempt (4, 11)."""

    _running = False

    def watch(self, world: World) -> None:
        self._world = world

    def begun(self) -> bool:
        """The function is called. Returns whether that is a probe; `over` must hear of its end then."""
        state = self._state
        if not isinstance(state, Open):
            return False
        self._world.count("probe")
        if self._running or asyncio.get_running_loop().time() < state.due:
            self._world.oracle.violated("law 19: a batch begins while the circuit breaker is open, and another runs, or none is due")
        self._running = True
        return True

    def over(self, probe: bool) -> None:
        self._running = self._running and not probe

    def decided(
        self, batch: Batch, outcome: Outcome, probe: int, decide: Callable[[Batch, Outcome], Actions], answered: bool = False
    ) -> Actions:
        was = self.open
        actions = super().decided(batch, outcome, probe, decide, answered)
        if was != self.open:
            self._world.count(f"breaker {'opened' if self.open else 'closed'}")
        match outcome, actions:
            case Fault(), (Retry(again),) if again.attempt == batch.attempt and len(again) == len(batch):
                self._world.count("attempt spared")
                event = batch.format.event(batch.records)
                self._world.oracle.spare([str(name) for name in event.identifiers()])
                if self._world.windows:
                    self._world.windows.free(event.mapping())
            case _:
                pass
        return actions


class WatchedLane:
    """A lane whose settling the oracle hears of."""

    def __init__(self, lane: Lane, world: World, life: Life) -> None:
        self._lane, self._world, self._life = lane, world, life

    @property
    def name(self) -> str:
        return self._lane.name

    @property
    def format(self) -> Format:
        return self._lane.format

    @property
    def strands(self) -> Strands:
        return self._lane.strands

    @property
    def leaving(self) -> asyncio.Future[float]:
        return self._lane.leaving

    async def fetch(self, limit: int) -> Fetched:
        self._life.gate.check()
        fetched = await self._lane.fetch(limit)
        world = self._world
        world.counts["span resumed"] += len(fetched.resumed)
        if (fetched.records or fetched.resumed) and not world.calm and world.happens(world.scenario.stumbles):
            world.count("lane stumbled")
            raise RuntimeError("what no contract allows, between a fetch and its strands")
        return fetched

    async def begin(self, batch: Batch) -> None:
        self._life.gate.check()
        await self._lane.begin(batch)

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        self._life.gate.check()
        for action in actions:
            self._world.count(type(action).__name__.lower())
        await self._lane.settle(batch, actions)
        self._settled(actions)

    def _settled(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Ack(records):
                    if self._world.remembering:
                        self._world.remembering.settled([record.name for record in records])
                    self._world.oracle.settle(self.name, [record.name for record in records])
                case Discard(failure):
                    self._world.count(failure.reason)
                    self._world.oracle.settle(self.name, [record.name for record in failure.records])
                case _:
                    pass

    async def aclose(self, broken: bool = False) -> None:
        self._world.counts["lane lost"] += getattr(self._lane, "lost", False)
        await self._lane.aclose(broken)


class WatchedSavingLane(WatchedLane):
    """The same of a lane that saves."""

    async def save(self) -> None:
        self._life.gate.check()
        assert isinstance(self._lane, Saving)
        await self._lane.save()

    def begin_now(self, batch: Batch) -> bool:
        begun = isinstance(self._lane, Prompt) and not self._life.gate.shut and self._lane.begin_now(batch)
        self._world.counts["cut, not begun"] += not begun
        return begun

    def settle_now(self, batch: Batch, actions: Sequence[Action]) -> bool:
        if not isinstance(self._lane, Prompt) or self._life.gate.shut or not self._lane.settle_now(batch, actions):
            return False
        self._settled(actions)
        return True


class WatchedSource:
    """A source whose lanes are watched."""

    def __init__(self, source: Source, world: World, life: Life) -> None:
        self._source, self._world, self._life = source, world, life
        self.policy, self.identity = source.policy, source.identity

    async def lanes(self) -> AsyncIterator[Lane]:
        async for lane in self._source.lanes():
            self._world.count("lane opened")
            watched = WatchedSavingLane if isinstance(lane, Saving) else WatchedLane
            yield watched(lane, self._world, self._life)

    async def aclose(self) -> None:
        await self._source.aclose()


@dataclass(slots=True)
class Life:
    """One worker from start to crash or stop."""

    name: str
    gate: Gate
    line: Line
    runner: MappingRunner
    task: asyncio.Task[None]
    circuit: WatchedCircuit

    def losing(self, lane: str) -> bool:
        """Whether the lane was lost, rather than left on our own will."""
        runner = self.runner.runners.get(lane)
        return runner is not None and runner.lane.leaving.done() and runner.lane.leaving.result() == 0.0

    async def crash(self) -> None:
        self.gate.shut = True
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def stop(self, grace: float) -> None:
        self.runner.stop(asyncio.get_running_loop().time() + grace)
        await self.task
