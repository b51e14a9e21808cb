"""Law 23, of both policies, with policies that break it; and tables: which rule is about an error, and what it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.error_rules import GIVING_UP, found, replayed, told
from poller.failures.invocation import record
from poller.failures.journal import Delivery, Entry
from poller.model import Action, Batch, Busy, Discard, Failure, Fault, FaultKind, Outcome, Partial, Reason, Release, Retry
from poller.outcome import DONE
from poller.policy import PAUSING_SECONDS, Block, Redeliver
from poller.replay.run import block
from poller.settings import Backoff, DestinationContext, ErrorRule, FailureSettings
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.laws import check_coverage, records_of, require, run_to_the_end
from poller.testing.oracle import Broken
from poller.testing.strategies import FAULT, NOW, batches, blocks, counter_test, dice, laws, outcomes, redelivers

backoffs = st.one_of(st.none(), st.just(Backoff(7.0, 70.0)))
bisects = st.sampled_from((None, True, False, "key"))
RETRIES = st.builds(ErrorRule, st.just("ValueError"), st.just("retry"), st.sampled_from((None, -1, 0, 3)), st.none(), backoffs, bisects)
RECEIVES = st.builds(ErrorRule, st.just("ValueError"), st.just("retry"), st.none(), st.sampled_from((None, 1, 3, 9)), backoffs)
OTHER = ErrorRule("KeyError", "discard")
Law = Callable[[Any], None]


def drawn(policy: Any) -> st.SearchStrategy[Any]:
    return blocks(policy) if issubclass(policy, Block) else redelivers(policy)


# --- the law ------------------------------------------------------------------------------------------------------------------------


def law_23_other_errors_are_as_without(policy: Any) -> None:
    @laws(200)
    @given(drawn(policy), batches().flatmap(lambda batch: st.tuples(st.just(batch), outcomes(batch))), dice)
    def holds(made: Any, decision: tuple[Batch, Outcome], chance: float) -> None:
        batch, outcome = decision
        ruled = replace(made, errors=(OTHER,))
        same = made.decide(batch, outcome, NOW, chance) == ruled.decide(batch, outcome, NOW, chance)
        require(same, f"law 23: no rule is about {outcome}, and it is decided otherwise")

    holds()


def law_23_discard(policy: Any) -> None:
    @laws(200)
    @given(drawn(policy), batches(), dice, bisects, st.one_of(st.none(), st.integers(0, 19)), st.sampled_from(("discard", "park")))
    def holds(made: Any, batch: Batch, chance: float, bisect: Any, index: int | None, what: Literal["discard", "park"]) -> None:
        fault = replace(FAULT, record_index=index)
        actions = replace(made, errors=(ErrorRule("Value*", what, bisect=bisect),)).decide(batch, fault, NOW, chance)
        check_coverage(batch, actions)
        gone = [action.failure for action in actions if isinstance(action, Discard) and action.failure.reason == GIVING_UP[what]]
        lost = [record for failure in gone for record in failure.records]
        if isinstance(made, Block):
            alone = len(batch) == 1 or not (made.bisect if bisect is None else bisect)
            require(lost == (list(batch.records) if alone else []), f"law 23: {lost} are given up of {len(batch)}, bisect {bisect}")
            require(alone or all(isinstance(action, Retry) and not action.delay for action in actions), f"law 23: {actions}")
            require(all(failure.attempts == batch.attempt for failure in gone), f"law 23: {gone}")
        else:
            named = index is not None and index < len(batch)
            meant = list(batch.records[index : index + 1] if named and index is not None else batch.records)
            if named and what == "park" and meant[0].key is not None:
                # What came before it in its group would be parked behind it, were it given back.
                meant = [record for record in batch.records[: index + 1] if record.key == meant[0].key]  # type: ignore[operator]
            require(sorted(lost) == sorted(meant), f"law 23: {lost} are given up, {meant} are meant")
            require(not any(isinstance(action, Retry) for action in actions), f"law 23: {actions}")

    holds()


def law_23_retry(policy: Any) -> None:
    @laws(200)
    @given(drawn(policy), batches(), dice, RETRIES if issubclass(policy, Block) else RECEIVES)
    def holds(made: Any, batch: Batch, chance: float, rule: ErrorRule) -> None:
        actions = replace(made, errors=(rule,)).decide(batch, FAULT, NOW, chance)
        said: dict[str, Any] = {} if rule.backoff is None else {"backoff": rule.backoff}
        if isinstance(made, Block):
            said |= {} if rule.bisect is None else {"bisect": rule.bisect}
            limit = rule.maximum_retry_attempts
            said |= {} if limit is None else {"maximum_retry_attempts": None if limit == -1 else limit}
        elif (limit := rule.maximum_receive_count) is not None:
            ours = made.fallback if made.maximum_receive_count is None and made.redrive_count is None else made.maximum_receive_count
            said["maximum_receive_count"] = limit if ours is None else min(ours, limit)
        expected = replace(made, **said).decide(batch, FAULT, NOW, chance)
        require(actions == expected, f"law 23: {rule} gives {actions}, as the mapping's it would give {expected}")

    holds()


def law_23_pause(policy: Any) -> None:
    @laws(100)
    @given(drawn(policy), batches(), dice)
    def holds(made: Any, batch: Batch, chance: float) -> None:
        actions = replace(made, errors=(ErrorRule("Value*", "pause"),)).decide(batch, FAULT, NOW, chance)
        if isinstance(made, Block):
            require(actions == (Retry(batch, PAUSING_SECONDS),), f"law 23: {actions} costs an attempt")
        else:
            require(actions == made.decide(batch, FAULT, NOW, chance), f"law 23: {actions} is not what the queue would see without it")

    holds()


LAWS: list[Law] = [law_23_other_errors_are_as_without, law_23_discard, law_23_retry, law_23_pause]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("policy", [Block, Redeliver])
def test_both_policies_keep(law: Law, policy: type) -> None:
    law(policy)


# --- counter-tests ------------------------------------------------------------------------------------------------------------------


class Sweeping(Block):
    """Takes every error for the rule's."""

    def _faulted(self, batch: Batch, fault: Fault, rule: ErrorRule | None, dice: float) -> tuple[Action, ...]:
        return super()._faulted(batch, fault, rule or (self.errors[0] if self.errors else None), dice)


