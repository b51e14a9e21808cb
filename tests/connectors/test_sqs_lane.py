"""The SQS lane against an SQS in memory, in virtual time: receiving, deleting, giving back, closing."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from connectors.sqs.format import SqsFormat
from connectors.sqs.lane import CAPACITY, FIFO_CAPACITY, SqsLane
from connectors.sqs.queue import Queue
from poller.errors import NotConnected
from poller.model import Ack, Batch, Discard, Failure, Release, Retry
from poller.testing.clock import run_virtually
from poller.testing.sqs import FakeQueue, FakeSqs

Message = dict[str, Any]


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run the test on a virtual loop."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        run_virtually(test(*args, **kwargs))

    return run


def lane_of(sqs: FakeSqs, queue: FakeQueue, *, width: int = 4, size: int = 10, receives: int = 8, wait: int = 5) -> SqsLane:
    found = Queue(queue.url, queue.arn, queue.visibility, queue.redrive[1] if queue.redrive else None)
    return SqsLane(sqs, found, SqsFormat(found.arn, found.region), width, size, receives, wait)


def batch_of(lane: SqsLane, records: Sequence[Message], strand: int = 0) -> Batch:
    return Batch(records, lane.format, strand)


async def ack(lane: SqsLane, records: Sequence[Message]) -> None:
    await lane.settle(batch_of(lane, records), (Ack(records),))


def bodies(records: Sequence[Message]) -> list[str]:
    return [record["Body"] for record in records]


def now() -> float:
    return asyncio.get_running_loop().time()


# --- receiving --------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_an_empty_queue_costs_one_long_poll_at_a_time() -> None:
    sqs = FakeSqs()
    lane = lane_of(sqs, sqs.create("orders"))
    for _ in range(3):
        assert not (await lane.fetch(100)).records
    assert [(round(call.at), call.entries) for call in sqs.made("receive")] == [(0, 10), (5, 10), (10, 10)]
    assert now() == pytest.approx(15)
    await lane.aclose()


@virtually
async def test_a_message_ends_the_long_poll() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue)
    asyncio.get_running_loop().call_later(2, sqs.send, queue, "late")
    assert bodies((await lane.fetch(10)).records) == ["late"]
    assert now() == pytest.approx(2)
    await lane.aclose()


@virtually
async def test_full_answers_double_the_receives_and_an_empty_one_halves_them() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue, receives=8)
    sqs.send(queue, *(f"m{n}" for n in range(10 + 20 + 40 + 80 + 80)))
    got = [len((await lane.fetch(1000)).records) for _ in range(5)]
    assert got == [10, 20, 40, 80, 80]
    before = len(sqs.calls)
    counts = []
    for _ in range(5):
        assert not (await lane.fetch(1000)).records
        counts.append(len(sqs.calls) - before)
        before = len(sqs.calls)
    assert counts == [8, 4, 2, 1, 1]
    await lane.aclose()


@virtually
async def test_never_more_than_the_limit() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue)
    sqs.send(queue, *(f"m{n}" for n in range(100)))
    assert [len((await lane.fetch(limit)).records) for limit in (7, 10, 15, 33, 1)] == [7, 10, 15, 33, 1]
    assert max(call.entries for call in sqs.made("receive")) == 10
    await lane.aclose()


@virtually
async def test_several_receives_at_once_do_not_wait_for_a_long_poll() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue)
    sqs.send(queue, *(f"m{n}" for n in range(25)))
    assert [len((await lane.fetch(100)).records) for _ in range(2)] == [10, 15]
    assert now() == 0
    await lane.aclose()


@virtually
async def test_not_connected_when_nothing_arrived_and_what_arrived_is_never_lost() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue)
    sqs.fail("receive", NotConnected("away"))
    with pytest.raises(NotConnected, match="away"):
        await lane.fetch(10)
    sqs.send(queue, *(f"m{n}" for n in range(40)))
    assert len((await lane.fetch(100)).records) == 10
    sqs.fail("receive", NotConnected("away"))
    # One of two fails: what the other brought goes on.
    assert len((await lane.fetch(100)).records) == 10
    assert lane.held == 20
    await lane.aclose()


@virtually
async def test_a_cancelled_fetch_loses_nothing() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue)
    task = asyncio.create_task(lane.fetch(10))
    await asyncio.sleep(1)
    task.cancel()
    await asyncio.wait((task,))
    assert task.cancelled()
    assert sqs.receiving == 1  # the receive goes on
    sqs.send(queue, "m1", "m2")
    await asyncio.sleep(0.1)
    assert bodies((await lane.fetch(1)).records) == ["m1"]
    assert bodies((await lane.fetch(10)).records) == ["m2"]
    assert len(sqs.made("receive")) == 1
    await lane.aclose()


@virtually
async def test_a_fetch_ends_within_its_poll_when_the_lane_is_leaving() -> None:
    sqs = FakeSqs()
    lane = lane_of(sqs, sqs.create("orders"))
    task = asyncio.create_task(lane.fetch(10))
    await asyncio.sleep(1)
    lane.leaving.set_result(now() + 25)
    assert not (await task).records
    assert now() == pytest.approx(5)
    assert not (await lane.fetch(10)).records  # at once
    assert now() == pytest.approx(5)
    assert len(sqs.made("receive")) == 1
    await lane.aclose()


@virtually
async def test_a_full_lane_waits_for_a_settle_instead_of_receiving(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (CAPACITY, FIFO_CAPACITY) == (100_000, 20_000)
    monkeypatch.setattr("connectors.sqs.lane.CAPACITY", 10)
    sqs = FakeSqs()
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue)
    sqs.send(queue, *(f"m{n}" for n in range(12)))
    first = (await lane.fetch(100)).records
    task = asyncio.create_task(lane.fetch(100))
    await asyncio.sleep(1)
    assert len(sqs.made("receive")) == 1
    await ack(lane, first)
    assert not (await task).records
    assert now() == pytest.approx(1)
    assert bodies((await lane.fetch(100)).records) == ["m10", "m11"]
    await lane.aclose()


# --- settling ---------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_acked_and_discarded_messages_are_deleted_in_tens() -> None:
    sqs = FakeSqs(latency=0.1)
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue)
    sqs.send(queue, *(f"m{n}" for n in range(35)))
    records: list[Message] = []
    while len(records) < 35:
        records += (await lane.fetch(100)).records
    started = now()
    actions = (Ack(records[:30]), Discard(Failure(records[30:], "MaximumReceiveCountExceeded", 1)))
    await lane.settle(batch_of(lane, records), actions)
    assert [call.entries for call in sqs.made("delete")] == [10, 10, 10, 5]
    assert now() - started == pytest.approx(0.1)  # at once, not one after the other
    assert (queue.messages, lane.held) == ([], 0)
    await lane.settle(batch_of(lane, records), actions)  # idempotent
    assert lane.expired == 0
    await lane.aclose()
    assert not sqs.made("change_visibility")


@virtually
async def test_refused_deletes_are_tried_again_and_only_they() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue)
    sqs.send(queue, *(f"m{n}" for n in range(20)))
    records = [*(await lane.fetch(10)).records, *(await lane.fetch(10)).records]
    sqs.refuse("delete", *[*["InternalError"] * 6, *[""] * 4] * 2)  # six of each ten: together again, their Ids collide
    await ack(lane, records)
    assert [call.entries for call in sqs.made("delete")] == [10, 10, 10, 2]
    assert (queue.messages, lane.held) == ([], 0)
    await lane.aclose()


@virtually
async def test_an_invalid_receipt_handle_is_dropped_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue)
    (name, _) = sqs.send(queue, "m1", "m2")
    records = (await lane.fetch(10)).records
    sqs.refuse("delete", "ReceiptHandleIsInvalid", sender_fault=True)
    await ack(lane, records)
    assert (len(sqs.made("delete")), lane.held, lane.expired) == (1, 0, 1)
    assert name in caplog.text
    await lane.aclose()


@virtually
async def test_a_delete_that_sqs_does_not_take_is_owed_under_heartbeat_until_it_does(caplog: pytest.LogCaptureFixture) -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=4)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "m1")
    records = (await lane.fetch(10)).records
    sqs.fail("delete", *(NotConnected("away") for _ in range(8)))
    await ack(lane, records)  # does not raise: the strand goes on
    assert (lane.held, len(queue.messages)) == (1, 1)
    assert "trying again" in caplog.text
    for _ in range(100):
        await asyncio.sleep(0.5)
        assert not sqs.visible(queue)  # never delivered again meanwhile
        if not queue.messages:
            break
    assert (lane.held, queue.messages) == (0, [])
    assert now() > queue.visibility
    await lane.aclose()


@pytest.mark.parametrize("failures", [4, 5], ids=["then it works", "even then"])
@virtually
async def test_what_is_owed_is_deleted_at_the_end_and_never_released(failures: int) -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders")
    lane = lane_of(sqs, queue)
    sqs.send(queue, "done", "not done")
    records = (await lane.fetch(10)).records
    sqs.fail("delete", *(NotConnected("away") for _ in range(failures)))
    await ack(lane, records[:1])
    await lane.aclose()
    assert sqs.visible(queue) == ["not done"]
    assert len(queue.messages) == (1 if failures == 4 else 2)


@virtually
async def test_busy_batches_stay_held() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=6)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "m1")
    records = (await lane.fetch(10)).records
    batch = batch_of(lane, records)
    await lane.settle(batch, (Retry(batch, 60.0),))
    await asyncio.sleep(60)
    assert (lane.held, sqs.visible(queue), queue.messages[0].receives) == (1, [], 1)
    await lane.aclose()


@virtually
async def test_a_failed_message_comes_again_when_its_visibility_timeout_ends_without_a_call() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=30)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "m1")
    records = (await lane.fetch(10)).records
    await asyncio.sleep(3)
    await lane.settle(batch_of(lane, records), (Release(records),))
    assert (lane.held, sqs.made("change_visibility")) == (0, [])
    await asyncio.sleep(26)
    assert not sqs.visible(queue)
    await asyncio.sleep(1.1)
    assert sqs.visible(queue) == ["m1"]
    await lane.aclose()


@pytest.mark.parametrize(("took", "again"), [(25, 30), (70, 70)], ids=["before the timeout ends", "after it"])
@virtually
async def test_a_failed_message_that_was_extended_comes_again_when_the_queue_would_have_it(took: float, again: float) -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=30)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "m1")
    records = (await lane.fetch(10)).records
    await asyncio.sleep(took)
    assert queue.messages[0].visible > max(again, 30.5)  # the heartbeat moved it
    await lane.settle(batch_of(lane, records), (Release(records),))
    assert queue.messages[0].visible == pytest.approx(again, abs=1.0)
    await lane.aclose()


@virtually
async def test_a_release_with_a_delay_and_twice() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=30)
    lane = lane_of(sqs, queue)
    sqs.send(queue, *(f"m{n}" for n in range(12)))
    records = [*(await lane.fetch(10)).records, *(await lane.fetch(2)).records]
    actions = (Release(records[:5], 2.0), Release(records[5:], 90.0))
    await lane.settle(batch_of(lane, records), actions)
    await lane.settle(batch_of(lane, records), actions)
    assert [call.entries for call in sqs.made("change_visibility")] == [10, 2]
    await asyncio.sleep(2.1)
    assert len(sqs.visible(queue)) == 5
    await asyncio.sleep(85)
    assert len(sqs.visible(queue)) == 5
    await asyncio.sleep(4)
    assert len(sqs.visible(queue)) == 12
    await lane.aclose()


@virtually
async def test_a_release_never_overtakes_a_heartbeat() -> None:
    sqs = FakeSqs(latency=1.0)
    queue = sqs.create("orders", visibility=30)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "m1")
    records = (await lane.fetch(10)).records
    started = now()
    await asyncio.sleep(15.5)  # the heartbeat is under way: SQS has it, and answers in half a second
    assert len(sqs.made("change_visibility")) == 1
    await lane.settle(batch_of(lane, records), (Release(records, 0.0),))
    assert len(sqs.made("change_visibility")) == 2
    assert sqs.visible(queue) == ["m1"]
    assert now() - started == pytest.approx(17, abs=0.1)
    await lane.aclose()


# --- FIFO -------------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_a_fifo_lane_is_keyed_by_group_and_takes_no_more_of_a_group_than_a_batch() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders.fifo")
    lane = lane_of(sqs, queue, size=3)
    assert (lane.strands.assign, lane.strands.width) == ("free", 4)
    sqs.send(queue, *(f"a{n}" for n in range(5)), group="a")
    sqs.send(queue, "b0", group="b")
    assert bodies((await lane.fetch(30)).records) == ["a0", "a1", "a2"]
    assert bodies((await lane.fetch(30)).records) == ["b0"]  # a is locked
    await lane.aclose()


@virtually
async def test_a_group_comes_in_order_after_a_release() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders.fifo", visibility=30)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "a0", "a1", "a2", group="a")
    records = (await lane.fetch(10)).records
    await lane.settle(batch_of(lane, records), (Ack(records[:1]), Release(records[1:])))
    assert not (await lane.fetch(10)).records  # locked until the visibility timeout ends
    await asyncio.sleep(25)
    assert bodies((await lane.fetch(10)).records) == ["a1", "a2"]
    await lane.aclose()


# --- the end ----------------------------------------------------------------------------------------------------------------------------


@virtually
async def test_closing_gives_everything_unsettled_back_at_once_and_twice_is_tolerated() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=600)
    lane = lane_of(sqs, queue)
    sqs.send(queue, *(f"m{n}" for n in range(25)))
    records = [*(await lane.fetch(10)).records, *(await lane.fetch(15)).records]
    await ack(lane, records[:3])
    await lane.aclose()
    await lane.aclose()
    assert sqs.visible(queue) == [f"m{n}" for n in range(3, 25)]
    assert [call.entries for call in sqs.made("change_visibility")] == [10, 10, 2]
    assert now() == 0


@virtually
async def test_closing_waits_for_a_receive_and_gives_back_what_it_brings() -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=600)
    lane = lane_of(sqs, queue)
    task = asyncio.create_task(lane.fetch(10))
    await asyncio.sleep(1)
    task.cancel()
    asyncio.get_running_loop().call_later(1, sqs.send, queue, "m1")
    await lane.aclose()
    assert now() == pytest.approx(2)
    assert sqs.visible(queue) == ["m1"]
    assert sqs.receiving == 0


@virtually
async def test_closing_ends_in_bounded_time_when_sqs_is_away(caplog: pytest.LogCaptureFixture) -> None:
    sqs = FakeSqs()
    queue = sqs.create("orders", visibility=600)
    lane = lane_of(sqs, queue)
    sqs.send(queue, "m1", "m2")
    records = (await lane.fetch(10)).records
    sqs.fail("delete", *(NotConnected("away") for _ in range(4)))
    await ack(lane, records[:1])
    sqs.latency = 3600
    started = now()
    await lane.aclose()
    assert now() - started == pytest.approx(15)
    assert "comes again" in caplog.text
    assert len(asyncio.all_tasks()) == 1  # nothing is left running
