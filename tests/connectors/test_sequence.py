"""Where records of a shard stand: laws of tokens and positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.sharded import sequence
from connectors.sharded.sequence import MOST_SUBS, Place, Start, place, start, token
from poller.progress import ORIGIN, Progress, decode, encode
from poller.testing.strategies import counter_test, laws

sequences = st.one_of(st.integers(0, 3), st.integers(0, 10**56 - 1), st.integers(10**127, 10**128 - 1))
subs = st.one_of(st.integers(0, 3), st.integers(0, MOST_SUBS))
places = st.tuples(sequences, subs)

Token = Callable[[int, int], int]


def grow(token: Token) -> None:
    """The law: tokens grow as records do, and one past a token is no other record's."""

    @laws(300)
    @given(st.lists(places, min_size=2, max_size=20, unique=True))
    def law(found: list[tuple[int, int]]) -> None:
        tokens = [token(*each) for each in sorted(found)]
        assert all(later > one + 1 for one, later in pairwise(tokens))

    law()


def test_tokens_grow_and_leave_room() -> None:
    grow(token)


@pytest.mark.parametrize(
    "broken",
    [
        lambda sequence, sub: sequence << sequence.bit_length() + 1 | sub << 1,
        lambda sequence, sub: sequence << 24 | sub,
        lambda sequence, sub: (sequence << 8 | sub) << 1,
    ],
    ids=["overlapping", "without-room", "too-narrow"],
)
def test_the_law_rejects_tokens_that_do_not(broken: Token) -> None:
    with counter_test(), pytest.raises(AssertionError):
        grow(broken)


@laws(300)
@given(sequences, subs, st.booleans())
def test_a_position_says_where_it_is(number: int, sub: int, after: bool) -> None:
    found = Place(number, sub, after)
    assert place(found.position) == found
    assert found.position == token(str(number), sub) + after
    assert found.position > ORIGIN


@laws(300)
@given(places, places)
def test_all_of_a_record_comes_before_all_of_the_next(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (token(*one) < token(*other)) == (one < other)


@laws(200)
@given(st.lists(places, min_size=1, max_size=20, unique=True), st.data())
def test_what_is_read_again_holds_all_that_is_not_done(found: list[tuple[int, int]], data: st.DataObject) -> None:
    """From any position that the engine may save: a reader that begins at `start`, and leaves out what is below, loses nothing."""
    found.sort()
    position = token(*data.draw(st.sampled_from(found))) + data.draw(st.integers(0, 1))
    begin = start(position, "TRIM_HORIZON")
    assert begin.sequence is not None
    after = begin.kind == "AFTER_SEQUENCE_NUMBER"
    read = [each for each in found if (each[0] > int(begin.sequence) if after else each[0] >= int(begin.sequence))]
    undone = [each for each in found if token(*each) >= position]
    # A whole record that is done is done with all that is in it, so its user records, if they are known by now, need not come again.
    whole = place(position)
    if whole.after and whole.sub == 0:
        undone = [each for each in undone if each[0] != whole.sequence]
    assert [each for each in read if token(*each) >= position] == undone


@pytest.mark.parametrize(
    ("position", "origin", "expected"),
    [
        (ORIGIN, "TRIM_HORIZON", Start("TRIM_HORIZON")),
        (ORIGIN, "AT_TIMESTAMP 1763686800.25", Start("AT_TIMESTAMP", time=1763686800.25)),
        (ORIGIN, "LATEST 1763686800.25", Start("AT_TIMESTAMP", time=1763686800.25)),
        (token("49"), "TRIM_HORIZON", Start("AT_SEQUENCE_NUMBER", "49")),
        (token("49") + 1, "AT_TIMESTAMP 1.0", Start("AFTER_SEQUENCE_NUMBER", "49")),
        (token("49", 3), "TRIM_HORIZON", Start("AT_SEQUENCE_NUMBER", "49")),
        (token("49", 3) + 1, "TRIM_HORIZON", Start("AT_SEQUENCE_NUMBER", "49")),
        (token("0") + 1, "TRIM_HORIZON", Start("AFTER_SEQUENCE_NUMBER", "0")),
    ],
)
def test_where_a_reader_begins(position: int, origin: str, expected: Start) -> None:
    assert start(position, origin) == expected


def test_zeros_in_front() -> None:
    assert start(token("000000000000000000009") + 1, "", 21) == Start("AFTER_SEQUENCE_NUMBER", "000000000000000000009")
    long = "4421584500000000017450439092"
    assert start(token(long), "", 21).sequence == long


def test_a_store_keeps_positions_of_any_size() -> None:
    progress = replace(Progress("TRIM_HORIZON"), frontier=token("9" * 128, MOST_SUBS) + 1, positions=((0, token("9" * 56)),))
    assert decode(encode(progress)) == progress


def test_the_widest_sub_sequence_number_fits() -> None:
    assert place(token("7", MOST_SUBS)) == (7, MOST_SUBS, False)
    assert 10 * 1024 * 1024 // 6 < MOST_SUBS == (1 << sequence.SUB_BITS) - 1
