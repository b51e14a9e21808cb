"""A world for `poller.progress`, without a loop: one ordered lane, its lives, crashes and saves, beside a plain record of what happened.

It does by hand what a lane and its runner do: read, sort, begin, settle, save. What is *done* is a set of tokens, what was *begun* a count
for each set of records; every save and every invocation is held against them. Laws 7, 10 and 11.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from poller.model import Ack, Action, Batch, Busy, Discard, Fault, Outcome, Record, Retry, Span
from poller.policy import Block
from poller.progress import ORIGIN, Progress, Tracker
from poller.settings import Batching
from poller.strands import Strand, Strands, hashed
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.laws import bisect_bound, records_of, require, retries_of

LOST = Fault("lost", "Poller.WorkerLost", "the worker that ran this invocation ended before its outcome was known")

Fate = Literal["durable", "refused", "unanswered", "crash before", "crash after"]
"""What becomes of a save: it is done; not done; done, and its answer is lost; the worker dies before or after it."""


@dataclass(frozen=True, slots=True)
class Lane:
    """What does not change. `unwanted` are filtered out; `limit` is the tracker's; `poison`: full failures of it are all that fails."""

    records: Sequence[FakeRecord]
    unwanted: frozenset[int]
    width: int
    size: int
    limit: int
    policy: Block
    poison: int | None = None

    def strand(self, record: FakeRecord) -> int:
        return hashed(record.key, record.token, self.width)


@dataclass(slots=True)
class Work:
    """A strand's batch and all that came of it: what runs now, and what runs next, last first."""

    strand: Strand
    stack: list[Batch]
    running: Batch | None = None
    uncounted: bool = False


