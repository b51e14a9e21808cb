"""The laws of a rewind (poller/rewind.py), over any shards and any progress, and for rules that break them; and what `--to` says."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka import connector
from connectors.kafka.options import KafkaOptions
from connectors.local import stream_connector
from poller.admin.rewinding import Moved, Preview, Wish
from poller.cli.rewinding import page, wished
from poller.errors import SourceError
from poller.lineage import Known, Shard, origin, plan, remembered, untangled
from poller.model import Span
from poller.progress import ORIGIN, Progress
from poller.rewind import Change, KeepsPositions, Target, ToOrigin, ToPosition, changes, origin_of
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.strategies import counter_test, laws

Changes: TypeAlias = Callable[[Sequence[Shard], Mapping[str, Progress], Target, int, str | None], tuple[Change, ...]]

NOW = "AT_TIMESTAMP 5000.0"
WIDTH = 4


@st.composite
def streams(draw: st.DrawFn) -> list[Shard]:
    """Splits, merges and roll-overs, listed in any order; parents that nobody lists; now and then a shard that is its own ancestor."""
    names = [f"s{n}" for n in range(draw(st.integers(1, 8)))]
    shards = []
    for n, name in enumerate(names):
        wrong = st.lists(st.sampled_from(names), max_size=1) if draw(st.integers(0, 5)) == 0 else st.just([])
        older = st.lists(st.sampled_from((*names[:n], "gone-1")), max_size=2)
        shards.append(Shard(name, tuple(dict.fromkeys([*draw(older), *draw(wrong)]))))
    return draw(st.permutations(shards))


progresses = st.builds(
    Progress,
    origin=st.sampled_from(("TRIM_HORIZON", "AT_TIMESTAMP 100.0")),
    width=st.integers(1, 3),
    frontier=st.sampled_from((ORIGIN, 0, 70)),
    positions=st.sampled_from(((), ((0, 5), (1, 60)))),
    spans=st.sampled_from(((), (Span(0, 5, 9, 10, 3),))),
    doubt=st.sampled_from((0, 9)),
    careful=st.sampled_from((ORIGIN, 80)),
    ended=st.booleans(),
)
kept = st.dictionaries(st.sampled_from(("", "gone-1", "gone-2", *(f"s{n}" for n in range(8)))), progresses)
targets = st.sampled_from((ToOrigin("TRIM_HORIZON"), ToOrigin("AT_TIMESTAMP 1000.0"), ToOrigin(NOW, ahead=True)))


def after(before: Mapping[str, Progress], made: Sequence[Change]) -> dict[str, Progress]:
    """What is durable then."""
    found = {name: progress for name, progress in before.items() if name not in {each.lane for each in made}}
    return found | {each.lane: each.after for each in made if each.after is not None}


def check_fresh(made: Sequence[Change], target: ToOrigin) -> None:
    for change in made:
        if change.after is not None:
            require(replace(change.after, width=1, closed=False) == Progress(target.origin), f"{change.lane} has something left of before")


def check_complete(shards: Sequence[Shard], before: Mapping[str, Progress], made: Sequence[Change], target: ToOrigin) -> None:
    """As shards.py will see it: each listed shard that is not passed over is opened some time, at the place asked for or before it."""
    durable = after(before, made)
    known: dict[str, Known | None] = {name: None for shard in shards for name in (shard.name, *shard.parents)}
    known |= {name: Known(progress.origin, progress.ended) for name, progress in durable.items()}
    listed = {shard.name: shard for shard in shards}
    opened = set[str]()
    while steps := plan(remembered({}, shards, known), known).open:
        for name in steps:
            progress = durable.get(name)
            start = progress.origin if progress is not None else origin(listed[name], known, target.origin)
            require(start == target.origin and (progress is None or progress.checkpoint == ORIGIN), f"{name} begins elsewhere: {start}")
            opened.add(name)
            known[name] = Known(start, ended=True)  # of one that is not listed, its reader says so at once
    passed = {name for name, progress in before.items() if progress.ended} if target.ahead else set()
    left = listed.keys() - opened - passed
    require(not left, f"{sorted(left)} are never read again")


def check_parents_first(shards: Sequence[Shard], made: Sequence[Change]) -> None:
    names, seen = {each.lane for each in made}, set[str]()
    for change in made:
        clean = untangled({shard.name: shard for shard in shards})
        parents = clean[change.lane].parents if change.lane in clean else ()
        require(not [each for each in parents if each in names and each in clean and each not in seen], f"{change.lane} before its parent")
        seen.add(change.lane)


def check(rule: Changes, examples: int) -> None:
    @laws(examples)
    @given(streams(), kept, targets)
    def law(shards: list[Shard], before: dict[str, Progress], target: ToOrigin) -> None:
        made = rule(shards, before, target, WIDTH, None)
        check_fresh(made, target)
        check_complete(shards, before, made, target)
        check_parents_first(shards, made)
        durable = after(before, made)
        require(after(durable, rule(shards, durable, target, WIDTH, None)) == durable, "a second rewind changes something")

    law()


def test_the_laws_of_a_rewind() -> None:
    check(changes, 300)


def _made(rule: Callable[[Change], Change | None]) -> Changes:
    def broken(shards: Sequence[Shard], before: Mapping[str, Progress], target: Target, width: int, lane: str | None) -> tuple[Change, ...]:
        return tuple(new for each in changes(shards, before, target, width, lane) if (new := rule(each)) is not None)

    return broken


def keeps_attempts(change: Change) -> Change:
    return replace(change, after=replace(change.after, spans=change.before.spans)) if change.before and change.after else change


def forgets_what_ended(change: Change) -> Change | None:
    return None if change.before is not None and change.before.ended else change


def leaves_unbegun(change: Change) -> Change | None:
    """What has no progress begins where its parents did; a shard without parents does not."""
    return None if change.before is not None and change.before.frontier == ORIGIN else change


def children_first(
    shards: Sequence[Shard], before: Mapping[str, Progress], target: Target, width: int, lane: str | None
) -> tuple[Change, ...]:
    return changes(shards, before, target, width, lane)[::-1]


@pytest.mark.parametrize(
    ("rule", "breach"),
    [
        (_made(keeps_attempts), "left of before"),
        (_made(forgets_what_ended), "never read again"),
        (_made(leaves_unbegun), "begins elsewhere|never read again"),
        (children_first, "before its parent"),
    ],
    ids=["keeps_attempts", "forgets_what_ended", "leaves_unbegun", "children_first"],
)
@pytest.mark.counterpart
def test_the_laws_find_out(rule: Changes, breach: str) -> None:
    with pytest.raises(Broken, match=breach), counter_test():
        check(rule, 3000)


# --- one lane -------------------------------------------------------------------------------------------------------------------------

FAMILY = [Shard("c", ("a", "b")), Shard("a"), Shard("b")]
BEGUN = Progress("AT_TIMESTAMP 100.0", frontier=70, spans=(Span(0, 5, 9, 10, 3),), doubt=9)


def test_one_lane_and_no_other() -> None:
    one = partial(changes, FAMILY, {"a": BEGUN, "": BEGUN}, width=WIDTH)
    assert one(ToPosition(12), lane="a") == (Change("a", BEGUN, Progress("TRIM_HORIZON", WIDTH, frontier=12, closed=True)),)
    assert one(ToOrigin(NOW, ahead=True), lane="b") == (Change("b", None, Progress(NOW, WIDTH, closed=True)),)
    assert one(ToOrigin("TRIM_HORIZON"), lane=None)[0] == Change("", BEGUN, Progress("TRIM_HORIZON", closed=True)), "the kept moment"


def test_a_lane_that_is_not_there_and_a_position_of_none_are_refused() -> None:
    with pytest.raises(SourceError, match=r"no lane 'x'; there are a, b, c$"):
        changes(FAMILY, {"": BEGUN}, ToPosition(1), 1, "x")
    with pytest.raises(SourceError, match="--lane"):
        changes(FAMILY, {}, ToPosition(1), 1)


def test_what_has_ended_and_is_gone_is_forgotten() -> None:
    ended = replace(BEGUN, ended=True)
    assert changes(FAMILY, {"old": ended}, ToOrigin("TRIM_HORIZON"), 1)[-1] == Change("old", ended, None)
    assert "old" not in [each.lane for each in changes(FAMILY, {"old": ended}, ToOrigin(NOW, ahead=True), 1)]


def test_where_a_lane_stands() -> None:
    assert (origin_of(Progress("TRIM_HORIZON")), origin_of(BEGUN)) == ("TRIM_HORIZON", None)


# --- what the command line says ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "wish"),
    [
        ("trim_horizon", Wish("l", origin="TRIM_HORIZON")),
        ("LATEST", Wish("l", origin="LATEST")),
        ("20260131", Wish("l", position="20260131")),
        ("1970-01-02T00:00:00+00:00", Wish("l", moment=86_400.0)),
        (
            "49590338271490256608559692538361571095921575989136588898",
            Wish("l", position="49590338271490256608559692538361571095921575989136588898"),
        ),
    ],
)
def test_what_to_says(to: str, wish: Wish) -> None:
    assert wished(to, "l") == wish


def test_a_duration_is_so_long_ago_and_a_wrong_date_is_no_position() -> None:
    two_hours, now = wished("2h", None).moment, wished("0s", None).moment
    assert two_hours is not None and now is not None
    assert 7199 < now - two_hours < 7201
    with pytest.raises(click.UsageError, match="is no time"):
        wished("2026-13-01", None)


def test_the_page_says_what_is_read_again_and_by_whom_lanes_are_held() -> None:
    lanes = [Moved("a", "70", "TRIM_HORIZON", 70, 0, 1), Moved("b", "", "TRIM_HORIZON", None, None)]
    text = page(Preview("orders", "stream", lanes, {"a": "host-1"}, "ann\x1b on host"), done=False)
    assert "would rewind 2 lanes: 70 records and those of 1 lane that cannot be counted read again" in text
    assert "attempts of 1 batch under retry would be forgotten" in text
    assert "now held by host-1 (1)" in text
    assert "paused by ann" in text and "\x1b" not in text


def test_whose_positions_are_the_broker_s_is_told_what_to_run() -> None:
    options = KafkaOptions(bootstrap_servers=["broker:9092"], topic="orders")
    text = connector.rewound_by(options, "o-1")
    assert "kafka-consumer-groups.sh --bootstrap-server broker:9092 --group poller-o-1 --topic orders --reset-offsets" in text
    assert isinstance(connector, KeepsPositions) and not isinstance(stream_connector, KeepsPositions)
