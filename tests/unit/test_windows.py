"""Tumbling windows: laws 15 and 16, events, and responses (aws-esm: Tumbling windows)."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.failures.entry import entry
from poller.model import Ack, Batch, Discard, Done, Failure, Fault, Outcome, Partial, Retry, Returned, Window
from poller.outcome import interpret
from poller.policy import Block
from poller.progress import Progress, decode, encode
from poller.quotas import MAXIMUM_STATE_BYTES
from poller.settings import Backoff, Batching
from poller.testing.fakes import FORMAT, FakeEvent, FakeRecord
from poller.testing.laws import require
from poller.testing.strategies import counter_test, laws
from poller.tumbling import TumblingStrands
from poller.windows import NO_STATE, Bounds, FinalFormat, Run, WindowFormat, Windows, is_final, iso, placed

Place = Callable[[Sequence[float], int, Bounds | None, int], list[Run]]

NOON = 1_607_497_440
"""2020-12-09T07:04:00Z"""

arrivals = st.lists(st.floats(0, 100).map(lambda seconds: NOON + seconds), max_size=30)
widths = st.sampled_from((1, 7, 60, 120))
last = st.one_of(st.none(), st.sampled_from((Bounds(NOON, NOON + 60), Bounds(NOON - 1, NOON + 6))))


# --- which window -----------------------------------------------------------------------------------------------------------------------


def law_15(place: Place) -> None:
    @laws(200)
    @given(arrivals, widths, last, st.sampled_from((0, NOON, NOON + 61)))
    def law(arrivals: list[float], width: int, last: Bounds | None, passed: int) -> None:
        runs = place(arrivals, width, last, passed)
        require(sum(run.size for run in runs) == len(arrivals), "every record is in a window")
        for before, after in pairwise(([Run(last, 0)] if last else []) + runs):
            follows = before.bounds.end <= after.bounds.start or before.size == 0 or width != before.bounds.end - before.bounds.start
            require(before.bounds == after.bounds or follows, "windows follow one another")
        each = [run.bounds for run in runs for _ in range(run.size)]
        for arrival, bounds in zip(arrivals, each, strict=True):
            require(arrival < bounds.end, "no record is in a window that ends before it arrived")
            if bounds != last:
                require(bounds.end - bounds.start == width and bounds.start % width == 0, "windows are aligned")
                require(bounds.end > passed, "a window that is over is not opened again")
        highest = float("-inf")
        for arrival, bounds in zip(arrivals, each, strict=True):
            if arrival >= max(highest, passed) and (last is None or arrival >= last.end):
                require(bounds.start <= arrival, "what is not late is in the window of its arrival")
            highest = max(highest, arrival)

    law()


def _one(arrivals: Sequence[float], width: int, last: Bounds | None, passed: int) -> list[Run]:
    """All in one window."""
    runs = placed(arrivals, width, last, passed)
    return [Run(runs[0].bounds, len(arrivals))] if runs else []


def _strict(arrivals: Sequence[float], width: int, last: Bounds | None, passed: int) -> list[Run]:
    """Late records open their windows again."""
    return [run for arrival in arrivals for run in placed((arrival,), width, None, 0)]


def _dropping(arrivals: Sequence[float], width: int, last: Bounds | None, passed: int) -> list[Run]:
    """Late records are lost."""
    return placed([arrival for arrival in arrivals if arrival >= passed], width, last, passed)


def test_every_record_is_in_one_window() -> None:
    law_15(placed)


@pytest.mark.parametrize("broken", [_one, _strict, _dropping])
def test_law_15_rejects(broken: Place) -> None:
    with counter_test(), pytest.raises(AssertionError):
        law_15(broken)


@given(st.integers(0, 253_402_300_799))
def test_times_are_written_as_aws_does(moment: int) -> None:
    assert iso(moment) == datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ").rjust(20, "0")


# --- where a batch ends -----------------------------------------------------------------------------------------------------------------


def _strands(windows: Windows, *arrivals: float) -> TumblingStrands:
    strands = TumblingStrands(windows, FORMAT)
    records = [FakeRecord(i, f"r{i}", None, NOON + arrival) for i, arrival in enumerate(arrivals)]
    strands.add(records, FORMAT.facts(records), 0.0)
    return strands


def _cut(strands: TumblingStrands) -> Batch | None:
    (strand,), batching = strands, Batching(100)
    taken = strands.take(strand, batching, FORMAT, 0.0) if strands.can_cut(strand, batching, 0.0) else None
    if taken is None:
        return None
    strands.finish(strand)
    return taken[0]


def _names(batch: Batch | None) -> list[str]:
    assert batch is not None
    return [record.name for record in batch.records]


def test_a_batch_holds_one_window_and_a_window_ends_when_a_later_record_is_there() -> None:
    windows = Windows(60, "shard", "arn")
    strands = _strands(windows, 1, 59, 60, 61, 30, 130)
    assert _names(_cut(strands)) == ["r0", "r1"]
    final = _cut(strands)
    assert final is not None
    assert (is_final(final), final.records[0].start, windows.window and windows.window.closing) == (True, NOON, "over")
    windows.finish((Ack(final.records),), 0.0)
    assert _names(_cut(strands)) == ["r2", "r3", "r4"]  # r4 is late, and in the window that is open
    assert is_final(_cut(strands) or final)
    windows.finish((Ack(()),), 0.0)
    assert _names(_cut(strands)) == ["r5"]
    assert _cut(strands) is None
    assert strands.empty


def test_a_window_does_not_end_before_what_was_read_is_here() -> None:
    """The runner may fail between a fetch and its strands; then the window would lack what was lost."""
    windows = Windows(60, "shard", "arn")
    strands = _strands(windows, 1)
    assert _names(_cut(strands)) == ["r0"]
    strands.hear(NOON + 70.0, received=2)
    assert [strands.over] == [False]
    assert _cut(strands) is None
    strands.skip(1)
    assert strands.over
    final = _cut(strands)
    assert final is not None
    assert is_final(final)


def test_a_late_record_does_not_open_a_window_that_is_over() -> None:
    windows = Windows(60, "shard", "arn", passed=NOON + 60)
    assert _names(_cut(strands := _strands(windows, 59.5))) == ["r0"]
    assert windows.window is not None
    assert windows.window.start == NOON + 60
    assert strands.end == NOON + 120


def test_what_an_earlier_life_closed_ends_without_waiting() -> None:
    windows = Windows(60, "shard", "arn", Window(NOON, NOON + 60, 1, 3, "over", attempts=2, running=True), 0, b'{"a":1}')
    strands = TumblingStrands(windows, FORMAT)
    (strand,) = strands
    assert strands.over
    taken = strands.take(strand, Batching(10), FORMAT, 0.0)
    assert taken is not None
    assert taken[1] is not None
    assert (taken[1].attempts, taken[1].running, taken[0].attempt) == (2, True, 3)
    assert list(strands.heads()) == []


# --- the state --------------------------------------------------------------------------------------------------------------------------

CASES = st.lists(st.one_of(st.just("done"), st.just("fault"), st.integers(0, 5)), min_size=1, max_size=20)


def law_16(block: type[Block]) -> None:
    """A function that names what it saw: a batch of six is run by the policy until it is done, on any outcomes."""

    @laws(150)
    @given(CASES, st.booleans(), st.integers(0, 2))
    def law(cases: list[Any], bisect: bool, retries: int) -> None:
        windows = Windows(60, "shard", "arn")
        records = [FakeRecord(i, f"r{i}", None, float(NOON)) for i in range(6)]
        windows.open(Bounds(NOON, NOON + 60), 0)
        policy, done, gone = block(retries, None, bisect, Backoff(), "listed"), list[str](), list[str]()  # and cuts all the same
        stack = [Batch(records, WindowFormat(FORMAT, windows))]
        for case in [*cases, *["done"] * 40]:
            if not stack:
                break
            batch = stack.pop()
            seen = json.loads(batch.format.event(batch.records).json())["state"].get("seen", [])
            require(seen == done, f"given {seen}, where {done} are done")
            outcome = _outcome(case, seen, [record.name for record in batch.records])
            actions = policy.decide(batch, outcome, 0.0, 0.5)
            for action in actions:
                if isinstance(action, Ack):
                    done += [record.name for record in action.records]
                elif isinstance(action, Discard):
                    gone += [record.name for record in action.failure.records]
            windows.settle(actions)
            stack += [action.batch for action in reversed(actions) if isinstance(action, Retry)]
        require(sorted(done + gone) == [record.name for record in records], "all are done or given up")
        require(json.loads(windows.state).get("seen", []) == done, "the state is what is done")

    law()


def _outcome(case: Any, seen: list[str], names: list[str]) -> Outcome:
    if case == "fault":
        return Fault("error", "ValueError", "no")
    first = len(names) if case == "done" else min(case, len(names) - 1)
    state = json.dumps({"seen": seen + names[:first]}).encode()
    return Done(state) if case == "done" else Partial((first,), state)


class _Forgets(Block):
    __slots__ = ()

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> Any:
        return super().decide(batch, replace(outcome, state=None) if isinstance(outcome, Partial) else outcome, now, dice)


def test_a_state_is_of_exactly_the_records_that_are_done() -> None:
    law_16(Block)


def test_law_16_rejects_a_policy_that_forgets_the_part_before_the_cut() -> None:
    with counter_test(), pytest.raises(AssertionError):
        law_16(_Forgets)


def _state(size: int) -> bytes:
    return b'"' + b"x" * (size - 2) + b'"'


def test_a_state_above_the_limit_ends_the_window_early() -> None:
    windows = Windows(60, "shard", "arn")
    windows.open(Bounds(NOON, NOON + 60), 5)
    windows.settle((Ack((), _state(MAXIMUM_STATE_BYTES)),))
    assert windows.joined is not None
    windows.settle((Ack((), _state(MAXIMUM_STATE_BYTES + 1)),))
    assert windows.window == Window(NOON, NOON + 60, 5, 2, "early")
    assert json.loads(FinalFormat(windows).event((windows.window,)).json())["isWindowTerminatedEarly"] is True
    windows.finish((Ack(()),), 0.0)
    assert [windows.window, windows.state, windows.over] == [None, NO_STATE, NOON]  # the rest of it may be a window again


# --- events and responses ---------------------------------------------------------------------------------------------------------------


def _opened(state: bytes) -> Windows:
    windows = Windows(120, "shardId-000000000006", "arn:aws:kinesis:us-east-1:123456789012:stream/lambda-stream")
    windows.open(Bounds(NOON, NOON + 120), 7)
    windows.settle((Ack((), state),))
    return windows


def test_an_event_has_aws_s_members_in_aws_s_order() -> None:
    windows = _opened(b'{"1":282,"2":123456789012345678901234567890}')
    event = WindowFormat(FORMAT, windows).event([FakeRecord(1, "r1", None, NOON)])
    expected = (
        '{"Records":[{"id":"r1","key":null}],"window":{"start":"2020-12-09T07:04:00Z","end":"2020-12-09T07:06:00Z"},'
        '"state":{"1":282,"2":123456789012345678901234567890},"shardId":"shardId-000000000006",'
        '"eventSourceARN":"arn:aws:kinesis:us-east-1:123456789012:stream/lambda-stream",'
        '"isFinalInvokeForWindow":false,"isWindowTerminatedEarly":false}'
    )
    assert event.json().decode() == expected
    assert event.mapping() == json.loads(expected)
    head, records, tail = event.parts()
    assert head + b",".join(records) + tail == event.json()


def test_a_final_event_has_no_records_and_is_kept_with_its_state() -> None:
    windows = _opened(b'{"1":282}')
    window = windows.close()
    final = FinalFormat(windows)
    event = final.event((window,))
    document = json.loads(event.json())
    assert (document["Records"], document["state"], document["isFinalInvokeForWindow"]) == ([], {"1": 282}, True)
    assert event.mapping() == document
    failure = Failure((window,), "RetryAttemptsExhausted", 3, Fault("error", "ValueError", "no"))
    kept = entry(failure, final, mapping="m", source="s", lane="shard", function="f", now=1.0)
    assert kept.head + b",".join(record.json for record in kept.records) + kept.tail == event.json()
    assert kept.first == "shardId-000000000006:window 2020-12-09T07:04:00Z from 7"


def test_a_final_invocation_is_tried_once_however_old_its_window_is() -> None:
    windows = _opened(b"{}")
    batch = Batch((windows.close(),), FinalFormat(windows))
    policy = Block(None, 60.0, True, Backoff())
    assert policy.screen(batch, NOON + 1e6) == (batch, ())
    windows.begin(1)
    assert policy.screen(batch.but(attempt=2), NOON + 121.0)[1] == ()
    (discard,) = policy.screen(batch.but(attempt=2), NOON + 120 + 61.0)[1]
    assert isinstance(discard, Discard)
    assert discard.failure.reason == "RecordAgeExceeded"


NO_STATES = (b"null", b"", b"{}", b"[]", b'"ok"', b"{", b'{"state":null}', b'{"batchItemFailures":[]}', b"\xff")


@pytest.mark.parametrize("payload", NO_STATES)
@pytest.mark.parametrize("reporting", [True, False])
def test_a_response_without_a_state_is_a_failed_invocation(payload: bytes, reporting: bool) -> None:
    outcome = interpret(Returned(payload), FakeEvent([]), reporting, windowed=True)
    assert isinstance(outcome, Fault)
    assert (outcome.kind, outcome.type) == ("response", "MalformedResponse")
    without = interpret(Returned(payload), FakeEvent([]), False)
    assert without == Done()


def test_a_state_is_kept_as_it_was_written() -> None:
    records = [FakeRecord(i, f"r{i}", None, 0.0) for i in range(3)]
    payload = b'{"state": {"n": 123456789012345678901234567890},"batchItemFailures":[{"itemIdentifier":"r1"}]}'
    state = b'{"n": 123456789012345678901234567890}'
    assert interpret(Returned(payload), FakeEvent(records), True, windowed=True) == Partial((1,), state)
    assert interpret(Returned(payload), FakeEvent(records), False, windowed=True) == Done(state)
    wrong = b'{"state":{},"batchItemFailures":[{"itemIdentifier":"r9"}]}'
    assert isinstance(interpret(Returned(wrong), FakeEvent(records), True, windowed=True), Fault)


# --- progress ---------------------------------------------------------------------------------------------------------------------------


def test_progress_of_before_and_of_windows_is_read() -> None:
    old = b'{"origin":"TRIM_HORIZON","width":1,"frontier":5,"positions":[],"spans":[],"doubt":0,"careful":-1,"closed":true,"ended":false}'
    assert decode(old) == Progress("TRIM_HORIZON", 1, 5, closed=True)
    progress = Progress("TRIM_HORIZON", frontier=2**100, window=Window(NOON, NOON + 60, 2**100, 3, "over", 1, True, 5.5), passed=NOON)
    assert decode(encode(progress)) == progress


@pytest.mark.parametrize(
    ("progress", "width", "tumbling", "outgrown"),
    [
        (Progress("TRIM_HORIZON"), 1, True, False),
        (Progress("TRIM_HORIZON", 4), 1, True, False),
        (Progress("TRIM_HORIZON", 4, 9, ((1, 5),)), 1, True, True),
        (Progress("TRIM_HORIZON", 1, 9, window=Window(0, 60, 1)), 1, True, False),
        (Progress("TRIM_HORIZON", 1, 9, window=Window(0, 60, 1)), 1, False, True),
        (Progress("TRIM_HORIZON", 1, 9, window=Window(0, 60, 1)), 4, False, True),
        (Progress("TRIM_HORIZON", 1, 9, ((0, 5),)), 1, False, False),
    ],
)
def test_what_was_begun_otherwise_is_finished_first(progress: Progress, width: int, tumbling: bool, outgrown: bool) -> None:
    assert progress.outgrown(width, tumbling) is outgrown
