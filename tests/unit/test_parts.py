"""Laws 20 to 22 of how a failed batch is divided, each with a way of dividing that breaks it and is found out; and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.model import Batch, Done, Fault, Outcome, Record, Retry
from poller.parts import KEY_CUTS, named_by, parts
from poller.policy import Block
from poller.settings import Backoff, Bisect
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.laws import require, run_to_the_end
from poller.testing.oracle import Broken
from poller.testing.strategies import FAULT, NOW, batches, counter_test, laws

Divide = Callable[[Batch, Fault, Bisect], list[Sequence[Record]]]

indices = st.one_of(st.none(), st.integers(-3, 45), st.sampled_from((True, False)))
ways: st.SearchStrategy[Bisect] = st.sampled_from((True, "key"))


def keyed(*keys: str | None) -> Batch:
    return Batch([FakeRecord(n, f"r{n}", None if key is None else key.encode(), NOW) for n, key in enumerate(keys)], FORMAT)


# --- the laws -----------------------------------------------------------------------------------------------------------------------


def law_20_parts_are_the_batch(divide: Divide) -> None:
    @laws(300)
    @given(batches(40).filter(lambda batch: len(batch) > 1), indices, ways)
    def holds(batch: Batch, index: Any, how: Bisect) -> None:
        found = divide(batch, replace(FAULT, record_index=index), how)
        require(len(found) >= 2 and all(found), f"law 20: {found}")
        require([record for part in found for record in part] == list(batch.records), f"law 20: {found} are not {batch.records}")

    holds()


def run(divide: Divide, batch: Batch, how: Bisect, retries: int, answer: Callable[[Batch], Outcome]) -> Counter[Record]:
    """A stream's policy that divides so, until nothing is left."""

    class Dividing(Block):
        def _failed(self, batch: Batch, fault: Fault, dice: float) -> Any:
            actions = super()._failed(batch, fault, dice)
            if len(batch) == 1:
                return actions
            return tuple(Retry(batch.but(records=part, attempt=1)) for part in divide(batch, fault, self.bisect))

    return run_to_the_end(Dividing(retries, None, how, Backoff()), batch, answer, lambda: NOW)


def law_21_a_named_record_is_found_at_once(divide: Divide) -> None:
    @laws(150)
    @given(batches(40, attempts=1), st.integers(0, 39), st.integers(0, 3), ways)
    def tells(batch: Batch, place: int, retries: int, how: Bisect) -> None:
        poison = batch.records[place % len(batch)]

        def answer(each: Batch) -> Outcome:
            return replace(FAULT, record_index=each.records.index(poison)) if poison in each.records else Done()

        invoked = run(divide, batch, how, retries, answer)[poison]
        require(invoked == retries + 1 + (len(batch) > 1), f"law 21: {poison} of {len(batch)} is invoked {invoked} times")

    @laws(150)
    @given(batches(20, attempts=1), st.lists(st.integers(-2, 25), max_size=60), ways)
    def lies(batch: Batch, said: list[int], how: Bisect) -> None:
        poison, left = batch.records[-1], list(said)

        def answer(each: Batch) -> Outcome:
            return replace(FAULT, record_index=left.pop() if left else 0) if poison in each.records else Done()

        invoked = run(divide, batch, how, 2, answer)[poison]  # which looks that each record is settled once
        require(invoked <= len(batch) + 2, f"law 21: {poison} of {len(batch)} is invoked {invoked} times")

    tells()
    lies()


