"""Worlds for the simulator with one part exchanged: for a broken one, which it must find out, or a harsher fault, which it must bear."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from random import Random
from typing import Any, ClassVar, Literal, TypeVar, cast

from poller.lane_runner import LaneRunner
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.model import Ack, Action, Batch, Busy, Failure, Fault, Fetched, Lease, Outcome, Partial, Record, Retry
from poller.ordered import OrderedLane, OrderedSource
from poller.policy import Block, Redeliver
from poller.progress import ORIGIN, Progress, Tracker
from poller.protocols import Facts, Lane, Policy, Source
from poller.settings import Context
from poller.stores.memory import MemoryCheckpoints, MemoryStore
from poller.strand_runner import StrandRunner
from poller.strands import Strand, Strands
from poller.testing.clock import run_virtually
from poller.testing.fakes import FORMAT, FakeQueueLane, FakeQueueSource, FakeShards, Gate
from poller.testing.faults import Line
from poller.testing.lives import Life
from poller.testing.scenario import Scenario
from poller.testing.simulator import Report, World

T = TypeVar("T")


@dataclass
class Rigged(World):
    """A world in which some parts are of another class, and which counts what the engine counts, too."""

    lane: ClassVar[type[OrderedLane]] = OrderedLane
    queue_lane: ClassVar[type[FakeQueueLane]] = FakeQueueLane
    tracker: ClassVar[type[Tracker]] = Tracker
    strands: ClassVar[type[Strands]] = Strands
    mapping: ClassVar[type[MappingRunner]] = MappingRunner
    line: ClassVar[type[Line]] = Line
    answers: ClassVar[Literal["full", "partial", "mixed"] | None] = None
    checkpoints: ClassVar[type[MemoryCheckpoints]] = MemoryCheckpoints

    counters: list[MappingCounters] = field(default_factory=list)

    def policy(self, drawn: Policy) -> Policy:
        return drawn

    def start(self) -> Life:
        life = super().start()
        life.line.__class__ = self.line
        life.runner.__class__ = self.mapping
        self.counters.append(life.runner.work.counters)
        return life

    def _source(self, context: Context, gate: Gate, line: Line) -> Source:
        scenario = self.scenario
        if scenario.kind == "stream":
            shards = FakeShards(self.stream, gate, line.fault)
            policy = self.policy(scenario.policy)
            return _Shards(self, context, identity="fake", format=FORMAT, policy=policy, shards=shards, origin="TRIM_HORIZON")
        source = _Queue(self, gate, line)
        source.policy = cast("Redeliver", self.policy(source.policy))
        return source

    async def run(self) -> Report:
        report = await super().run()
        for counters in self.counters:
            report.counts["batch split"] += counters.splits
            report.counts["lane lost"] += counters.lost_lanes
            report.counts["store waited for"] += counters.save_errors
        report.counts["redriven"] = len(self.queue.dead)
        return report


class _Shards(OrderedSource):
    """Its lanes, their trackers and strands are of the world's classes."""

    def __init__(self, world: Rigged, context: Context, **more: Any) -> None:
        super().__init__(context, **more)
        self._world = world

    async def _open(self, name: str) -> OrderedLane | None:
        lane = await super()._open(name)
        if lane is not None:
            lane.__class__ = self._world.lane
            lane.tracker.__class__ = self._world.tracker
            lane.strands.__class__ = self._world.strands
            lane.world = self._world  # type: ignore[attr-defined]
        return lane


class _Queue(FakeQueueSource):
    """The same for a queue."""

    def __init__(self, world: Rigged, gate: Gate, line: Line) -> None:
        policy, width = world.scenario.policy, world.scenario.settings.width
        assert isinstance(policy, Redeliver)
        super().__init__(world.queue, policy, width, gate, line.fault)
        self._world = world

    async def lanes(self) -> AsyncIterator[Lane]:
        async for lane in super().lanes():
            lane.__class__ = self._world.queue_lane
            lane.strands.__class__ = self._world.strands
            yield lane


def play(world: type[Rigged], seed: int, harsh: bool = False) -> Report:
    """As `simulate`, in this world. `harsh`: whatever was drawn, there are poison records, and calls of the store meet faults."""
    random = Random(seed)
    scenario = Scenario.draw(random)
    if harsh:
        scenario = replace(scenario, poison=0.1, faults=0.15, answers=world.answers or scenario.answers)
    store = MemoryStore()
    store.checkpoints = world.checkpoints(store.leases)
    return run_virtually(world(seed, random, scenario, store).run())


def kind_of(seed: int) -> str:
    return Scenario.draw(Random(seed)).kind


# --- harsher faults ---------------------------------------------------------------------------------------------------------------------


