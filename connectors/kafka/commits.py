"""Progress in Kafka's own offsets: the checkpoint is the committed offset, the rest of it rides in the commit's metadata.

One commit at a time, for all lanes that have something to save (two at once could arrive in the other order, and the older would win).
Each lane signs its commits with a stamp of its own: after a rebalance a partition that is still ours is gone on with only if the last
commit bears our stamp, so that nobody else can have worked on it meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from aiokafka import TopicPartition
from aiokafka import errors as kafka

from connectors.kafka.membership import Membership, Rebalancing
from connectors.kafka.metadata import Decoded, decode, encode
from poller.errors import LaneLost, StoreUnavailable
from poller.model import Lease
from poller.progress import Progress

log = logging.getLogger("poller.kafka")

SAVE_SECONDS = 10.0
"""How long a save waits for a rebalance, or for its turn, before its caller is told that the group does not answer."""


def lane_name(partition: TopicPartition) -> str:
    return f"{partition.topic}-{partition.partition}"


def partition_of(lane: str) -> TopicPartition:
    topic, _, number = lane.rpartition("-")
    return TopicPartition(topic, int(number))


class _Save:
    """One lane's wish, and what became of it."""

    __slots__ = ("answer", "offset", "text")

    def __init__(self, offset: int, text: str) -> None:
        self.offset = offset
        self.text = text
        self.answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Commits:
    """Written under the membership's right, one at a time."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._pending: dict[TopicPartition, _Save] = {}
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._task = asyncio.get_running_loop().create_task(self._run(), name=f"commits of {membership.group_id}")

    def __repr__(self) -> str:
        return f"<Commits of {self._membership.group_id}, {len(self._pending)} waiting>"

    async def save(self, lease: Lease, progress: Progress) -> None:
        """Durable when it returns. Raises LaneLost, StoreUnavailable."""
        partition = partition_of(lease.key.lane)
        offset, text = encode(progress)
        save = _Save(offset, f"{text}~{stamp(lease)}")
        if (before := self._pending.get(partition)) is not None:
            before.answer.cancel()  # of a lane that is closed by now: it must not be written after this
        self._pending[partition] = save
        self._wake.set()
        try:
            async with asyncio.timeout(SAVE_SECONDS):
                await save.answer
        except TimeoutError as error:
            raise StoreUnavailable(f"group {self._membership.group_id!r} takes no commits: it is rebalancing, or out of reach") from error
        finally:
            if self._pending.get(partition) is save:
                del self._pending[partition]

    def refuse(self, partition: TopicPartition) -> None:
        """Its lane is lost: what it still wants to save is not written."""
        save = self._pending.pop(partition, None)
        if save is not None and not save.answer.done():
            save.answer.set_exception(LaneLost(f"{lane_name(partition)}: the group has given it to another worker"))

    async def wait_idle(self) -> None:
        """Until no commit is under way: what is read from the group after that is what it will stay."""
        await self._idle.wait()

    async def aclose(self) -> None:
        """Stopped where it waits; a commit that is under way is awaited."""
        await self.wait_idle()
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            await self._membership.wait_joined()
            self._wake.clear()
            saves = dict(self._pending)
            if not saves:
                continue
            self._idle.clear()
            try:
                await self._commit(saves)
            finally:
                self._idle.set()

    async def _commit(self, saves: Mapping[TopicPartition, _Save]) -> None:
        refusals: Mapping[TopicPartition, Exception]
        try:
            refusals = await self._membership.commit({partition: (save.offset, save.text) for partition, save in saves.items()})
        except (StoreUnavailable, Rebalancing) as error:
            refusals = dict.fromkeys(saves, error)
        except (kafka.KafkaError, OSError) as error:  # whatever a client may raise, no save may wait for ever
            refusals = dict.fromkeys(saves, StoreUnavailable(f"{type(error).__name__}: {error}"))
        for partition, save in saves.items():
            refusal = refusals.get(partition)
            if isinstance(refusal, Rebalancing):
                continue  # it stays, and goes out again if the partition is still ours then; else `refuse` ends it
            if self._pending.get(partition) is save:
                del self._pending[partition]
            if save.answer.done():
                continue
            if refusal is None:
                save.answer.set_result(None)
            else:
                save.answer.set_exception(refusal)
        if any(isinstance(refusal, Rebalancing) for refusal in refusals.values()):
            self._wake.set()


def stamp(lease: Lease) -> str:
    """What signs the commits of one lane of one worker."""
    return f"{lease.counter:x}"


def signed(metadata: str, lease: Lease) -> bool:
    """Whether the lane of this lease wrote it."""
    return metadata.rpartition("~")[2] == stamp(lease)


def restored(offset: int, metadata: str) -> Decoded:
    """What a commit says."""
    return decode(offset, metadata.rpartition("~")[0] if "~" in metadata else metadata)
