"""Tumbling windows on a lane: when a window ends, what the function is given, and what is durable before a final invocation."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import orjson

from poller.failures.journal import Selection
from poller.model import Call, Lease, Response, Returned, Window
from poller.ordered import OrderedLane
from poller.protocols import Event
from poller.replay.format import FORMAT as KEPT
from poller.replay.format import records_of
from poller.settings import FilterSettings
from poller.testing.fakes import FILTERABLE, FORMAT, FakeShards, FakeStream, Gate
from poller.tumbling import TumblingLane, open_lane
from tests.engine.scenes import FAULT, KEY, Running, Scene, Script, Stream, at, block, now, virtually, wall

WIDTH = 10

Answer = Callable[[dict[str, Any]], Response | None]
"""What the function answers to an event; None: the names that it has seen."""


@dataclass(frozen=True)
class Seen:
    """An invocation: when, of what, with which state, in which window (seconds of loop time)."""

    at: float
    names: tuple[str, ...]
    state: tuple[str, ...]
    start: int
    final: bool = False
    early: bool = False


class Collecting(Script):
    """A function whose state is the names of the records that it was given."""

    def __init__(self, answer: Answer = lambda _: None, seconds: float = 0.0) -> None:
        super().__init__()
        self.respond = answer
        self.seconds = seconds
        self.seen: list[Seen] = []
        self.events: list[dict[str, Any]] = []

    async def invoke(self, event: Event, call: Call) -> Response:
        document = orjson.loads(event.json())
        self.events.append(document)
        names = tuple(map(str, event.identifiers()))
        if "window" not in document:
            self.seen.append(Seen(round(now(), 1), names, (), -1))
            return await super().invoke(event, call)
        state = tuple(document["state"].get("seen", ()))
        start = int(document["window"]["start"][14:16]) * 60 + int(document["window"]["start"][17:19])
        final, early = document["isFinalInvokeForWindow"], document["isWindowTerminatedEarly"]
        self.seen.append(Seen(round(now(), 1), names, state, start, final, early))
        await super().invoke(event, call)
        await asyncio.sleep(self.seconds)
        return self.respond(document) or Returned(orjson.dumps({"state": {"seen": [*state, *names]}}))

    @property
    def finals(self) -> list[tuple[tuple[str, ...], int, bool]]:
        return [(seen.state, seen.start, seen.early) for seen in self.seen if seen.final]


def scene(script: Script, width: int = WIDTH, **more: Any) -> Scene:
    made = Scene(script, **more)
    made.settings = replace(made.settings, tumbling_window=width)
    return made


async def opened(
    scene: Scene,
    stream: FakeStream,
    owner: str = "a",
    shard: str = "shard",
    gate: Gate | None = None,
    kind: type[OrderedLane] = OrderedLane,
) -> Running:
    """A lane of the next owner, who claims it whoever has it."""
    context = scene.context(owner)
    lease = await scene.store.leases.claim(replace(KEY, lane=shard), owner, now() + 1e9 * len(owner), 1e9)
    assert isinstance(lease, Lease)
    reader = FakeShards(stream, gate or Gate(owner)).reader(shard)
    lane = await open_lane(kind, context, lease, reader, FORMAT, "TRIM_HORIZON", math.inf)
    return Running(lane, scene.work(block(scene)))


async def over(running: Running) -> None:
    """When its lane has ended."""
    async with asyncio.timeout(600):
        await running.task


async def crash(running: Running, gate: Gate) -> None:
    gate.shut = True
    running.lane.lose("a crash")  # type: ignore[attr-defined]
    running.task.cancel()
    await asyncio.gather(running.task, return_exceptions=True)


@virtually
async def test_a_window_ends_when_a_later_record_comes() -> None:
    script, stream = Collecting(), Stream("a", "b")
    running = await opened(scene(script, size=1), stream)
    await at(3)
    stream.add("c")
    await at(10.5)
    stream.add("d")
    await script.called(5)
    assert script.seen == [
        Seen(0, ("a",), (), 0),
        Seen(0, ("b",), ("a",), 0),
        Seen(3, ("c",), ("a", "b"), 0),
        Seen(10.5, (), ("a", "b", "c"), 0, final=True),
        Seen(10.5, ("d",), (), 10),
    ]
    await running.left()


@virtually
async def test_at_the_head_a_window_ends_a_second_after_its_end() -> None:
    script, stream = Collecting(), Stream()
    running = await opened(scene(script), stream)
    await at(0.5)
    stream.add("a")
    await script.called(2)
    # Reads begin at 9.5, 10.5, 11.5, and each waits a second: only the last of them began late enough.
    assert (script.seen[1].final, script.seen[1].at) == (True, 12.5)
    await running.left()


@virtually
async def test_an_empty_read_behind_the_head_ends_no_window() -> None:
    """Some sources answer with nothing though there is more."""
    script, stream = Collecting(), Stream("a")
    made = scene(script)
    running = await opened(made, stream)
    await script.called(1)
    await at(5)
    hidden = stream.shards["shard"]
    hidden.append(hidden[0]._replace(token=3, name="b", arrival=hidden[0].arrival + 5))

    async def empty(position: int, origin: str, limit: int) -> tuple[tuple[()], int]:
        await asyncio.sleep(1)
        return (), position

    reader = cast("Any", running.lane).reader
    read, reader.read = reader.read, empty
    await at(60)
    assert script.finals == []
    reader.read = read
    await script.called(3)
    assert script.finals == [(("a", "b"), 0, False)]
    await running.left()


@virtually
async def test_a_reader_that_knows_when_it_was_at_the_head_is_believed() -> None:
    """Such a one may come back with nothing, and without having asked."""
    script, stream = Collecting(), Stream("a")
    running = await opened(scene(script), stream)
    reader = cast("Any", running.lane).reader
    reader.at_head = 0.0
    await at(30)
    assert script.finals == []
    reader.at_head = wall() - 30 + 10.9
    await at(40)
    assert script.finals == []
    reader.at_head = wall() - 40 + 11
    await script.called(2)
    assert script.finals == [(("a",), 0, False)]
    await running.left()


class Turning(OrderedLane):
    """A lane that is opened anew after what an earlier life began, as `ShardLane` is where aggregates are taken apart now."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.outgrown = self.outgrown or self.tracker.earlier.window is not None


