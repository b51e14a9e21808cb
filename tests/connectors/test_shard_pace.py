"""When a shard may be read again: laws of `Pace`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.dynamodb_streams import client as dynamodb_streams
from connectors.kinesis import client as kinesis
from connectors.sharded.pace import EARLY_SECONDS, LONGEST_REFUSAL, Limits, Pace
from poller.testing.strategies import counter_test, dice, laws

SERVICES = (kinesis.LIMITS, dynamodb_streams.LIMITS)

Answer = tuple[float, float, int | None, float | None]
"""How long the call takes, the share of the most bytes it brings, how many records (None: all that fit), and how far behind it is."""

answers = st.lists(
    st.tuples(
        st.floats(0, 2), st.floats(0, 1), st.one_of(st.none(), st.integers(0, 3)), st.one_of(st.none(), st.sampled_from((0.0, 1.0, 9e4)))
    ),
    min_size=2,
    max_size=40,
)
limited = st.sampled_from(SERVICES)


def calls(pace: Pace, script: list[Answer]) -> list[tuple[float, int, int, float | None, float]]:
    """(when, records, bytes, behind, when the next one may be) of each call of who reads as soon as that is allowed."""
    made, now = list[tuple[float, int, int, float | None, float]](), 0.0
    for seconds, share, some, behind in script:
        now = max(now, pace.ready)
        count = pace.limits.records if some is None else some
        size = int(share * pace.limits.answer) if count else 0
        pace = pace.answered(now, count, size, behind)
        made.append((now, count, size, behind, pace.ready))
        now += seconds
    return made


def keep_the_limits(begin: Callable[[Limits], Pace]) -> None:
    """The law: so many reads and so many bytes a second, over every stretch, but for the last answer of it."""

    @laws(200)
    @given(limited, answers)
    def law(limits: Limits, script: list[Answer]) -> None:
        made = calls(begin(limits), script)
        for i in range(len(made)):
            size = 0
            for j in range(i + 1, len(made)):
                stretch = made[j][0] - made[i][0]
                size += made[j - 1][2]
                assert j - i <= stretch * limits.reads + 1e-6
                assert size <= stretch * limits.bytes + 1e-3 * size + 1e-6

    law()


def test_no_limit_is_ever_broken() -> None:
    keep_the_limits(Pace)


class Hasty(Pace):
    """Reads on at once, whatever it was given."""

    def answered(self, asked: float, count: int, size: int, behind: float | None) -> Pace:
        return Hasty(self.limits, asked + 1 / self.limits.reads)


class Restless(Pace):
    """Knows how much, not how often."""

    def answered(self, asked: float, count: int, size: int, behind: float | None) -> Pace:
        return Restless(self.limits, asked + size / self.limits.bytes)


@pytest.mark.parametrize("broken", [Hasty, Restless])
def test_the_law_rejects_who_breaks_them(broken: type[Pace]) -> None:
    with counter_test(), pytest.raises(AssertionError):
        keep_the_limits(broken)


@laws(200)
@given(limited, answers)
def test_what_is_behind_is_read_as_soon_as_is_allowed_and_the_head_soon_enough(limits: Limits, script: list[Answer]) -> None:
    for asked, count, size, behind, ready in calls(Pace(limits), script):
        allowed = max(1 / limits.reads, size / limits.bytes)
        if behind or limits.full(count, size):
            assert ready - asked == pytest.approx(allowed)
        else:
            assert allowed - 1e-9 <= ready - asked <= max(allowed, limits.idle + EARLY_SECONDS) + 1e-9
            assert not count or ready - asked >= limits.busy - 1e-9


@pytest.mark.parametrize("limits", SERVICES)
def test_an_idle_shard_costs_one_call_in_so_long(limits: Limits) -> None:
    made = calls(Pace(limits), [(0.01, 0.0, 0, 0.0)] * 100)
    assert made[-1][0] == pytest.approx(99 * limits.idle, abs=2.0)
    busy = Pace(limits)
    for _ in range(10):
        busy = busy.answered(0.0, 0, 0, 0.0)
    assert busy.answered(0.0, 1, 10, 0.0).ready == limits.busy, "a record that comes wakes it"


def are_asked_in_step(begin: Callable[[Limits], Pace]) -> None:
    """The law: wherever idle shards begin, and however late or early each call goes out, they come to the same moments, and stay there."""

    @laws(200)
    @given(limited, st.floats(0, 1e6), st.lists(st.floats(-EARLY_SECONDS / 2, 0.04), min_size=5, max_size=40))
    def law(limits: Limits, now: float, late: list[float]) -> None:
        pace, asked = begin(limits), [now]
        for more in late:
            pace = pace.answered(asked[-1], 0, 0, 0.0)
            ticks = pace.ready / limits.busy
            assert ticks == pytest.approx(round(ticks), abs=1e-6) or pace.ready == pytest.approx(asked[-1] + 1 / limits.reads)
            asked.append(pace.ready + more)
        apart = [after - before for before, after in pairwise(asked[3:])]
        assert all(limits.idle - 0.05 <= seconds <= limits.idle + 0.05 for seconds in apart)

    law()


def test_idle_shards_are_asked_in_step() -> None:
    are_asked_in_step(Pace)


class Apart(Pace):
    """Asks again after so long, whenever that is."""

    def answered(self, asked: float, count: int, size: int, behind: float | None) -> Pace:
        return Apart(self.limits, asked + self.limits.idle)


def test_the_law_rejects_who_goes_by_himself() -> None:
    with counter_test(), pytest.raises(AssertionError):
        are_asked_in_step(Apart)


@laws(200)
@given(limited, st.integers(0, 50), st.floats(0.1, 60), dice)
def test_what_is_refused_is_asked_later_and_later_and_not_too_late(limits: Limits, before: int, after: float, chance: float) -> None:
    pace = replace(Pace(limits), refusals=before)
    refused = pace.refused(100.0, after, chance)
    assert 100.0 + after / 2 <= refused.ready <= 100.0 + 1.5 * max(after, LONGEST_REFUSAL)
    assert refused.refusals == before + 1
    assert pace.refused(100.0, after, chance).ready <= refused.refused(100.0, after, chance).ready
    assert refused.answered(200.0, 1, 10, 0.0).refusals == 0
