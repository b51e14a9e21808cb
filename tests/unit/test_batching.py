"""Law 8: the batches, one after the other, are the input; none is over the count or the bytes, unless it is of one record. And windows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.batching import ENVELOPE_BYTES, cut
from poller.model import Cause
from poller.quotas import MAXIMUM_EVENT_BYTES
from poller.settings import Batching
from poller.strands import Strands
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.laws import Cut, check_cuts
from poller.testing.oracle import Broken
from poller.testing.strategies import counter_test, laws

REACHED = Counter[str]()
LIMIT = 100

sizes = st.lists(st.one_of(st.integers(1, 30), st.sampled_from((LIMIT // 2, LIMIT - 1, LIMIT, LIMIT + 1, 3 * LIMIT))), max_size=30)


def law_8(cut: Cut) -> None:
    @laws(500)
    @given(sizes, st.integers(1, 10), st.sampled_from((None, "window", "drain")))
    def holds(sizes: list[int], most: int, closing: Cause | None) -> None:
        batching = Batching(most, maximum_bytes=LIMIT + ENVELOPE_BYTES)
        cuts = check_cuts(cut, sizes, batching, LIMIT, closing)
        REACHED.update(cause for _, cause in cuts)
        REACHED["left open"] += sum(count for count, _ in cuts) < len(sizes)

    holds()


def test_law_8() -> None:
    law_8(cut)


# --- counter-tests ------------------------------------------------------------------------------------------------------------------


def weightless(sizes: Sequence[int], batching: Batching, closing: Cause | None) -> tuple[int, Cause] | None:
    """Looks at the count alone."""
    return cut([0] * len(sizes), batching, closing)


def greedy(sizes: Sequence[int], batching: Batching, closing: Cause | None) -> tuple[int, Cause] | None:
    """Takes one record too many where the bytes end a batch."""
    taken = cut(sizes, batching, closing)
    return (taken[0] + 1, "bytes") if taken is not None and taken[1] == "bytes" else taken


def timid(sizes: Sequence[int], batching: Batching, closing: Cause | None) -> tuple[int, Cause] | None:
    """Takes one record too few where the bytes end a batch."""
    taken = cut(sizes, batching, closing)
    return (max(1, taken[0] - 1), "bytes") if taken is not None and taken[1] == "bytes" else taken


def unlimited(sizes: Sequence[int], batching: Batching, closing: Cause | None) -> tuple[int, Cause] | None:
    """Looks at the bytes alone."""
    return cut(sizes, Batching(10_000, maximum_bytes=batching.maximum_bytes), closing)


def silent(sizes: Sequence[int], batching: Batching, closing: Cause | None) -> tuple[int, Cause] | None:
    """Does not say that a record is too large."""
    taken = cut(sizes, batching, closing)
    return (1, "bytes") if taken is not None and taken[1] == "oversize" else taken


def endless(sizes: Sequence[int], batching: Batching, closing: Cause | None) -> tuple[int, Cause] | None:
    """Takes a batch of nothing."""
    return cut(sizes, batching, closing) if sizes else (0, "window")


def waiting(sizes: Sequence[int], batching: Batching, closing: Cause | None) -> tuple[int, Cause] | None:
    """Goes on filling after the window has ended."""
    return cut(sizes, batching, None)


@pytest.mark.parametrize("broken", [weightless, greedy, timid, unlimited, silent, endless, waiting])
@pytest.mark.counterpart
def test_law_8_finds_out(broken: Cut) -> None:
    with pytest.raises(Broken), counter_test():
        law_8(broken)


# --- tables -------------------------------------------------------------------------------------------------------------------------

ROOM = MAXIMUM_EVENT_BYTES - ENVELOPE_BYTES


@pytest.mark.parametrize(
    ("sizes", "most", "closing", "expected"),
    [
        ([], 3, "window", None),
        ([1, 1], 3, None, None),
        ([1, 1], 3, "window", (2, "window")),
        ([1, 1], 3, "drain", (2, "drain")),
        ([1, 1, 1], 3, None, (3, "size")),
        ([1, 1, 1, 1], 3, "window", (3, "size")),
        ([ROOM], 3, None, None),
        ([ROOM], 1, None, (1, "size")),
        ([ROOM, 1], 3, None, (1, "bytes")),
        ([ROOM - 1, 1, 1], 3, None, (2, "bytes")),
        ([1, ROOM, 1], 3, None, (1, "bytes")),
        ([ROOM + 1], 3, None, (1, "oversize")),
        ([ROOM + 1, 1], 1, "window", (1, "oversize")),
        ([1, ROOM + 1], 3, None, (1, "bytes")),
        ([1, 1, ROOM], 2, None, (2, "size")),
    ],
)
def test_where_a_batch_ends(sizes: list[int], most: int, closing: Cause | None, expected: tuple[int, Cause] | None) -> None:
    assert cut(sizes, Batching(most), closing) == expected


def records(*tokens: int, size: int = 1) -> list[FakeRecord]:
    return [FakeRecord(token, f"r{token}", b"k", 0.0, size) for token in tokens]


class Lane:
    """One strand with a window, and the hands of a runner."""

    def __init__(self, window: float, most: int = 3) -> None:
        self.strands = Strands(1, "hash")
        self.batching = Batching(most, window, LIMIT + ENVELOPE_BYTES)

    def add(self, now: float, *tokens: int, size: int = 1) -> None:
        given_ = records(*tokens, size=size)
        self.strands.add(given_, FORMAT.facts(given_), now)

    def start(self, now: float) -> tuple[list[int], Cause] | None:
        for strand in self.strands.ready(self.batching, now):
            taken = self.strands.take(strand, self.batching, FORMAT, now)
            assert taken is not None
            return [record.token for record in taken[0].records], taken[0].cause
        return None

    def finish(self) -> None:
        (strand,) = self.strands
        self.strands.finish(strand)

    def due(self, now: float) -> float | None:
        return self.strands.due(self.batching, now)


def test_the_window_starts_with_the_first_record_of_an_open_batch() -> None:
    lane = Lane(window=5.0)
    assert lane.due(0.0) is None
    lane.add(10.0, 1)
    lane.add(14.0, 2)
    assert lane.start(14.999) is None
    assert lane.due(14.0) == 15.0, "later records do not extend it"
    assert lane.start(15.0) == ([1, 2], "window")


def test_a_full_batch_does_not_wait_and_what_is_left_starts_a_window() -> None:
    lane = Lane(window=5.0)
    lane.add(10.0, 1, 2, 3, 4)
    assert lane.start(12.0) == ([1, 2, 3], "size")
    lane.finish()
    assert lane.start(16.999) is None
    assert lane.due(12.0) == 17.0
    assert lane.start(17.0) == ([4], "window")


def test_a_batch_that_is_full_of_bytes_does_not_wait() -> None:
    lane = Lane(window=5.0)
    lane.add(10.0, 1, 2, size=60)
    assert lane.start(10.0) == ([1], "bytes")
    lane.finish()
    assert lane.start(10.0) is None


def test_without_a_window_a_batch_is_what_is_there() -> None:
    lane = Lane(window=0.0)
    lane.add(10.0, 1)
    assert lane.start(10.0) == ([1], "window")
    lane.add(10.0, 2)
    assert lane.start(11.0) is None, "one batch at a time"
    lane.add(11.0, 3)
    lane.finish()
    assert lane.start(11.0) == ([2, 3], "window")


def test_an_ended_window_is_not_due_again_while_its_batch_waits_for_a_permit() -> None:
    lane = Lane(window=5.0)
    lane.add(10.0, 1)
    assert lane.due(15.0) is None
    lane.add(16.0, 2)
    assert lane.start(16.0) == ([1, 2], "window"), "meanwhile it goes on filling"


def test_a_drained_lane_waits_for_no_window() -> None:
    lane = Lane(window=5.0)
    lane.add(10.0, 1)
    lane.strands.draining = True
    assert lane.start(10.0) == ([1], "drain")


@given(st.floats(0, 1e9), st.floats(0.001, 300))
@laws(200)
def test_a_timer_set_for_what_is_due_finds_it(now: float, window: float) -> None:
    """Whatever floating point makes of the sum: else the timer's call would find nothing, and set no other."""
    lane = Lane(window)
    lane.add(now, 1)
    due = lane.due(now)
    if due is not None:
        assert lane.start(due) == ([1], "window")


def test_law_8_came_across_every_cause(tell: Callable[[str], None]) -> None:
    if not REACHED:
        pytest.skip("the law did not run")
    tell("batching: " + ", ".join(f"{what} {count}" for what, count in sorted(REACHED.items())))
    assert [what for what in ("size", "bytes", "window", "drain", "oversize", "left open") if not REACHED[what]] == []
