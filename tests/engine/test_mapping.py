"""How a mapping lives: it opens its source, runs lanes, reconnects, survives what is not its fault, and stops in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import pairwise

import pytest

from poller.errors import HandlerError, LaneEnded, NotConnected, PollerError, SourceError, SourceReplaced, StoreUnavailable
from poller.mapping import MappingRunner
from poller.model import Action, Batch, Fetched
from poller.policy import Redeliver
from poller.protocols import Format, Lane, Source
from poller.testing.clock import run_virtually
from poller.testing.fakes import FORMAT, FakeQueueLane, FakeQueueSource, Gate
from tests.engine.scenes import DONE, KEY, Queue, Scene, Script, Stream, at, now, redeliver, source_of, taking, virtually, wall


class QueueSource(FakeQueueSource):
    """A queue whose lanes are of some class; remembers being opened and closed. `then` is awaited before the source is there."""

    def __init__(self, queue: Queue, scene: Scene, lane: type[FakeQueueLane] = FakeQueueLane) -> None:
        super().__init__(queue, redeliver(), scene.width, Gate("life"))
        self.opened: list[float] = []
        self.closed = 0
        self.errors: list[PollerError] = []
        self.seconds = 0.0
        self._lane = lane

    async def open(self) -> Source:
        self.opened.append(now())
        if self.seconds:
            await asyncio.sleep(self.seconds)
        if self.errors:
            raise self.errors.pop(0)
        return self

    async def lanes(self) -> AsyncIterator[Lane]:
        yield self._lane(self._queue, self._width, Gate("life"))

    async def aclose(self) -> None:
        self.closed += 1


class Playing:
    """A mapping that runs."""

    def __init__(self, scene: Scene, source: QueueSource) -> None:
        self.source = source
        self.mapping = MappingRunner(scene.work(source.policy), source.open)
        self.task = asyncio.create_task(self.mapping.run())

    async def stopped(self, grace: float = 0.0) -> float:
        """Stop, and say when all was over."""
        self.mapping.stop(asyncio.get_running_loop().time() + grace)
        await self.task
        assert (self.mapping.state, self.mapping.runners) == ("stopped", {})
        return now()


def play(
    script: Script, *names: str, lane: type[FakeQueueLane] = FakeQueueLane, prepare: Callable[[QueueSource], None] = lambda _: None
) -> Playing:
    queue, scene = Queue(), Scene(script, size=1)
    queue.put(*names)
    source = QueueSource(queue, scene, lane)
    prepare(source)
    return Playing(scene, source)


# --- opening and stopping ---------------------------------------------------------------------------------------------------------------


@virtually
async def test_it_runs_until_it_is_stopped_and_closes_its_source_last() -> None:
    playing = play(taking(3), "m1")
    await at(1)
    assert playing.mapping.state == "running" and list(playing.mapping.runners) == ["queue"]
    assert await playing.stopped(grace=30) == 3.0
    assert playing.source.closed == 1 and not playing.source._queue.messages


@virtually
async def test_a_stop_before_it_runs_and_a_second_one_are_tolerated() -> None:
    source = QueueSource(Queue(), Scene(taking(0)))
    mapping = MappingRunner(Scene(taking(0)).work(source.policy), source.open)
    mapping.stop(0.0)
    mapping.stop(0.0)
    await mapping.run()
    assert (mapping.state, source.opened) == ("stopped", [])


@virtually
async def test_a_stop_while_the_source_is_opened_runs_no_lane() -> None:
    def slowly(source: QueueSource) -> None:
        source.seconds = 10.0

    script = taking(0)
    playing = play(script, "m1", prepare=slowly)
    await at(1)
    assert await playing.stopped(grace=30) == 1.0
    assert (script.calls, len(playing.source.opened)) == ([], 1)


@virtually
async def test_a_source_that_is_opened_in_the_moment_of_a_stop_is_closed() -> None:
    playing: list[Playing] = []

    class Opening(QueueSource):
        async def open(self) -> Source:
            asyncio.get_running_loop().call_soon(playing[0].mapping.stop, 60.0)
            return await super().open()

        async def lanes(self) -> AsyncIterator[Lane]:
            await asyncio.sleep(86400.0)
            yield FakeQueueLane(self._queue, 1, Gate("life"))

    script, queue = taking(0), Queue()
    queue.put("m1")
    scene = Scene(script)
    playing.append(Playing(scene, Opening(queue, scene)))
    await at(10)
    assert playing[0].task.done()
    assert (script.calls, playing[0].source.closed, playing[0].mapping.state) == ([], 1, "stopped")


@virtually
async def test_a_stop_ends_the_wait_for_a_source_that_is_away() -> None:
    def away(source: QueueSource) -> None:
        source.errors = [NotConnected("no such queue", permanent=True)] * 3

    playing = play(taking(0), prepare=away)
    await at(5)
    assert playing.mapping.state == "reconnecting"
    assert await playing.stopped(grace=30) == 5.0
    assert playing.source.closed == 0


@virtually
async def test_a_deadline_ends_what_still_runs() -> None:
    script = taking(100)
    playing = play(script, "m1")
    await at(1)
    assert await playing.stopped(grace=5) == 6.0
    assert script.calls[0].ended
    (message,) = playing.source._queue.messages
    assert message.visible_at <= wall()


# --- connecting -------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_source_that_is_away_is_tried_again_with_a_backoff_that_grows() -> None:
    def away(source: QueueSource) -> None:
        source.errors = [NotConnected("away") for _ in range(4)]

    script = taking(0)
    playing = play(script, "m1", prepare=away)
    await at(5)
    assert playing.source.opened == pytest.approx([0.0, 0.15, 0.45, 1.05, 2.25], abs=0.01)
    assert (script.names, playing.mapping.state) == ([("m1",)], "running")
    assert playing.mapping.work.counters.polling_errors == 4
    assert playing.mapping.last_error == ""


@virtually
async def test_a_store_that_is_away_is_waited_for_in_the_same_way() -> None:
    def away(source: QueueSource) -> None:
        source.errors = [StoreUnavailable("locked"), StoreUnavailable("locked")]

    playing = play(taking(0), prepare=away)
    await at(5)
    assert playing.source.opened == pytest.approx([0.0, 0.15, 0.45], abs=0.01)


@virtually
async def test_what_needs_a_person_is_tried_slowly_and_a_source_that_says_when_is_believed() -> None:
    def away(source: QueueSource) -> None:
        source.errors = [NotConnected("no such queue", permanent=True), NotConnected("slow down", retry_after=7.0)]

    playing = play(taking(0), prepare=away)
    await at(100)
    assert playing.source.opened == pytest.approx([0.0, 3.75, 10.75], abs=0.01)


@virtually
async def test_a_source_that_is_missing_is_looked_for_soon_and_then_ever_more_slowly() -> None:
    def away(source: QueueSource) -> None:
        source.errors = [NotConnected("no such queue", permanent=True)] * 6

    playing = play(taking(0), prepare=away)
    await at(200)
    assert playing.source.opened == pytest.approx([0.0, 3.75, 11.25, 26.25, 56.25, 101.25, 146.25], abs=0.01)


@virtually
async def test_a_source_that_refuses_for_good_fails_the_mapping() -> None:
    def refuse(source: QueueSource) -> None:
        source.errors = [SourceError("there is no such queue")]

    playing = play(taking(0), prepare=refuse)
    with pytest.raises(SourceError, match="no such queue"):
        await playing.task
    assert (playing.mapping.state, playing.mapping.last_error) == ("failed", "there is no such queue")


@virtually
async def test_a_source_that_refuses_later_fails_the_mapping_after_its_lanes_were_left() -> None:
    class Refusing(QueueSource):
        async def lanes(self) -> AsyncIterator[Lane]:
            async for lane in super().lanes():
                yield lane
            await asyncio.sleep(5)
            raise SourceError("the credentials have been withdrawn")

    script, queue, scene = taking(100), Queue(), Scene(taking(0))
    scene = Scene(script)
    queue.put("m1")
    playing = Playing(scene, Refusing(queue, scene))
    with pytest.raises(SourceError, match="withdrawn"):
        await playing.task
    assert (now(), playing.mapping.state, playing.source.closed) == (5.0, "failed", 1)
    assert script.calls[0].ended and queue.messages[0].visible_at <= wall()


# --- what is nobody's fault but ours ----------------------------------------------------------------------------------------------------


class Stumbling(FakeQueueLane):
    """Raises what no contract allows, once."""

    stumbled = False

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        if not type(self).stumbled:
            type(self).stumbled = True
            raise KeyError("a bug of the lane")
        await super().settle(batch, actions)


@virtually
async def test_a_lane_that_fails_unexpectedly_is_closed_and_opened_anew() -> None:
    Stumbling.stumbled = False
    script = taking(1)
    playing = play(script, "m1", "m2", lane=Stumbling)
    await at(10)
    assert playing.mapping.state == "running" and "a bug of the lane" in playing.mapping.last_error
    assert (len(playing.source.opened), playing.source.closed) == (2, 1)
    assert playing.source.opened[1] == pytest.approx(1.2, abs=0.01), "after a pause"
    assert playing.source._queue.deleted == ["m1", "m2"]


@virtually
async def test_a_lane_that_always_fails_is_opened_ever_more_slowly() -> None:
    class Falling(FakeQueueLane):
        async def fetch(self, limit: int) -> Fetched:
            raise KeyError("a bug of the lane")

    playing = play(taking(0), lane=Falling)
    await at(100)
    gaps = [later - earlier for earlier, later in pairwise(playing.source.opened)]
    assert gaps[:9] == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0], abs=0.01)
    assert await playing.stopped() == 100.0


@virtually
async def test_a_source_with_no_new_lane_to_give_is_connected_again_after_a_while_without_errors() -> None:
    class Faltering(QueueSource):
        asked = 0

        async def lanes(self) -> AsyncIterator[Lane]:
            self.asked += 1
            if self.asked == 1:
                async for lane in super().lanes():
                    yield lane
                await asyncio.sleep(10)
                raise NotConnected("the group does not answer")
            await asyncio.sleep(3600)

    source = Faltering(Queue(), Scene(taking(0)))
    playing = Playing(Scene(taking(0)), source)
    await at(11)
    assert (playing.mapping.state, playing.mapping.last_error) == ("reconnecting", "the group does not answer")
    await at(30)
    assert (playing.mapping.state, playing.mapping.last_error) == ("running", "")
    await playing.stopped()


@virtually
async def test_a_source_that_fails_unexpectedly_is_opened_anew() -> None:
    class Falling(QueueSource):
        async def lanes(self) -> AsyncIterator[Lane]:
            if len(self.opened) == 1:
                raise KeyError("a bug of the source")
            async for lane in super().lanes():
                yield lane

    script, queue = taking(0), Queue()
    queue.put("m1")
    scene = Scene(script)
    playing = Playing(scene, Falling(queue, scene))
    await at(5)
    assert (len(playing.source.opened), queue.deleted, playing.mapping.state) == (2, ["m1"], "running")


@pytest.mark.parametrize("error", [KeyError("a bug of the source"), SourceReplaced("it was made again")])
def test_a_source_that_fails_while_lanes_run_is_opened_anew_once_they_are_left(error: Exception) -> None:
    """What runs then has its time; what was not begun is read again."""

    class Failing(QueueSource):
        async def lanes(self) -> AsyncIterator[Lane]:
            async for lane in super().lanes():
                yield lane
            if len(self.opened) == 1:
                await asyncio.sleep(5)
                raise error
            await asyncio.sleep(3600)

    async def main() -> None:
        script, queue = taking(10), Queue()
        queue.put("m1")
        scene = Scene(script)
        playing = Playing(scene, Failing(queue, scene))
        await at(9)
        assert (len(playing.source.opened), playing.mapping.last_error) == (1, str(error))
        await at(12)
        queue.put("m2")
        await at(25)
        assert (len(playing.source.opened), queue.deleted, playing.mapping.state) == (2, ["m1", "m2"], "running")
        assert playing.mapping.last_error == ""
        await playing.stopped()

    run_virtually(main())


@virtually
async def test_a_stream_that_fails_unexpectedly_loses_nothing() -> None:
    """Between a fetch and its strands: what was fetched is read again from the last save."""
    script, stream = taking(0), Stream("r1", "r2")
    scene = Scene(script)
    failures = [KeyError("a bug")]

    async def opened() -> Source:
        source = source_of(scene, stream)
        take = source._open_one

        async def stumbling(name: str, ask: bool) -> object:
            lane = await take(name, ask)
            if lane is not None and failures:
                fetch = lane.fetch

                async def fetch_and_stumble(limit: int) -> Fetched:
                    fetched = await fetch(limit)
                    if fetched.records and failures:
                        raise failures.pop()
                    return fetched

                lane.fetch = fetch_and_stumble  # type: ignore[method-assign]
            return lane

        source._open_one = stumbling  # type: ignore[method-assign, assignment]
        return source

    mapping = MappingRunner(scene.work(source_of(scene, stream).policy), opened)
    task = asyncio.create_task(mapping.run())
    await at(10)
    assert (script.names, failures) == ([("r1", "r2")], [])
    mapping.stop(20.0)
    await task
    assert scene.store.checkpoints.last.checkpoint == 2


@virtually
async def test_a_handler_that_is_exhausted_fails_the_mapping_and_its_lanes_are_left_at_once() -> None:
    def answer(names: tuple[str, ...]) -> tuple[float, HandlerError | object]:
        return (1.0, HandlerError("8 threads hang")) if names == ("m1",) else (100.0, DONE)

    queue = Queue()
    scene = Scene(Script(answer), size=1, width=2, concurrency=2)  # type: ignore[arg-type]
    queue.put("m1", "m2")
    playing = Playing(scene, QueueSource(queue, scene))
    with pytest.raises(HandlerError, match="8 threads hang"):
        await playing.task
    assert (now(), playing.mapping.state, playing.source.closed) == (1.0, "failed", 1)
    assert [message.visible_at <= wall() for message in queue.messages] == [True, True]


# --- lanes that come and go -------------------------------------------------------------------------------------------------------------


class Finite:
    """A source that is exhausted: one lane, which ends after its records."""

    identity = "finite"

    def __init__(self, queue: Queue) -> None:
        self.format: Format = FORMAT
        self.policy: Redeliver = redeliver()
        self.closed = False
        self._queue = queue

    async def lanes(self) -> AsyncIterator[Lane]:
        yield Ending(self._queue, 1, Gate("life"))

    async def aclose(self) -> None:
        self.closed = True


class Ending(FakeQueueLane):
    async def fetch(self, limit: int) -> Fetched:
        if not self._queue.messages or all(message.receives for message in self._queue.messages):
            raise LaneEnded("all was handed out")
        return await super().fetch(limit)


@virtually
async def test_a_source_that_ends_stops_its_mapping_when_its_last_batch_is_done() -> None:
    queue, script = Queue(), taking(2)
    queue.put("m1", "m2")
    source = Finite(queue)

    async def opened() -> Source:
        return source

    mapping = MappingRunner(Scene(script, size=1).work(source.policy), opened)
    await mapping.run()
    assert (now(), mapping.state, source.closed, queue.deleted) == (4.0, "stopped", True, ["m1", "m2"])


@virtually
async def test_a_lane_that_was_asked_back_is_opened_again_when_it_is_free() -> None:
    script, stream = taking(0), Stream("r1")
    scene = Scene(script)
    source = source_of(scene, stream)

    async def opened() -> Source:
        return source

    mapping = MappingRunner(scene.work(source.policy), opened)
    task = asyncio.create_task(mapping.run())
    await at(2)
    mapping.runners["shard"].lane.leaving.set_result(3.0)
    await at(2.1)
    assert not mapping.runners
    stream.add("r2")
    await at(10)
    assert (script.names, mapping.state, list(mapping.runners)) == ([("r1",), ("r2",)], "running", ["shard"])
    mapping.stop(20.0)
    await task


@virtually
async def test_a_lost_lane_is_claimed_again_and_goes_on_from_the_last_save() -> None:
    script, stream = taking(0), Stream("r1")
    scene = Scene(script)
    source = source_of(scene, stream)

    async def opened() -> Source:
        return source

    mapping = MappingRunner(scene.work(source.policy), opened)
    task = asyncio.create_task(mapping.run())
    await at(5)
    thief = await scene.store.leases.claim(KEY, "thief", wall() + 3600, 1.0 - 3600)
    assert thief is not None
    await at(30)
    stream.add("r2")
    await at(35)
    assert scene.counters.lost_lanes == 1
    assert script.names == [("r1",), ("r2",)]
    mapping.stop(40.0)
    await task
    assert scene.store.checkpoints.last.checkpoint == 2
