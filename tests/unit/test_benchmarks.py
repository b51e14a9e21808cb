"""The benchmarks run, and judge what they find; how fast anything is, is nothing for a test."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Awaitable, Callable
from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import engine, idempotency, journal, local
from benchmarks.__main__ import NAMES, chosen, main
from benchmarks.comparison import Comparison, Limit, Reading, Result, Side, compare, measured, table
from benchmarks.kinesis_server import FIRST, shard_name
from benchmarks.kinesis_server import Server as KinesisServer
from benchmarks.sqs_server import Server
from connectors.kinesis.client import KinesisRecord, answered
from connectors.sharded.shards import Records

pytestmark = pytest.mark.slow

OURS, BARE = Side("engine", "engine"), Side("engine", "bare")


def result(limit: Limit | None, ours: list[float], other: list[float]) -> Result:
    return Result(Comparison("a thing", "us", OURS, BARE if other else None, limit), ours, other)


@pytest.mark.parametrize(
    ("limit", "ours", "other", "middle", "kept"),
    [
        (Limit("times", at_most=1.3), [1.2, 2.4, 9.0], [1.0, 2.0, 3.0], 1.2, True),
        (Limit("times", at_most=1.3), [1.4, 2.8, 3.0], [1.0, 2.0, 3.0], 1.4, False),
        (Limit("times", at_least=0.5), [4.0], [10.0], 0.4, False),
        (Limit("times", at_least=0.5), [5.0], [10.0], 0.5, True),
        (Limit("share", at_least=0.8), [5.0, 2.0, 9.0], [4.0, 1.6, 9.0], 0.8, True),
        (Limit("share", at_least=0.8), [5.0], [3.9], 0.78, False),
        (Limit("excess", at_most=10), [70.0], [60.0], 10.0, True),
        (Limit("excess", at_most=10), [70.5], [60.0], 10.5, False),
        (Limit("figure", at_most=200), [201.0], [1.0], 201.0, False),
        (Limit("figure", at_most=200), [199.0], [], 199.0, True),
        (None, [9.0], [3.0], 3.0, True),
        (None, [9.0], [], 9.0, True),
    ],
)
def test_the_median_of_the_pairs_is_judged(limit: Limit | None, ours: list[float], other: list[float], middle: float, kept: bool) -> None:
    found = result(limit, ours, other)
    assert found.spread[0] == pytest.approx(middle)
    assert found.kept is kept


def test_the_table_shows_both_sides_and_what_was_missed() -> None:
    text = table([result(Limit("times", at_most=1.3), [1.4], [1.0]), result(None, [2.0], [])])
    assert text.splitlines()[1].split("  ")[0] == "a thing"
    assert "1.40 (1.40-1.40)" in text
    assert "at most x 1.3  MISSED" in text
    assert "2.00 us" in text


@pytest.mark.parametrize("quick", [True, False])
def test_every_side_that_is_compared_exists(quick: bool) -> None:
    for each in chosen(NAMES, quick):
        for side in (each.ours, each.other):
            assert side is None or side.name in import_module(f"benchmarks.{side.module}").SIDES
            assert side is None or json.dumps(dict(side.parameters))


def test_sides_take_turns_and_each_pair_has_a_folder_of_its_own(tmp_path: Path) -> None:
    seen: list[tuple[str, Path]] = []

    def measure(side: Side, folder: Path) -> Reading:
        seen.append((side.name, folder))
        return Reading(float(len(seen)))

    found = compare(Comparison("a thing", "us", OURS, BARE), 2, tmp_path, measure)
    assert [name for name, _ in seen] == ["bare", "engine", "bare", "engine"]
    assert (found.other, found.ours) == ([1.0, 3.0], [2.0, 4.0])
    assert seen[0][1] == seen[1][1] != seen[2][1] == seen[3][1]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(("ours", "code", "verdict"), [(1.2, 0, "kept"), (1.4, 1, "MISSED")])
def test_a_missed_limit_ends_with_one(ours: float, code: int, verdict: str, capsys: pytest.CaptureFixture[str]) -> None:
    thing = Comparison("a thing", "us", OURS, BARE, Limit("times", at_most=1.3))
    figures = {OURS: ours, BARE: 1.0}
    assert main(["engine", "--pairs", "1"], lambda names, quick: [thing], lambda side, folder: Reading(figures[side])) == code
    assert capsys.readouterr().out.rstrip().endswith(verdict)


def test_a_side_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="KeyError: 'none'"):
        measured(Side("engine", "none"), tmp_path)


def test_a_name_that_is_none_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["motor"])
    assert "motor" in capsys.readouterr().err


# --- the sides, in this process and tiny ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "width", "ordered"), [(100, 1, False), (10, 4, False), (100, 1, True), (10, 4, True)])
async def test_the_engine_settles_all(size: int, width: int, ordered: bool) -> None:
    assert (await engine.engine(250, size, width, ordered)).figure > 0


async def test_the_bare_loop_runs() -> None:
    assert (await engine.bare(250, 100)).figure > 0


@pytest.mark.parametrize(("kind", "poll"), [("queue", local.queue), ("stream", local.stream)])
async def test_local_sources_are_put_and_polled(kind: str, poll: Callable[[int, int, str], Awaitable[Reading]], tmp_path: Path) -> None:
    assert (await local.put(kind, 100, str(tmp_path))).figure > 0
    assert (await poll(100, 10, str(tmp_path))).figure > 0


@pytest.mark.parametrize(("window", "before"), [(True, 0), (True, 20_000), (False, 0)])
async def test_batches_run_with_and_without_a_window(window: bool, before: int, tmp_path: Path) -> None:
    assert (await idempotency.polled(20, 10, str(tmp_path), window, before)).figure > 0


async def test_the_journal_is_written_on_both_sides(tmp_path: Path) -> None:
    assert (await journal.ours(1000, str(tmp_path))).figure > 0
    assert journal.bare(1000, str(tmp_path)).figure > 0


async def test_the_canned_server_gives_out_what_it_has() -> None:
    server = Server(12, 200)
    sizes = [len(json.loads(await server.answer("ReceiveMessage", {"MaxNumberOfMessages": 10}, "")).get("Messages", ())) for _ in range(3)]
    assert sizes == [10, 2, 0]


async def test_the_canned_stream_goes_on_where_it_is_asked_to() -> None:
    server, shard = KinesisServer(3, 100, 200), shard_name(2)

    async def iterator(kind: str, **more: str) -> str:
        asked = {"ShardId": shard, "ShardIteratorType": kind, **more}
        return str(json.loads(await server.answer("GetShardIterator", asked, ""))["ShardIterator"])

    async def records(following: str | None, limit: int = 1000) -> Records[KinesisRecord]:
        return answered(await server.answer("GetRecords", {"ShardIterator": following, "Limit": limit}, ""), shard)

    first = await records(await iterator("TRIM_HORIZON"))
    second = await records(first.following, 7)
    assert [int(each.sequence) for each in (*first.records, *second.records)] == [FIRST + number for number in range(107)]
    assert {len(b64decode(each.data)) for each in first.records} == {200}
    assert first.behind
    last = second.records[-1].sequence
    after = await records(await iterator("AFTER_SEQUENCE_NUMBER", StartingSequenceNumber=last), 1)
    at = await records(await iterator("AT_SEQUENCE_NUMBER", StartingSequenceNumber=last), 1)
    assert [int(each.records[0].sequence) for each in (after, at)] == [FIRST + 107, FIRST + 106]
    assert len(json.loads(await server.answer("ListShards", {}, ""))["Shards"]) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.servers) if name == "kafka" else name for name in NAMES])
def test_it_runs_from_the_command_line(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--quick", "--pairs", "1", "--folder", str(tmp_path)]) in {0, 1}
    assert "1 pairs" in capsys.readouterr().out
