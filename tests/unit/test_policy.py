"""The laws of the two policies, each with policies that break it and must be found out; and tables of what they do.

Laws 1 to 6: ARCHITECTURE.md. The checks themselves: poller/testing/laws.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.model import Ack, Action, Batch, Busy, Discard, Done, Failure, Fault, Outcome, Partial, Record, Release, Retry
from poller.policy import REPORTED, Block, Redeliver
from poller.settings import Backoff
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.laws import (
    bisect_bound,
    check_busy,
    check_coverage,
    check_done,
    check_groups,
    check_limit,
    check_named,
    check_waits,
    limits_of,
    records_of,
    require,
    run_of_the_broker,
    run_to_the_end,
)
from poller.testing.oracle import Broken
from poller.testing.strategies import (
    FAULT,
    HOUR,
    NOW,
    SHARE,
    batches,
    blocks,
    counter_test,
    decisions,
    dice,
    failed,
    laws,
    partials,
    redelivers,
)

REACHED = Counter[str]()
"""What the laws below came across; the last test shows it."""

Law = Callable[[Any], None]


def drawn(policy: Any, *, finite: bool = False) -> st.SearchStrategy[Any]:
    """Settings for a kind of policy, the real one or a broken one."""
    return blocks(policy, finite=finite) if issubclass(policy, Block) else redelivers(policy, finite=finite)


def note(policy: Block | Redeliver, outcome: Outcome, actions: Sequence[Action]) -> None:
    kind = type(policy).__name__
    what = f"partial {policy.partial}" if isinstance(outcome, Partial) and isinstance(policy, Block) else type(outcome).__name__.lower()
    REACHED[f"{kind}: {what}"] += 1
    for action in actions:
        copy = isinstance(action, Release) and action.failure is not None
        REACHED[f"{kind}: -> {'copy' if copy else type(action).__name__.lower()}"] += 1
    if sum(isinstance(action, Retry) for action in actions) > 1:
        REACHED[f"{kind}: -> split"] += 1


# --- the laws -----------------------------------------------------------------------------------------------------------------------


def law_1_covers_every_record_once(policy: Any) -> None:
    @laws(200)
    @given(drawn(policy), decisions(), dice)
    def decided(made: Any, decision: tuple[Batch, Outcome], chance: float) -> None:
        batch, outcome = decision
        actions = made.decide(batch, outcome, NOW, chance)
        note(made, outcome, actions)
        check_coverage(batch, actions)

    @laws(200)
    @given(drawn(policy), batches(), st.booleans())
    def screened(made: Any, batch: Batch, oversize: bool) -> None:
        batch = batch.but(cause="oversize" if oversize and len(batch) == 1 else "size")
        rest, actions = made.screen(batch, NOW)
        check_coverage(batch, (*actions, *(() if rest is None else (Retry(rest),))))

    decided()
    screened()


def law_2_done_is_acked(policy: Any) -> None:
    @laws(50)
    @given(drawn(policy), batches(), dice)
    def holds(made: Any, batch: Batch, chance: float) -> None:
        actions = made.decide(batch, Done(), NOW, chance)
        check_done(batch, actions)

    holds()


Pick = Callable[[Batch], Outcome]


def arbitrary(choices: Sequence[int]) -> Pick:
    """Any outcomes, with finitely many Busy: each choice is one; then the first record fails for ever."""
    left = list(choices)

    def answer(batch: Batch) -> Outcome:
        choice = left.pop() if left else 8
        match choice % 8:
            case 0 if choice:
                return Partial((0,))
            case 0:
                return Done()
            case 1:
                return Busy(1.0)
            case 2:
                return Partial((len(batch) - 1,))
            case 3:
                return Partial(tuple(range(len(batch) // 2, len(batch))))
            case 4:
                return Partial(tuple(range(len(batch))))
            case _:
                return FAULT

    return answer


def law_3_comes_to_an_end(policy: Any) -> None:
    """Whatever the outcomes, no record more than n x (1 + retries) times; a queue: no message more often than its lower limit."""

    @laws(200)
    @given(drawn(policy, finite=True), batches(9, attempts=1, receives=1), st.lists(st.integers(0, 64), max_size=40))
    def holds(made: Any, batch: Batch, choices: list[int]) -> None:
        if isinstance(made, Redeliver):
            invoked: Counter[Any] = run_of_the_broker(made, batch, arbitrary(choices), made.redrive_count)[0]
            bound = min(limit for limit in limits_of(made) if limit is not None)
        else:
            assert isinstance(made, Block) and made.maximum_retry_attempts is not None
            invoked = run_to_the_end(made, batch, arbitrary(choices), lambda: NOW)
            bound = len(batch) * (1 + made.maximum_retry_attempts)
        REACHED[f"{type(made).__name__}: runs to the end"] += 1
        most = max(invoked.values(), default=0)
        REACHED[f"{type(made).__name__}: runs that reach the bound"] += most == bound
        require(most <= bound, f"law 3: invoked {most} times, {bound} allowed")

    holds()


def law_3_poison(policy: Any) -> None:
    """A lone poison record: ceil(log2 n) + 1 + retries with bisect and full failures, retries + 2 with partial ones. The rest is done."""

    @laws(200)
    @given(
        drawn(policy, finite=True),
        batches(40, attempts=1).map(lambda batch: batch.but(records=[record._replace(arrival=NOW) for record in batch.records])),
        st.integers(0, 39),
        st.booleans(),
    )
    def holds(made: Any, batch: Batch, place: int, reports: bool) -> None:
        if not reports:
            made = replace(made, bisect=True)
        poison, retries = batch.records[place % len(batch)], made.maximum_retry_attempts
        given_up = list[Record]()

        def answer(each: Batch) -> Outcome:
            if poison not in each.records:
                return Done()
            return Partial((each.records.index(poison),)) if reports else FAULT

        class Watched:
            def screen(self, each: Batch, now: float) -> tuple[Batch | None, tuple[Action, ...]]:
                return each, ()

            def decide(self, each: Batch, outcome: Outcome, now: float, chance: float) -> tuple[Action, ...]:
                actions: tuple[Action, ...] = made.decide(each, outcome, now, chance)
                given_up.extend(record for action in actions if isinstance(action, Discard) for record in records_of(action))
                return actions

        invoked = run_to_the_end(Watched(), batch, answer, lambda: NOW)
        kind, bound = type(made).__name__, retries + 2 if reports else bisect_bound(len(batch), retries)
        REACHED[f"{kind}: poison {'reported' if reports else 'bisected'}"] += 1
        REACHED[f"{kind}: poison {'reported' if reports else 'bisected'}, at the bound"] += invoked[poison] == bound
        require(invoked[poison] <= bound, f"law 3: poison in {len(batch)} invoked {invoked[poison]} times, {bound} allowed")
        require(given_up == [poison], f"law 3: {given_up} are given up, {poison} was poison")

    holds()


def law_4_busy_is_free(policy: Any) -> None:
    @laws(50)
    @given(drawn(policy), batches(), st.floats(0, 300), dice)
    def holds(made: Any, batch: Batch, after: float, chance: float) -> None:
        check_busy(batch, Busy(after), made.decide(batch, Busy(after), NOW, chance))

    holds()


def law_5_discards_at_the_limit(policy: Any) -> None:
    """A stream gives nothing back and gives up only when its attempts are used up; a queue gives up at its limit of receives."""

    @laws(200)
    @given(drawn(policy), decisions(failed), dice)
    def holds(made: Any, decision: tuple[Batch, Outcome], chance: float) -> None:
        batch, outcome = decision
        actions = made.decide(batch, outcome, NOW, chance)
        note(made, outcome, actions)
        if isinstance(made, Redeliver):
            check_limit(made, batch, outcome, actions)
            return
        check_waits(actions)
        spent = made.maximum_retry_attempts is not None and batch.attempt > made.maximum_retry_attempts
        given_up = [action.failure for action in actions if isinstance(action, Discard)]
        require(spent or not given_up, f"law 5: given up at attempt {batch.attempt} of 1 + {made.maximum_retry_attempts}")
        for failure in given_up:
            require((failure.reason, failure.attempts) == ("RetryAttemptsExhausted", batch.attempt), f"law 5: {failure}")

    holds()


def law_6_keeps_what_failed(policy: Any) -> None:
    @laws(200)
    @given(drawn(policy), decisions(partials), dice)
    def holds(made: Any, decision: tuple[Batch, Outcome], chance: float) -> None:
        batch, partial = decision
        assert isinstance(partial, Partial)
        actions = made.decide(batch, partial, NOW, chance)
        note(made, partial, actions)
        check_named(batch, partial, actions, made.partial if isinstance(made, Block) else "listed")

    holds()


def law_5_copies_what_the_queue_moves(policy: Any) -> None:
    """Nobody else can show why a message is in the queue's dead-letter queue."""

    @laws(200)
    @given(redelivers(policy, finite=True), batches(9, attempts=1, receives=1), st.lists(st.integers(0, 64), max_size=40))
    def holds(made: Redeliver, batch: Batch, choices: list[int]) -> None:
        _, moved, copied = run_of_the_broker(made, batch, arbitrary(choices), made.redrive_count)
        REACHED[f"{type(made).__name__}: moved by the queue"] += len(moved)
        require(moved <= copied, f"law 5: moved to the dead-letter queue without a copy: {sorted(moved - copied)}")

    holds()


