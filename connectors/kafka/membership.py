"""This worker as a member of a consumer group: who owns which partition, and commits under that right.

              +--(another member comes or goes: every partition is revoked)--+
              v                                                              |
 joining -> drained: `on_revoked` waits for running functions, saves -> assigned -> steady (fetch, begin)
              ^                                                              |
              +--(thrown out: no heartbeat was answered in time)-------------+

aiokafka has no cooperative assignor, so a rebalance takes everything away before anyone knows what stays. Hence `steady`: lanes fetch and
begin only then. What stays (the same partition, and nobody else committed meanwhile: the stamp in the metadata says so) goes on with its
strands and its running functions; the rest is lost.

The group is kept by aiokafka's coordinator alone, without its consumer: reading has a consumer of its own (reading.py), which no rebalance
disturbs, and no function that runs for hours can make this member look idle.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.protocol.commit import OffsetCommitRequest

from poller.errors import StoreUnavailable

log = logging.getLogger("poller.kafka")

HEARTBEAT_SECONDS = 0.5
"""A member learns of a rebalance by its heartbeat: a planned hand-over takes so long at most, besides what still runs."""

JOIN_SECONDS = 10.0
"""On top of the drain, before the broker goes on without a member that has not joined again."""

COMMIT_SECONDS = 10.0
CLOSE_SECONDS = 5.0

Committed = Mapping[TopicPartition, tuple[int, str]]
"""Offset and metadata."""

_REJOIN = (kafka.IllegalGenerationError, kafka.UnknownMemberIdError, kafka.RebalanceInProgressError)
_ELSEWHERE = (kafka.GroupCoordinatorNotAvailableError, kafka.NotCoordinatorForGroupError, kafka.RequestTimedOutError)


class Rebalancing(Exception):
    """Raised by `commit`: this member's right is of an earlier generation; ask again once the group is steady."""