@virtually
async def test_a_lane_that_is_opened_anew_leaves_its_window_open() -> None:
    script, stream = Collecting(), Stream("a")
    made = await _closed_with_an_open_window(script, stream)
    turning = await opened(made, stream, "bb", kind=Turning)
    assert type(turning.lane).__mro__[1:3] == (TumblingLane, Turning)
    await over(turning)
    assert script.finals == []
    again = await opened(made, stream, "ccc")
    await script.called(2)
    assert script.finals == [(("a",), 0, False)]
    await again.left()


@virtually
async def test_what_is_filtered_out_tells_the_time_too_and_is_in_no_window() -> None:
    script, stream = Collecting(), Stream("ra", "ub")
    made = scene(script)
    made.settings = replace(made.settings, filters=FilterSettings(('{"id": [{"prefix": "r"}]}',), FILTERABLE))
    running = await opened(made, stream)
    await at(10.2)
    stream.add("uc")
    await script.called(2)
    assert (script.seen[1].at, script.finals) == (10.2, [(("ra",), 0, False)])
    await at(60)
    assert len(script.seen) == 2
    await running.left()


@virtually
async def test_a_window_waits_no_longer_than_itself_for_a_batch_to_fill() -> None:
    script, stream = Collecting(), Stream("a")
    running = await opened(scene(script, window=200.0), stream)
    await script.called(2)
    assert 11.0 <= script.seen[0].at <= 13.1
    assert script.finals == [(("a",), 0, False)]
    await running.left()


@virtually
async def test_a_shard_ends_with_its_window_and_its_child_starts_fresh() -> None:
    script, stream = Collecting(), Stream("a")
    made = scene(script)
    running = await opened(made, stream)
    await script.called(1)
    stream.reshard(("shard",), ("child",))
    await over(running)
    assert script.finals == [(("a",), 0, False)]
    assert (made.store.checkpoints.last.ended, made.store.checkpoints.last.window) == (True, None)
    stream.put("child", stream.shards["shard"][0]._replace(name="child"))
    child = await opened(made, stream, "bb", "child")
    await script.called(3)
    assert (script.seen[2].names, script.seen[2].state) == (("child",), ())
    await child.left()