def law_of_groups(policy: Any) -> None:
    @laws(200)
    @given(redelivers(policy), decisions(partials), dice)
    def holds(made: Redeliver, decision: tuple[Batch, Outcome], chance: float) -> None:
        batch, partial = decision
        assert isinstance(partial, Partial)
        made = replace(made, groups=True)
        actions = made.decide(batch, partial, NOW, chance)
        REACHED[f"{type(made).__name__}: groups"] += 1
        REACHED[f"{type(made).__name__}: groups held back"] += sum(map(len, map(records_of, actions))) - len(partial.indices) > sum(
            len(action.records) for action in actions if isinstance(action, Ack)
        )
        check_coverage(batch, actions)
        check_groups(batch, partial, actions)

    holds()


def law_of_screening(policy: Any) -> None:
    """Only what is too old, or was received too often, is given up uninvoked; what is left is a new batch; else nothing changes."""

    @laws(200)
    @given(drawn(policy), batches())
    def holds(made: Any, batch: Batch) -> None:
        rest, actions = made.screen(batch, NOW)
        given_up = [action.failure for action in actions if isinstance(action, Discard)]
        require(len(given_up) == len(actions), f"screening only gives up: {actions}")
        gone = {id(record) for failure in given_up for record in failure.records}
        for record in batch.records:
            require(
                (id(record) in gone) == over(made, batch, record), f"{record} is {'' if id(record) in gone else 'not '}given up by {made}"
            )
        left = [record for record in batch.records if id(record) not in gone]
        kind = type(made).__name__
        REACHED[f"{kind}: screened {'nothing' if not gone else 'some' if left else 'all'}"] += 1
        for failure in given_up:
            REACHED[f"{kind}: screened for {failure.reason}"] += 1
        if not gone:
            require(rest is batch, "a batch that loses nothing stays as it is")
        elif not left:
            require(rest is None, f"nothing is left, and {rest} is to run")
        else:
            require(rest is not None and list(rest.records) == left and rest.attempt == 1, f"{left} are left, and {rest} is to run")

    holds()


