"""Reading partitions: one consumer of aiokafka for all of them, outside the group, so that no rebalance throws away what it holds.

    lane.read -> what is buffered (no suspension) -> else `wanted`, until the one waiting task sees data for it

Why so (measured with aiokafka 0.14): a task per partition inside getmany wakes all of them at each answer; a cancelled getmany leaks a
future; a paused partition throws away what was prefetched. So getmany is only ever asked for what is there, and one task waits.

What is buffered is taken from where getmany would take it, without its cost for each record (unpacking.py).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.consumer.fetcher import FetchResult

from connectors.kafka.format import Record
from connectors.kafka.refusals import refused
from connectors.kafka.unpacking import Unpacked
from poller.errors import NotConnected

WAIT_SECONDS = 1.0
"""How long a read waits for records."""

SILENT_SECONDS = 15.0
"""A healthy broker answers twice a second, records or none; after so long without, the lane says that it is cut off."""


Elsewhere: TypeAlias = Callable[[TopicPartition, int], Awaitable[int]]
"""Asked where to go on when a partition has no such offset (any more). Raises LaneLost when the lane cannot go on."""


class Reading:
    """Partitions are read from the position they are placed at. `consumer` is started, has no group, and resets no offset by itself."""

    def __init__(self, consumer: AIOKafkaConsumer) -> None:
        self.consumer = consumer
        self._positions: dict[TopicPartition, int] = {}
        self._changed = False
        self._wanted: dict[TopicPartition, asyncio.Future[None]] = {}
        self._waiting: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Reading {len(self._positions)} partitions, {len(self._wanted)} waiting>"

    def place(self, partition: TopicPartition, position: int) -> None:
        """The next read of `partition` starts there; free when it would do so anyway."""
        before = self._positions.get(partition)
        if before == position:
            return
        self._positions[partition] = position
        if before is None:
            self._changed = True  # the consumer is told of all new ones at once
        elif not self._changed:
            self.consumer.seek(partition, position)

    def drop(self, partition: TopicPartition) -> None:
        """Read it no more."""
        if self._positions.pop(partition, None) is not None:
            self._changed = True

    async def take(self, partition: TopicPartition, limit: int) -> tuple[Sequence[Record], int]:
        """What is buffered, perhaps nothing, and the position after it (also past offsets without a record).

        Raises KafkaError, OffsetOutOfRangeError among them.
        """
        if self._changed:
            self._assign()
        fetched = self.consumer._fetcher._records.get(partition)
        if type(fetched) is FetchResult:
            return self._unpack(partition, fetched, limit), self._positions[partition]
        try:
            await self.consumer.getmany(partition, timeout_ms=0, max_records=limit)  # raises what came instead of records
        except kafka.IllegalStateError:
            return (), self._positions[partition]
        position = self._positions[partition] = await self.consumer.position(partition)
        return (), position

    def _unpack(self, partition: TopicPartition, fetched: FetchResult, limit: int) -> Sequence[Record]:
        """What `Fetcher.fetched_records` does, for this partition alone."""
        records: Sequence[Record] = ()
        over = True
        try:
            if fetched.check_assignment(partition):  # false if it was sought elsewhere, or is read no more
                unpacked = fetched._partition_records
                if type(unpacked) is not Unpacked:
                    unpacked = fetched._partition_records = Unpacked(unpacked)
                records, over = unpacked.take(limit), unpacked.over
                fetched._update_position()
                self._positions[partition] = unpacked.next_fetch_offset
        finally:
            if over:
                fetcher = self.consumer._fetcher
                del fetcher._records[partition]
                fetcher._notify(fetcher._wait_consume_future)  # it asks the broker for more
        return records

    async def arrival(self, partition: TopicPartition, seconds: float = WAIT_SECONDS) -> None:
        """Until something came for `partition`, or the time is over."""
        if self._waiting is None:
            self._waiting = asyncio.get_running_loop().create_task(self._wait(), name="kafka arrivals")
        wanted = self._wanted[partition] = asyncio.get_running_loop().create_future()
        try:
            await asyncio.wait((wanted,), timeout=seconds)
        finally:
            if self._wanted.get(partition) is wanted:
                del self._wanted[partition]

    def wake(self, partition: TopicPartition) -> None:
        """Whoever waits in `arrival` for it waits no longer."""
        wanted = self._wanted.pop(partition, None)
        if wanted is not None:
            wanted.set_result(None)

    def answer(self, partition: TopicPartition) -> int | None:
        """When a broker last answered for it (milliseconds), records or none."""
        timestamp: int | None = self.consumer.last_poll_timestamp(partition) if partition in self.consumer.assignment() else None
        return timestamp

    def end(self, partition: TopicPartition) -> int | None:
        """One past the last offset that can be read, as of the last answer."""
        if partition not in self.consumer.assignment():
            return None
        ends = (self.consumer.last_stable_offset(partition), self.consumer.highwater(partition))
        return min((end for end in ends if end is not None and end >= 0), default=None)

    async def aclose(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)
        await self._stop()

    async def _stop(self) -> None:
        stopping = asyncio.ensure_future(self.consumer.stop())
        await asyncio.gather(stopping, return_exceptions=True)
        if stopping.cancelled():
            # aiokafka cancels a request that waits to try its broker again, and stumbles over that before it closes its connections.
            await self.consumer._client.close()
        else:
            stopping.result()

    def _assign(self) -> None:
        """Anew for all: prefetched data is dropped, but only when lanes come or go."""
        self._changed = False
        self.consumer.assign(list(self._positions))
        for partition, position in self._positions.items():
            self.consumer.seek(partition, position)

    async def _wait(self) -> None:
        """The only one that waits inside aiokafka: wakes those for whom something (records or an error) has come."""
        fetcher = self.consumer._fetcher  # a getmany that is left early leaks; this is what it waits for itself
        while True:
            await asyncio.wait((fetcher._create_fetch_waiter(),))
            for partition in list(self._wanted):
                if partition in fetcher._records:
                    self._wanted.pop(partition).set_result(None)


class PartitionReader:
    """One partition; see `poller.ordered.Reader`. Positions are offsets."""

    def __init__(self, reading: Reading, partition: TopicPartition, elsewhere: Elsewhere) -> None:
        self.partition = partition
        self._reading = reading
        self._elsewhere = elsewhere
        self._answer: int | None = None
        self._answered = time.monotonic()
        self._hurried = False

    def hurry(self) -> None:
        """From now on no read waits: a lane that is left need not keep the group waiting for it."""
        self._hurried = True
        self._reading.wake(self.partition)

    async def read(self, position: int, origin: str, limit: int) -> tuple[Sequence[Record], int]:  # noqa: ARG002
        reading, partition = self._reading, self.partition
        reading.place(partition, position)
        try:
            found = await reading.take(partition, limit)
            if found[1] == position and not self._hurried:
                await reading.arrival(partition)
                found = await reading.take(partition, limit)
        except kafka.OffsetOutOfRangeError:
            # What retention has passed is a gap like any other: nothing is read, and the position is behind it.
            return (), await self._elsewhere(partition, position)
        except kafka.KafkaError as error:
            raise refused(error, f"{partition.topic}-{partition.partition}") from error
        if found[1] == position:
            self._watch()
        else:
            self._answered = time.monotonic()  # of a partition that always has records nothing else would tell
        return found

    def _watch(self) -> None:
        """aiokafka tries for ever to reach a broker, and says so in its log only."""
        answer = self._reading.answer(self.partition)
        if answer != self._answer:
            self._answer, self._answered = answer, time.monotonic()
        elif (silent := time.monotonic() - self._answered) > SILENT_SECONDS:
            name = f"{self.partition.topic}-{self.partition.partition}"
            raise NotConnected(f"no broker has answered for {name} for {silent:.0f} s; still trying")

    async def head(self) -> tuple[int, float] | None:
        """For readers of committed records the end is where the first open transaction begins."""
        end = self._reading.end(self.partition)
        return None if end is None else (end, 0.0)

    async def aclose(self) -> None:
        self._reading.drop(self.partition)
