"""The laws of circuit breakers, and broken ones that they reject."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller import breaker
from poller.breaker import (
    HALF,
    IN_A_ROW,
    LOOKED_AT,
    Closed,
    Failed,
    Open,
    State,
    answered,
    failed,
    is_split,
    keys_of,
    missed,
    parted,
    spares,
)
from poller.model import Ack, Action, Batch, Discard, Fault, Release, Retry
from poller.policy import Block, Redeliver
from poller.settings import Backoff, BreakerSettings
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.laws import retries_of
from poller.testing.oracle import Broken
from poller.testing.strategies import counter_test, laws, redelivers

SETTINGS = BreakerSettings()

Hear = Callable[[State, Failed], State]


def hear(state: State, batch: Failed) -> State:
    """The real one."""
    return failed(state, batch, 0.0, SETTINGS) if isinstance(state, Closed) else state


def of(*keys: object, group: str = "x") -> Failed:
    return Failed(group, frozenset(keys))


def after(*batches: Failed | None, hear: Hear = hear) -> State:
    """The state after these; None: the function answered."""
    state: State = Closed()
    for each in batches:
        if isinstance(state, Closed):
            state = answered(state) if each is None else hear(state, each)
    return state


# --- broken ones ------------------------------------------------------------------------------------------------------------------------


def counting_attempts(state: State, batch: Failed) -> State:
    """Whoever fails again counts again."""
    return hear(state, Failed(batch.group, frozenset((object(),))))


def counting_overlaps(state: State, batch: Failed) -> State:
    """A batch that is not the same is another one."""
    if isinstance(state, Closed) and any(each is not None and each.keys == batch.keys for each in state.seen):
        return state
    return hear(state, Failed(batch.group, frozenset((batch.keys,))))


def counting_the_largest(state: State, batch: Failed) -> State:
    """The first of what has a key in common stands for all."""
    if isinstance(state, Closed) and any(each is not None and not each.keys.isdisjoint(batch.keys) for each in state.seen):
        return state
    return hear(state, batch)


# --- the laws ---------------------------------------------------------------------------------------------------------------------------


@st.composite
def histories(draw: Any, most: int) -> list[Failed | None]:
    """Batches of some of forty keys, of which at most `most` are poison: one that has any fails, with an error of any of two kinds."""
    poison = frozenset(draw(st.lists(st.integers(0, 39), max_size=most)))
    batches = draw(st.lists(st.frozensets(st.one_of(st.integers(0, 39), st.sampled_from(sorted(poison) or [0])), min_size=1, max_size=12)))
    return [Failed(draw(st.sampled_from("xxxy")), keys) if keys & poison else None for keys in batches * 3]


def law_17_few_poison_keys_never_open_it(hear: Hear) -> None:
    @laws(300)
    @given(histories(IN_A_ROW - 1))
    def holds(history: list[Failed | None]) -> None:
        if isinstance(after(*history, hear=hear), Open):
            raise Broken(f"law 17: {history} opens it")

    holds()


def law_18_an_outage_opens_it_in_time(hear: Hear) -> None:
    """One strand after the other, as Block has it: the worst for the breaker, for nothing else runs while a batch is tried again."""

    @laws(200)
    @given(st.integers(1, 40), st.integers(1, 20), st.sampled_from((0, 1, 3)), st.booleans())
    def holds(records: int, size: int, retries: int, bisect: bool) -> None:
        policy = Block(retries, None, bisect, Backoff())
        state: State = Closed()
        kept = 0
        stack = [Batch(each, FORMAT) for each in reversed(sliced(records, size))]
        while stack and isinstance(state, Closed):
            batch = stack.pop()
            state = hear(state, Failed("x", keys_of(batch)))
            actions = policy.decide(batch, FAULT, 0.0, 0.5)
            if isinstance(state, Open) and not is_split(actions, batch):
                actions = (Retry(batch),)
            kept += sum(isinstance(action, Discard) for action in actions)
            stack += [retry.batch for retry in reversed(retries_of(actions))]
        if kept >= IN_A_ROW:
            raise Broken(f"law 18: {kept} batches of {records} records were given up, and it is not open")

    holds()


FAULT = Fault("error", "ValueError", "no route to the database")


def sliced(records: int, size: int) -> list[list[FakeRecord]]:
    every = [FakeRecord(number, f"r{number}", None, 0.0) for number in range(records)]
    return [every[start : start + size] for start in range(0, records, size)]


@pytest.mark.parametrize("law", [law_17_few_poison_keys_never_open_it, law_18_an_outage_opens_it_in_time])
def test_the_laws_hold(law: Callable[[Hear], None]) -> None:
    law(hear)


@pytest.mark.parametrize(
    ("law", "broken"),
    [
        (law_17_few_poison_keys_never_open_it, counting_attempts),
        (law_17_few_poison_keys_never_open_it, counting_overlaps),
        (law_18_an_outage_opens_it_in_time, counting_the_largest),
    ],
)
@pytest.mark.counterpart
def test_a_broken_breaker_is_found_out(law: Callable[[Hear], None], broken: Hear) -> None:
    with counter_test(), pytest.raises(Broken):
        law(broken)


@laws(100)
@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 200.0)), min_size=1, max_size=40))
def test_law_19_probes_are_due_later_each_time_and_no_earlier(steps: list[tuple[bool, float]]) -> None:
    state, now = Open(0.0, "x", SETTINGS.initial), SETTINGS.initial
    gaps = []
    for ran, late in steps:
        now = max(now, state.due) + late
        state = missed(state, now, SETTINGS, ran)
        if ran:
            gaps.append(state.due - now)
        assert state.due >= now
    expected = [10.0, 20.0, 40.0, *([60.0] * len(steps))][: len(gaps)]
    assert gaps == pytest.approx(expected)


# --- tables -----------------------------------------------------------------------------------------------------------------------------


def opens(*batches: Failed | None) -> bool:
    return isinstance(after(*batches), Open)


def test_five_in_a_row_open_it_and_an_answer_breaks_the_row() -> None:
    row = [of(n) for n in range(9)]
    assert not opens(*row[: IN_A_ROW - 1])
    assert opens(*row[:IN_A_ROW])
    assert not opens(*row[:4], None, *row[4:8])
    assert after(*row[:4], *([None] * LOOKED_AT)) == Closed(), "it forgets, and costs nothing any more"


def test_a_row_of_two_errors_is_no_row_and_half_of_the_last_twenty_opens_it() -> None:
    other = of("y", group="y")
    assert not opens(*(of(n) for n in range(4)), other, *(of(n) for n in range(5, 9)))
    mixed = [each for n in range(HALF) for each in (of(n), None)]
    assert opens(*mixed) and not opens(*mixed[:-3])
    sparse = [each for n in range(40) for each in (of(n), None, None)]
    assert not opens(*sparse)


def test_halves_tell_more_than_the_whole() -> None:
    whole = range(8)
    assert after(of(*whole), of(0, 1, 2, 3), of(4, 5, 6, 7)) == Closed((of(0, 1, 2, 3), of(4, 5, 6, 7)))
    assert after(of(0), of(*whole)) == Closed((of(0),)), "the whole says nothing besides"
    assert after(of(0, 1), of(1, 2)) == Closed((of(0, 1),)), "1 may be all that is wrong"
    assert after(of(0), of(0, group="y")) == Closed((of(0, group="y"),))


def test_records_without_a_key_are_told_apart_by_their_names() -> None:
    records = [FakeRecord(0, "a", b"k", 0.0), FakeRecord(1, "b", None, 0.0), FakeRecord(2, "c", b"k", 0.0)]
    assert keys_of(Batch(records, FORMAT)) == {b"k", "b"}
    assert keys_of(Batch(records[::2], FORMAT)) == {b"k"}


def test_attempts_are_spared_for_its_patience() -> None:
    state = Open(100.0, "x", 105.0)
    settings = BreakerSettings(SETTINGS.initial, SETTINGS.maximum, patience=60.0)
    assert [spares(state, now, settings) for now in (100.0, 159.0, 160.0)] == [True, True, False]
    assert not spares(Closed((of(0),)), 100.0, settings)
    assert breaker.pause(1_000, SETTINGS) == SETTINGS.maximum


def test_a_split_is_none_if_anything_else_is_done() -> None:
    batch = Batch(sliced(4, 4)[0], FORMAT)
    halves = tuple(Retry(batch.but(records=part)) for part in (batch.records[:2], batch.records[2:]))
    assert is_split(halves, batch)
    others: Sequence[tuple[Action, ...]] = ((Retry(batch),), (Ack(batch.records[:2]), halves[1]), (Release(batch.records),))
    assert not any(is_split(each, batch) for each in others)


@laws(200)
@given(
    redelivers(finite=True),
    st.lists(st.tuples(st.sampled_from((None, b"a", b"b")), st.integers(1, 6)), min_size=1, max_size=10),
    st.booleans(),
)
def test_what_is_given_back_may_be_received_once_more(policy: Redeliver, drawn: list[tuple[bytes | None, int]], grouped: bool) -> None:
    records = [FakeRecord(n, f"m{n}", key, 0.0, receives=receives) for n, (key, receives) in enumerate(drawn)]
    batch = Batch(records, FORMAT)
    back, kept = parted(batch, policy, grouped, 0.0)
    assert sorted([*back, *kept]) == sorted(records)
    limits = [limit for limit in (policy.limit, policy.redrive_count) if limit is not None]
    assert all(record.receives < min(limits, default=99) for record in back)
    if grouped:
        assert {record.key for record in back}.isdisjoint(record.key for record in kept)
    else:
        assert all(record.receives >= min(limits, default=99) for record in kept)