def over(policy: Block | Redeliver, batch: Batch, record: FakeRecord) -> bool:
    """Whether a record must not be tried once more. A source drops its oldest first: nothing is about to go behind a young head."""
    if isinstance(policy, Redeliver):
        ours, queues = limits_of(policy)
        return ours is not None and (queues is None or ours <= queues) and record.receives > ours
    expiry = policy.retention and max(policy.retention - 600, policy.retention * 0.9)
    limits = [limit for limit in (policy.maximum_record_age, expiry) if limit is not None]
    if policy.maximum_record_age is None and limits and NOW - batch.records[0].arrival <= limits[0]:
        return False
    return bool(limits) and NOW - record.arrival > min(limits)


LAWS_OF_BOTH: list[Law] = [
    law_1_covers_every_record_once,
    law_2_done_is_acked,
    law_3_comes_to_an_end,
    law_4_busy_is_free,
    law_5_discards_at_the_limit,
    law_6_keeps_what_failed,
    law_of_screening,
]


@pytest.mark.parametrize("law", LAWS_OF_BOTH, ids=lambda law: law.__name__)
@pytest.mark.parametrize("policy", [Block, Redeliver])
def test_both_policies_keep(law: Law, policy: type) -> None:
    if policy is Redeliver and law is law_6_keeps_what_failed:
        law = without_groups
    law(policy)


