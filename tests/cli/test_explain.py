"""The attempt tree of a failing record: it comes from the policy, keeps to its bounds, and is what the engine really does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Literal, cast

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poller.explain import MOST_STEPS, Explanation, Kind, Step, explain
from poller.functions import Function
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.model import Call, Fault, Response, Returned
from poller.ordered_source import OrderedSource
from poller.policy import Block, Redeliver
from poller.protocols import Source
from poller.settings import Backoff, Batching, Context, ErrorRule, FailureSettings, FunctionSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.testing.clock import VirtualLoop, run_virtually
from poller.testing.fakes import FORMAT, FakeHandler, FakeQueue, FakeQueueSource, FakeRecord, FakeShards, FakeStream, Gate
from poller.turn import Turn
from poller.work import Work

BACKOFF = Backoff(1.0, 60.0)

Calls = list[tuple[tuple[int, ...], float]]
"""The places of each invocation's records, and when it began (seconds after the first one)."""


def every(steps: Sequence[Step]) -> Iterator[Step]:
    for step in steps:
        yield step
        yield from every(step.then)


def calls(explained: Explanation) -> Calls:
    """In the order of time; of one time, in the order of the tree."""
    run = [step for step in every(explained.steps) if step.outcome != "none"]
    return [(tuple(range(step.first, step.last + 1)), round(step.at, 3)) for step in sorted(run, key=lambda step: step.at)]


# --- tables -----------------------------------------------------------------------------------------------------------------------


RULES = (ErrorRule("Validation*", "discard"), ErrorRule("Slow: *", "retry", 1, 2, BACKOFF, bisect=False), ErrorRule("Auth*", "pause"))


@pytest.mark.parametrize(
    ("policy", "kind", "error", "tree", "last"),
    [
        (
            Block(2, None, True, BACKOFF, errors=RULES),
            "named",
            "ValidationError: x",
            "fails, split into records 1-2, record 3 and record 4|succeeds, done|fails, discarded to the journal (ErrorDiscarded)"
            "|succeeds, done",
            "at most: 2 invocations, 0s",
        ),
        (
            Block(2, None, True, BACKOFF, errors=RULES),
            "full",
            "Slow: x",
            "fails, again after 500ms|fails, discarded to the journal (RetryAttemptsExhausted)",
            "at most: 2 invocations, 1s",
        ),
        (
            Block(2, None, True, BACKOFF, errors=RULES),
            "full",
            "AuthError: x",
            "fails, pauses the mapping, until it is resumed",
            "record 3 is in 1 of 1 invocations, and is not given up",
        ),
        (
            Redeliver(3, None, None, False, errors=RULES),
            "named",
            "ValidationError: x",
            "fails, record 3 discarded to the journal (ErrorDiscarded); 3 of records 1-4 given back for the rest of its visibility timeout"
            "|succeeds, done",
            "at most: 1 invocations, 0s",
        ),
        (
            Redeliver(3, None, None, False, errors=RULES),
            "full",
            "Slow: x",
            "fails, given back for 500ms|fails, discarded to the journal (MaximumReceiveCountExceeded)",
            "at most: 2 invocations, 1s",
        ),
    ],
    ids=lambda part: part.split(": ")[0] if isinstance(part, str) else type(part).__name__,
)
def test_error_rules_have_their_say(policy: Block | Redeliver, kind: Kind, error: str, tree: str, last: str) -> None:
    type_, _, message = error.partition(": ")
    explained = explain(policy, 4, 2, kind, 0.5, fault=Fault("error", type_, message))
    *steps, summary, final = explained.lines()
    if explained.paused:
        steps, summary = [*steps, summary], final
    assert [step.partition(": ")[2] for step in steps] == tree.split("|") and final == last
    assert "record 3" in summary


def test_a_poison_record_is_found_by_halves_and_given_up_alone() -> None:
    explained = explain(Block(2, None, bisect=True, backoff=BACKOFF), 4, 1, "full", 0.5)
    assert list(explained.lines()) == [
        "records 1-4, attempt 1, at 0s: fails, split into records 1-2 and records 3-4",
        "  records 1-2, attempt 1, at 0s: fails, split into record 1 and record 2",
        "    record 1, attempt 1, at 0s: succeeds, done",
        "    record 2, attempt 1, at 0s: fails, again after 500ms",
        "    record 2, attempt 2, at 500ms: fails, again after 1s",
        "    record 2, attempt 3, at 1.5s: fails, discarded to the journal (RetryAttemptsExhausted)",
        "  records 3-4, attempt 1, at 1.5s: succeeds, done",
        "record 2 is in 5 of 7 invocations, and ends after 1.5s: RetryAttemptsExhausted",
        "at most: 5 invocations, 3s",
    ]
    assert explained.invocations == (3, 5, 2, 2)
    assert [end and end.how for end in explained.ends] == ["done", "RetryAttemptsExhausted", "done", "done"]


