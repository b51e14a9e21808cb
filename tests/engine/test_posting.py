"""What a strand puts into the outbox: with a failure's row, and before a success is settled."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from poller.errors import StoreUnavailable
from poller.failures.journal import Delivery, Selection
from poller.model import Returned
from poller.stores.memory_outbox import MemoryOutbox
from poller.testing.fakes import FakeQueueLane, Gate
from tests.engine.scenes import (
    FAULT,
    Queue,
    Running,
    Scene,
    Script,
    Stream,
    at,
    block,
    failing,
    lane_of,
    now,
    redeliver,
    source_of,
    virtually,
)

DEAD, AUDIT = "post:dead", "post:audit"


class Outbox(MemoryOutbox):
    """Remembers what was posted, and when. While `down`, it does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.posted: list[tuple[float, Delivery]] = []
        self.down = False

    def post(self, deliveries: Any) -> None:
        deliveries = list(deliveries)
        self.posted += [(now(), each) for each in deliveries]
        super().post(deliveries)

    async def put(self, deliveries: Any) -> None:
        if self.down:
            raise StoreUnavailable("the disk is full")
        await super().put(deliveries)

    def names(self, outcome: str) -> list[tuple[str, tuple[str, ...]]]:
        return [(each.destination, tuple(one.id for one in each.entry.records)) for _, each in self.posted if each.outcome == outcome]


class Posting:
    """A scene whose mapping has destinations. `news`: how often a courier was woken."""

    def __init__(self, script: Script, failure: tuple[str, ...] = (DEAD,), success: tuple[str, ...] = (), **options: Any) -> None:
        self.scene = Scene(script, **options)
        self.scene.settings = replace(self.scene.settings, on_failure=failure, on_success=success)
        self.outbox = Outbox()
        self.scene.store.journal._outbox = self.outbox
        self.news = 0

    async def over_stream(self, stream: Stream, partial: str = "cut") -> Running:
        source = source_of(self.scene, stream, partial=partial)
        return self._running(await lane_of(source), block(self.scene, partial))

    def over_queue(self, queue: Queue, **options: Any) -> Running:
        return self._running(FakeQueueLane(queue, 1, Gate("life")), redeliver(**options))

    def _running(self, lane: Any, policy: Any) -> Running:
        def posted() -> None:
            self.news += 1

        work = self.scene.work(policy)
        work.outbox, work.posted = self.outbox, posted
        return Running(lane, work)


@virtually
async def test_what_is_given_up_goes_to_each_destination_with_the_id_of_its_last_invocation() -> None:
    requests: list[str] = []

    class Asked(Script):
        async def invoke(self, event: Any, call: Any) -> Any:
            requests.append(call.request_id)
            return await super().invoke(event, call)

    posting = Posting(Asked(failing("r2").answer), (DEAD, AUDIT), size=2, retries=2, bisect=False)
    await posting.over_stream(Stream("r1", "r2", "r3"))
    await at(20)
    assert posting.outbox.names("failure") == [(DEAD, ("r1", "r2")), (AUDIT, ("r1", "r2"))]
    (row,) = await posting.scene.store.journal.select(Selection())
    delivered = posting.outbox.posted[0][1]
    assert (delivered.id, delivered.entry.fault, delivered.entry.attempts) == (row.entry.id, FAULT, 3)
    assert len(set(requests)) == 4 and delivered.entry.request_id == row.entry.request_id == requests[2]
    assert posting.news and posting.scene.counters.dropped == 0 and posting.scene.counters.kept == 2


@virtually
async def test_what_no_invocation_had_has_no_request_id() -> None:
    posting = Posting(failing(), success=(AUDIT,), maximum_bytes=50)
    await posting.over_stream(Stream("large"))
    await at(5)
    ((_, delivery),) = posting.outbox.posted
    assert (delivery.entry.request_id, delivery.entry.reason) == ("", "MaximumPayloadSizeExceeded")


@virtually
async def test_a_success_is_in_the_outbox_before_it_is_settled() -> None:
    posting, queue = Posting(Script(lambda _: (0.0, Returned(b'{"ok":1}'))), success=(AUDIT,)), Queue()
    posting.outbox.down = True
    posting.over_queue(queue)
    queue.put("m1", "m2")
    await at(10)
    assert queue.deleted == [] and queue.receives == {"m1": 1, "m2": 1}
    posting.outbox.down = False
    await at(20)
    assert queue.deleted == ["m1", "m2"]
    assert posting.outbox.names("success") == [(AUDIT, ("m1", "m2"))]
    ((_, delivery),) = posting.outbox.posted
    assert (delivery.result, delivery.entry.attempts, len(delivery.entry.request_id)) == (b'{"ok":1}', 1, 36)
    assert queue.receives == {"m1": 1, "m2": 1} and posting.news


@virtually
async def test_of_a_batch_that_failed_in_part_the_rest_is_a_success() -> None:
    posting, queue = Posting(Script(lambda names: (0.0, _named("m2", names))), success=(AUDIT,), reporting=True), Queue(visibility=5.0)
    posting.over_queue(queue, maximum_receives=2)
    queue.put("m1", "m2", "m3")
    await at(20)
    assert posting.outbox.names("success") == [(AUDIT, ("m1", "m3"))]
    assert posting.outbox.names("failure") == [(DEAD, ("m2",))]


def _named(name: str, names: tuple[str, ...]) -> Returned:
    return Returned(b'{"batchItemFailures":[{"itemIdentifier":"%s"}]}' % name.encode() if name in names else b"{}")


@virtually
async def test_a_redelivered_batch_gives_one_success_and_a_replay_no_failure() -> None:
    posting, queue = Posting(failing("m2"), success=(AUDIT,)), Queue(visibility=5.0)
    running = posting.over_queue(queue, maximum_receives=1)
    queue.put("m1")
    await at(1)
    queue.put("m1")  # the same message, once more
    await at(2)
    assert len({each.id for _, each in posting.outbox.posted}) == 1 and len(await posting.outbox.due("orders", AUDIT, 9e12, 9)) == 1
    running.runner.work.replaying = "a-run"
    queue.put("m2")
    await at(10)
    assert posting.scene.store.journal.kept and posting.outbox.names("failure") == []
    await asyncio.sleep(0)