def without_groups(policy: Any) -> None:
    """As AWS has it: exactly what the function did not name is deleted."""

    class Ungrouped(policy):  # type: ignore[misc]
        def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
            actions: tuple[Action, ...] = policy.decide(replace(self, groups=False), batch, outcome, now, dice)
            return actions

    law_6_keeps_what_failed(Ungrouped)


def test_poison_is_found_soon_and_given_up_alone() -> None:
    law_3_poison(Block)


def test_what_the_queue_moves_has_a_copy() -> None:
    law_5_copies_what_the_queue_moves(Redeliver)


def test_a_group_is_never_overtaken() -> None:
    law_of_groups(Redeliver)


# --- counter-tests: policies that break a law, and are found out ----------------------------------------------------------------------


class Losing(Block):
    """Forgets the last record of what it acks."""

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        actions = Block.decide(self, batch, outcome, now, dice)
        return tuple(Ack(action.records[:-1] or action.records) if isinstance(action, Ack) else action for action in actions)


class Turning(Block):
    """Runs the second half first."""

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        return Block.decide(self, batch, outcome, now, dice)[::-1]


class Doubting(Block):
    """Does not believe that it is done."""

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        return Block.decide(self, batch, FAULT if isinstance(outcome, Done) else outcome, now, dice)


class Stubborn(Block):
    """Never gives up."""

    def _spent(self, batch: Batch) -> bool:
        return False


class Generous(Block):
    """Tries once more than it was told."""

    def _spent(self, batch: Batch) -> bool:
        return self.maximum_retry_attempts is not None and batch.attempt > self.maximum_retry_attempts + 1


class Hasty(Block):
    """Gives up one attempt early."""

    def _spent(self, batch: Batch) -> bool:
        return self.maximum_retry_attempts is not None and batch.attempt >= self.maximum_retry_attempts


class Slicing(Block):
    """Splits one record off instead of a half."""

    def _failed(self, batch: Batch, fault: Fault, dice: float) -> tuple[Action, ...]:
        actions = Block._failed(self, batch, fault, dice)
        if len(actions) < 2:
            return actions
        first, rest = (batch.but(records=records, attempt=1) for records in (batch.records[:1], batch.records[1:]))
        return Retry(first), Retry(rest)


class Patient(Block):
    """Uses up its retries before it splits."""

    def _failed(self, batch: Batch, fault: Fault, dice: float) -> tuple[Action, ...]:
        made = self if self._spent(batch) else replace(self, bisect=False)
        return Block._failed(made, batch, fault, dice)


class Wasteful(Block):
    """At the limit gives up the whole rest of a partial failure, as AWS does."""

    def _cut(self, batch: Batch, first: int, dice: float) -> tuple[Action, ...]:
        if first or not self._spent(batch):
            return Block._cut(self, batch, first, dice)
        return (Discard(Failure(batch.records, "RetryAttemptsExhausted", batch.attempt, REPORTED)),)


class Charging(Block):
    """Counts a throttled invocation as an attempt."""

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        if isinstance(outcome, Busy):
            return (Retry(batch.but(attempt=batch.attempt + 1), outcome.after),)
        return Block.decide(self, batch, outcome, now, dice)


class Rushing(Block):
    """Does not wait until the function has room."""

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        return Block.decide(self, batch, replace(outcome, after=outcome.after / 2) if isinstance(outcome, Busy) else outcome, now, dice)


class Releasing(Block):
    """Gives back to a stream, which takes nothing."""

    def _failed(self, batch: Batch, fault: Fault, dice: float) -> tuple[Action, ...]:
        return (Release(batch.records),)