def test_without_bisect_the_good_records_are_given_up_too() -> None:
    explained = explain(Block(1, None, bisect=False, backoff=BACKOFF), 3, 2)
    assert explained.invocations == (2, 2, 2)
    assert {end.how for end in explained.ends if end is not None} == {"RetryAttemptsExhausted"}


def test_a_cut_goes_on_from_the_named_record_and_gives_up_that_one_only() -> None:
    explained = explain(Block(1, None, bisect=True, backoff=BACKOFF), 3, 1, "partial")
    assert [(step.first, step.last, step.attempt) for step in every(explained.steps)] == [(0, 2, 1), (1, 2, 1), (1, 2, 2), (2, 2, 1)]
    assert [end and end.how for end in explained.ends] == ["done", "RetryAttemptsExhausted", "done"]


def test_listed_goes_on_with_the_named_record_alone() -> None:
    explained = explain(Block(1, None, bisect=True, backoff=BACKOFF, partial="listed"), 3, 1, "partial")
    assert [(step.first, step.last, step.attempt) for step in every(explained.steps)] == [(0, 2, 1), (1, 1, 1), (1, 1, 2)]


def test_a_queue_counts_receives_and_waits_for_its_visibility_timeout() -> None:
    explained = explain(Redeliver(3, None, None, groups=False), 2, 0, "partial", visibility=30.0)
    assert calls(explained) == [((0, 1), 0.0), ((0,), 30.0), ((0,), 60.0)]
    assert explained.ends[0] is not None and explained.ends[0].how == "MaximumReceiveCountExceeded"


def test_a_queue_with_a_redrive_policy_moves_the_record_itself() -> None:
    explained = explain(Redeliver(None, 2, BACKOFF, groups=False), 2, 0, "full", 0.5, visibility=30.0)
    assert calls(explained) == [((0, 1), 0.0), ((0, 1), 0.5)]
    assert {(end.how, end.at) for end in explained.ends if end is not None} == {("dead-letter queue", 30.5)}
    assert "kept in the journal as a copy" in explained.steps[-1].decided


def test_an_age_limit_ends_endless_retries_and_takes_what_waited_behind() -> None:
    explained = explain(Block(None, 10.0, bisect=True, backoff=BACKOFF), 2, 0)
    assert [end and end.how for end in explained.ends] == ["RecordAgeExceeded"] * 2
    assert explained.invocations[1] == 1 and explained.bounds.invocations is None and explained.bounds.seconds is not None


def test_endless_retries_are_said_to_be_endless() -> None:
    explained = explain(Block(None, None, bisect=True, backoff=BACKOFF), 2, 0)
    assert (explained.total, explained.finished, explained.ends[0]) == (MOST_STEPS, False, None)
    assert explained.bounds.invocations is explained.bounds.seconds is None
    assert "... and so on" in list(explained.lines())


def test_a_long_series_is_shortened_in_words_and_whole_as_values() -> None:
    explained = explain(Block(10, None, bisect=True, backoff=BACKOFF), 1, 0)
    assert len(list(explained.lines())) == 6
    assert "  ... attempts 3 to 10 too" in list(explained.lines())
    text = orjson.loads(orjson.dumps(explained.as_dict()))
    assert len(text["steps"]) == 11 and text["bounds"]["invocations"] == 11


@pytest.mark.parametrize("place", [-1, 3])
def test_a_record_that_is_not_there_is_refused(place: int) -> None:
    with pytest.raises(ValueError, match="no record"):
        explain(Block(1, None, bisect=True, backoff=BACKOFF), 3, place)


# --- bounds -----------------------------------------------------------------------------------------------------------------------

policies = st.one_of(
    st.builds(Block, st.integers(0, 4), st.none(), st.booleans(), st.just(BACKOFF), st.sampled_from(("cut", "listed"))),
    st.builds(Redeliver, st.integers(1, 4), st.none() | st.integers(1, 4), st.none() | st.just(BACKOFF), st.just(False)),
    st.builds(Redeliver, st.none(), st.integers(1, 4), st.none() | st.just(BACKOFF), st.just(False)),
)


@settings(max_examples=200)
@given(policies, st.integers(1, 17), st.data(), st.sampled_from(("full", "partial")), st.floats(0, 1, exclude_max=True))
def test_every_record_ends_within_the_bounds(policy: Block | Redeliver, size: int, data: st.DataObject, kind: Kind, dice: float) -> None:
    poison = data.draw(st.integers(0, size - 1))
    explained = explain(policy, size, poison, kind, dice, seconds=0.25)
    end = explained.ends[poison]
    assert explained.finished and end is not None and end.how != "done"
    assert explained.bounds.invocations is not None and explained.bounds.seconds is not None
    assert explained.invocations[poison] <= explained.bounds.invocations
    assert end.at <= explained.bounds.seconds + 1e-6
    assert sum(step.outcome != "none" for step in every(explained.steps)) == explained.total


