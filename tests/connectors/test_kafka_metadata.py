"""Progress in commit metadata: it comes back as it was, whatever else stands there does no harm, and what does not fit loses nothing."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka import metadata
from connectors.kafka.metadata import LIMIT, VERSION, decode, dropped, encode, fits, fitting, placed
from poller.model import Span
from poller.progress import ORIGIN, UNSAVED_RECORDS, Progress
from poller.testing.fakes import FORMAT
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.progress_world import Fate, Lane, World
from poller.testing.strategies import SHARE, counter_test, laws
from tests.unit.test_progress import Step, lanes, live, outcome

ORIGINS = ("TRIM_HORIZON", "LATEST 1763686800.000 4", "AT_TIMESTAMP 1763686800.0", "", "é" * 20)


@st.composite
def spans_of(draw: st.DrawFn, strand: int, first: int) -> list[Span]:
    """What a strand may retry, in order."""
    spans: list[Span] = []
    for _ in range(draw(st.integers(1, 3))):
        last = first + draw(st.integers(0, 300))
        listed = draw(st.none() | st.lists(st.integers(first, last), min_size=1, max_size=5, unique=True).map(sorted).map(tuple))
        if listed is not None:
            first, last = listed[0], listed[-1]
        end = last + draw(st.integers(1, 200))
        tenths = draw(st.just(0) | st.integers(17_636_868_000, 17_636_868_999))
        spans.append(Span(strand, first, last, end, draw(st.integers(0, 40)), draw(st.booleans()), tenths / 10, listed))
        first = end + draw(st.integers(0, 50))
    return spans


@st.composite
def progresses(draw: st.DrawFn, widest: int = 1000, most: int = 30) -> Progress:
    """As a tracker makes them: strands with spans stand at the first of them, and all positions are below the frontier."""
    width = draw(st.integers(1, widest))
    start = draw(st.sampled_from((0, 7, 10**6, 2**62)))
    strands = sorted(draw(st.sets(st.integers(0, width - 1), max_size=most)))
    positions = {strand: start + draw(st.integers(0, 100_000)) for strand in strands}
    spans = [span for strand in strands if draw(st.booleans()) for span in draw(spans_of(strand, positions[strand]))]
    for span in reversed(spans):
        positions[span.strand] = span.first
    frontier = max([start, *(position + 1 for position in positions.values()), *(span.end for span in spans)])
    return Progress(
        origin=draw(st.sampled_from(ORIGINS)),
        width=width,
        frontier=ORIGIN if not positions and draw(st.booleans()) else frontier,
        positions=tuple(positions.items()),
        spans=tuple(spans),
        doubt=draw(st.integers(0, UNSAVED_RECORDS)),
        careful=draw(st.just(ORIGIN) | st.integers(start, start + 200_000)),
        closed=draw(st.booleans()),
    )


# --- there and back -------------------------------------------------------------------------------------------------------------------


def test_progress_comes_back_as_it_was() -> None:
    @laws(250)
    @given(progresses())
    def holds(progress: Progress) -> None:
        assert fits(progress)
        offset, text = encode(progress)
        assert offset == max(progress.checkpoint, 0)
        assert len(text) <= LIMIT
        decoded = decode(offset, text)
        assert (decoded.progress, decoded.note) == (progress, "ours")

    holds()


def test_the_order_of_spans_means_nothing() -> None:
    spans = (Span(3, 9, 9, 10, 1), Span(1, 5, 5, 7, 0), Span(1, 7, 8, 9, 0))
    progress = Progress("TRIM_HORIZON", 4, 20, ((1, 5), (3, 9)), spans)
    assert set(decode(*encode(progress)).progress.spans) == set(spans)
    assert encode(progress) == encode(replace(progress, spans=spans[::-1]))


def test_no_span_may_begin_earlier_for_having_been_saved() -> None:
    span = Span(0, 5, 5, 6, 2, False, 1763686800.123456)
    (saved,) = decode(*encode(Progress("TRIM_HORIZON", 1, 20, ((0, 5),), (span,)))).progress.spans
    assert 0 <= saved.not_before - span.not_before < 0.1
    assert saved.but(not_before=span.not_before) == span


def test_a_lane_that_has_read_nothing_keeps_where_it_starts() -> None:
    progress = Progress("LATEST 1763686800.000 4", width=8, doubt=10_000)
    assert progress.checkpoint == ORIGIN
    assert decode(*encode(progress)).progress == progress
    assert encode(progress)[0] == 0


@pytest.mark.parametrize(
    ("positions", "most"),
    [
        ((), 70),
        (((0, 5_000_000),), 70),
        (tuple((strand, 5_000_000 + strand * 7919 % 5000) for strand in range(1000)), 2_780),
        # One strand that retries is far behind: the others are near each other all the same.
        (((0, 4_900_000), *((strand, 5_000_000 + strand * 7919 % 5000) for strand in range(1, 1000))), 2_780),
    ],
    ids=["nothing", "one strand", "a thousand strands", "one behind"],
)
def test_how_long_it_gets(positions: tuple[tuple[int, int], ...], most: int) -> None:
    progress = Progress("LATEST 1763686800.000 4", 1000, 5_010_000, positions, doubt=UNSAVED_RECORDS)
    offset, text = encode(progress)
    assert len(text) <= most
    assert decode(offset, text).note == "ours"
    assert re.fullmatch(r"poller1:[A-Za-z0-9_-]+", text)


# --- positions that do not fit ----------------------------------------------------------------------------------------------------------

SCATTERED = tuple((strand, 1_000_000 + pow(3, strand, 90_001)) for strand in range(1000))


def test_positions_that_do_not_fit_are_dropped_and_the_text_says_so() -> None:
    spans = (Span(4, SCATTERED[4][1], SCATTERED[4][1] + 5, SCATTERED[4][1] + 9, 3, True),)
    progress = Progress("TRIM_HORIZON", 1000, 1_100_000, SCATTERED, spans, UNSAVED_RECORDS)
    offset, text = encode(progress)
    assert offset == progress.checkpoint
    assert len(text) < 100
    decoded = decode(offset, text)
    assert decoded.note == "dropped"
    assert decoded.progress == dropped(progress)
    assert decoded.progress == replace(progress, positions=decoded.progress.positions), "all else is as it was"
    assert dict(decoded.progress.positions) == dict.fromkeys(range(1000), offset) | {4: spans[0].first}


def test_whatever_is_dropped_nothing_is_said_to_be_done_that_is_not() -> None:
    @laws(150)
    @given(progresses(widest=40), st.integers(120, 400))
    def holds(progress: Progress, limit: int) -> None:
        fitted = fitting(progress, limit=limit, reserve=0)
        offset, text = encode(fitted, limit)
        assert len(text) <= limit
        decoded = decode(offset, text).progress
        assert decoded.checkpoint == progress.checkpoint
        there = dict(decoded.positions)
        for strand, position in progress.positions:
            assert there[strand] <= position
        for span in {*progress.spans} - {*decoded.spans}:
            assert there[span.strand] <= span.first
            assert decoded.doubt or decoded.careful >= span.end, "what it began is begun carefully again"

    holds()


# --- spans that do not fit --------------------------------------------------------------------------------------------------------------


def retrying(strands: Sequence[int], attempts: int = 1) -> Progress:
    """Each of these strands has a batch of which so many attempts have begun."""
    spans = tuple(Span(strand, 10**9 + strand * 100, 10**9 + strand * 100 + 99, 10**9 + strand * 100 + 100, attempts) for strand in strands)
    return Progress("TRIM_HORIZON", 1000, 10**9 + 200_000, tuple((span.strand, span.first) for span in spans), spans, UNSAVED_RECORDS)


def test_some_hundred_and_seventy_spans_fit() -> None:
    assert fits(retrying(range(165)))
    assert not fits(retrying(range(260)))
    assert fitting(retrying(range(165))) == retrying(range(165))


def test_who_has_a_place_keeps_it_and_the_lowest_get_the_rest() -> None:
    before = fitting(retrying(range(500, 630), attempts=2))
    progress = retrying(range(1000), attempts=2)
    fitted = fitting(progress, before)
    assert fits(fitted, reserve=0)
    assert encode(fitted) == encode(fitting(fitted, before))
    held = {span.strand for span in fitted.spans}
    assert held >= set(range(500, 630))
    assert held - set(range(500, 630)) == set(range(len(held) - 130)), "the lowest"
    assert [strand for strand in range(1000) if placed(progress, fitted, strand)] == sorted(held)
    assert dict(fitted.positions) == dict(progress.positions), "a strand left out stands before its first span"


def test_who_outgrows_its_place_is_saved_as_before_but_for_one() -> None:
    """An outage: every batch fails, and is split. One strand goes on at a time, so that places come free."""
    before = retrying(range(160))
    assert fits(before)
    halves = [
        half
        for span in before.spans
        for half in (
            Span(span.strand, span.first, span.first + 49, span.first + 50, 0),
            Span(span.strand, span.first + 50, span.last, span.end, 0),
        )
    ]
    progress = replace(before, spans=tuple(halves))
    assert not fits(progress)
    fitted = fitting(progress, before)
    assert fits(fitted, reserve=0)
    grown = [strand for strand in range(160) if placed(progress, fitted, strand)]
    assert 0 in grown
    assert len(grown) < 160
    for strand in set(range(160)) - set(grown):
        assert [span for span in fitted.spans if span.strand == strand] == [span for span in before.spans if span.strand == strand]


def test_what_was_done_since_is_not_undone_by_an_older_span() -> None:
    """A strand that is done with what it had a place for starts anew: its old span would run all of it again."""
    before = retrying(range(160))
    later = tuple(
        span.but(first=span.first + at, last=span.first + at + 49, end=span.first + at + 50)
        for span in before.spans
        for at in (100, 150)  # both halves: more than it had a place for
    )
    more = retrying(range(160, 400)).spans
    spans = tuple(sorted((*later, *more), key=lambda span: (span.strand, -span.first)))
    progress = replace(before, spans=spans, positions=tuple({span.strand: span.first for span in spans}.items()))
    fitted = fitting(progress, before)
    assert fits(fitted, reserve=0)
    assert not {*fitted.spans} & {*before.spans}
    assert fitted.checkpoint == progress.checkpoint


# --- what was not written by us ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "note"),
    [
        ("", "none"),
        ("consumer-1 at 12:00", "foreign"),
        ('{"version": 3}', "foreign"),
        ("\x00\ud800", "foreign"),
        ("poller", "foreign"),
        ("poller0:AAAA", "foreign"),
        ("pollers1:AAAA", "foreign"),
        ("poller2:AAAA", "newer"),
        ("poller17:anything {at} all\n", "newer"),
        ("poller1:", "damaged"),
        ("poller1:A", "damaged"),
        ("poller1:AAAA AAAA", "damaged"),
        ("poller1:" + "A" * 4000, "damaged"),
    ],
)
def test_what_is_not_ours_is_only_an_offset(text: str, note: str) -> None:
    decoded = decode(42, text, "TRIM_HORIZON")
    assert decoded.note == note
    assert decoded.progress.checkpoint == decoded.progress.frontier == 42
    assert decoded.progress.origin == "TRIM_HORIZON"
    assert bool(decoded.progress.doubt) == (note in {"newer", "damaged"})


def test_an_offset_that_was_moved_wins() -> None:
    offset, text = encode(retrying(range(3)))
    assert decode(offset - 1, text).progress == Progress("", frontier=offset - 1)
    assert decode(offset + 1, text).note == "moved"
    assert decode(offset, text).note == "ours"


@pytest.mark.parametrize("where", range(8, 60, 3))
def test_no_character_may_change(where: int) -> None:
    offset, text = encode(retrying(range(5)))
    changed = text[:where] + ("A" if text[where] != "A" else "B") + text[where + 1 :]
    assert decode(offset, changed).note == "damaged"
    assert decode(offset, text[:where]).note == "damaged"
    assert decode(offset, text[:where] + " " + text[where:]).note == "damaged"


def test_no_text_raises() -> None:
    checked = st.binary(max_size=80).map(lambda content: content + crc32(content).to_bytes(4, "big"))
    ours = checked.map(lambda payload: f"poller{VERSION}:{urlsafe_b64encode(payload).decode().rstrip('=')}")

    @laws(800)
    @given(st.integers(0, 2**63 - 1), st.text(max_size=60) | st.text(max_size=60).map("poller1:".__add__) | ours)
    def holds(offset: int, text: str) -> None:
        progress = decode(offset, text).progress
        assert max(progress.checkpoint, 0) == offset
        assert 1 <= progress.width <= metadata.WIDEST

    holds()


@pytest.mark.parametrize("number", [b"\x80" * 9 + b"\x01", b"\xff" * 20, b"\xff\xff\xff\xff\x7f"])
def test_no_number_asks_for_too_much(number: bytes) -> None:
    """Right by its checksum, and yet no lane has such a width, or so many spans."""
    for before in (b"\x02\x05", b"\x02\x05\x01\x03\x00\x00\x00"):
        content = before + number
        text = urlsafe_b64encode(content + crc32(content).to_bytes(4, "big")).decode().rstrip("=")
        assert decode(4, f"poller1:{text}").note == "damaged"


# --- the laws of progress, with a codec in between ------------------------------------------------------------------------------------

WHAT = ("fill", "fill", "begin all", "begin all", "fail all", "fail all", "attempt", "settle", "save", "slow", "crash", "close", "age")

crowded = st.lists(st.integers(0, len(WHAT) * 8 * 128 - 1), min_size=10, max_size=30).map(
    lambda numbers: [(WHAT[n % len(WHAT)], n // len(WHAT) % 8, n // len(WHAT) // 8) for n in numbers]
)


def crowd(world: World, step: Step) -> None:
    """One step of a life in which much runs, and much fails, at once: for such lives there is no room."""
    what, which, choice = step
    width = world.lane.width
    match what:
        case "fill":
            world.read(2 * width, 0)
            for _ in range(width):
                world.start(0)
        case "begin all":
            for place in range(width):
                world.begin(place, "durable")
        case "fail all":
            for _ in range(width):
                world.settle(0, outcome(world.lane, 1 + which % 4))
        case "age" if choice % 4:
            pass
        case _:
            live(world, step)


LEAST = 84
"""Characters that hold the header, the halves of one batch of two, and hardly more."""

Fit = Callable[[Progress, "Progress | None", int, int], Progress]
REACHED = Counter[str]()


@dataclass(frozen=True, slots=True)
class Codec:
    """How saves are kept: in metadata of at most `limit` characters, the positions never (`tight`) or where they fit.

    `fit` is asked what fits, `lose` spoils what comes back.
    """

    limit: int
    tight: bool = False
    reserve: int = 20  # the halves of a batch of two
    fit: Fit = fitting
    lose: Callable[[Progress], Progress] = lambda progress: progress


@dataclass(slots=True)
class MetadataWorld(World):
    """A world whose saves are commit metadata. What did not fit may be given out once more; all else is as strict as before."""

    codec: Codec = Codec(LIMIT)
    waits: int = 0

    def begin(self, which: int, fate: Fate) -> None:
        """A strand that must be counted, and has no place in the save, waits."""
        ready = [work for work in self.works.values() if work.running is None]
        if not ready:
            return
        self.answer()  # a save that is under way is what was saved last once this one is made
        which = (which + self.waits) % len(ready)  # one that waits must not be all that is ever asked
        batch = ready[which].stack[-1]
        tokens = FORMAT.facts(batch.records).tokens()
        must = self.tracker.begin(batch, tokens[0], tokens[-1])
        progress = self.tracker.snapshot(self.heads())
        self.tracker.withdraw(batch)
        if must and not placed(progress, self.fitted(progress), batch.strand):
            self.reached["waits for its place"] += 1
            self.waits += 1
            return
        World.begin(self, which, fate)

    def fitted(self, progress: Progress) -> Progress:
        return self.codec.fit(progress, self.durable, self.codec.limit, self.codec.reserve)

    def arrive(self, progress: Progress, settled: frozenset[int]) -> None:
        fitted = self.fitted(progress)
        offset, text = encode(fitted, self.codec.limit)
        require(len(text) <= self.codec.limit, f"{len(text)} characters of {self.codec.limit}")
        decoded = decode(offset, text)
        require(decoded.note in {"ours", "dropped"}, f"ours is {decoded.note}")
        self.reached["left out"] += len({span.strand for span in progress.spans} - {span.strand for span in fitted.spans})
        self.reached["older spans kept"] += len({*fitted.spans} - {*progress.spans})
        tight = decoded.note == "dropped" or (self.codec.tight and fitted.positions != ())
        self.reached["positions dropped"] += tight
        saved = self.codec.lose(dropped(decoded.progress) if tight else decoded.progress)
        again = settled - self.said_done(saved)
        require(not again or fitted is not progress or tight, f"law 10: {sorted(again)} were settled, and are not done")
        for tokens in [each for each in self.begun if again.issuperset(each)]:
            # A new delivery, with attempts of its own.
            del self.begun[tokens], self.uncounted[tokens]
        for token in again:
            del self.times[token]
        self.safe -= again
        World.arrive(self, saved, settled - again)


def law_of_metadata(examples: int, fit: Fit = fitting, lose: Callable[[Progress], Progress] = lambda progress: progress) -> None:
    """Whatever happens to a lane, its commits say what is so, attempts are counted, and it always gets to the end."""

    @laws(examples)
    @given(lanes(poison=False), st.integers(1, 8), st.booleans(), st.integers(0, 24), st.booleans(), crowded)
    def holds(lane: Lane, width: int, keyless: bool, room: int, tight: bool, steps: list[Step]) -> None:
        records = [record._replace(key=None) for record in lane.records] if keyless else lane.records
        lane = replace(lane, width=width, records=records, size=min(2, lane.size))
        world = MetadataWorld(lane, codec=Codec(LEAST + room, tight, fit=fit, lose=lose))
        for step in steps:
            crowd(world, step)
        world.calm_down(outcome(lane, 7))
        REACHED.update(world.reached)

    holds()


def test_the_laws_of_progress_hold_in_metadata() -> None:
    law_of_metadata(500)


def test_the_law_came_to_where_it_matters() -> None:
    if not REACHED or SHARE < 1:
        pytest.skip("the law did not run, or not with all its examples")
    for what, times in {"positions dropped": 500, "waits for its place": 200, "left out": 200, "span resumed": 100, "crash": 200}.items():
        assert REACHED[what] >= times, f"{what}: {REACHED[what]}"


def forgetting(progress: Progress, before: Progress | None, limit: int, reserve: int) -> Progress:
    """Leaves out all spans, where there is no room for all."""
    return progress if fits(progress, limit, reserve) else replace(progress, spans=())


def unsteady(progress: Progress, before: Progress | None, limit: int, reserve: int) -> Progress:
    """Gives places to the lowest, whoever had them."""
    return fitting(progress, None, limit, reserve)


def unreserved(progress: Progress, before: Progress | None, limit: int, reserve: int) -> Progress:
    """Gives all places away."""
    return fitting(progress, before, limit, 0)


def careless(progress: Progress, before: Progress | None, limit: int, reserve: int) -> Progress:
    """Has no doubt about what is left out."""
    return replace(fitting(progress, before, limit, reserve), careful=progress.careful)


def trusting(progress: Progress) -> Progress:
    """Takes strands that are not listed to stand at the frontier, though the positions were dropped."""
    whole = len(progress.positions) == progress.width and len({position for _, position in progress.positions}) == 1
    return replace(progress, positions=progress.positions[:1]) if whole and progress.width > 1 else progress


@pytest.mark.parametrize(
    ("fit", "law"),
    [
        (forgetting, "law (7|10|11)"),
        (unsteady, "law 11"),
        (careless, "law 11"),
        pytest.param(unreserved, "law 1[01]", marks=pytest.mark.slow),  # rare
    ],
)
def test_the_laws_find_out_who_fits_badly(fit: Fit, law: str) -> None:
    with pytest.raises(Broken, match=law), counter_test():
        law_of_metadata(2000, fit=fit)


def test_the_laws_find_out_who_forgets_that_positions_were_dropped() -> None:
    with pytest.raises(Broken, match="law 7"), counter_test():
        law_of_metadata(2000, lose=trusting)