@dataclass(slots=True)
class World:
    """One lane over all its lives. `make` makes trackers."""

    lane: Lane
    make: Callable[[Progress, int], Tracker] = Tracker
    reached: Counter[str] = field(default_factory=Counter)
    now: float = 0.0
    done: set[int] = field(default_factory=set)
    safe: set[int] = field(default_factory=set)
    begun: Counter[tuple[int, ...]] = field(default_factory=Counter)
    uncounted: Counter[tuple[int, ...]] = field(default_factory=Counter)
    times: Counter[int] = field(default_factory=Counter)
    durable: Progress | None = None
    tracker: Tracker = field(init=False)
    strands: Strands = field(init=False)
    works: dict[int, Work] = field(init=False)
    settled: set[int] = field(init=False)
    slow: tuple[Progress, tuple[int, int], frozenset[int]] | None = None

    def __post_init__(self) -> None:
        self.open()

    # --- lives ------------------------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """A new life: from the last durable save, and one save before anything may begin."""
        self.tracker = self.make(self.durable or Progress("TRIM_HORIZON", self.lane.width), self.lane.limit)
        self.strands = Strands(self.lane.width, "hash")
        self.works, self.settled, self.slow = {}, set(self.safe), None
        self.save()

    def crash(self, slow_arrives: bool = False) -> None:
        """kill -9: what runs dies with its attempt begun; a save under way may have arrived."""
        self.reached["crash"] += 1
        self.reached["crash while running"] += any(work.running is not None for work in self.works.values())
        if self.slow is not None and slow_arrives:
            self.arrive(self.slow[0], self.slow[2])
        self.open()

    def close(self, hand_back: bool, fate: Fate) -> None:
        """The lane is left: what runs is ended by us, and its attempt handed back; or its result is dropped, and its attempt stands."""
        self.reached["close"] += 1
        for work in list(self.works.values()):
            if work.running is not None and hand_back:
                self.free(work, work.running)
                self.apply(work, work.running, (Retry(work.running),))
        self.reached["close while running"] += any(work.running is not None for work in self.works.values())
        self.answer()
        if fate != "crash before":
            self.save(closed=True)
        self.open()

    # --- reading ----------------------------------------------------------------------------------------------------------------

    def read(self, limit: int, gap: int) -> None:
        """At most `limit` records, and `gap` of the empty space behind them."""
        tracker, lane = self.tracker, self.lane
        position = tracker.frontier
        records = [record for record in lane.records if record.token >= position][:limit]
        behind = [record.token for record in lane.records if record.token >= position][limit:]
        following = records[-1].token + 1 if records else position
        following = min(max(following, 0) + gap, behind[0]) if behind else following
        resumed: Sequence[tuple[Span, Sequence[Record]]] = ()
        if tracker.catching_up:
            self.reached["read again"] += 1
            facts = FORMAT.facts(records)
            beyond = sum(token >= tracker.earlier.frontier for token in facts.tokens())
            fresh = tracker.sort(records, facts.tokens(), facts.keys())
            tracker.read(following, beyond)
            resumed = tracker.complete()
        else:
            fresh = records
            if following != position:
                self.reached["read over a gap"] += not records
                tracker.read(following, len(records))
        self.take(fresh, resumed)

    def take(self, fresh: Sequence[Record], resumed: Sequence[tuple[Span, Sequence[Record]]]) -> None:
        unwanted = self.lane.unwanted
        for span, whose in resumed:
            self.reached["span resumed"] += 1
            self.reached["span resumed, running"] += span.running
            wanted = [record for record in whose if record.token not in unwanted]
            self.strands.resume(span, wanted, FORMAT.facts(wanted).sizes())
        wanted = [record for record in fresh if record.token not in unwanted]
        self.done.update(record.token for record in fresh if record.token in unwanted)
        self.strands.add(wanted, FORMAT.facts(wanted), 0.0)

    # --- attempts ---------------------------------------------------------------------------------------------------------------

    def start(self, which: int) -> None:
        """A strand with work cuts its next batch, or goes on with a span."""
        batching = Batching(self.lane.size)
        ready = self.strands.ready(batching, 0.0)
        if not ready:
            return
        strand = ready[which % len(ready)]
        taken = self.strands.take(strand, batching, FORMAT, 0.0)
        assert taken is not None
        batch, span = taken
        work = self.works[strand.number] = Work(strand, [batch])
        if span is not None and span.running:
            # Its worker died with it: that was a full failure.
            work.stack.clear()
            batch = batch.but(attempt=span.attempts)
            self.apply(work, batch, self.lane.policy.decide(batch, LOST, self.now, 0.5))

    def begin(self, which: int, fate: Fate) -> None:
        """The next batch of a strand is screened, counted, saved if it must be, and invoked."""
        ready = [work for work in self.works.values() if work.running is None]
        if not ready:
            return
        work = ready[which % len(ready)]
        batch = work.stack.pop()
        screened, actions = self.lane.policy.screen(batch, self.now)
        if actions:
            self.reached["too old"] += 1
            self.apply(work, batch, (*actions, *(() if screened is None else (Retry(screened),))))
            return
        tokens = FORMAT.facts(batch.records).tokens()
        if self.tracker.begin(batch, tokens[0], tokens[-1]):
            self.reached[f"save before attempt {min(batch.attempt, 2)}{'+' if batch.attempt > 1 else ''}"] += 1
            self.answer()
            if not self.save(fate):
                if fate in {"refused", "unanswered"}:
                    self.tracker.withdraw(batch)
                    work.stack.append(batch)
                return
        self.invoke(work, batch)

    def invoke(self, work: Work, batch: Batch) -> None:
        tokens = tuple(record.token for record in batch.records)
        again = self.safe.intersection(tokens)
        require(not again, f"law 10: {sorted(again)} were acked before a save, and are invoked again")
        require(tokens == tuple(sorted(tokens)), f"law 9: {tokens} are out of order")
        work.running = batch
        self.begun[tokens] += 1
        self.times.update(tokens)
        count = self.begun[tokens]
        require(count <= batch.attempt + 1, f"law 11: {tokens} begin for the time {count}, counted as attempt {batch.attempt}")
        work.uncounted = not self.counted(work.strand.number, batch, tokens)
        self.uncounted[tokens] += work.uncounted
        self.reached["begun uncounted"] += work.uncounted
        require(self.uncounted[tokens] < 2, f"law 11: {tokens} begin uncounted, and did so before")
        retries = self.lane.policy.maximum_retry_attempts
        assert retries is not None
        require(count <= retries + 2, f"law 11: {tokens} begin for the time {count}, {retries} retries allowed")
        if self.lane.poison in tokens:
            levels = math.ceil(math.log2(self.lane.size)) + 1
            bound, times = bisect_bound(self.lane.size, retries) + levels, self.times[self.lane.poison or 0]
            require(times <= bound, f"law 11: poison in {self.lane.size} begins for the time {times}, {bound} allowed")

    def counted(self, strand: int, batch: Batch, tokens: tuple[int, ...]) -> bool:
        """Whether this attempt would be known after a crash now."""
        assert self.durable is not None
        spans = [span for span in self.durable.spans if (span.strand, span.first, span.last) == (strand, tokens[0], tokens[-1])]
        return any(span.running and span.attempts >= batch.attempt for span in spans)

    def free(self, work: Work, batch: Batch) -> None:
        """It was throttled, or ended by our own stop: no attempt."""
        tokens = tuple(record.token for record in batch.records)
        self.begun[tokens] -= 1
        self.times.subtract(tokens)
        self.uncounted[tokens] -= work.uncounted

    def settle(self, which: int, outcome: Callable[[Batch], Outcome]) -> None:
        """An invocation ends."""
        running = [work for work in self.works.values() if work.running is not None]
        if not running:
            return
        work = running[which % len(running)]
        batch = work.running
        assert batch is not None
        meant = outcome(batch)
        if isinstance(meant, Busy):
            self.free(work, batch)
        self.reached[type(meant).__name__.lower()] += 1
        self.apply(work, batch, self.lane.policy.decide(batch, meant, self.now, 0.5))

    def apply(self, work: Work, batch: Batch, actions: Sequence[Action]) -> None:
        """Settle, then remember what is to run next; a discard is in the journal before."""
        tokens = FORMAT.facts(batch.records).tokens() if self.tracker.needs_tokens(batch, actions) else None
        self.tracker.settle(batch, actions, tokens, self.now)
        for action in actions:
            if isinstance(action, Ack | Discard):
                self.done.update(record.token for record in records_of(action))
                self.settled.update(record.token for record in records_of(action))
                self.reached["discard"] += isinstance(action, Discard)
        work.running = None
        work.stack += [retry.batch for retry in reversed(retries_of(actions))]
        self.reached["split"] += len(retries_of(actions)) > 1
        if not work.stack:
            self.strands.finish(work.strand)
            del self.works[work.strand.number]

    # --- saves ------------------------------------------------------------------------------------------------------------------

    def save(self, fate: Fate = "durable", closed: bool = False) -> bool:
        """Whether the caller hears that it is done."""
        mark, progress = self.tracker.mark(), self.tracker.snapshot(self.heads(), closed)
        if fate in {"durable", "unanswered", "crash after"}:
            self.arrive(progress, frozenset(self.settled))
        if fate == "durable":
            self.tracker.saved(mark)
            return True
        self.reached[f"save {fate}"] += 1
        if fate in {"crash before", "crash after"}:
            self.crash()
        return False

    def save_slowly(self) -> None:
        """A save is under way; one at a time."""
        self.answer()
        self.slow = self.tracker.snapshot(self.heads()), self.tracker.mark(), frozenset(self.settled)

    def answer(self) -> None:
        """The save that was under way is done."""
        if self.slow is not None:
            self.reached["slow save"] += 1
            progress, mark, settled = self.slow
            self.slow = None
            self.arrive(progress, settled)
            self.tracker.saved(mark)

    def heads(self) -> list[tuple[int, int]]:
        return [(number, record.token) for number, record in self.strands.heads()]

    def arrive(self, progress: Progress, settled: frozenset[int]) -> None:
        """A save is durable: it says nothing that is not so, and forgets nothing that was said."""
        before = ORIGIN if self.durable is None else self.durable.checkpoint
        require(progress.checkpoint >= before, f"law 7: the checkpoint went back from {before} to {progress.checkpoint}")
        said = self.said_done(progress)
        require(said <= self.done, f"law 7: {sorted(said - self.done)} are unfinished, and done in {progress}")
        require(settled <= said, f"law 10: {sorted(settled - said)} were settled, and are not done in {progress}")
        self.durable = progress
        self.safe |= settled

    def said_done(self, progress: Progress) -> set[int]:
        """What a save says is done: below its strand's position, or in the stretch of a span and not under retry."""
        positions, frontier, done = dict(progress.positions), progress.frontier, set[int]()
        for record in self.lane.records:
            strand, token = self.lane.strand(record), record.token
            if token >= frontier:
                break
            if token >= positions.get(strand, frontier):
                spans = [span for span in progress.spans if span.strand == strand and span.first <= token < span.end]
                if not spans or any(span.holds(token) for span in spans):
                    continue
            done.add(token)
        return done

    # --- the end ----------------------------------------------------------------------------------------------------------------

    def calm_down(self, outcome: Callable[[Batch], Outcome]) -> None:
        """No more faults: everything is done, the checkpoint reaches the end, and a next life has nothing to do."""
        for _ in range(400 + 40 * len(self.lane.records)):
            if not self.works and self.strands.empty and self.tracker.frontier > self.lane.records[-1].token:
                break
            self.read(3, 0)
            self.start(0)
            self.begin(0, "durable")
            self.settle(0, outcome)
        left = {record.token for record in self.lane.records} - self.done
        require(not left, f"law 10: {sorted(left)} were neither acked nor discarded, and are not given out again")
        self.close(hand_back=True, fate="durable")
        assert self.durable is not None
        end = self.lane.records[-1].token + 1
        require(self.durable.checkpoint == end, f"law 7: all is done, and the checkpoint is {self.durable.checkpoint} of {end}")
        require(not self.durable.spans, f"all is done, and {self.durable.spans} are under retry")
        self.read(len(self.lane.records), 0)
        require(self.strands.empty, "law 10: all is done, and something is given out again")