@pytest.mark.parametrize("size", range(1, 18))
@pytest.mark.parametrize("kind", ["full", "partial"])
def test_the_bound_is_reached_somewhere(size: int, kind: Kind) -> None:
    for bisect in (True, False):
        explained = [explain(Block(3, None, bisect, BACKOFF), size, place, kind) for place in range(size)]
        assert max(each.invocations[each.poison] for each in explained) == explained[0].bounds.invocations


# --- what the engine does ---------------------------------------------------------------------------------------------------------


class Loaded(Random):
    """Dice that always fall the same way."""

    def random(self) -> float:
        return 0.5


class Engine:
    """A mapping on the virtual clock, over one batch of which one record always fails."""

    def __init__(self, policy: Block | Redeliver, size: int, poison: int, kind: Kind) -> None:
        self.policy, self.size, self.poison, self.kind = policy, size, poison, kind
        self.calls: Calls = []
        self.gone: set[int] = set()

    async def run(self) -> Calls:
        loop = cast("VirtualLoop", asyncio.get_running_loop())
        store = MemoryStore()
        failure = FailureSettings(reporting=True)
        mapping = MappingSettings("m", "m", "f", Batching(self.size), failure, 1)
        function = Function(FunctionSettings("f", "f", Path(), concurrency=1), FakeHandler(self._behave))
        work = Work(mapping, function, self.policy, "fake", store.journal, MappingCounters(), loop.now, Loaded(1), Turn())
        context = Context(mapping, store, "w", loop.now, Path(), Path())
        source = self._source(context, loop)

        async def opened() -> Source:
            return source

        runner = MappingRunner(work, opened)
        task = loop.create_task(runner.run())
        await asyncio.sleep(1_000.0)
        runner.stop(loop.time())
        await task
        return self.calls

    def _source(self, context: Context, loop: VirtualLoop) -> Source:
        names = [str(place) for place in range(self.size)]
        gate = Gate("life")
        if isinstance(self.policy, Redeliver):
            queue = FakeQueue(loop.now, 30.0, self.policy.redrive_count)
            for name in names:
                queue.send(name)
            return FakeQueueSource(queue, self.policy, 1, gate)
        stream = FakeStream({"s": [FakeRecord(place, name, b"k", loop.now()) for place, name in enumerate(names)]}, {"s"})
        return OrderedSource(
            context, identity="fake", format=FORMAT, policy=self.policy, shards=FakeShards(stream, gate), origin="TRIM_HORIZON"
        )

    def _behave(self, names: Sequence[str], call: Call) -> tuple[float, Response]:
        self.calls.append((tuple(int(name) for name in names), asyncio.get_running_loop().time()))
        if str(self.poison) not in names:
            return 0.0, Returned(b"null")
        if self.kind == "full":
            return 0.0, Fault("error", "Poison", "no")
        return 0.0, Returned(orjson.dumps({"batchItemFailures": [{"itemIdentifier": str(self.poison)}]}))


CASES: list[tuple[Block | Redeliver, int, int, Literal["full", "partial"]]] = [
    *((Block(retries, None, bisect, BACKOFF), 5, 2, "full") for retries in (0, 1, 3) for bisect in (True, False)),
    *((Block(2, None, True, BACKOFF, partial), 6, place, "partial") for partial in ("cut", "listed") for place in (0, 3, 5)),
    *((Block(2, None, True, BACKOFF), 8, place, "full") for place in range(8)),
    (Block(None, 20.0, True, BACKOFF), 4, 1, "full"),
    *((Redeliver(3, None, backoff, False), 4, 1, kind) for backoff in (None, BACKOFF) for kind in ("full", "partial")),
    *((Redeliver(ours, 2, None, False), 4, 3, "partial") for ours in (None, 1, 5)),
]


@pytest.mark.parametrize(("policy", "size", "poison", "kind"), CASES, ids=lambda part: "" if isinstance(part, int) else str(part))
def test_the_engine_does_what_was_explained(policy: Block | Redeliver, size: int, poison: int, kind: Kind) -> None:
    done = run_virtually(Engine(policy, size, poison, kind).run())
    expected = calls(explain(policy, size, poison, kind, 0.5))
    assert [places for places, _ in done] == [places for places, _ in expected]
    # The fake queue notices a visibility timeout that ends within a tenth of a second, and each adds to the next.
    tolerance = 0.3 if isinstance(policy, Redeliver) else 0.001
    assert [at - done[0][1] for _, at in done] == pytest.approx([said for _, said in expected], abs=tolerance)