class LateLine(Line):
    """A save may be long on its way, and arrives even if its sender has crashed meanwhile."""

    __slots__ = ()

    async def call(self, what: str, operation: Callable[[], Awaitable[T]]) -> T:
        if what != "save" or self.random.random() >= self.rate:
            return await super().call(what, operation)
        self.gate.check()
        self.counts["save arrived late"] += 1
        arriving = asyncio.ensure_future(self._arrive(operation))
        arriving.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be there to hear of it
        result = await asyncio.shield(arriving)
        self.gate.check()
        return result

    async def _arrive(self, operation: Callable[[], Awaitable[T]]) -> T:
        await asyncio.sleep(self.random.uniform(0.5, 20.0))
        return await operation()


class Late(Rigged):
    line = LateLine


class Stumbling(OrderedLane):
    """Raises what no contract allows, between a fetch and the strands, now and then."""

    world: Rigged

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        if (fetched.records or fetched.resumed) and not self.world.calm and self.world.random.random() < 0.05:
            self.world.count("lane stumbled")
            raise RuntimeError("between a fetch and its strands")
        return fetched


class Unsteady(Rigged):
    lane = Stumbling


# --- broken parts -----------------------------------------------------------------------------------------------------------------------


class ForgivingBlock(Block):
    """Acks what failed."""

    __slots__ = ()

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        return (Ack(batch.records),) if isinstance(outcome, Fault) else super().decide(batch, outcome, now, dice)


class ForgivingRedeliver(Redeliver):
    """Acks what failed."""

    __slots__ = ()

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        return (Ack(batch.records),) if isinstance(outcome, Fault) else super().decide(batch, outcome, now, dice)


class CarelessBlock(Block):
    """Acks all that is not named, though the rest after the first failed record was not handled."""

    __slots__ = ()

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        if isinstance(outcome, Partial) and self.partial == "cut":
            failed = [batch.records[i] for i in outcome.indices]
            good = [record for i, record in enumerate(batch.records) if i not in outcome.indices]
            return Ack(good), Retry(replace(batch, records=failed, attempt=1))
        return super().decide(batch, outcome, now, dice)


class UncountingBlock(Block):
    """Never counts an attempt."""

    __slots__ = ()

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        actions = super().decide(batch, outcome, now, dice)
        if isinstance(outcome, Busy):
            return actions
        return tuple(replace(a, batch=replace(a.batch, attempt=1)) if isinstance(a, Retry) else a for a in actions)


def _changed(drawn: Policy, block: type[Block], redeliver: type[Redeliver] = Redeliver) -> Policy:
    assert isinstance(drawn, Block | Redeliver)
    made = block if isinstance(drawn, Block) else redeliver
    return made(**{part.name: getattr(drawn, part.name) for part in fields(drawn) if part.init})


class Forgiving(Rigged):
    def policy(self, drawn: Policy) -> Policy:
        return _changed(drawn, ForgivingBlock, ForgivingRedeliver)


class Careless(Rigged):
    answers = "partial"

    def policy(self, drawn: Policy) -> Policy:
        return _changed(drawn, CarelessBlock)


class Uncounting(Rigged):
    def policy(self, drawn: Policy) -> Policy:
        return _changed(drawn, UncountingBlock)


class FrontierTracker(Tracker):
    """Takes what was read for done."""

    __slots__ = ()

    def snapshot(self, heads: Any, closed: bool = False) -> Progress:
        return replace(super().snapshot(heads, closed), positions=())


class Confident(Tracker):
    """Knows no doubt: what an earlier life may have begun uncounted, it begins uncounted once more."""

    __slots__ = ()

    def begin(self, batch: Batch, first: int, last: int) -> bool:
        self.careful, self._remaining = ORIGIN, 0
        return super().begin(batch, first, last)


class Spanless(Tracker):
    """Saves no attempts."""

    __slots__ = ()

    def snapshot(self, heads: Any, closed: bool = False) -> Progress:
        return replace(super().snapshot(heads, closed), spans=())


class Forward(Rigged):
    tracker = FrontierTracker


class Sure(Rigged):
    tracker = Confident


class Amnesiac(Rigged):
    tracker = Spanless


class TidyLane(Stumbling):
    """Saves even when its runner failed, and takes what it handed out for arrived."""

    def _accept(self) -> None:
        if self._handed is not None:
            self._handed = (*self._handed[:2], 0)
        super()._accept()

    async def aclose(self, broken: bool = False) -> None:
        await super().aclose(broken=False)


class ForgetfulLane(OrderedLane):
    """Begins a later attempt before it is durable."""

    async def begin(self, batch: Batch) -> None:
        self._check()
        ends = self.format.facts((batch.records[0], batch.records[-1])).tokens()
        self.tracker.begin(batch, ends[0], ends[1])


class HastyLane(OrderedLane):
    """Takes a new width at once, whatever the old one left."""

    async def fetch(self, limit: int) -> Fetched:
        if self.outgrown:
            self.outgrown = False
            earlier, strands = self.tracker.earlier, type(self.strands)
            self.strands.__class__ = Strands
            self.strands.__init__(self._context.mapping.width, "hash")  # type: ignore[misc]
            self.strands.__class__ = strands
            self.tracker.earlier = Progress(earlier.origin, self.strands.width, earlier.checkpoint)
            self.tracker.spans.clear()
            self.tracker._positions.clear()
            self.tracker._pending.clear()
        return await super().fetch(limit)