class Trusting(Block):
    """Acks whatever was not named, though the first failed record is where a stream stops."""

    def _cut(self, batch: Batch, first: int, dice: float) -> tuple[Action, ...]:
        return Block._listed(self, batch, (first,), dice)


class Cutting(Block):
    """Retries what was not named."""

    def _listed(self, batch: Batch, indices: tuple[int, ...], dice: float) -> tuple[Action, ...]:
        return Block._cut(self, batch, indices[0], dice)


class Ageing(Block):
    """One old record, and the whole batch is gone."""

    def screen(self, batch: Batch, now: float) -> tuple[Batch | None, tuple[Action, ...]]:
        rest, actions = Block.screen(self, batch, now)
        return (None, (Discard(Failure(batch.records, "RecordAgeExceeded", 0)),)) if actions else (rest, actions)


class Counting(Block):
    """What is young keeps the count of the batch it came from."""

    def screen(self, batch: Batch, now: float) -> tuple[Batch | None, tuple[Action, ...]]:
        rest, actions = Block.screen(self, batch, now)
        return (None if rest is None else rest.but(attempt=batch.attempt)), actions


class Forgiving(Redeliver):
    """Tries once more than it was told."""

    def _disposition(self, failed: bool, held_back: bool, count: int, dice: float) -> tuple[str, Any]:
        return Redeliver._disposition(self, failed, held_back, count - 1, dice)


class Unending(Forgiving):
    """And does not look at what was received too often."""

    def screen(self, batch: Batch, now: float) -> tuple[Batch | None, tuple[Action, ...]]:
        return batch, ()


class Strict(Redeliver):
    """Of two limits lets its own act, whichever is lower."""

    @property
    def limit(self) -> int | None:
        return self.maximum_receive_count


class Timid(Redeliver):
    """Falls back although the queue has a limit of its own."""

    @property
    def limit(self) -> int | None:
        return super().limit if self.fallback is None else self.fallback


class Secretive(Redeliver):
    """Lets the queue move messages without a copy."""

    def _action(self, what: str, detail: Any, records: list[Record], fault: Fault) -> Action:
        return Release(records) if what == "copy" else Redeliver._action(self, what, detail, records, fault)


class Blocking(Redeliver):
    """Retries by itself."""

    def _failed(self, batch: Batch, failed: frozenset[int], fault: Fault, dice: float) -> tuple[Action, ...]:
        return (Retry(batch.but(attempt=batch.attempt + 1)),)


class Careless(Redeliver):
    """Deletes a batch with failures in it."""

    def _failed(self, batch: Batch, failed: frozenset[int], fault: Fault, dice: float) -> tuple[Action, ...]:
        return (Ack(batch.records),)


class Impatient(Redeliver):
    """Gives back what was only throttled."""

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:
        return (Release(batch.records),) if isinstance(outcome, Busy) else Redeliver.decide(self, batch, outcome, now, dice)


class Ungrouped(Redeliver):
    """Lets later records of a failed group go."""

    @staticmethod
    def _later_of_failed_groups(keys: Sequence[bytes | None], failed: frozenset[int]) -> frozenset[int]:
        return frozenset()


class Unscreened(Redeliver):
    """Tries what was received too often once more."""

    def screen(self, batch: Batch, now: float) -> tuple[Batch | None, tuple[Action, ...]]:
        return batch, ()


@pytest.mark.parametrize(
    ("law", "policy"),
    [
        (law_1_covers_every_record_once, Losing),
        (law_1_covers_every_record_once, Turning),
        (law_2_done_is_acked, Doubting),
        (law_3_comes_to_an_end, Stubborn),
        (law_3_comes_to_an_end, Generous),
        (law_3_comes_to_an_end, Unending),
        (law_3_poison, Slicing),
        (law_3_poison, Patient),
        (law_3_poison, Generous),
        (law_3_poison, Wasteful),
        (law_4_busy_is_free, Charging),
        (law_4_busy_is_free, Rushing),
        (law_4_busy_is_free, Impatient),
        (law_5_discards_at_the_limit, Hasty),
        (law_5_discards_at_the_limit, Releasing),
        (law_5_discards_at_the_limit, Forgiving),
        (law_5_discards_at_the_limit, Strict),
        (law_5_discards_at_the_limit, Timid),
        (law_5_discards_at_the_limit, Secretive),
        (law_5_discards_at_the_limit, Blocking),
        (law_5_copies_what_the_queue_moves, Secretive),
        (law_6_keeps_what_failed, Trusting),
        (law_6_keeps_what_failed, Cutting),
        (law_6_keeps_what_failed, Wasteful),
        (law_6_keeps_what_failed, Careless),
        (law_of_groups, Ungrouped),
        (law_of_screening, Ageing),
        (law_of_screening, Counting),
        (law_of_screening, Unscreened),
    ],
    ids=lambda part: part.__name__,
)
@pytest.mark.counterpart
def test_the_law_finds_out(law: Law, policy: type) -> None:
    with pytest.raises(Broken), counter_test():
        law(policy)


