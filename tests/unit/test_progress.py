"""Laws 7, 10 and 11 over crashes at any point, for the real tracker and for trackers that break them; and what a save looks like.

7. The checkpoint is never above unfinished work, it is monotone, and it reaches the end.
10. What was acked before the last save is not given out again; what was neither acked nor discarded is.
11. At most one begun attempt of a batch is ever uncounted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.model import Ack, Action, Batch, Busy, Done, Outcome, Partial, Retry, Span
from poller.policy import Block
from poller.progress import LISTED_AT_MOST, ORIGIN, Progress, Tracker, decode, doubt_limit, encode
from poller.settings import Backoff
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.oracle import Broken
from poller.testing.progress_world import Fate, Lane, World
from poller.testing.strategies import FAULT, counter_test, laws

REACHED = Counter[str]()

Make = Callable[[Progress, int], Tracker]
Step = tuple[str, int, int]

FATES: tuple[Fate, ...] = ("refused", "unanswered", "crash before", "crash after")
STEPS = (
    *["read"] * 3,
    *["attempt"] * 9,
    *["begin"] * 3,
    *["settle"] * 3,
    *["save"] * 3,
    "slow",
    "answer",
    "crash",
    "close",
    "die",
    "leave",
    "age",
)
AGE = 60.0


@st.composite
def lanes(draw: st.DrawFn, poison: bool) -> Lane:
    steps = draw(
        st.lists(st.tuples(st.integers(1, 3), st.sampled_from((b"a", b"b", b"c", None)), st.integers(0, 9)), min_size=3, max_size=16)
    )
    records, token = list[FakeRecord](), draw(st.integers(0, 2))
    for gap, key, _ in steps:
        records.append(FakeRecord(token, f"r{token}", key, 0.0))
        token += gap
    unwanted = frozenset(record.token for record, (_, _, wanted) in zip(records, steps, strict=True) if not wanted)
    # In a lane with poison all that fails is the poison, with full failures, and nothing grows old: law 3 bounds those.
    age, bisect = (None, True) if poison else (AGE, draw(st.booleans()))
    partial: Literal["cut", "listed"] = draw(st.sampled_from(("cut", "listed")))
    return Lane(
        records=records,
        unwanted=unwanted,
        width=draw(st.integers(1, 3)),
        size=draw(st.integers(1, 5)),
        limit=draw(st.integers(1, 5)),
        policy=Block(draw(st.integers(0, 2)), age, bisect, Backoff(), partial),
        poison=draw(st.sampled_from(records)).token if poison else None,
    )


def decoded(number: int) -> Step:
    number, what = divmod(number, len(STEPS))
    choice, which = divmod(number, 8)
    return STEPS[what], which, choice


# One number a step: what takes its time here is drawing.
steps = st.lists(st.integers(0, len(STEPS) * 8 * 128 - 1), min_size=30, max_size=90).map(lambda numbers: [decoded(n) for n in numbers])


def outcome(lane: Lane, choice: int) -> Callable[[Batch], Outcome]:
    """What the function does, whatever batch it gets."""

    def of(batch: Batch) -> Outcome:
        if lane.poison is not None:
            return Busy(1.0) if choice % 8 == 0 else FAULT if lane.poison in {record.token for record in batch.records} else Done()
        last = len(batch) - 1
        match choice % 8:
            case 0:
                return Busy(1.0)
            case 1 | 2:
                return FAULT
            case 3:
                return Partial((min(1, last),))
            case 4:
                return Partial(tuple(range(0, last + 1, 2)))
            case 5:
                return Partial((last,))
            case 6:
                return Partial(tuple(range(last + 1)))
            case _:
                return Done()

    return of


def fate(choice: int) -> Fate:
    """Most saves are durable; 0 is what shrinks to."""
    return FATES[choice % 16 - 12] if choice % 16 >= 12 else "durable"


def live(world: World, step: Step) -> None:
    """One step of a life; some do nothing, if there is nothing to do it with."""
    what, which, choice = step
    match what:
        case "read":
            world.read(which, choice % 3)
        case "begin":
            world.start(which)
            world.begin(which, fate(choice))
        case "attempt":
            world.start(which)
            world.begin(which, fate(choice))
            world.settle(which, outcome(world.lane, choice))
        case "settle":
            world.settle(which, outcome(world.lane, choice))
        case "save":
            world.answer()
            world.save(fate(choice))
        case "slow":
            world.save_slowly()
        case "answer":
            world.answer()
        case "crash":
            world.crash(slow_arrives=which % 2 == 0)
        case "close":
            world.close(hand_back=which % 2 == 0, fate=fate(choice))
        case "die" | "leave":  # with an invocation running
            world.start(which)
            world.begin(which, "durable")
            world.crash() if what == "die" else world.close(hand_back=False, fate="durable")
        case "age" if which == 0:
            world.now += AGE + 1


def law_of_progress(make: Make, examples: int = 400) -> None:
    """Whatever happens to a lane, its saves say what is so, and its attempts are counted."""

    @laws(examples)
    @given(st.sampled_from((False, False, True)).flatmap(lanes), steps)
    def holds(lane: Lane, steps: list[Step]) -> None:
        world = World(lane, make)
        try:
            for step in steps:
                live(world, step)
            world.calm_down(outcome(lane, 7))
        except Broken as error:
            error.add_note(f"steps: {[step for step in steps if step != ('read', 0, 0)]}")
            raise
        finally:
            if make is Tracker:
                REACHED.update(world.reached)

    holds()


def test_the_laws_of_progress() -> None:
    law_of_progress(Tracker, 700)


# --- counter-tests: trackers that break a law, and are found out ----------------------------------------------------------------------


class Boasting(Tracker):
    """Puts the checkpoint at the frontier, whatever is unfinished below."""

    def snapshot(self, heads: Iterable[tuple[int, int]], closed: bool = False) -> Progress:
        return replace(Tracker.snapshot(self, heads, closed), positions=(), spans=())


class Leaping(Tracker):
    """Moves the position of a strand past what it retries."""

    def snapshot(self, heads: Iterable[tuple[int, int]], closed: bool = False) -> Progress:
        saved = Tracker.snapshot(self, heads, closed)
        ends = {span.strand: span.end for span in saved.spans if not span.running}
        return replace(saved, positions=tuple((strand, ends.get(strand, position)) for strand, position in saved.positions))


class Forgetting(Tracker):
    """Saves no spans."""

    def snapshot(self, heads: Iterable[tuple[int, int]], closed: bool = False) -> Progress:
        return replace(Tracker.snapshot(self, heads, closed), spans=())


class Blurring(Tracker):
    """Saves of a span only where it begins and ends."""

    def snapshot(self, heads: Iterable[tuple[int, int]], closed: bool = False) -> Progress:
        saved = Tracker.snapshot(self, heads, closed)
        return replace(saved, spans=tuple(span.but(listed=None) for span in saved.spans))


class Shortening(Tracker):
    """Saves spans that end where their records end, not where their batch did."""

    def snapshot(self, heads: Iterable[tuple[int, int]], closed: bool = False) -> Progress:
        saved = Tracker.snapshot(self, heads, closed)
        return replace(saved, spans=tuple(span.but(end=span.last + 1) for span in saved.spans))


class Trusting(Tracker):
    """Has no doubt about the life before."""

    def snapshot(self, heads: Iterable[tuple[int, int]], closed: bool = False) -> Progress:
        return replace(Tracker.snapshot(self, heads, closed), doubt=0, careful=ORIGIN)


class Relaxing(Tracker):
    """Is careful below the saved frontier, and not beyond."""

    def __post_init__(self) -> None:
        Tracker.__post_init__(self)
        self._remaining = 0


class Absolving(Tracker):
    """Leaves no doubt in a closed save, though some of an earlier one is left."""

    def snapshot(self, heads: Iterable[tuple[int, int]], closed: bool = False) -> Progress:
        saved = Tracker.snapshot(self, heads, closed)
        return replace(saved, doubt=0, careful=ORIGIN) if closed else saved


class Hurrying(Tracker):
    """Begins a later attempt without a save that holds it."""

    def begin(self, batch: Batch, first: int, last: int) -> bool:
        must = Tracker.begin(self, batch, first, last)
        return must and batch.attempt == 1


class Rushing(Tracker):
    """Begins without a save however far it has read since the last one."""

    def begin(self, batch: Batch, first: int, last: int) -> bool:
        must = Tracker.begin(self, batch, first, last)
        return must and (batch.attempt > 1 or first < self.careful)


class Dropping(Tracker):
    """A closed save does not count what still ran."""

    def _unsettled(self) -> tuple[Span, ...]:
        return ()


class Restarting(Tracker):
    """Forgets how far the earlier life came on strands that have no work yet."""

    def snapshot(self, heads: Iterable[tuple[int, int]], closed: bool = False) -> Progress:
        self._positions.clear()
        return Tracker.snapshot(self, heads, closed)


class Overlooking(Tracker):
    """Reads a strand that the earlier life left at its position as if it were done."""

    def sort(self, records: Sequence[Any], tokens: Sequence[int], keys: Sequence[bytes | None]) -> list[Any]:
        fresh = Tracker.sort(self, records, tokens, keys)
        return [record for record in fresh if record.token >= self.earlier.frontier]


class Repeating(Tracker):
    """Gives out again whatever lies below the saved frontier."""

    def sort(self, records: Sequence[Any], tokens: Sequence[int], keys: Sequence[bytes | None]) -> list[Any]:
        self.earlier = replace(self.earlier, spans=())
        self._positions = dict.fromkeys(range(self.earlier.width), ORIGIN)
        return Tracker.sort(self, records, tokens, keys)


class Resetting(Tracker):
    """Counts a retry from the start."""

    def settle(self, batch: Batch, actions: Sequence[Action], tokens: Sequence[int] | None, now: float) -> None:
        again = [Retry(action.batch.but(attempt=1), action.delay) if isinstance(action, Retry) else action for action in actions]
        Tracker.settle(self, batch, again, tokens, now)


BROKEN: list[Any] = [
    (Boasting, "law 7"),
    (Leaping, "law 7"),
    (Forgetting, "law 1[01]"),
    pytest.param(Blurring, "law 10", marks=pytest.mark.slow),  # found out seldom
    (Shortening, "law 10"),
    (Trusting, "law 11"),
    (Relaxing, "law 11"),
    (Absolving, "law 11"),
    (Hurrying, "law 11"),
    (Rushing, "law 11"),
    (Dropping, "law 11"),
    (Restarting, "law (7|10)"),
    (Overlooking, "law (7|10)"),
    (Repeating, "law 1[01]"),
    (Resetting, "law 11"),
]


@pytest.mark.parametrize(("broken", "law"), BROKEN, ids=lambda part: getattr(part, "__name__", ""))
@pytest.mark.counterpart
def test_the_laws_of_progress_find_out(broken: type[Tracker], law: str) -> None:
    with pytest.raises(Broken, match=law), counter_test():
        law_of_progress(broken, 10_000)  # the first that breaks it ends the search; some are rare


# --- what a save looks like -------------------------------------------------------------------------------------------------------------

tokens = st.integers(-1, 10**128)  # sequence numbers are that long
spans = st.builds(
    Span,
    strand=st.integers(0, 999),
    first=tokens,
    last=tokens,
    end=tokens,
    attempts=st.integers(0, 10_000),
    running=st.booleans(),
    not_before=st.floats(0, 2e9),
    listed=st.one_of(st.none(), st.lists(tokens, max_size=5).map(tuple)),
)
saves = st.builds(
    Progress,
    origin=st.text(max_size=40),
    width=st.integers(1, 1000),
    frontier=tokens,
    positions=st.lists(st.tuples(st.integers(0, 999), tokens), max_size=5).map(tuple),
    spans=st.lists(spans, max_size=3).map(tuple),
    doubt=st.integers(0, 100_000),
    careful=tokens,
    closed=st.booleans(),
)


@given(saves)
@laws(200)
def test_a_save_is_read_as_it_was_written(progress: Progress) -> None:
    assert decode(encode(progress)) == progress
    assert decode(encode(progress).decode()) == progress


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"origin": 3}', '{"origin": "LATEST", "frontier": "1"}', '{"origin": "x", "spans": [{}]}']
)
def test_what_is_no_save_is_refused(text: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(text)


@pytest.mark.parametrize(
    ("positions", "frontier", "checkpoint"),
    [((), ORIGIN, ORIGIN), ((), 7, 7), (((0, 3),), 7, 3), (((0, 5), (1, 3), (2, 6)), 7, 3)],
)
def test_the_checkpoint_is_the_lowest_position(positions: tuple[tuple[int, int], ...], frontier: int, checkpoint: int) -> None:
    assert Progress("LATEST", 3, frontier, positions).checkpoint == checkpoint


# --- tables -----------------------------------------------------------------------------------------------------------------------------


def of(*tokens: int, attempt: int = 1, strand: int = 0) -> Batch:
    return Batch([FakeRecord(token, f"r{token}", b"k", 0.0) for token in tokens], FORMAT, strand, attempt=attempt)


def begun(tracker: Tracker, batch: Batch) -> bool:
    return tracker.begin(batch, batch.records[0].token, batch.records[-1].token)


def settled(tracker: Tracker, batch: Batch, *actions: Action) -> None:
    tracker.settle(batch, actions, [record.token for record in batch.records], 100.0)


def retry(batch: Batch, *places: int, attempt: int = 1, delay: float = 0.0) -> Retry:
    return Retry(batch.but(records=[batch.records[place] for place in places], attempt=attempt), delay)


def running(frontier: int = 10) -> Tracker:
    """A new lane that has read so far."""
    tracker = Tracker(Progress("TRIM_HORIZON"), 100_000)
    tracker.read(frontier, frontier)
    return tracker


def kept(tracker: Tracker, closed: bool = False) -> tuple[Span, ...]:
    return tracker.snapshot([], closed).spans


@pytest.mark.parametrize(("batch_size", "limit"), [(1, 10_000), (10, 10_000), (50, 50_000), (100, 100_000), (10_000, 100_000)])
def test_how_many_records_are_read_between_saves(batch_size: int, limit: int) -> None:
    assert doubt_limit(batch_size) == limit


def test_the_happy_path_pays_no_write_per_batch_and_saves_in_time() -> None:
    tracker = running()
    for number in range(1000):
        assert tracker.pressing == (number > 500)
        batch = of(number)
        assert not begun(tracker, batch)
        tracker.settle(batch, (Ack(batch.records),), None, 0.0)
    assert begun(tracker, of(1000)), "the thousand-and-first since a save waits for one"
    tracker.saved(tracker.mark())
    assert not tracker.pressing
    assert not begun(tracker, of(1001))


def test_a_lane_that_read_too_far_saves_before_it_begins() -> None:
    tracker = Tracker(Progress("TRIM_HORIZON"), 10)
    tracker.read(10, 10)
    assert not begun(tracker, of(0))
    tracker.read(11, 1)
    assert begun(tracker, of(0))
    mark = tracker.mark()
    tracker.read(20, 9)
    tracker.saved(mark)
    assert not begun(tracker, of(0)), "nine since the save that was under way"


def test_a_lane_in_doubt_goes_carefully_and_no_further_than_it_must() -> None:
    tracker = Tracker(Progress("TRIM_HORIZON", frontier=10, doubt=3), 100)
    tracker.read(12, 2)
    assert begun(tracker, of(10)) and begun(tracker, of(11))
    tracker.read(14, 2)
    assert begun(tracker, of(13)), "the slice that ends the stretch is careful to its end"
    tracker.read(15, 1)
    assert not begun(tracker, of(14))


def test_what_is_left_of_a_doubt_stays_in_a_closed_save() -> None:
    tracker = Tracker(Progress("TRIM_HORIZON", frontier=10, doubt=5), 100)
    tracker.read(12, 2)
    assert tracker.snapshot([]).doubt == 100
    closed = tracker.snapshot([(0, 10)], closed=True)
    assert (closed.doubt, closed.careful) == (3, 12)
    assert tracker.snapshot([], closed=True).careful == ORIGIN, "all below is settled"
    assert begun(Tracker(closed, 100), of(11))


def test_a_save_that_failed_leaves_an_attempt_unbegun() -> None:
    tracker = running()
    batch = of(1, 2, attempt=2)
    assert begun(tracker, batch)
    tracker.withdraw(batch)
    assert kept(tracker) == (Span(0, 1, 2, 3, attempts=1),)
    assert begun(tracker, batch)
    assert kept(tracker) == (Span(0, 1, 2, 3, attempts=2, running=True),)


def test_a_retry_is_a_span() -> None:
    tracker, batch = running(), of(1, 3, 5)
    begun(tracker, batch)
    settled(tracker, batch, retry(batch, 0, 1, 2, attempt=2, delay=7.0))
    assert kept(tracker) == (Span(0, 1, 5, 6, attempts=1, not_before=107.0),)
    assert tracker.snapshot([(0, 1), (2, 9)]).positions == ((0, 1), (2, 9))


def test_halves_are_two_spans_that_meet() -> None:
    tracker, batch = running(), of(1, 3, 5, 7)
    begun(tracker, batch)
    settled(tracker, batch, retry(batch, 0, 1), retry(batch, 2, 3))
    assert kept(tracker) == (Span(0, 1, 3, 5, attempts=0), Span(0, 5, 7, 8, attempts=0))
    half = of(1, 3)
    begun(tracker, half)
    settled(tracker, half, Ack(half.records))
    assert kept(tracker) == (Span(0, 5, 7, 8, attempts=0),)


def test_what_a_list_leaves_out_is_done() -> None:
    tracker, batch = running(), of(1, 3, 5, 7)
    begun(tracker, batch)
    settled(tracker, batch, Ack(batch.records[::2]), retry(batch, 1, 3))
    assert kept(tracker) == (Span(0, 3, 7, 8, attempts=0, listed=(3, 7)),)
    assert [kept(tracker)[0].holds(token) for token in (1, 3, 5, 7)] == [False, True, False, True]
    listed = of(3, 7)
    begun(tracker, listed)
    settled(tracker, listed, Ack(listed.records[:1]), retry(listed, 1))
    assert kept(tracker) == (Span(0, 7, 7, 8, attempts=0, listed=(7,)),)


@pytest.mark.parametrize(("count", "named"), [(LISTED_AT_MOST, True), (LISTED_AT_MOST + 1, False)])
def test_a_list_is_named_while_it_is_short(count: int, named: bool) -> None:
    tracker, batch = running(1000), of(*range(2 * count))
    begun(tracker, batch)
    settled(tracker, batch, Ack(batch.records[1::2]), retry(batch, *range(0, 2 * count, 2)))
    (span,) = kept(tracker)
    assert span.listed == (tuple(range(0, 2 * count, 2)) if named else None)


def test_a_short_part_of_a_long_list_is_named() -> None:
    """Else what the long list left out, which is done, runs again with the part."""
    tracker, batch = running(1000), of(*range(400))
    begun(tracker, batch)
    settled(tracker, batch, Ack(batch.records[1::2]), retry(batch, *range(0, 400, 2)))
    listed = of(*range(0, 400, 2))
    begun(tracker, listed)
    settled(tracker, listed, Ack(listed.records[3:]), retry(listed, 0, 1, 2))
    (span,) = kept(tracker)
    assert [token for token in range(6) if span.holds(token)] == [0, 2, 4]


def test_a_closed_save_counts_what_still_runs() -> None:
    tracker, batch = running(), of(1, 2)
    assert not begun(tracker, batch)
    assert kept(tracker) == (), "a running lane is in doubt anyway"
    assert kept(tracker, closed=True) == (Span(0, 1, 2, 3, attempts=1, running=True),)
    settled(tracker, batch, Ack(batch.records))
    assert kept(tracker, closed=True) == ()


# A life with a retried 3 of 1..5, all of strand 0, and 7 that nobody has begun; 1, 2, 4 and 5 are done.
LEFT = Progress("TRIM_HORIZON", frontier=8, positions=((0, 3),), spans=(Span(0, 3, 3, 6, attempts=1),))


def read_again(tracker: Tracker, following: int, *tokens: int) -> tuple[list[int], list[list[int]]]:
    """(what is fresh, what is resumed)."""
    records = [FakeRecord(token, f"r{token}", b"k", 0.0) for token in tokens]
    fresh = tracker.sort(records, tokens, [record.key for record in records])
    tracker.read(following, sum(token >= tracker.earlier.frontier for token in tokens))
    return [record.token for record in fresh], [[record.token for record in whose] for _, whose in tracker.complete()]


def test_what_is_read_again_is_sorted() -> None:
    tracker = Tracker(LEFT, 100)
    assert tracker.frontier == 3 and tracker.catching_up
    assert read_again(tracker, 9, 3, 4, 5, 7, 8) == ([7, 8], [[3]])
    assert not tracker.catching_up


def test_a_span_is_given_out_once_all_of_it_was_read() -> None:
    tracker = Tracker(replace(LEFT, spans=(Span(0, 3, 5, 6, attempts=1),)), 100)
    assert read_again(tracker, 5, 3, 4) == ([], [])
    assert tracker.snapshot([]).spans == tracker.earlier.spans, "meanwhile every save holds it"
    assert read_again(tracker, 8, 5, 7) == ([7], [[3, 4, 5]])


def test_a_span_whose_records_are_gone_is_forgotten() -> None:
    tracker = Tracker(LEFT, 100)
    assert read_again(tracker, 8, 7) == ([7], [])
    assert kept(tracker) == ()


def test_a_span_that_lost_some_records_runs_with_the_rest() -> None:
    tracker = Tracker(replace(LEFT, spans=(Span(0, 3, 5, 6, attempts=1),)), 100)
    assert read_again(tracker, 8, 5, 7) == ([7], [[5]])


@pytest.mark.parametrize("gone", [False, True])
def test_what_lay_behind_a_span_stays_done_until_it_is_passed(gone: bool) -> None:
    """The stretch of a span was read again in part: the span is settled, or its records are gone, and 4 and 5 are done all the same."""
    tracker = Tracker(LEFT, 100)
    if gone:
        assert read_again(tracker, 4) == ([], [])
    else:
        assert read_again(tracker, 4, 3) == ([], [[3]])
        batch = of(3, attempt=2)
        begun(tracker, batch)
        settled(tracker, batch, Ack(batch.records))
    again = Tracker(tracker.snapshot([]), 100)
    assert read_again(again, 8, 4, 5, 7) == ([7], [])


def test_the_worlds_reached_everything(tell: Callable[[str], None]) -> None:
    if not REACHED:
        pytest.skip("the laws did not run")
    tell("progress: " + ", ".join(f"{what} {count}" for what, count in sorted(REACHED.items())))
    wanted = """crash|crash while running|close|close while running|read again|read over a gap|span resumed|span resumed, running|too old
        save before attempt 1|save before attempt 2+|begun uncounted|busy|done|fault|partial|discard|split|slow save
        save refused|save unanswered|save crash before|save crash after"""
    assert [what for line in wanted.split("\n") for what in line.strip().split("|") if not REACHED[what]] == []