class Tidy(Rigged):
    lane = TidyLane


class Forgetful(Rigged):
    lane = ForgetfulLane


class Hasty(Rigged):
    lane = HastyLane


class HastyStrand(StrandRunner):
    """Settles what is given up while the journal is still being written."""

    async def _keep(self, failures: Sequence[Failure]) -> None:
        keeping = asyncio.ensure_future(super()._keep(failures))
        keeping.add_done_callback(lambda done: done.cancelled() or done.exception())


class GrabbingStrand(StrandRunner):
    """Runs without a permit."""

    async def _permit(self) -> None:
        self._work.function.permits.in_use += 1


class HastyRunner(LaneRunner):
    strand: ClassVar[type[StrandRunner]] = HastyStrand

    def _runner(self, strand: Strand) -> StrandRunner:
        runner = super()._runner(strand)
        runner.__class__ = self.strand
        return runner


class GrabbingRunner(HastyRunner):
    strand = GrabbingStrand


class HastyMapping(MappingRunner):
    runner: ClassVar[type[LaneRunner]] = HastyRunner

    async def _run_lane(self, runner: LaneRunner) -> None:
        runner.__class__ = self.runner
        await super()._run_lane(runner)


class GrabbingMapping(HastyMapping):
    runner = GrabbingRunner


class Unjournaled(Rigged):
    mapping = HastyMapping


class Grabbing(Rigged):
    mapping = GrabbingMapping


class ScatteredStrands(Strands):
    """Give a record to whichever strand, not to its key's."""

    def _add_hashed(self, records: Sequence[Record], sizes: Sequence[int], facts: Facts, now: float) -> None:
        for record, size, token in zip(records, sizes, facts.tokens(), strict=True):
            self._append(self._strands[token % self.width], (record,), (size,), now)

    def _add_free(self, records: Sequence[Record], sizes: Sequence[int], keys: Sequence[bytes | None], now: float) -> None:
        for record, size in zip(records, sizes, strict=True):
            self._append(min(self._strands, key=lambda strand: strand.load), (record,), (size,), now)

    def _leave(self, strand: Strand, key: bytes | None) -> None:
        return None


class ShuffledStrands(Strands):
    """The last come is the first served."""

    @staticmethod
    def _append(strand: Strand, records: Sequence[Record], sizes: Sequence[int], now: float) -> None:
        strand.since = now
        strand.records[:0] = records
        strand.sizes[:0] = sizes


class Scattered(Rigged):
    strands = ScatteredStrands


class Shuffled(Rigged):
    strands = ShuffledStrands


class UnfencedCheckpoints(MemoryCheckpoints):
    """Save without looking at the lease."""

    async def save(self, lease: Lease, progress: Progress) -> None:
        self._saved[lease.key] = progress


class Unfenced(Late):
    checkpoints = UnfencedCheckpoints


class DeletingLane(FakeQueueLane):
    """Deletes what it is given to hand out: at most once."""

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        for record in fetched.records:
            self._queue.delete(record.token)
        return fetched


class Deleting(Rigged):
    queue_lane = DeletingLane


@dataclass(frozen=True)
class Counterpart:
    """A broken world, the kinds of source it is broken for, and what the oracle says when it finds out."""

    world: type[Rigged]
    kinds: frozenset[str]
    law: str
    harsh: bool = True

    def __repr__(self) -> str:
        return f"{self.world.__name__}-{'-'.join(sorted(self.kinds))}"


STREAM, QUEUES, FIFO = frozenset({"stream"}), frozenset({"queue", "fifo"}), frozenset({"fifo"})

COUNTERPARTS = [
    Counterpart(Forgiving, STREAM, "law 7"),
    Counterpart(Forgiving, QUEUES, "law 12"),
    Counterpart(Careless, STREAM, "law 7"),
    Counterpart(Uncounting, STREAM, "law 11"),
    Counterpart(Forward, STREAM, "law 7"),
    Counterpart(Sure, STREAM, "law 11"),
    Counterpart(Amnesiac, STREAM, "law 11"),
    Counterpart(Tidy, STREAM, "law 7|not done"),
    Counterpart(Forgetful, STREAM, "law 11"),
    Counterpart(Hasty, STREAM, "law"),
    Counterpart(Unjournaled, STREAM, "law 7"),
    Counterpart(Unjournaled, QUEUES, "law 12"),
    Counterpart(Grabbing, STREAM | QUEUES, "at once"),
    Counterpart(Scattered, STREAM, "law 9|after a later record"),
    Counterpart(Scattered, FIFO, "law 9"),
    Counterpart(Shuffled, STREAM, "after a later record|law 7"),
    Counterpart(Unfenced, STREAM, "law 7|law 10"),
    Counterpart(Deleting, QUEUES, "law 12"),
]
