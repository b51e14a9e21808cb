"""What a loop over the client alone costs: no retries, no deadlines, no leases, no progress beyond a checkpoint a second.

    GetShardIterator -> GetRecords -> the same event, batch by batch -> the same function -> ...         every second: checkpoints

It has the connector's client, keeps to the service's limits as everyone must, and runs on uvloop too, with a task a shard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks import function
from benchmarks.kinesis_server import ARN, STREAM
from benchmarks.usage import settle_down
from connectors.kinesis.aws import AwsKinesis
from connectors.kinesis.client import LIMITS
from connectors.kinesis.format import KinesisFormat
from connectors.sharded.sequence import TRIM_HORIZON, token
from connectors.sharded.shards import Page, Records
from poller.model import LaneKey, Lease
from poller.ordered_source import OPENED_AT_ONCE
from poller.progress import Progress
from poller.protocols import Store
from poller.stores.sqlite import open_store

CHECKPOINT_SECONDS = 1.0


class Bare:
    """The loop."""

    def __init__(self, client: AwsKinesis, store: Store, size: int) -> None:
        self.done = 0
        self._client = client
        self._store = store
        self._size = size
        self._format = KinesisFormat(ARN, "arn:aws:iam::123456789012:role/poller")
        self._leases: dict[str, Lease] = {}
        self._moved: dict[str, int] = {}

    async def run(self) -> None:
        """Until it is cancelled."""
        page = await self._client.shards(STREAM)
        assert isinstance(page, Page)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._checkpoints())
            # As many at once as ours: who asks at the same moment wakes up the loop once, and a call costs half as much, or twice.
            for first in range(0, len(page.shards), OPENED_AT_ONCE):
                names = [shard.name for shard in page.shards[first : first + OPENED_AT_ONCE]]
                for name, iterator in zip(names, await asyncio.gather(*map(self._opened, names)), strict=True):
                    group.create_task(self._read(name, iterator))

    async def _opened(self, name: str) -> str:
        lease = await self._store.leases.claim(LaneKey("orders", "bare", name), "benchmark", time.time(), 3600.0)
        assert lease is not None
        self._leases[name] = lease
        iterator = await self._client.iterator(STREAM, name, TRIM_HORIZON)
        assert isinstance(iterator, str)
        return iterator

    async def _read(self, name: str, following: str | None) -> None:
        time_ = asyncio.get_running_loop().time
        while following is not None:
            asked = time_()
            answer = await self._client.records(following, name, LIMITS.records)
            assert isinstance(answer, Records)
            records = answer.records
            for start in range(0, len(records), self._size):
                function.stream(self._format.event(records[start : start + self._size]).mapping(), None)
            if records:
                self.done += len(records)
                self._moved[name] = token(records[-1].sequence) + 1
            following = answer.following
            pause = max(1 / LIMITS.reads, answer.size / LIMITS.bytes) if answer.behind else LIMITS.idle
            await asyncio.sleep(asked + pause - time_())

    async def _checkpoints(self) -> None:
        save = self._store.checkpoints.save
        while True:
            await asyncio.sleep(CHECKPOINT_SECONDS)
            moved, self._moved = self._moved, {}
            saves = [save(self._leases[name], Progress("TRIM_HORIZON", frontier=position)) for name, position in moved.items()]
            await asyncio.gather(*saves)


@asynccontextmanager
async def reading(client: AwsKinesis, folder: Path, size: int) -> AsyncIterator[Bare]:
    """The loop, for as long as the `with` lasts; the client is closed with it."""
    store: Store = await open_store(folder / "poller.db")
    loop = Bare(client, store, size)
    settle_down()
    task = asyncio.get_running_loop().create_task(loop.run())
    try:
        yield loop
    finally:
        task.cancel()
        [ended] = await asyncio.gather(task, return_exceptions=True)
        await client.aclose()
        await store.aclose()
        if isinstance(ended, Exception):
            raise ended