class Membership(GroupCoordinator, ConsumerRebalanceListener):  # type: ignore[misc]
    """See above. `drain` is called before everything is revoked, `taken` when the new assignment is known; both are the source's."""

    def __init__(
        self,
        client: AIOKafkaClient,
        group: str,
        topics: Iterable[str],
        *,
        instance: str | None,
        session_timeout: float,
        drain_limit: float,
        drain: Callable[[], Awaitable[None]],
        taken: Callable[[frozenset[TopicPartition]], None],
    ) -> None:
        self.assigned: frozenset[TopicPartition] = frozenset()
        self.epoch = 0
        """Grows whenever partitions may change hands."""
        self.trusted_until = -math.inf
        """Monotonic time until which the group must have kept this member; a process that stood still finds itself past it."""
        self._session = session_timeout
        self._drain, self._taken = drain, taken
        self._right: tuple[int, str] | None = None
        self._joined = asyncio.Event()
        self._settled = False
        self._gate = asyncio.Event()
        subscription = SubscriptionState()
        subscription.subscribe(set(topics), listener=self)
        # The assignor keeps what it last assigned in its class: without a class of its own, two groups in one process would mix.
        assignor = type("Sticky", (StickyPartitionAssignor,), {})
        super().__init__(
            client,
            subscription,
            group_id=group,
            group_instance_id=instance,
            session_timeout_ms=int(session_timeout * 1000),
            heartbeat_interval_ms=int(min(HEARTBEAT_SECONDS, session_timeout / 10) * 1000),
            enable_auto_commit=False,
            assignors=(assignor,),
            max_poll_interval_ms=math.inf,  # liveness is ours to watch: nobody polls here
            rebalance_timeout_ms=int((drain_limit + JOIN_SECONDS) * 1000),
        )

    def __repr__(self) -> str:
        state = "steady" if self.steady else "joined" if self._joined.is_set() else "joining"
        return f"<Membership {self.group_id} [{state}, {len(self.assigned)} partitions]>"

    # --- the gate ---------------------------------------------------------------------------------------------------------------

    @property
    def steady(self) -> bool:
        """Whether a lane may fetch and begin now."""
        # Not the loop's time: uvloop's stands still within a turn, and so would not notice that the process did.
        return self._settled and time.monotonic() <= self.trusted_until

    async def wait_steady(self) -> None:
        while not self.steady:
            self._gate.clear()
            await self._gate.wait()

    async def wait_joined(self) -> None:
        """Until commits may be made (they are before it is steady)."""
        await self._joined.wait()

    def confirm(self) -> None:
        """The source has looked who committed last: those lanes that nobody else had may commit from now on."""
        if self._right is not None:
            self._joined.set()

    def settle(self) -> None:
        """The source has seen to what stays and what is lost: fetch and begin."""
        if self._joined.is_set():
            self._settled = True
            self._gate.set()

    async def _do_heartbeat(self) -> bool:
        sent = time.monotonic()
        alive: bool = await super()._do_heartbeat()
        if alive:
            self.trusted_until = sent + self._session
            if self._settled:
                self._gate.set()
        return alive

    # --- what the group decides -------------------------------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:  # noqa: ARG002 (all are)
        """Called before this member joins again; until it returns, its commits are still accepted and heartbeats go on."""
        self._settled = False
        self.epoch += 1
        if self._joined.is_set():
            await self._drain()
        self._joined.clear()

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """No heartbeat is sent until this returns, so it only notes what is so."""
        self.assigned = frozenset(assigned)
        self.epoch += 1
        self._right = self.generation, self.member_id
        self.trusted_until = time.monotonic() + self._session
        self._taken(self.assigned)

    def partitions(self) -> dict[str, list[TopicPartition]]:
        """All there are of each topic, as of the last look: none where a topic does not exist any more."""
        found = {topic: self._cluster.partitions_for_topic(topic) or () for topic in self._subscription.topics}
        return {topic: [TopicPartition(topic, number) for number in sorted(numbers)] for topic, numbers in found.items()}

    # --- offsets ----------------------------------------------------------------------------------------------------------------

    async def committed(self, partitions: Iterable[TopicPartition]) -> Committed:
        """What the group has committed, metadata included; partitions without a commit are left out. Raises KafkaError."""
        offsets = await self.fetch_committed_offsets(list(partitions))
        return {partition: (kept.offset, kept.metadata or "") for partition, kept in offsets.items()}

    async def commit(self, offsets: Committed) -> dict[TopicPartition, Exception]:
        """Commit under the right of the last assignment. Returns what was refused, and why: `Rebalancing` or StoreUnavailable.

        aiokafka's own commit takes whatever generation it has at that moment: after it was thrown out that is none, and a group that is
        empty by then would accept it. Ours presents the generation that the partitions were given in. Raises StoreUnavailable.
        """
        if self._right is None:
            raise Rebalancing
        generation, member = self._right
        topics: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
        for partition, (offset, metadata) in offsets.items():
            topics[partition.topic].append((partition.partition, offset, metadata))
        request = OffsetCommitRequest(self.group_id, generation, member, OffsetCommitRequest.DEFAULT_RETENTION_TIME, list(topics.items()))
        try:
            async with asyncio.timeout(COMMIT_SECONDS):
                await self.ensure_coordinator_known()
                response = await self._send_req(request)
        except (kafka.KafkaError, TimeoutError) as error:
            text = f"offsets of group {self.group_id!r} not committed: {type(error).__name__} {error}"
            raise StoreUnavailable(text.rstrip()) from error
        return {
            TopicPartition(topic, number): self._refused(kafka.for_code(code), f"{topic}-{number}")
            for topic, partitions in response.topics
            for number, code in partitions
            if code
        }

    def _refused(self, error: type[kafka.KafkaError], place: str) -> Exception:
        if issubclass(error, _REJOIN):
            if self._right is not None and self.generation == self._right[0]:
                # A generation that is over: until we have joined again nothing may begin, and nothing is accepted.
                if issubclass(error, kafka.RebalanceInProgressError):
                    self.request_rejoin()
                else:
                    self.reset_generation()
            self._right, self._settled = None, False
            self.epoch += 1
            self._joined.clear()
            return Rebalancing()
        if issubclass(error, _ELSEWHERE):
            self.coordinator_dead()
        return StoreUnavailable(f"the offset of {place} is not committed in group {self.group_id!r}: {error.__name__}")

    async def aclose(self) -> None:
        """Leave the group, and disconnect; a static member does not leave: its partitions wait for it. Tolerated twice."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.close()
        except TimeoutError:
            # It waits for others to join, or for a broker that is gone; the broker throws us out by itself.
            self._coordination_task.cancel()
            await asyncio.gather(self._coordination_task, return_exceptions=True)
        await self._client.close()