@virtually
async def test_a_shard_has_not_ended_while_its_final_invocation_fails() -> None:
    script, stream = Collecting(lambda event: FAULT if event["isFinalInvokeForWindow"] else None), Stream("a")
    made = scene(script, retries=100)
    running = await opened(made, stream)
    await script.called(1)
    stream.reshard(("shard",), ())
    await script.called(4)
    await running.left()
    last = made.store.checkpoints.last
    assert (last.closed, last.ended) == (True, False)
    assert last.window is not None
    assert (last.window.closing, last.window.attempts, last.window.running) == ("over", 3, False)
    script.respond = lambda _: None
    again = await opened(made, stream, "bb")
    await over(again)
    assert made.store.checkpoints.last.ended
    assert {state for state, _, _ in script.finals} == {("a",)}


@virtually
async def test_a_final_invocation_is_durable_before_it_begins_and_its_state_survives_a_crash() -> None:
    script, stream, gate = Collecting(seconds=5.0), Stream("a", "b"), Gate("a")
    made = scene(script, retries=3, interval=1000.0)
    running = await opened(made, stream, gate=gate)
    await script.called(2)
    saved = made.store.checkpoints.last
    assert saved.window == Window(1_800_000_000, 1_800_000_010, 0, 1, "over", attempts=1, running=True)
    assert saved.checkpoint == 2
    await crash(running, gate)
    stream.put("shard", stream.shards["shard"][0]._replace(token=5, name="late"))
    again = await opened(made, stream, "bb")
    await script.called(4)
    await asyncio.sleep(30)
    assert script.finals == [(("a", "b"), 0, False), (("a", "b"), 0, False), (("late",), 10, False)]
    counted = [progress.window.attempts for _, progress in made.store.checkpoints.saves if progress.window and progress.window.running]
    assert counted == [1, 1, 2, 1]  # the new life's first save says what it found
    await again.left()
    assert await made.store.states.get(KEY, 1) is None


@virtually
async def test_records_since_the_last_save_run_again_with_the_state_of_the_save() -> None:
    script, stream, gate = Collecting(), Stream("a", "b"), Gate("a")
    made = scene(script, size=1, interval=3.0)
    running = await opened(made, stream, gate=gate)
    await at(4)
    stream.add("c", "d")
    await script.called(4)
    await crash(running, gate)
    again = await opened(made, stream, "bb")
    await script.called(7)
    assert [(seen.names, seen.state) for seen in script.seen[2:6]] == [
        (("c",), ("a", "b")),
        (("d",), ("a", "b", "c")),
        (("c",), ("a", "b")),
        (("d",), ("a", "b", "c")),
    ]
    assert script.finals == [(("a", "b", "c", "d"), 0, False)]
    await again.left()


@virtually
async def test_a_final_invocation_that_is_given_up_is_kept_with_its_state_and_can_be_replayed() -> None:
    script, stream = Collecting(lambda event: FAULT if event["isFinalInvokeForWindow"] else None), Stream("a", "b")
    made = scene(script, retries=1)
    running = await opened(made, stream)
    await script.called(3)
    await asyncio.sleep(1)
    (row,) = await made.store.journal.select(Selection())
    assert (row.entry.reason, row.entry.attempts, row.entry.first) == (
        "RetryAttemptsExhausted",
        2,
        "shard:window 2027-01-15T08:00:00Z from 0",
    )
    event = KEPT.event(records_of(row.entry))
    assert orjson.loads(event.json()) == script.events[-1]
    stream.add("c")
    await script.called(4)
    assert (script.seen[-1].names, script.seen[-1].state) == (("c",), ())
    await running.left()


@virtually
async def test_a_batch_that_is_given_up_is_kept_with_its_window_and_state() -> None:
    script, stream = Collecting(lambda event: FAULT if any(r["id"] == "bad" for r in event["Records"]) else None), Stream("a")
    made = scene(script, retries=0, bisect=False)
    running = await opened(made, stream)
    await script.called(1)
    stream.add("bad")
    await script.called(3)
    (row,) = await made.store.journal.select(Selection())
    event = orjson.loads(KEPT.event(records_of(row.entry)).json())
    assert (event["state"], event["window"]["start"]) == ({"seen": ["a"]}, "2027-01-15T08:00:00Z")
    assert script.finals == [(("a",), 0, False)]
    await running.left()