class Undivided(Block):
    """Gives up the good records with the bad one."""

    def _faulted(self, batch: Batch, fault: Fault, rule: ErrorRule | None, dice: float) -> tuple[Action, ...]:
        if rule is not None and rule.action == "discard":
            return (Discard(Failure(batch.records, "ErrorDiscarded", batch.attempt, fault)),)
        return super()._faulted(batch, fault, rule, dice)


class Charging(Block):
    """A pause costs an attempt."""

    def _faulted(self, batch: Batch, fault: Fault, rule: ErrorRule | None, dice: float) -> tuple[Action, ...]:
        return super()._faulted(batch, fault, None if rule is not None and rule.action == "pause" else rule, dice)


class Bound(Block):
    """Knows no limit but the mapping's."""

    def under(self, rule: ErrorRule) -> Bound:
        return super().under(replace(rule, maximum_retry_attempts=None))


class Raising(Redeliver):
    """Lets a rule raise the limit of receives."""

    def under(self, rule: ErrorRule) -> Raising:
        return replace(super().under(rule), maximum_receive_count=rule.maximum_receive_count or self.maximum_receive_count)


class Deaf(Redeliver):
    """Gives up all of them, though the error names one."""

    def _rejected(self, batch: Batch, fault: Fault, reason: Reason, dice: float) -> tuple[Action, ...]:
        return super()._rejected(batch, replace(fault, record_index=None), reason, dice)


class Unheld(Redeliver):
    """A pause gives the messages up."""

    def _faulted(self, batch: Batch, fault: Fault, rule: ErrorRule | None, dice: float) -> tuple[Action, ...]:
        return super()._faulted(batch, fault, rule and replace(rule, action="discard"), dice)


@pytest.mark.parametrize(
    ("law", "policy"),
    [
        (law_23_other_errors_are_as_without, Sweeping),
        (law_23_discard, Undivided),
        (law_23_retry, Bound),
        (law_23_pause, Charging),
        (law_23_discard, Deaf),
        (law_23_retry, Raising),
        (law_23_pause, Unheld),
    ],
    ids=lambda part: part.__name__,
)
@pytest.mark.counterpart
def test_the_law_finds_out(law: Law, policy: type) -> None:
    with pytest.raises(Broken), counter_test():
        law(policy)


# --- tables -------------------------------------------------------------------------------------------------------------------------

MESSAGE = "order 7: no such item"


@pytest.mark.parametrize(
    ("pattern", "kind", "is_about"),
    [
        ("ValidationError", "error", True),
        ("Validation*", "error", True),
        ("*", "error", True),
        ("validation*", "error", False),
        ("Validation", "error", False),
        ("*no such item", "error", False),
        ("*: *no such item", "error", True),
        ("ValidationError: order [0-9]: *", "error", True),
        ("ValidationError: order [a-z]*", "error", False),
        ("KeyError: *", "error", False),
        ("*", "timeout", True),
        ("*", "init", True),
        ("*", "response", True),
        ("*", "lost", False),
        ("*", "partial", False),
    ],
)
def test_which_errors_a_rule_is_about(pattern: str, kind: FaultKind, is_about: bool) -> None:
    rule = ErrorRule(pattern, "discard")
    assert found([rule], Fault(kind, "ValidationError", MESSAGE)) == (rule if is_about else None)


