"""What the tests of the engine play on: a mapping over a queue or a stream in memory, a function that follows a script, a virtual clock."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar, cast

import orjson

from poller.circuit import Circuit
from poller.errors import StoreUnavailable
from poller.failures.journal import Entry
from poller.functions import Function
from poller.guarding import guarding
from poller.lane_runner import LaneRunner
from poller.metrics import MappingCounters
from poller.model import Busy, Call, Fault, LaneKey, Lease, Response, Returned
from poller.ordered import OrderedLane
from poller.ordered_source import OrderedSource
from poller.policy import Block, Redeliver
from poller.progress import Progress
from poller.protocols import Event, Following, Lane, Policy
from poller.settings import (
    Backoff,
    Batching,
    Bisect,
    BreakerSettings,
    Context,
    ErrorRule,
    FailureSettings,
    FunctionSettings,
    IdempotencySettings,
    MappingSettings,
)
from poller.stores.memory import MemoryCheckpoints, MemoryStore
from poller.stores.memory_journal import MemoryJournal
from poller.stores.memory_parking import MemoryParking
from poller.stores.memory_runs import MemoryRuns
from poller.testing.clock import VirtualLoop, run_virtually
from poller.testing.fakes import FORMAT, FakeQueue, FakeQueueLane, FakeRecord, FakeShards, FakeStream, Gate
from poller.testing.rows import InARow
from poller.turn import Turn
from poller.work import Work

DONE = Returned(b"null")
FAULT = Fault("error", "ValueError", "a poison record")

T = TypeVar("T")


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on a virtual loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtually(test(*args, **kwargs))

    return run


def now() -> float:
    """Loop time; it starts at 0, and is a hair late after each wait."""
    return round(asyncio.get_running_loop().time(), 3)


def wall() -> float:
    """The same as epoch seconds."""
    return cast("VirtualLoop", asyncio.get_running_loop()).now()


async def at(moment: float) -> None:
    """Go on at this loop time."""
    await asyncio.sleep(max(0.0, moment - asyncio.get_running_loop().time()))


class Loaded(Random):
    """Dice that always fall the same way: a backoff of n seconds takes half of them."""

    def random(self) -> float:
        return 0.5


# --- the function -----------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Called:
    """An invocation: when it began, of what, and when it was over (None: it runs, or was ended)."""

    at: float
    names: tuple[str, ...]
    until: float | None = None
    ended: bool = False


class Unhurried(Turn):
    """Nobody waits for the loop: in a scene time goes from event to event, and its slice would always be over."""

    def over(self) -> bool:
        return False


class Script(InARow):
    """A handler. `answer(names)` is how many seconds it takes, and what it answers then; an exception is raised."""

    def __init__(self, answer: Callable[[tuple[str, ...]], tuple[float, Response | Exception]] = lambda _: (0.0, DONE)) -> None:
        self.answer = answer
        self.calls: list[Called] = []
        self.rows = 0
        """How often it was asked to begin by the engine: less than it was called, where calls followed each other in a row."""
        self._called = asyncio.Event()

    async def invoke(self, event: Event, call: Call) -> Response:
        called = Called(now(), tuple(map(str, event.identifiers())))
        self.calls.append(called)
        self._called.set()
        seconds, answer = self.answer(called.names)
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            called.ended = True
            raise
        called.until = now()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run(self, event: Event, call: Call, following: Following) -> Response:
        self.rows += 1
        return await super().run(event, call, following)

    async def aclose(self) -> None:
        return None

    @property
    def names(self) -> list[tuple[str, ...]]:
        """Of each invocation, in order."""
        return [call.names for call in self.calls]

    @property
    def times(self) -> list[float]:
        """When each began."""
        return [call.at for call in self.calls]

    async def called(self, count: int) -> None:
        """When so many invocations have begun; an hour is too long."""
        async with asyncio.timeout(3600):
            while len(self.calls) < count:
                self._called.clear()
                await self._called.wait()


def taking(seconds: float) -> Script:
    """A function that needs so long, and succeeds."""
    return Script(lambda _: (seconds, DONE))


def failing(*poison: str) -> Script:
    """A function that raises for batches with one of these."""
    return Script(lambda names: (0.0, FAULT if set(poison) & set(names) else DONE))


def reporting(*poison: str) -> Script:
    """A function that names these of its batch as failed."""

    def answer(names: tuple[str, ...]) -> tuple[float, Response]:
        failures = [{"itemIdentifier": name} for name in names if name in poison]
        return 0.0, Returned(orjson.dumps({"batchItemFailures": failures}))

    return Script(answer)


def in_turn(*answers: Response) -> Script:
    """A function that answers so, one after the other, and succeeds from then on."""
    left = list(answers)
    return Script(lambda _: (0.0, left.pop(0) if left else DONE))


def busy(seconds: float) -> Busy:
    return Busy(seconds)


# --- the store --------------------------------------------------------------------------------------------------------------------------


class Checkpoints(MemoryCheckpoints):
    """Remembers what was saved, and when. While `down`, it does not answer; a save takes `seconds`."""

    down = False
    seconds = 0.0

    def __init__(self, store: MemoryStore) -> None:
        super().__init__(store.leases)
        self.saves: list[tuple[float, Progress]] = []

    async def save(self, lease: Lease, progress: Progress) -> None:
        await asyncio.sleep(self.seconds)
        if self.down:
            raise StoreUnavailable("the disk is full")
        await super().save(lease, progress)
        self.saves.append((now(), progress))

    @property
    def last(self) -> Progress:
        return self.saves[-1][1]


class Journal(MemoryJournal):
    """Remembers what was kept, and when. While `down`, it does not answer."""

    down = False

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[float, tuple[str, ...]]] = []

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        if self.down:
            raise StoreUnavailable("the disk is full")
        ids = await super().append(entries)
        self.kept += [(now(), tuple(record.id for record in entry.records)) for entry in entries]
        return ids


class Store(MemoryStore):
    """Checkpoints and a journal that a test can look at, and take away."""

    checkpoints: Checkpoints
    journal: Journal

    def __init__(self) -> None:
        super().__init__()
        self.checkpoints = Checkpoints(self)
        self.journal = Journal()
        self.runs = MemoryRuns(self.journal)
        self.parking = MemoryParking(self.journal)

    def fail(self, down: bool) -> None:
        self.checkpoints.down = self.journal.down = down


# --- the mapping ------------------------------------------------------------------------------------------------------------------------


@dataclass
class Scene:
    """One mapping and its function. `receives` and `spoiled` are of the queue: how often each message was received, at most."""

    script: Script
    size: int = 10
    window: float = 0.0
    concurrency: int = 1
    width: int = 1
    maximum_bytes: int = 6_000_000
    retries: int = 2
    bisect: Bisect = True
    reporting: bool = False
    backoff: Backoff = field(default_factory=Backoff)
    store: Store = field(default_factory=Store)
    interval: float = 1.0
    breaker: BreakerSettings | None = None
    errors: tuple[ErrorRule, ...] = ()
    order: Literal["", "park"] = ""
    most_keys: int = 10_000
    idempotency: IdempotencySettings | None = None

    def __post_init__(self) -> None:
        failure = FailureSettings(self.retries, bisect=self.bisect, reporting=self.reporting, backoff=self.backoff, errors=self.errors)
        batching = Batching(self.size, self.window, self.maximum_bytes)
        self.settings = MappingSettings("orders", "orders", "f", batching, failure, self.width)
        self.settings = replace(self.settings, on_failure_order=self.order, maximum_parked_keys=self.most_keys)
        self.settings = replace(self.settings, idempotency=self.idempotency)
        self.counters = MappingCounters()
        self.circuit = Circuit(self.breaker, "orders", self.counters)
        self.function = Function(FunctionSettings("f", "app.py:handle", Path("no code"), concurrency=self.concurrency), self.script)

    def work(self, policy: Policy) -> Work:
        store, turn = self.store, Unhurried()
        work = Work(self.settings, self.function, policy, "fake", store.journal, self.counters, wall, Loaded(), turn, circuit=self.circuit)
        work.guards = guarding(work, store)
        return work

    def context(self, owner: str) -> Context:
        return Context(self.settings, self.store, owner, wall, Path(), Path(), self.interval)


class Running:
    """A lane and its runner, from `start` on."""

    def __init__(self, lane: Lane, work: Work) -> None:
        self.lane = lane
        self.runner = LaneRunner(lane, work)
        self.task = asyncio.create_task(self.runner.run())

    def leave(self, grace: float) -> None:
        self.lane.leaving.set_result(asyncio.get_running_loop().time() + grace)

    async def left(self, grace: float = 0.0) -> float:
        """Leave, and say when the lane was closed."""
        self.leave(grace)
        await self.task
        return now()


class Queue(FakeQueue):
    """Remembers how often each message was received."""

    def __init__(self, visibility: float = 30.0, redrive: int | None = None, fifo: bool = False) -> None:
        super().__init__(wall, visibility, redrive, fifo)
        self.receives: dict[str, int] = {}

    def put(self, *names: str, group: str | None = None) -> None:
        for name in names:
            self.send(name, None if group is None else group.encode())

    def receive(self, limit: int) -> list[FakeRecord]:
        records = super().receive(limit)
        self.receives |= {record.name: record.receives for record in records}
        return records


def redeliver(maximum_receives: int | None = None, backoff: Backoff | None = None, groups: bool = False) -> Redeliver:
    return Redeliver(maximum_receives, None, backoff, groups)


def over_queue(scene: Scene, queue: Queue, policy: Redeliver | None = None, lane: type[FakeQueueLane] = FakeQueueLane) -> Running:
    return Running(lane(queue, scene.width, Gate("life")), scene.work(policy or redeliver()))


class Stream(FakeStream):
    """One shard."""

    def __init__(self, *names: str, key: str | None = "k") -> None:
        super().__init__({"shard": []})
        self.add(*names, key=key)

    def add(self, *names: str, key: str | None = "k") -> None:
        for name in names:
            token = len(self.shards["shard"])
            self.put("shard", FakeRecord(token, name, None if key is None else key.encode(), wall()))


def block(scene: Scene, partial: str = "cut", age: float | None = None) -> Block:
    return Block(scene.retries, age, scene.bisect, scene.backoff, cast("Any", partial), errors=scene.errors)


def source_of(
    scene: Scene, stream: FakeStream, owner: str = "a", partial: str = "cut", lane: type[OrderedLane] = OrderedLane
) -> OrderedSource:
    context, policy, shards = scene.context(owner), block(scene, partial), FakeShards(stream, Gate(owner))
    return OrderedSource(context, identity="fake", format=FORMAT, policy=policy, shards=shards, origin="TRIM_HORIZON", lane=lane)


async def lane_of(source: OrderedSource) -> OrderedLane:
    """Its first lane, once it is to be had; no other is taken after it."""
    lanes = cast("AsyncIterator[OrderedLane]", source.lanes())
    async with asyncio.timeout(3600):
        lane = await anext(lanes)
    await cast("Any", lanes).aclose()
    return lane


async def over_stream(scene: Scene, stream: FakeStream, owner: str = "a", partial: str = "cut") -> Running:
    source = source_of(scene, stream, owner, partial)
    return Running(await lane_of(source), scene.work(source.policy))


KEY = LaneKey("orders", "fake", "shard")


def wider(scene: Scene, width: int) -> Scene:
    """The same mapping and store, after its width was changed."""
    return replace(scene, width=width)