@virtually
async def test_a_response_without_a_state_is_retried_with_the_same_state() -> None:
    answers = [Returned(b"null"), Returned(b'{"batchItemFailures":[]}')]
    script, stream = Collecting(lambda _: answers.pop() if answers else None), Stream("a")
    made = scene(script)
    running = await opened(made, stream)
    await script.called(4)
    assert [(seen.names, seen.state) for seen in script.seen] == [(("a",), ())] * 3 + [((), ("a",))]
    assert made.counters.faults == 2
    await running.left()


@virtually
async def test_a_large_state_ends_the_window_early_and_the_rest_of_it_is_a_window_again() -> None:
    def answer(event: dict[str, Any]) -> Response | None:
        large = [record["id"] for record in event["Records"]] == ["b"]
        return Returned(orjson.dumps({"state": {"seen": ["a", "b"], "padding": "x" * 1_048_576}})) if large else None

    script, stream = Collecting(answer), Stream("a", "b", "c")
    running = await opened(scene(script, size=1), stream)
    await script.called(5)
    assert script.finals == [(("a", "b"), 0, True), (("c",), 0, False)]
    assert script.seen[3].names == ("c",)
    await running.left()


# --- a window is put in, or taken out ---------------------------------------------------------------------------------------------------


async def _closed_with_an_open_window(script: Collecting, stream: Stream, **more: Any) -> Scene:
    made = scene(script, **more)
    running = await opened(made, stream)
    await script.called(1)
    await running.left()
    assert made.store.checkpoints.last.window is not None
    return made


@virtually
async def test_without_windows_the_open_one_is_ended_first() -> None:
    script, stream = Collecting(), Stream("a")
    made = await _closed_with_an_open_window(script, stream)
    made.settings = replace(made.settings, tumbling_window=0, width=4)
    stream.add("b")
    last = await opened(made, stream, "bb")
    assert isinstance(last.lane, TumblingLane)
    await over(last)
    assert script.finals == [(("a",), 0, True)]
    plain = await opened(made, stream, "ccc")
    assert type(plain.lane) is OrderedLane
    await script.called(3)
    assert script.seen[2] == Seen(script.seen[2].at, ("b",), (), -1)
    await plain.left()
    assert made.store.checkpoints.last.width == 4


@virtually
async def test_a_window_of_another_width_is_ended_as_it_was_begun() -> None:
    script, stream = Collecting(), Stream("a")
    made = await _closed_with_an_open_window(script, stream)
    made.settings = replace(made.settings, tumbling_window=30)
    await at(9)
    stream.add("b")
    await at(12)
    stream.add("c")
    running = await opened(made, stream, "bb")
    await script.called(4)
    assert script.finals == [(("a", "b"), 0, False)]
    event = script.events[-1]["window"]
    assert (event["start"], event["end"]) == ("2027-01-15T08:00:00Z", "2027-01-15T08:00:30Z")
    await running.left()


@virtually
async def test_what_is_under_retry_without_windows_is_finished_without() -> None:
    script, stream = Collecting(), Stream("a")
    script.answer = lambda _: (0.0, RuntimeError("down"))
    made = scene(script, width=0, retries=1000)
    running = await opened(made, stream)
    await script.called(2)
    await running.left()
    script.answer = lambda _: (0.0, Returned(b"null"))
    script.seen.clear()
    made.settings = replace(made.settings, tumbling_window=WIDTH)
    plain = await opened(made, stream, "bb")
    assert type(plain.lane) is OrderedLane
    stream.add("b")
    await over(plain)
    windowed = await opened(made, stream, "ccc")
    async with asyncio.timeout(60):
        while len(script.seen) < 2:
            await asyncio.sleep(0.1)
    assert [(seen.names, seen.start >= 0) for seen in script.seen] == [(("a",), False), (("b",), True)]
    await windowed.left()