def test_the_first_that_matches_counts_and_only_faults_are_matched() -> None:
    rules = [ErrorRule("Key*", "retry"), ErrorRule("Value*", "pause"), ErrorRule("*", "discard")]
    assert found(rules, FAULT) is rules[1]
    assert found(rules, Busy(1.0)) is found(rules, Partial((0,))) is None
    assert found(rules, replace(FAULT, message="x\n" * 100_000)) is rules[1]
    assert told(rules[1], replace(FAULT, message="m" * 1000)) == f'the error rule "Value*" (ValueError: {"m" * 200})'


def test_a_record_in_a_batch_of_a_hundred_is_found_and_goes_alone() -> None:
    """Each other record is handled; the bad one is given up at the first failure of it alone."""
    batch = Batch([FakeRecord(n, f"r{n}", b"k", NOW) for n in range(100)], FORMAT)
    bad, given_up = batch.records[61], list[Failure]()
    policy = Block(10, None, True, Backoff(), errors=(ErrorRule("ValueError", "discard"),))

    class Watched:
        def screen(self, each: Batch, now: float) -> tuple[Batch | None, tuple[Action, ...]]:
            return each, ()

        def decide(self, each: Batch, outcome: Outcome, now: float, chance: float) -> tuple[Action, ...]:
            actions = policy.decide(each, outcome, now, chance)
            given_up.extend(action.failure for action in actions if isinstance(action, Discard))
            return actions

    invoked = run_to_the_end(Watched(), batch, lambda each: FAULT if bad in each.records else DONE, lambda: NOW)
    assert [(list(failure.records), failure.reason, failure.attempts) for failure in given_up] == [([bad], "ErrorDiscarded", 1)]
    assert invoked[bad] <= 8


def test_a_queue_gives_up_what_the_error_names_and_the_rest_comes_again() -> None:
    policy = Redeliver(3, None, None, False, errors=(ErrorRule("ValueError", "discard"),))
    batch = Batch([FakeRecord(n, "abc"[n], None, NOW, 100, count) for n, count in enumerate((1, 2, 3))], FORMAT)
    shown = [(type(action), "".join(each.name for each in records_of(action))) for action in policy.decide(batch, named(1), NOW, 0.5)]
    assert shown == [(Discard, "b"), (Release, "a"), (Discard, "c")], "the last has been received too often, as without a rule"


def named(index: int) -> Fault:
    return replace(FAULT, record_index=index)


def test_a_replay_comes_to_an_end_and_pauses_nothing() -> None:
    rules = [
        ErrorRule("A", "discard", bisect=False),
        ErrorRule("B", "retry", -1, backoff=Backoff(2.0, 3.0), bisect="key"),
        ErrorRule("C", "retry", maximum_receive_count=4),
        ErrorRule("D", "pause"),
    ]
    assert replayed(rules, 10) == (
        rules[0],
        ErrorRule("B", "retry", 10, backoff=Backoff(2.0, 3.0), bisect="key"),
        ErrorRule("C", "retry", 3),
        ErrorRule("D", "retry"),
    )
    assert [rule.bisect for rule in replayed(rules, 10, bisected=True)] == [None] * 4


def test_a_replay_s_policy_has_the_rules_of_its_mapping() -> None:
    rules = (ErrorRule("A", "discard", bisect=False), ErrorRule("D", "pause"))
    stream = Block(None, None, False, Backoff(), errors=rules)
    assert block(stream, FailureSettings()).errors == (rules[0], ErrorRule("D", "retry"))
    failing = block(stream, FailureSettings(), only_failing=True)
    assert (failing.bisect, failing.errors[0]) == (True, ErrorRule("A", "discard"))
    assert block(replace(stream, bisect="key"), FailureSettings(), only_failing=True).bisect == "key"
    queue = Redeliver(5, None, None, False, errors=(ErrorRule("C", "retry", maximum_receive_count=4),))
    assert block(queue, FailureSettings()).errors == (ErrorRule("C", "retry", 3),)


@pytest.mark.parametrize(("exact", "condition"), [(False, "ErrorDiscarded"), (True, "RetryAttemptsExhausted")])
def test_what_a_rule_gave_up_is_told_in_aws_s_words_where_only_those_are_allowed(exact: bool, condition: str) -> None:
    entry = Entry("e", "m", "s", "l", "f", "ErrorDiscarded", 1, FAULT, "", "", NOW, b"{}", b"", ())
    context: Any = DestinationContext(None, None, None, None, None, lambda _: {}, exact)  # type: ignore[arg-type]
    assert f'"condition":"{condition}"'.encode() in record(Delivery(0, "e", "d", "failure", entry), context)