# --- tables -------------------------------------------------------------------------------------------------------------------------

A, B, C, D, E = (
    FakeRecord(token, name, key, NOW) for token, (name, key) in enumerate(zip("abcde", [b"g", b"h", b"g", b"h", b"g"], strict=True))
)


def batch(*records: FakeRecord, attempt: int = 1, fault: Fault | None = None) -> Batch:
    return Batch(list(records), FORMAT, attempt=attempt, fault=fault)


def block(
    retries: int | None = 2,
    *,
    age: float | None = None,
    bisect: bool = False,
    partial: Literal["cut", "listed"] = "cut",
    retention: float | None = None,
) -> Block:
    return Block(retries, age, bisect, Backoff(1.0, 60.0), partial, retention)


def shown(actions: Sequence[Action]) -> list[str]:
    """`ack ab`, `retry cd #2 +0.5`, `discard e x3 reason`, `release a +None`, `copy a x2`."""
    lines = []
    for action in actions:
        names = "".join(record.name for record in records_of(action))
        match action:
            case Ack():
                lines.append(f"ack {names}")
            case Retry(again, delay):
                lines.append(f"retry {names} #{again.attempt} +{delay:g}")
            case Discard(failure):
                lines.append(f"discard {names} x{failure.attempts} {failure.reason}")
            case Release(failure=None):
                lines.append(f"release {names} +{action.delay}")
            case Release(failure=copy):
                assert copy is not None and (copy.kept, copy.records) == ("queue-dlq", action.records)
                lines.append(f"copy {names} x{copy.attempts}")
    return lines


BLOCK: list[tuple[str, Block, Batch, Outcome, list[str]]] = [
    ("done", block(), batch(A, B), Done(), ["ack ab"]),
    ("throttled", block(), batch(A, B, attempt=2), Busy(7.0), ["retry ab #2 +7"]),
    ("failed", block(), batch(A, B), FAULT, ["retry ab #2 +0.5"]),
    ("failed again: twice the wait", block(5), batch(A, B, attempt=3), FAULT, ["retry ab #4 +2"]),
    ("the wait has an end", block(99), batch(A, attempt=50), FAULT, ["retry a #51 +30"]),
    ("for ever", block(None), batch(A, attempt=10_000), FAULT, ["retry a #10001 +30"]),
    ("used up", block(), batch(A, B, attempt=3), FAULT, ["discard ab x3 RetryAttemptsExhausted"]),
    ("no retries", block(0), batch(A, B), FAULT, ["discard ab x1 RetryAttemptsExhausted"]),
    ("bisect: at once", block(bisect=True), batch(A, B, C, D, E), FAULT, ["retry abc #1 +0", "retry de #1 +0"]),
    ("bisect: even without retries", block(0, bisect=True), batch(A, B), FAULT, ["retry a #1 +0", "retry b #1 +0"]),
    ("bisect: a lone record is retried", block(bisect=True), batch(A), FAULT, ["retry a #2 +0.5"]),
    ("cut", block(), batch(A, B, C), Partial((1,)), ["ack a", "retry bc #1 +0.5"]),
    ("cut: the lowest counts", block(), batch(A, B, C), Partial((1, 2)), ["ack a", "retry bc #1 +0.5"]),
    ("cut: fresh at any attempt", block(), batch(A, B, C, attempt=3), Partial((2,)), ["ack ab", "retry c #1 +0.5"]),
    ("cut: the first one failed", block(), batch(A, B), Partial((0,)), ["retry ab #2 +0.5"]),
    (
        "cut: only what was named goes",
        block(),
        batch(A, B, C, attempt=3),
        Partial((0,)),
        ["discard a x3 RetryAttemptsExhausted", "retry bc #1 +0"],
    ),
    ("cut: no halving", block(bisect=True), batch(A, B, C, D), Partial((0,)), ["retry abcd #2 +0.5"]),
    ("listed", block(partial="listed"), batch(A, B, C, D), Partial((1, 3)), ["ack ac", "retry bd #1 +0.5"]),
    ("listed: all", block(partial="listed"), batch(A, B), Partial((0, 1)), ["retry ab #2 +0.5"]),
    (
        "listed: all, used up",
        block(partial="listed"),
        batch(A, B, attempt=3),
        Partial((0, 1)),
        ["discard ab x3 RetryAttemptsExhausted"],
    ),
]


