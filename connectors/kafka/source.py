"""Topics of Kafka as a source: each partition that the group assigns to this worker is a lane.

A rebalance, as a sequence (membership.py draws it as states):

 1. revoked: lanes stop at the gate; what runs is waited for, up to `drain_limit`; every lane saves as closed, what still runs as begun
 2. assigned: lanes whose partition went elsewhere are lost; the others are looked after:
 3. whose last commit bears the lane's own stamp stays, the rest is lost (another worker had it meanwhile)
 4. what stays is saved as open again, and the gate opens; what is new is opened as a lane
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from itertools import chain
from typing import Any, TypeAlias

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka

from connectors.kafka.commits import Commits, lane_name, signed
from connectors.kafka.format import KafkaFormat
from connectors.kafka.lane import KafkaLane
from connectors.kafka.logins import login, reach
from connectors.kafka.membership import Membership
from connectors.kafka.options import KafkaOptions
from connectors.kafka.reading import PartitionReader, Reading
from connectors.kafka.refusals import place_of, refused
from connectors.kafka.starts import Starts
from connectors.kafka.topics import Client, describe
from poller.errors import LaneLost, NotConnected, PollerError, StoreUnavailable
from poller.model import LaneKey, Lease
from poller.policy import Block
from poller.progress import Progress
from poller.protocols import Lane
from poller.settings import Context
from poller.units import duration

log = logging.getLogger("poller.kafka")

LOOK_SECONDS = 1.0
"""How often it is looked whether the group has run into an error that needs a person."""

CHECKPOINT_SECONDS = 0.1
"""Commits are cheap and shared by all lanes: after a crash so much is run again."""

METADATA_SECONDS = 30.0
"""How often partitions that were added are looked for."""

READER: dict[str, Any] = {
    "fetch_max_wait_ms": 100,
    "request_timeout_ms": 10_000,
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "group_id": None,
}
"""One request at a time goes to each broker: a partition with records waits for the long poll of the empty ones, so that is short."""


Join: TypeAlias = Callable[[Callable[[], Awaitable[None]], Callable[[frozenset[TopicPartition]], None]], Membership]
"""Joins the group; `Membership` says what its two arguments, `drain` and `taken`, are called for."""


class KafkaSource:
    """See `open_source`."""

    def __init__(
        self, options: KafkaOptions, context: Context, policy: Block, cluster: str, reading: Reading, starts: Starts, join: Join
    ) -> None:
        self.identity = f"kafka:{cluster}/{','.join(sorted(options.names))}/{options.group_of(context.mapping.id)}"
        self.policy = policy
        self._options = options
        self._drain_limit = duration(options.drain_limit)
        self._reading = reading
        self._starts = starts
        self._lanes: dict[TopicPartition, KafkaLane] = {}
        self._opened: deque[KafkaLane] = deque()
        self._restarts: dict[TopicPartition, int] = {}
        self._settling: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._membership = join(self._drain, self._taken)
        self._commits = Commits(self._membership)
        self._context = replace(context, checkpoint_interval=min(CHECKPOINT_SECONDS, context.checkpoint_interval))

    def __repr__(self) -> str:
        return f"<KafkaSource {self.identity} [{self._membership!r}, {len(self._lanes)} lanes]>"

    # --- Source -----------------------------------------------------------------------------------------------------------------

    async def lanes(self) -> AsyncIterator[Lane]:
        while True:
            self._wake.clear()
            self._look()
            if self._membership.steady:
                await self._open()
            while self._opened:
                yield self._opened.popleft()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._wake.wait()
            except TimeoutError:
                pass

    async def aclose(self) -> None:
        for lane in list(self._lanes.values()):
            await lane.aclose()
        if self._settling is not None:
            self._settling.cancel()
        await self._commits.aclose()
        await self._membership.aclose()
        await self._reading.aclose()

    def _look(self) -> None:
        """Raises NotConnected for what the group has run into, and what only opening everything anew can mend."""
        if self._membership.ended:
            for lane in self._live():
                self._lose(lane, "the client has given up on its group")
            raise RuntimeError(f"group {self._membership.group_id!r}: the client has given up, and is made anew")
        try:
            self._membership.check_errors()
        except kafka.KafkaError as error:
            raise refused(error, f"group {self._membership.group_id!r}", self._options) from error
        gone = [topic for topic, partitions in self._membership.partitions().items() if not partitions]
        if gone and self._membership.steady:
            raise NotConnected(f"topic {gone[0]!r} does not exist any more (or this login may not see it)", permanent=True)
        newer = self._starts.newer & self._membership.assigned
        self._starts.newer.clear()
        if newer:
            # To open them would overwrite what this version cannot read.
            names = ", ".join(sorted(map(lane_name, newer)))
            text = (
                f"{names}: the group's offset was committed by a newer version of poller; the partition waits for a worker of that version"
            )
            raise NotConnected(f"{text} (or commit the offset anew with Kafka's tools)", permanent=True)

    # --- lanes ------------------------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        """A lane for each partition that is ours and has none. Raises NotConnected."""
        held = {partition for partition, lane in self._lanes.items() if not lane.closed}
        wanted = sorted(self._membership.assigned - held)
        if not wanted:
            return
        epoch = self._membership.epoch
        try:
            committed = await self._membership.committed(chain.from_iterable(self._membership.partitions().values()))
            starts = await self._starts.of(wanted, committed)
        except kafka.KafkaError as error:
            raise refused(error, f"group {self._membership.group_id!r}", self._options) from error
        if self._membership.epoch != epoch:
            return  # what was read may be another worker's by now
        lanes = [self._made(partition, progress) for partition, progress in starts.items()]
        # One commit for all: each lane's first save says that from now on attempts may begin uncounted.
        await asyncio.gather(*map(self._open_lane, lanes))

    def _made(self, partition: TopicPartition, progress: Progress) -> KafkaLane:
        """Known at once, so that a rebalance that comes while it opens finds it."""
        start = self._restarts.get(partition)
        if start is not None:
            progress = Progress(progress.origin, self._context.mapping.width, frontier=start)
        key = LaneKey(self._context.mapping.id, self.identity, lane_name(partition))
        lease = Lease(key, self._context.owner, secrets.randbits(48))
        reader = PartitionReader(self._reading, partition, self._elsewhere)
        shape = KafkaFormat(",".join(self._options.bootstrap_servers), *partition)
        lane = self._lanes[partition] = KafkaLane(
            self._context, lease, reader, shape, progress, self._membership, self._commits, self._wake.set
        )
        return lane

    async def _open_lane(self, lane: KafkaLane) -> None:
        try:
            await lane.save()
        except (LaneLost, StoreUnavailable) as error:
            log.warning("%s: not opened, trying again: %s", lane.name, error, extra={"lane": lane.name})
            await lane.aclose(broken=True)
        else:
            self._restarts.pop(lane.partition, None)
            self._opened.append(lane)

    async def _elsewhere(self, partition: TopicPartition, position: int) -> int:
        """A partition has no such offset: retention has passed it, or it was cut off or made anew. Raises LaneLost, NotConnected."""
        name = lane_name(partition)
        try:
            start, horizon = await self._starts.elsewhere(partition)
        except kafka.KafkaError as error:
            raise refused(error, name) from error
        if position < horizon:
            text = "%s: %d offsets from %d on were removed by the topic's retention before they were read; going on at %d"
            log.error(text, name, horizon - position, position, start, extra={"lane": name})
            self._context.tally.expired += horizon - position
            return start
        self._restarts[partition] = start
        self._lanes[partition].lose(f"the partition ends before {position}, where it was read: it was made anew; beginning at {start}")
        raise LaneLost(f"{name} was made anew")

    # --- rebalance --------------------------------------------------------------------------------------------------------------

    def _live(self) -> list[KafkaLane]:
        return [lane for lane in self._lanes.values() if not lane.lost and not lane.closed]

    async def _drain(self) -> None:
        """Every partition is about to be revoked: see step 1 above."""
        if self._settling is not None:
            self._settling.cancel()
        lanes = self._live()
        try:
            async with asyncio.timeout(self._drain_limit):
                for lane in lanes:
                    await lane.at_rest()
        except TimeoutError:
            pass  # what still runs is saved as begun: if its partition moves, the next owner takes it for failed
        await self._saved(lanes, KafkaLane.hand_over)

    def _taken(self, assigned: frozenset[TopicPartition]) -> None:
        """Step 2."""
        self._context.tally.rebalances += 1
        log.info("group %r has given us %d partitions", self._membership.group_id, len(assigned))
        for lane in self._live():
            if lane.partition not in assigned:
                self._lose(lane, "the group gave it to another worker", planned=lane.handed_over)
        if self._settling is not None:
            self._settling.cancel()
        self._settling = asyncio.get_running_loop().create_task(self._settle(), name=f"rebalance of {self._membership.group_id}")

    async def _settle(self) -> None:
        """Steps 3 and 4."""
        membership, lanes = self._membership, self._live()
        try:
            await self._commits.wait_idle()
            committed = await membership.committed([lane.partition for lane in lanes])
        except kafka.KafkaError as error:
            # Nothing may begin before it is known who had what; joining again asks once more.
            log.warning("group %r: commits cannot be read: %s", membership.group_id, type(error).__name__)
            membership.request_rejoin()
            return
        for lane in lanes:
            if not signed(committed.get(lane.partition, (0, ""))[1], lane.lease):
                self._lose(lane, "another worker had it meanwhile")
        membership.confirm()
        await self._saved([lane for lane in lanes if not lane.lost], KafkaLane.reopen)
        membership.settle()
        self._wake.set()

    def _lose(self, lane: KafkaLane, why: str, planned: bool = False) -> None:
        lane.lose(why, planned)
        self._commits.refuse(lane.partition)

    async def _saved(self, lanes: list[KafkaLane], save: Callable[[KafkaLane], Awaitable[None]]) -> None:
        for lane, error in zip(lanes, await asyncio.gather(*map(save, lanes), return_exceptions=True), strict=True):
            if isinstance(error, PollerError):
                log.warning("%s: not saved: %s", lane.name, error, extra={"lane": lane.name})
            elif error is not None:
                raise error


async def open_source(options: KafkaOptions, context: Context, policy: Block) -> KafkaSource:
    """Connect, find the topics, note where LATEST begins, and join the group. Raises NotConnected, SourceError."""
    arguments = await login(options, context.base)
    await reach(options, arguments)  # aiokafka would only say that it could not
    client = Client(**arguments, metadata_max_age_ms=int(METADATA_SECONDS * 1000))
    consumer = AIOKafkaConsumer(**arguments, **READER, isolation_level=options.isolation_level, client_rack=options.rack)
    consumer._client = Client(**arguments)  # noqa: SLF001 (its own would make topics anew)
    try:
        await client.bootstrap()
        cluster = await describe(client, options.names)
        await client.set_topics(options.names)
        await consumer.start()
        starts = Starts(consumer, options, context.mapping.width, cluster.partitions)
        await starts.note()
    except BaseException as error:
        await consumer.stop()
        await client.close()
        if isinstance(error, kafka.KafkaError):
            raise refused(error, place_of(options), options) from error
        raise
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # it reports each try of what is tried for ever; what matters, we say

    def join(drain: Callable[[], Awaitable[None]], taken: Callable[[frozenset[TopicPartition]], None]) -> Membership:
        return Membership(
            client,
            options.group_of(context.mapping.id),
            options.names,
            instance=options.instance_of(context.worker),
            session_timeout=duration(options.session_timeout),
            drain_limit=duration(options.drain_limit),
            drain=drain,
            taken=taken,
        )

    return KafkaSource(options, context, policy, cluster.id, Reading(consumer), starts, join)
