"""The contract of lanes finds out lanes that break it: each is rejected by the property it breaks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from poller.model import Ack, Action, Batch, Fetched, Lease, Release, Retry
from poller.ordered import OrderedLane
from poller.progress import Progress
from poller.stores.memory import MemoryCheckpoints
from poller.testing.clock import run_virtually
from poller.testing.fakes import FakeQueueLane, FakeRecord
from poller.testing.lanes import FifoLaneContract, QueueFeatures, QueueLaneContract
from poller.testing.ordered_lanes import OrderedLaneContract
from tests.contract.test_lanes import FakeQueueSuite, FakeStreamSuite


class FakeFifoSuite(FakeQueueSuite, FifoLaneContract):
    features = QueueFeatures(poll=5.0, slack=0.2, fifo=True)


class Greedy(FakeQueueLane):
    """Takes more than it was asked for."""

    async def fetch(self, limit: int) -> Fetched:
        return await super().fetch(limit + 1)


class Careless(FakeQueueLane):
    """Does not hide what it gives out."""

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        for record in fetched.records:
            self._queue.change(record.token, 0.0)
        return fetched


class Heartless(FakeQueueLane):
    """Has no heartbeat."""

    async def _beat(self) -> None:
        return None


class Hoarding(FakeQueueLane):
    """Deletes nothing."""

    def _delete(self, records: Sequence[FakeRecord]) -> None:
        for record in records:
            self._held.pop(record.token, None)


class Changed(FakeQueueLane):
    """Settles by other actions than it was given."""

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        await super().settle(batch, [self.change(action) for action in actions])

    def change(self, action: Action) -> Action:
        return action


class Impatient(Changed):
    """Releases at once, whatever the delay."""

    def change(self, action: Action) -> Action:
        return Release(action.records, 0.0) if isinstance(action, Release) else action


class Slow(FakeQueueLane):
    """Counts the visibility timeout from the failure."""

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        whole = self._queue.visibility
        await super().settle(batch, [Release(a.records, whole) if isinstance(a, Release) and a.delay is None else a for a in actions])


class Releasing(Changed):
    """Gives back what is to be tried again here."""

    def change(self, action: Action) -> Action:
        return Release(action.batch.records, 0.0) if isinstance(action, Retry) else action


class ByName(FakeQueueLane):
    """Deletes by name, whoever holds it."""

    def _delete(self, records: Sequence[FakeRecord]) -> None:
        for record in records:
            self._queue.messages = [message for message in self._queue.messages if message.name != record.name]
        super()._delete(records)


class Keeping(FakeQueueLane):
    """Gives nothing back when it is closed."""

    async def aclose(self, broken: bool = False) -> None:
        self._heart.cancel()


class Deaf(FakeQueueLane):
    """Does not end a long poll that nobody waits for any more."""

    async def fetch(self, limit: int) -> Fetched:
        leaving, self.leaving = self.leaving, asyncio.get_running_loop().create_future()
        try:
            return await super().fetch(limit) if not leaving.done() else Fetched(())
        finally:
            await asyncio.sleep(7.0)
            self.leaving = leaving


class Latest(FakeQueueLane):
    """The newest first."""

    async def fetch(self, limit: int) -> Fetched:
        fetched = await super().fetch(limit)
        return Fetched(fetched.records[::-1])


class Unlocked(FakeQueueLane):
    """Takes no notice of groups."""

    async def fetch(self, limit: int) -> Fetched:
        self._queue.fifo = False
        try:
            return await super().fetch(limit)
        finally:
            self._queue.fifo = True


BROKEN_QUEUES = [
    (Greedy, QueueLaneContract.test_a_fetch_brings_no_more_than_it_was_asked_for),
    (Careless, QueueLaneContract.test_what_is_held_is_given_to_nobody_else),
    (Heartless, QueueLaneContract.test_the_heartbeat_outlives_the_visibility_timeout),
    (Heartless, QueueLaneContract.test_a_retry_stays_held),
    (Hoarding, QueueLaneContract.test_what_is_acked_is_gone_for_good),
    (Impatient, QueueLaneContract.test_a_release_comes_back_after_its_delay_and_no_sooner),
    (Impatient, QueueLaneContract.test_a_release_without_a_delay_waits_for_the_rest_of_the_visibility_timeout),
    (Slow, QueueLaneContract.test_a_release_without_a_delay_waits_for_the_rest_of_the_visibility_timeout),
    (Slow, QueueLaneContract.test_what_was_held_for_longer_than_that_comes_back_at_once),
    (Releasing, QueueLaneContract.test_a_retry_stays_held),
    (ByName, QueueLaneContract.test_what_is_settled_again_is_not_taken_from_its_new_holder),
    (Keeping, QueueLaneContract.test_closing_gives_back_at_once_what_is_held),
    (Deaf, QueueLaneContract.test_leaving_ends_a_waiting_fetch_within_its_poll),
    (Latest, FifoLaneContract.test_a_group_comes_in_order),
    (Unlocked, FifoLaneContract.test_a_group_waits_while_one_of_it_is_held),
    (Unlocked, FifoLaneContract.test_what_came_after_a_released_message_of_its_group_comes_after_it),
]


@pytest.mark.parametrize(("lane", "prove"), BROKEN_QUEUES, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_queue_is_rejected(lane: type[FakeQueueLane], prove: Callable[[Any], Any]) -> None:
    suite = FakeFifoSuite()
    suite.lane = lane
    with pytest.raises((AssertionError, TimeoutError)):
        run_virtually(prove(suite))


class Forgetful(OrderedLane):
    """Saves no attempt before it begins."""

    async def begin(self, batch: Batch) -> None:
        ends = self.format.facts((batch.records[0], batch.records[-1])).tokens()
        self.tracker.begin(batch, ends[0], ends[1])


class Stubborn(OrderedLane):
    """Goes on after it was lost."""

    def lose(self, why: str, planned: bool = False) -> None:
        self.lost = False


class Tidy(OrderedLane):
    """Saves in any case."""

    async def aclose(self, broken: bool = False) -> None:
        await super().aclose(broken=False)


class Lazy(OrderedLane):
    """Saves only when it is closed."""

    def _touch(self) -> None:
        return None


class Vanishing(OrderedLane):
    """Is closed without a save."""

    async def aclose(self, broken: bool = False) -> None:
        await super().aclose(broken=True)


class Advanced(OrderedLane):
    """Saves what it has read as done."""

    def _heads(self) -> list[tuple[int, int]]:
        return []


class Spanless(OrderedLane):
    """Forgets what is under retry."""

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        await super().settle(batch, [action if not isinstance(action, Retry) else Ack(action.batch.records) for action in actions])


class Rewidening(OrderedLane):
    """Takes the new width at once."""

    async def fetch(self, limit: int) -> Fetched:
        if self.outgrown:
            width, self.outgrown = self._context.mapping.width, False
            self.strands = type(self.strands)(width, "hash")
            self.tracker.earlier = Progress(self.tracker.earlier.origin, width, self.tracker.earlier.checkpoint)
            self.tracker.spans.clear()
        return await super().fetch(limit)


class Premature(OrderedLane):
    """Has ended once all is read."""

    def _progress(self, closed: bool) -> Progress:
        return replace(super()._progress(closed), ended=self.ended)


class Plenty(OrderedLane):
    """Reads more than it was asked for."""

    async def fetch(self, limit: int) -> Fetched:
        return await super().fetch(limit + 1)


class Hasty(OrderedLane):
    """Begins at once what must be saved first."""

    def begin_now(self, batch: Batch) -> bool:
        self._begins(batch)
        return True


class Unfenced(MemoryCheckpoints):
    """Saves without looking at the lease."""

    async def save(self, lease: Lease, progress: Progress) -> None:
        self._saved[lease.key] = progress


BROKEN_STREAMS = [
    (Premature, OrderedLaneContract.test_a_closed_shard_is_given_again_until_all_of_it_is_settled),
    (Plenty, OrderedLaneContract.test_records_come_in_order_and_no_more_than_were_asked_for),
    (Vanishing, OrderedLaneContract.test_a_closed_lane_goes_on_where_it_was),
    (Vanishing, OrderedLaneContract.test_a_span_goes_on_with_its_attempts_before_what_is_later),
    (Vanishing, OrderedLaneContract.test_an_attempt_that_ran_at_the_close_is_counted),
    (Forgetful, OrderedLaneContract.test_what_was_acked_before_a_save_is_not_given_again),
    (Forgetful, OrderedLaneContract.test_a_later_attempt_is_durable_before_begin_returns),
    (Hasty, OrderedLaneContract.test_what_must_be_saved_first_does_not_begin_at_once),
    (Lazy, OrderedLaneContract.test_progress_is_saved_within_the_interval),
    (Advanced, OrderedLaneContract.test_what_was_neither_acked_nor_discarded_is_given_again),
    (Spanless, OrderedLaneContract.test_of_a_batch_only_what_is_retried_is_given_again),
    (Spanless, OrderedLaneContract.test_a_span_goes_on_with_its_attempts_before_what_is_later),
    (Stubborn, OrderedLaneContract.test_a_lane_that_another_has_taken_is_lost_and_saves_nothing_more),
    (Unfenced, OrderedLaneContract.test_a_lane_that_another_has_taken_is_lost_and_saves_nothing_more),
    (Unfenced, OrderedLaneContract.test_a_lane_that_is_closed_not_knowing_that_it_was_taken_saves_nothing),
    (Tidy, OrderedLaneContract.test_a_broken_close_saves_nothing),
    (Rewidening, OrderedLaneContract.test_another_width_loses_neither_records_nor_attempts),
]


@pytest.mark.parametrize(("part", "prove"), BROKEN_STREAMS, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_stream_is_rejected(part: type[Any], prove: Callable[[Any], Any]) -> None:
    suite = FakeStreamSuite()
    if issubclass(part, MemoryCheckpoints):
        suite.checkpoints = part
    else:
        suite.lane = part
    with pytest.raises((AssertionError, TimeoutError, pytest.fail.Exception)):
        run_virtually(prove(suite))
