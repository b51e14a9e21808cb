"""Laws of KCL's checkpoint columns: a worker of KCL that goes on from ours leaves nothing out and repeats little; and the other way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.dynamodb.checkpoint import SHARD_END, TRIM_HORIZON, Checkpoint, Landmarks, Notation
from connectors.sharded.sequence import token
from poller.model import Span
from poller.progress import ORIGIN, Progress

KINESIS = "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
CHANGES = "arn:aws:dynamodb:eu-west-1:123456789012:table/orders/stream/2026-11-21T00:00:00.000"
BASE = 49590338271490256608559692538361571095921575989136588898


@dataclass(frozen=True)
class Shard:
    """A shard's records: how many user records each has. `apart`: whether we take them apart; KCL always does."""

    sizes: Sequence[int]
    apart: bool

    @property
    def tokens(self) -> list[int]:
        """What we count."""
        return [token(BASE + 7 * n, sub) for n, size in enumerate(self.sizes) for sub in (range(1, size + 1) if self.apart else [0])]

    def resumed(self, columns: Checkpoint) -> set[int]:
        """Those of our tokens that KCL reads anything of: AT the sequence number, without what is not past the checkpoint itself."""
        users = [(BASE + 7 * n, sub) for n, size in enumerate(self.sizes) for sub in range(size)]
        if columns != TRIM_HORIZON:
            users = [each for each in users if each > (int(columns.sequence), columns.sub)]
        return {token(sequence, sub + 1 if self.apart else 0) for sequence, sub in users}


@st.composite
def saves(draw: st.DrawFn) -> tuple[Shard, list[Progress]]:
    """A lane's saves, each further than the one before: positions stand at, or after, records."""
    shard = Shard(draw(st.lists(st.integers(1, 4), min_size=1, max_size=6)), draw(st.booleans()))
    tokens, saved = shard.tokens, []
    done = read = 0
    for _ in range(draw(st.integers(1, 5))):
        done = draw(st.integers(done, len(tokens)))
        read = draw(st.integers(max(done, read), len(tokens)))
        frontier = tokens[read - 1] + 1 if read else ORIGIN
        at = () if done == read else ((0, tokens[done]),)
        if done < read and done and draw(st.booleans()):
            at = ((0, tokens[done - 1] + 1),)
        spans = (Span(0, tokens[done], tokens[read - 1], frontier, attempts=1),) if done < read and draw(st.booleans()) else ()
        saved.append(Progress("TRIM_HORIZON", frontier=frontier, positions=at, spans=spans))
    return shard, saved


def left_out(notation: Notation, shard: Shard, saved: Sequence[Progress]) -> list[int]:
    """Tokens that are not done and that KCL would not read, after any of the saves."""
    known, missing = Landmarks(), []
    for progress in saved:
        columns = notation.written(progress, known)
        known = known.past(progress)
        missing += [each for each in shard.tokens if each >= progress.checkpoint and each not in shard.resumed(columns)]
    return missing


@given(saves())
def test_kcl_leaves_nothing_out(world: tuple[Shard, list[Progress]]) -> None:
    assert left_out(Notation(KINESIS), *world) == []


@given(saves())
def test_kcl_repeats_no_more_than_what_was_done_since_a_record_that_an_earlier_save_names(world: tuple[Shard, list[Progress]]) -> None:
    shard, saved = world
    known, named = Landmarks(), {ORIGIN}
    for progress in saved:
        columns = Notation(KINESIS).written(progress, known)
        known = known.past(progress)
        last = max(each for each in named if each < progress.checkpoint or each == ORIGIN)
        again = [each for each in shard.resumed(columns) if each < progress.checkpoint]
        # Of a record that we took whole, and KCL takes apart, it may read the rest.
        assert all(each > last or (not shard.apart and each >= last) for each in again) or progress.checkpoint == ORIGIN
        named |= {position & ~1 for position in (progress.frontier, *dict(progress.positions).values()) if position != ORIGIN}


def test_records_ahead_are_remembered_while_the_checkpoint_stands_still() -> None:
    tokens, known = Shard([1, 1, 1, 1, 1], apart=False).tokens, Landmarks()
    for read in (3, 4):
        known = known.past(Progress("TRIM_HORIZON", frontier=tokens[read] + 1, positions=((0, tokens[1]),)))
    assert known.before(tokens[4]) == tokens[3]
    for _ in range(10):
        known = known.past(Progress("TRIM_HORIZON", frontier=tokens[4] + 1, positions=((0, tokens[1]),)))
    assert known.before(tokens[4]) == tokens[3]


