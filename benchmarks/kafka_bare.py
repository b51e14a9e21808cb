"""What a loop over aiokafka alone costs a record: no retries, no deadlines, no progress beyond the committed offset.

    getmany(max_records=size) -> the same event -> the same function -> every 100 ms: commit

It waits for records as ours does (`READER`), reads committed records only, as ours does by default, and runs on uvloop too. What differs is
the API's due: it is in its group with the consumer that reads, and asks for as many records as its batches have. And Python's collector has
its default threshold, which the daemon raises where many invocations are in flight (poller/collector.py).
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks import function
from benchmarks.comparison import Reading
from benchmarks.kafka_server import LOG, MESSAGES, SINGLE, Served, served
from benchmarks.usage import lasted, settle_down, until
from connectors.kafka.format import KafkaFormat
from connectors.kafka.source import CHECKPOINT_SECONDS, READER
from poller.functions import Function
from poller.model import Call, Returned

Handle = Callable[[Any], Awaitable[None] | None]
"""Takes the event; what it gives is awaited, if it is anything."""

CALL = Call("00000000-0000-4000-8000-000000000000", time.time() + 3600.0, 3600.0)


class Bare:
    """The loop."""

    def __init__(self, server: Served, topic: str, size: int) -> None:
        self.done = 0
        self.bootstrap = server.bootstrap
        self.size = size
        self.consumer = AIOKafkaConsumer(
            topic,
            bootstrap_servers=server.bootstrap,
            **{**READER, "group_id": server.group(), "auto_offset_reset": "earliest"},
            isolation_level="read_committed",
        )
        self._offsets: dict[TopicPartition, int] = {}

    async def run(self, handle: Handle) -> None:
        """Until it is cancelled."""
        time_ = asyncio.get_running_loop().time
        due = time_() + CHECKPOINT_SECONDS
        while True:
            found = await self.consumer.getmany(timeout_ms=200, max_records=self.size)
            for partition, records in found.items():
                handled = handle(KafkaFormat(self.bootstrap, *partition).event(records))
                if handled is not None:
                    await handled
                self.done += len(records)
                self._offsets[partition] = records[-1].offset + 1
            if time_() >= due:
                await self.commit()
                due = time_() + CHECKPOINT_SECONDS

    async def commit(self) -> None:
        """What is done."""
        if self._offsets:
            await self.consumer.commit(self._offsets)
            self._offsets = {}


@asynccontextmanager
async def _reading(topic: str, size: int, handle: Handle) -> AsyncIterator[Bare]:
    loop = Bare(served(), topic, size)
    await loop.consumer.start()
    settle_down()
    task = asyncio.get_running_loop().create_task(loop.run(handle))
    try:
        yield loop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await loop.consumer.stop()


async def bare(records: int, size: int, handler: str = "log") -> Reading:
    """CPU a record, with the function on the loop; a batch that fails is given up."""
    call = getattr(function, handler)

    def handle(event: Any) -> None:
        try:
            call(event.mapping(), None)
        except ValueError:
            pass

    async with _reading(LOG, size, handle) as loop:
        return await until(lambda: loop.done, records)


async def piped(records: int, size: int, one: Callable[[], Function]) -> Reading:
    """Wall time a record, with the function in one process of its own, over the pipe that ours has."""
    called = one()

    async def handle(event: Any) -> None:
        response = await called.handler.invoke(event, CALL)
        assert isinstance(response, Returned), response

    async with _reading(LOG, size, handle) as loop:
        reading = await until(lambda: loop.done, records, time.perf_counter)
    await called.aclose()
    return reading


async def tasks(size: int = 500) -> Reading:
    """Wall time until all messages of the single partition are handled: a task for each key, which takes its messages in order."""
    waiting: dict[bytes, deque[Any]] = {}
    running = set[asyncio.Task[None]]()
    handled = 0

    async def drain(key: bytes, messages: deque[Any]) -> None:
        nonlocal handled
        while messages:
            await function.waiting(shape.event((messages[0],)).mapping(), None)
            messages.popleft()
            handled += 1
        del waiting[key]

    async def handle(event: Any) -> None:
        for message in event._records:
            messages = waiting.get(message.key)
            if messages is None:
                messages = waiting[message.key] = deque((message,))
                task = asyncio.get_running_loop().create_task(drain(message.key, messages))
                running.add(task)
                task.add_done_callback(running.discard)
            else:
                messages.append(message)

    shape = KafkaFormat(served().bootstrap, SINGLE, 0)
    async with _reading(SINGLE, size, handle):
        return await lasted(lambda: handled, MESSAGES)