@pytest.mark.parametrize(("policy", "batch", "outcome", "expected"), [row[1:] for row in BLOCK], ids=[row[0] for row in BLOCK])
def test_what_a_stream_does(policy: Block, batch: Batch, outcome: Outcome, expected: list[str]) -> None:
    assert shown(policy.decide(batch, outcome, NOW, 0.5)) == expected


def test_a_retry_remembers_why() -> None:
    (retry,) = block().decide(batch(A, B), FAULT, NOW, 0.5)
    assert isinstance(retry, Retry) and (retry.batch.fault, retry.batch.cause) == (FAULT, "retry")
    discard, rest = block(0).decide(batch(A, B), Partial((0,)), NOW, 0.5)
    assert isinstance(discard, Discard) and discard.failure.fault == REPORTED
    assert isinstance(rest, Retry) and rest.batch.fault is None, "nobody has failed what is left"


def aged(*ages: float) -> Batch:
    return batch(*(FakeRecord(i, "abcde"[i], None, NOW - age) for i, age in enumerate(ages)))


SCREENS: list[tuple[str, Block, Batch, list[str], str]] = [
    ("no limit", block(), aged(1e9, 0), [], "ab"),
    ("young", block(age=60), aged(60, 0), [], "ab"),
    ("old", block(age=60), aged(61, 61), ["discard ab x0 RecordAgeExceeded"], ""),
    ("only what is old", block(age=60), aged(61, 0, 90, 60), ["discard ac x0 RecordAgeExceeded"], "bd"),
    ("shortly before the source drops it", block(retention=24 * HOUR), aged(24 * HOUR - 599, 0), ["discard a x0 RetentionExpiring"], "b"),
    ("a short retention: nine tenths of it", block(retention=1000.0), aged(901, 899), ["discard a x0 RetentionExpiring"], "b"),
    ("the mapping's limit never outlives the source", block(age=48 * HOUR, retention=24 * HOUR), aged(24 * HOUR, 0),
     ["discard a x0 RetentionExpiring"], "b"),
    ("the lower limit acts", block(age=60, retention=24 * HOUR), aged(61, 23.9 * HOUR),
     ["discard ab x0 RecordAgeExceeded"], ""),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "batch", "expected", "left"), [row[1:] for row in SCREENS], ids=[row[0] for row in SCREENS])
def test_what_is_too_old(policy: Block, batch: Batch, expected: list[str], left: str) -> None:
    rest, actions = policy.screen(batch, NOW)
    assert shown(actions) == expected
    assert "".join(record.name for record in rest.records if rest) == left if rest else left == ""


@pytest.mark.parametrize("policy", [block(), Redeliver(None, None, None, False)], ids=["stream", "queue"])
def test_what_no_event_can_hold_is_kept_without_a_try(policy: Block | Redeliver) -> None:
    rest, actions = policy.screen(batch(A).but(cause="oversize"), NOW)
    assert rest is None
    assert shown(actions) == ["discard a x0 MaximumPayloadSizeExceeded"]


def received(*counts: int) -> Batch:
    return batch(*(each._replace(receives=count) for each, count in zip((A, B, C, D, E), counts, strict=False)))