class Exact(Notation):
    """Says "at X" as if that were "after X"."""

    def written(self, progress: Progress, known: Landmarks) -> Checkpoint:
        at = progress.checkpoint
        return super().written(progress, known) if at & 1 or at == ORIGIN else self._after(at)


class Stale(Landmarks):
    """Takes any record that was ever named for done."""

    def before(self, position: int) -> int | None:
        return max(self.tokens, default=None)


def test_the_law_rejects_those_that_leave_records_out() -> None:
    shard = Shard([1, 1, 1, 1], apart=False)
    tokens = shard.tokens
    first = Progress("TRIM_HORIZON", frontier=tokens[3] + 1, positions=((0, tokens[1]),))
    assert left_out(Exact(KINESIS), shard, [first]) == [tokens[1]]
    columns = Notation(KINESIS).written(first, Stale(Landmarks().past(first).tokens))
    assert tokens[1] not in shard.resumed(columns)


@given(saves(), st.data())
def test_we_go_on_where_kcl_stopped(world: tuple[Shard, list[Progress]], data: st.DataObject) -> None:
    shard = Shard(world[0].sizes, apart=True)
    last = data.draw(st.sampled_from([(n, sub) for n, size in enumerate(shard.sizes) for sub in range(size)]))
    progress = Notation(KINESIS).read(Checkpoint(str(BASE + 7 * last[0]), last[1]))
    assert progress is not None
    done = [each for each in shard.tokens if each < progress.checkpoint]
    assert done == [token(BASE + 7 * n, sub + 1) for n, size in enumerate(shard.sizes) for sub in range(size) if (n, sub) <= last]
    assert Notation(KINESIS).written(progress, Landmarks()) == Checkpoint(str(BASE + 7 * last[0]), last[1])


@pytest.mark.parametrize(
    ("columns", "progress"),
    [
        (TRIM_HORIZON, Progress("TRIM_HORIZON")),
        (SHARD_END, Progress("TRIM_HORIZON", closed=True, ended=True)),
        (Checkpoint("LATEST"), None),
        (Checkpoint("AT_TIMESTAMP"), None),
    ],
)
def test_words_are_understood(columns: Checkpoint, progress: Progress | None) -> None:
    assert Notation(KINESIS).read(columns) == progress


@pytest.mark.parametrize("columns", [Checkpoint(""), Checkpoint("12x"), Checkpoint("-5"), Checkpoint("5", 2**30)])
def test_what_is_no_checkpoint_is_not_guessed_at(columns: Checkpoint) -> None:
    with pytest.raises(ValueError, match=r"is no (checkpoint|sub-sequence number)"):
        Notation(KINESIS).read(columns)


def test_a_lane_that_has_ended_has_ended_for_kcl() -> None:
    assert Notation(KINESIS).written(Progress("TRIM_HORIZON", frontier=3, ended=True), Landmarks()) == SHARD_END


def test_an_origin_with_a_time_is_the_trim_horizon_for_kcl() -> None:
    """AT_TIMESTAMP would mean whatever time KCL is configured with."""
    assert Notation(KINESIS).written(Progress("AT_TIMESTAMP 1763686800.0"), Landmarks()) == TRIM_HORIZON


def test_sequence_numbers_of_dynamodb_keep_their_zeros() -> None:
    progress = Progress("TRIM_HORIZON", frontier=token("000000000000000000042") + 1)
    assert Notation(CHANGES).written(progress, Landmarks()) == Checkpoint("000000000000000000042")
    assert Notation(CHANGES).read(Checkpoint("000000000000000000042")) == replace(progress, closed=True)


@given(st.integers(0, 2**70))
def test_other_sources_have_their_position_as_text(position: int) -> None:
    notation = Notation("local-stream:7:orders")
    columns = notation.written(Progress("TRIM_HORIZON", frontier=position), Landmarks())
    assert columns == Checkpoint(str(position))
    found = notation.read(columns)
    assert found is not None and found.checkpoint == position
