"""What keeps held messages hidden, in virtual time."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from connectors.sqs.format import SqsFormat
from connectors.sqs.lane import SqsLane
from connectors.sqs.queue import Queue
from poller.errors import NotConnected
from poller.model import Ack, Batch
from poller.testing.clock import run_virtually
from poller.testing.sqs import FakeQueue, FakeSqs


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on a virtual loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtually(test(*args, **kwargs))

    return run


def lane_of(sqs: FakeSqs, queue: FakeQueue) -> SqsLane:
    found = Queue(queue.url, queue.arn, queue.visibility)
    return SqsLane(sqs, found, SqsFormat(found.arn, found.region), 4, 10, 8, 5)


@pytest.mark.parametrize("visibility", [1, 5, 30, 3600])
@virtually
async def test_what_is_held_is_extended_at_half_its_visibility_timeout(visibility: int) -> None:
    """A function may outlive the visibility timeout many times: its message is handed out once."""
    sqs = FakeSqs(latency=0.01)
    queue = sqs.create("orders", visibility=visibility)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "m1")
    records = (await lane.fetch(10)).records
    await asyncio.sleep(visibility * 5.25)
    assert (queue.messages[0].receives, sqs.visible(queue)) == (1, [])
    extensions = [call.at for call in sqs.made("change_visibility")]
    assert len(extensions) in range(10, 14)  # at half, or up to an eighth earlier
    await lane.settle(Batch(records, lane.format), (Ack(records),))
    assert (queue.messages, lane.expired) == ([], 0)
    calls = len(sqs.calls)
    await asyncio.sleep(visibility * 3)
    assert len(sqs.calls) == calls  # nothing held, nothing extended
    await lane.aclose()


@virtually
async def test_extensions_go_out_in_tens() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=30)
    lane = lane_of(sqs, queue)
    for n in range(25):
        sqs.send(queue, f"m{n}")
        await lane.fetch(10)
        await asyncio.sleep(0.1)  # 2.5 s in all: below an eighth of the timeout
    await asyncio.sleep(14)
    assert [call.entries for call in sqs.made("change_visibility")] == [10, 10, 5]
    await lane.aclose()


@virtually
async def test_a_queue_without_visibility_timeout_is_given_one() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=0)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "m1")
    await lane.fetch(10)
    await asyncio.sleep(100)
    assert (queue.messages[0].receives, sqs.visible(queue)) == (1, [])
    await lane.aclose()


@virtually
async def test_a_message_that_is_no_longer_ours_is_dropped_and_named_once(caplog: pytest.LogCaptureFixture) -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=30)
    lane = lane_of(sqs, queue)
    names = sqs.send(queue, "m1", "m2", "m3")
    await lane.fetch(10)
    for message in queue.messages[:2]:
        message.handle = "received by someone else"
    await asyncio.sleep(100)
    assert (lane.held, lane.expired) == (1, 2)
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert names[0] in warnings[0] and names[1] in warnings[0] and names[2] not in warnings[0]
    await lane.aclose()


@virtually
async def test_a_network_failure_is_survived_while_the_timeout_lasts(caplog: pytest.LogCaptureFixture) -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=30)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "m1")
    await lane.fetch(10)
    sqs.fail("change_visibility", *(NotConnected("away") for _ in range(10)))
    sqs.refuse("change_visibility", "InternalError", "InternalError")
    await asyncio.sleep(60)
    assert (queue.messages[0].receives, sqs.visible(queue), lane.expired) == (1, [], 0)
    assert len([record for record in caplog.records if "cannot be extended" in record.getMessage()]) == 1
    await lane.aclose()


@virtually
async def test_without_the_permission_messages_are_still_handled(caplog: pytest.LogCaptureFixture) -> None:
    """A role made for Lambda may lack sqs:ChangeMessageVisibility: then it is as on AWS, and said once."""
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=30)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "m1")
    records = (await lane.fetch(10)).records
    sqs.fail("change_visibility", *(NotConnected("AccessDenied", permanent=True) for _ in range(100)))
    await asyncio.sleep(29)
    assert len(sqs.made("change_visibility")) == 1  # no storm of refused calls
    await lane.settle(Batch(records, lane.format), (Ack(records),))
    assert not queue.messages
    assert len(caplog.records) == 1
    await lane.aclose()


@pytest.mark.parametrize("visibility", [3600, 43_200])
@virtually
async def test_after_twelve_hours_sqs_delivers_again_and_the_message_is_named(visibility: int, caplog: pytest.LogCaptureFixture) -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=visibility)
    lane = lane_of(sqs, queue)
    (name,) = sqs.send(queue, "m1")
    records = (await lane.fetch(10)).records
    await asyncio.sleep(43_000)
    assert (sqs.visible(queue), lane.expired) == ([], 0)  # nothing was refused
    assert [name in record.getMessage() for record in caplog.records] == [True]
    await asyncio.sleep(10_000)
    assert sqs.visible(queue) == ["m1"]
    assert len(caplog.records) == 1
    await lane.settle(Batch(records, lane.format), (Ack(records),))  # done at last, and nobody had received it again
    assert not queue.messages
    await lane.aclose()


@virtually
async def test_a_later_message_is_extended_while_an_old_one_never_can_be() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=30)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "old")
    await lane.fetch(10)
    await asyncio.sleep(43_190)
    sqs.send(queue, "new")
    assert len((await lane.fetch(10)).records) == 1
    await asyncio.sleep(100)
    assert sqs.visible(queue) == ["old"]
    await lane.aclose()