def redeliver(ours: int | None = None, queues: int | None = None, backoff: Backoff | None = None, groups: bool = False) -> Redeliver:
    return Redeliver(ours, queues, backoff, groups)


WAITS = Backoff(1.0, 60.0)
KEPT = "MaximumReceiveCountExceeded"
REDELIVER: list[tuple[str, Redeliver, Batch, Outcome, list[str]]] = [
    ("done", redeliver(3), received(1, 5), Done(), ["ack ab"]),
    ("throttled: held in place", redeliver(1), received(1, 5), Busy(7.0), ["retry ab #1 +7"]),
    ("failed: the visibility timeout", redeliver(), received(1, 9), FAULT, ["release ab +None"]),
    ("failed: a backoff by receive count", redeliver(None, None, WAITS), received(1, 3), FAULT, ["release a +0.5", "release b +2.0"]),
    ("our limit", redeliver(3), received(2, 3), FAULT, ["release a +None", f"discard b x3 {KEPT}"]),
    ("the queue's limit", redeliver(None, 3), received(2, 3), FAULT, ["release a +None", "copy b x3"]),
    ("the lower acts: ours", redeliver(2, 3), received(1, 2), FAULT, ["release a +None", f"discard b x2 {KEPT}"]),
    ("the lower acts: the queue's", redeliver(3, 2), received(1, 2), FAULT, ["release a +None", "copy b x2"]),
    ("equal: ours", redeliver(2, 2), received(1, 2), FAULT, ["release a +None", f"discard b x2 {KEPT}"]),
    ("partial: exactly what was named", redeliver(3), received(1, 3, 3), Partial((1,)), ["ack ac", f"discard b x3 {KEPT}"][:2]),
    ("partial FIFO, as AWS: what was not named is deleted", redeliver(), received(1, 1, 1), Partial((0,)), ["release a +None", "ack bc"]),
    ("partial FIFO, safe: a group stops", redeliver(groups=True), received(1, 1, 1, 1), Partial((0,)), ["release ac +None", "ack bd"]),
    ("what is held back is not given up", redeliver(1, groups=True), received(1, 1, 1), Partial((0,)),
     [f"discard a x1 {KEPT}", "ack b", "release c +None"]),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "batch", "outcome", "expected"), [row[1:] for row in REDELIVER], ids=[row[0] for row in REDELIVER])
def test_what_a_queue_does(policy: Redeliver, batch: Batch, outcome: Outcome, expected: list[str]) -> None:
    assert shown(policy.decide(batch, outcome, NOW, 0.5)) == expected


def test_a_crash_at_the_last_receive_is_the_last() -> None:
    rest, actions = redeliver(3).screen(received(3, 4, 9), NOW)
    assert shown(actions) == [f"discard bc x3 {KEPT}"]
    assert rest is not None and [record.name for record in rest.records] == ["a"]


# --- what the laws came across --------------------------------------------------------------------------------------------------------

WANTED = {
    "Block": "done fault busy|partial cut|partial listed|-> ack|-> retry|-> discard|-> split|runs to the end|runs that reach the bound"
    "|poison reported|poison bisected|poison reported, at the bound|poison bisected, at the bound"
    "|screened some|screened all|screened nothing|screened for RecordAgeExceeded|screened for RetentionExpiring",
    "Redeliver": "done fault busy partial|-> ack|-> retry|-> discard|-> release|-> copy|moved by the queue|groups|groups held back"
    "|runs to the end|runs that reach the bound|screened some|screened all|screened nothing",
}


def test_the_laws_came_across_every_kind(tell: Callable[[str], None]) -> None:
    if REACHED["Block: runs to the end"] == 0 or REACHED["Redeliver: groups"] == 0:
        pytest.skip("the laws did not run")
    tell("policies: " + ", ".join(f"{what} {count}" for what, count in sorted(REACHED.items()) if what.startswith(("Block:", "Redel"))))
    if SHARE < 1:
        pytest.skip("too few examples to come across everything")
    for kind, words in WANTED.items():
        first, *others = words.split("|")
        assert [word for word in (*first.split(), *others) if not REACHED[f"{kind}: {word}"]] == []