def law_22_keys_stay_together(divide: Divide) -> None:
    @laws(300)
    @given(batches(40, attempts=1).filter(lambda batch: len(batch) > 1), st.integers(0, 39))
    def holds(batch: Batch, place: int) -> None:
        keys = [record.key for record in batch.records]
        whole = [at for at in range(1, len(keys)) if not ({*keys[:at]} & {*keys[at:]}) - {None}]
        cut = len(divide(batch, FAULT, "key")[0])
        nearest = min((abs(at - (len(keys) + 1) // 2) for at in whole), default=0)
        require(abs(cut - (len(keys) + 1) // 2) == nearest and (not whole or cut in whole), f"law 22: {keys} cut at {cut}, not of {whole}")
        poison = batch.records[place % len(batch)]
        invoked = run(divide, batch, "key", 0, lambda each: FAULT if poison in each.records else Done())[poison]
        require(invoked <= KEY_CUTS * (len(batch) - 1).bit_length() + 1, f"law 22: {poison} of {len(batch)} is invoked {invoked} times")

    holds()


LAWS = [law_20_parts_are_the_batch, law_21_a_named_record_is_found_at_once, law_22_keys_stay_together]


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_the_parts_keep(law: Callable[[Divide], None]) -> None:
    law(parts)


# --- counter-tests ------------------------------------------------------------------------------------------------------------------


def trusting(batch: Batch, fault: Fault, how: Bisect) -> list[Sequence[Record]]:
    """Believes every index."""
    if fault.record_index is None:
        return parts(batch, fault, how)
    at = fault.record_index
    return [part for part in (batch.records[:at], batch.records[at : at + 1], batch.records[at + 1 :]) if part]


def deaf(batch: Batch, fault: Fault, how: Bisect) -> list[Sequence[Record]]:
    """Does not hear what the error names."""
    return parts(batch, replace(fault, record_index=None), how)


def losing(batch: Batch, fault: Fault, how: Bisect) -> list[Sequence[Record]]:
    """Forgets what lies before the record."""
    found = parts(batch, fault, how)
    return found[1:] if len(found) > 2 else found


def shaving(batch: Batch, fault: Fault, how: Bisect) -> list[Sequence[Record]]:
    """Cuts at the first place where the key changes."""
    keys = [record.key for record in batch.records]
    at = next((n for n in range(1, len(keys)) if keys[n] != keys[n - 1]), 1)
    return [batch.records[:at], batch.records[at:]]


def halving(batch: Batch, fault: Fault, how: Bisect) -> list[Sequence[Record]]:
    """Does not look at keys."""
    return parts(batch, fault, True)


@pytest.mark.parametrize(
    ("law", "divide"),
    [
        (law_20_parts_are_the_batch, trusting),
        (law_20_parts_are_the_batch, losing),
        (law_21_a_named_record_is_found_at_once, deaf),
        (law_22_keys_stay_together, shaving),
        (law_22_keys_stay_together, halving),
    ],
    ids=lambda part: part.__name__,
)
@pytest.mark.counterpart
def test_the_law_finds_out(law: Callable[[Divide], None], divide: Divide) -> None:
    with pytest.raises(Broken), counter_test():
        law(divide)


# --- tables -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        (replace(FAULT, record_index=0), 0),
        (replace(FAULT, record_index=4), 4),
        (replace(FAULT, record_index=5), None),
        (replace(FAULT, record_index=-1), None),
        (replace(FAULT, record_index=True), None),
        (replace(FAULT, message='{"error": "bad", "recordIndex": 3}'), 3),
        (replace(FAULT, message='{"recordIndex": 3}', record_index=1), 1),
        (replace(FAULT, message='{"recordIndex": 5}'), None),
        (replace(FAULT, message='{"recordIndex": -1}'), None),
        (replace(FAULT, message='{"recordIndex": true}'), None),
        (replace(FAULT, message='{"recordIndex": 1.0}'), None),
        (replace(FAULT, message='{"recordIndex": "1"}'), None),
        (replace(FAULT, message='{"recordIndex": 1e400}'), None),
        (replace(FAULT, message='{"recordIndex": 99999999999999999999999}'), None),
        (replace(FAULT, message='{"at": {"recordIndex": 1}}'), None),
        (replace(FAULT, message='{"recordIndex": 1'), None),
        (replace(FAULT, message='{"half a pair": "\ud800", "recordIndex": 1}'), 1),
        (replace(FAULT, message='[{"recordIndex": 1}]'), None),
        (replace(FAULT, message='{"a": ' * 600 + '{"recordIndex": 1}' + "}" * 600), None),
        (replace(FAULT, message='{"recordIndex": 1' + " " * 5_000 + "}"), None),
        (FAULT, None),
    ],
)
def test_which_record_an_error_names(fault: Fault, place: int | None) -> None:
    assert named_by(fault, 5) == place


@pytest.mark.parametrize(
    ("keys", "how", "index", "sizes"),
    [
        ("abcde", True, None, [3, 2]),
        ("aaabb", "key", None, [3, 2]),
        ("aabbb", "key", None, [2, 3]),
        ("abbbbb", "key", None, [1, 5]),
        ("aaaaa", "key", None, [3, 2]),
        ("ababa", "key", None, [3, 2]),
        ("aabbcc", "key", None, [2, 4]),
        ("ababcc", "key", None, [4, 2]),
        ("a---a", "key", None, [3, 2]),
        ("aa---", "key", None, [3, 2]),
        ("aabb", "key", 0, [1, 3]),
        ("aabb", True, 1, [1, 1, 2]),
        ("aabb", True, 3, [3, 1]),
    ],
)
def test_where_a_batch_is_cut(keys: str, how: Bisect, index: int | None, sizes: list[int]) -> None:
    batch = keyed(*(None if key == "-" else key for key in keys))
    assert [len(part) for part in parts(batch, replace(FAULT, record_index=index), how)] == sizes
