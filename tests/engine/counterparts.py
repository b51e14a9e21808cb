"""Worlds for the simulator with one part exchanged for a broken one, which it must find out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from random import Random
from typing import Any, ClassVar, Literal

from poller.lane_runner import LaneRunner
from poller.lineage import Shard
from poller.model import Ack, Action, Batch, Busy, Failure, Fault, Fetched, Lease, Outcome, Partial, Record, Retry
from poller.ordered import OrderedLane, Reader
from poller.ordered_source import OrderedSource
from poller.policy import Block, Redeliver
from poller.progress import ORIGIN, Progress, Tracker, doubt_limit
from poller.protocols import Facts, Format, Lane, Policy, Source
from poller.settings import Context
from poller.settling import Due, Settling
from poller.stores.memory import MemoryCheckpoints, MemoryStore
from poller.strand_runner import StrandRunner
from poller.strands import Assign, Strand, Strands
from poller.testing.clock import run_virtually
from poller.testing.fakes import FORMAT, FakeQueue, FakeQueueLane, FakeQueueSource, FakeShards, Gate
from poller.testing.faults import Line
from poller.testing.report import Report
from poller.testing.scenario import Scenario
from poller.testing.simulator import World
from poller.work import Work


class Rigged(World):
    """A world in which some part is of another class."""

    lane: ClassVar[type[OrderedLane]] = OrderedLane
    queue_lane: ClassVar[type[FakeQueueLane]] = FakeQueueLane
    shards: ClassVar[type[FakeShards]] = FakeShards
    runner: ClassVar[type[LaneRunner]] = LaneRunner
    checkpoints: ClassVar[type[MemoryCheckpoints]] = MemoryCheckpoints
    answers: ClassVar[Literal["full", "partial", "mixed"] | None] = None

    def policy(self, drawn: Policy) -> Policy:
        return drawn

    def lane_runner(self, lane: Lane, work: Work) -> LaneRunner:
        return self.runner(lane, work)

    def _source(self, context: Context, gate: Gate, line: Line) -> Source:
        policy = self.policy(self.scenario.policy)
        if isinstance(policy, Redeliver):
            return FakeQueueSource(self.queue, policy, self.scenario.settings.width, gate, line.fault, self.queue_lane)
        shards = self.shards(self.stream, gate, line.fault)
        return OrderedSource(context, identity="fake", format=FORMAT, policy=policy, shards=shards, origin="TRIM_HORIZON", lane=self.lane)


def harsh(scenario: Scenario) -> Scenario:
    """The same with poison records, and with every fault that there is."""
    return replace(scenario, poison=0.1, faults=0.15, late=0.15, stumbles=0.05)


def play(world: type[Rigged], seed: int) -> Report:
    """As `simulate`, in this world, and harsh."""
    random = Random(seed)
    scenario = harsh(Scenario.draw(random))
    store = MemoryStore()
    store.checkpoints = world.checkpoints(store.leases)
    return run_virtually(world(seed, random, replace(scenario, answers=world.answers or scenario.answers), store).run())


def kind_of(seed: int) -> str:
    return Scenario.draw(Random(seed)).kind


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
            return Ack(good), Retry(batch.but(records=failed, attempt=1))
        return super().decide(batch, outcome, now, dice)


class UncountingBlock(Block):
    """Never counts an attempt."""

    __slots__ = ()

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        actions = super().decide(batch, outcome, now, dice)
        if isinstance(outcome, Busy):
            return actions
        return tuple(Retry(a.batch.but(attempt=1), a.delay) if isinstance(a, Retry) else a for a in actions)


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
    patience = 200.0  # what retries for ever is found out by its attempts, or in the next run

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


class Refitted(OrderedLane):
    """A lane with another tracker, or other strands."""

    tracker_type: ClassVar[type[Tracker]] = Tracker
    strands_type: ClassVar[type[Strands]] = Strands

    def __init__(self, context: Context, lease: Lease, reader: Reader, format: Format, progress: Progress, trusted_until: float) -> None:
        super().__init__(context, lease, reader, format, progress, trusted_until)
        self.tracker = self.tracker_type(self.tracker.earlier, doubt_limit(context.mapping.batching.size))
        self.strands = self.strands_type(self.strands.width, "hash")


class ForwardLane(Refitted):
    tracker_type = FrontierTracker


class ConfidentLane(Refitted):
    tracker_type = Confident


class SpanlessLane(Refitted):
    tracker_type = Spanless


class Forward(Rigged):
    lane = ForwardLane


class Sure(Rigged):
    lane = ConfidentLane


class Amnesiac(Rigged):
    lane = SpanlessLane


class TidyLane(OrderedLane):
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
            earlier = self.tracker.earlier
            Strands.__init__(self.strands, self._context.mapping.width, "hash")  # the same one: its runner holds it
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


class HastySettling(Settling):
    """Settles what is given up while the journal is still being written."""

    async def _keep(self, batch: Batch, failures: Sequence[Failure]) -> None:
        keeping = asyncio.ensure_future(super()._keep(batch, failures))
        keeping.add_done_callback(lambda done: done.cancelled() or done.exception())


class HastyStrand(StrandRunner):
    settling_type = HastySettling


class GrabbingStrand(StrandRunner):
    """Runs without a permit."""

    async def _permit(self) -> None:
        self._work.function.permits.in_use += 1


class HastyRunner(LaneRunner):
    strand_type: ClassVar[type[StrandRunner]] = HastyStrand

    def _runner(self, strand: Strand) -> StrandRunner:
        runner = self._runners[strand.number] = self.strand_type(strand, self.lane, self.work, self.signs, self._leave, self._guards)
        return runner


class GrabbingRunner(HastyRunner):
    strand_type = GrabbingStrand


class ImpatientStrand(StrandRunner):
    """Cuts the next batch while halves of this one wait."""

    async def _attempt(self, batch: Batch, whole: bool = False) -> list[Due]:
        return await super()._attempt(batch, whole=True)


class ImpatientRunner(HastyRunner):
    strand_type = ImpatientStrand


class Unjournaled(Rigged):
    runner = HastyRunner


class Grabbing(Rigged):
    runner = GrabbingRunner


class Impatient(Rigged):
    runner = ImpatientRunner


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


class ScatteredLane(Refitted):
    strands_type = ScatteredStrands


class ScatteredQueueLane(FakeQueueLane):
    def __init__(self, queue: FakeQueue, width: int, gate: Gate, fault: Callable[[str], Any] | None = None) -> None:
        super().__init__(queue, width, gate, fault)
        assign: Assign = "free" if queue.fifo else "any"
        self.strands = ScatteredStrands(width, assign)


class ShuffledLane(Refitted):
    strands_type = ShuffledStrands


class Scattered(Rigged):
    lane = ScatteredLane
    queue_lane = ScatteredQueueLane


class Shuffled(Rigged):
    lane = ShuffledLane


class UnfencedCheckpoints(MemoryCheckpoints):
    """Save without looking at the lease."""

    async def save(self, lease: Lease, progress: Progress) -> None:
        self._saved[lease.key] = progress


class Unfenced(Rigged):
    checkpoints = UnfencedCheckpoints


class OrphanedShards(FakeShards):
    """Says nothing of parents: children are opened at once."""

    async def shards(self) -> Sequence[Shard]:
        return [Shard(shard.name) for shard in await super().shards()]


class BoastfulLane(OrderedLane):
    """Knows that it has ended, and does not save it."""

    async def aclose(self, broken: bool = False) -> None:
        done = not broken and not self.lost and self._progress(closed=True).ended
        told, self.on_closed = self.on_closed, lambda: None
        await super().aclose(broken or done)
        self.over = self.over or done
        told()


class PrematureLane(OrderedLane):
    """Has ended once all is read."""

    def _progress(self, closed: bool) -> Progress:
        return replace(super()._progress(closed), ended=self.ended)


class ForgetfulCheckpoints(MemoryCheckpoints):
    """Do not keep that a shard has ended."""

    async def save(self, lease: Lease, progress: Progress) -> None:
        await super().save(lease, replace(progress, ended=False))


class Orphaned(Rigged):
    shards = OrphanedShards


class Boastful(Rigged):
    patience = 200.0  # a shard that nobody knows to have ended keeps its children waiting for ever

    lane = BoastfulLane


class Premature(Rigged):
    lane = PrematureLane


class Unending(Rigged):
    checkpoints = ForgetfulCheckpoints


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
    Counterpart(Impatient, STREAM, "law"),
    Counterpart(Scattered, STREAM, "law 9|after a later record"),
    Counterpart(Scattered, FIFO, "law 9"),
    Counterpart(Shuffled, STREAM, "after a later record|law 7"),
    Counterpart(Unfenced, STREAM, "law 7|law 10"),
    Counterpart(Orphaned, STREAM, "law 14.* before"),
    Counterpart(Boastful, STREAM, "law 14.* after one of its children"),
    Counterpart(Premature, STREAM, "law 14.* said to have ended"),
    Counterpart(Unending, STREAM, "law 14.* opened again"),
    Counterpart(Deleting, QUEUES, "law 12"),
]
