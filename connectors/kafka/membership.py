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
import re
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

from aiokafka import ConsumerRebalanceListener, TopicPartition
from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.consumer.subscription_state import SubscriptionState
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetCommitRequest

from poller.errors import NotConnected, StoreUnavailable

log = logging.getLogger("poller.kafka")

HEARTBEAT_SECONDS = 0.5
"""A member learns of a rebalance by its heartbeat: a planned hand-over takes so long at most, besides what still runs."""

JOIN_SECONDS = 10.0
"""On top of the drain, before the broker goes on without a member that has not joined again."""

FENCED_SECONDS = 1.0
"""How often it is looked whether our static name is free again."""

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
        self._out = asyncio.Event()
        self._refusal: kafka.KafkaError | None = None
        """What the last heartbeat was answered, if it was no answer that aiokafka can live with."""
        self._fenced = False
        self._was_member = False
        subscription = SubscriptionState()
        subscription.subscribe(set(topics), listener=self)
        # The assignor keeps what it last assigned in its class: without a class of its own, two groups in one process would mix.
        self._assignor: Any = type("Sticky", (StickyPartitionAssignor,), {})
        super().__init__(
            client,
            subscription,
            group_id=group,
            group_instance_id=instance,
            session_timeout_ms=int(session_timeout * 1000),
            heartbeat_interval_ms=int(min(HEARTBEAT_SECONDS, session_timeout / 10) * 1000),
            enable_auto_commit=False,
            assignors=(self._assignor,),
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
        try:
            alive: bool = await super()._do_heartbeat()
        except kafka.KafkaError as error:
            # It would be the last one that aiokafka sends; so it is tried again, and `check_errors` says why.
            self._refusal = error
            return False
        self._refusal = None
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
            await self._drained()
        self._joined.clear()

    async def _drained(self) -> None:
        """Or thrown out meanwhile: then nothing that could be saved would be taken, and to wait would only keep us from joining again."""
        drain, out = asyncio.ensure_future(self._drain()), asyncio.ensure_future(self._out.wait())
        try:
            await asyncio.wait((drain, out), return_when=asyncio.FIRST_COMPLETED)
            if drain.done() and (error := drain.exception()) is not None:
                # Ours, and aiokafka would only log it: what was not saved is begun again carefully by whoever goes on.
                log.error("group %r: not all was handed over", self.group_id, exc_info=error)
        finally:
            drain.cancel()
            out.cancel()
            await asyncio.gather(drain, out, return_exceptions=True)

    def reset_generation(self) -> None:
        """Called when the group does not know us any more."""
        super().reset_generation()
        self._right, self._settled = None, False
        self.epoch += 1
        self._joined.clear()
        self._out.set()

    async def _do_rejoin_group(self, subscription: SubscriptionState) -> bool:
        """Join, unless the static name that was ours is another's by now: to take it back would throw that one out, and so on for ever.

        Of two with one name the one that came later stays, as with Kafka's own clients; a first join always takes it, for who has it
        then is most often ourselves before a restart.
        """
        if self._group_instance_id is not None and self._was_member and not self.member_id:
            try:
                taken = await self._is_name_taken()
            except kafka.KafkaError:
                await asyncio.sleep(self._retry_backoff_ms / 1000)
                return False  # the coordinator is looked for, and asked again
            if taken and not self._fenced:
                self.assigned = frozenset()
                self._taken(self.assigned)
            self._fenced = taken
            if taken:
                await asyncio.wait((self._closing,), timeout=FENCED_SECONDS)
                return False
        try:
            return bool(await super()._do_rejoin_group(subscription))
        except kafka.KafkaError:
            if self._group_instance_id is not None:
                self.reset_generation()  # aiokafka has no word for FENCED_INSTANCE_ID: perhaps it was that
            raise

    async def _is_name_taken(self) -> bool:
        """Static members' ids are their name and a UUID. Raises KafkaError."""
        answer = await self._send_req(DescribeGroupsRequest([self.group_id]))
        name = re.compile(re.escape(f"{self._group_instance_id}-") + r"[0-9a-zA-Z_-]{22,36}")
        return any(name.fullmatch(member[0]) for group in answer.groups for member in group[5])

    def check_errors(self) -> None:
        """Raises KafkaError, NotConnected."""
        super().check_errors()
        if self._refusal is not None:
            raise self._refusal
        if self._fenced:
            raise NotConnected(
                f"another worker has taken the name {self._group_instance_id!r} in group {self.group_id!r}; give each daemon a "
                "group_instance_id of its own, or none; waiting until it is free",
                permanent=True,
            )

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """No heartbeat is sent until this returns, so it only notes what is so."""
        self.assigned = frozenset(assigned)
        self.epoch += 1
        self._right, self._was_member = (self.generation, self.member_id), True
        self._out.clear()
        # aiokafka forgets to: without it, one that was thrown out and comes back has as good a claim as who got its partitions.
        self._assignor.on_generation_assignment(self.generation)
        self.trusted_until = time.monotonic() + self._session
        self._taken(self.assigned)

    @property
    def ended(self) -> bool:
        """aiokafka has given up on the group, for a reason that it had not foreseen: only a new membership helps."""
        return bool(self._coordination_task.done()) and not self._closing.done()

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
        text = f"the offset of {place} is not committed in group {self.group_id!r}: {error.__name__}"
        if issubclass(error, kafka.OffsetMetadataTooLargeError):
            text += "; let the brokers' offset.metadata.max.bytes be 4096 (as by default) or more: progress rides in it"
        return StoreUnavailable(text)

    async def aclose(self) -> None:
        """Leave the group, and disconnect; a static member does not leave: its partitions wait for it. Tolerated twice."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.close()
        except TimeoutError:
            # It waits for others to join, or for a broker that is gone; the broker throws us out by itself.
            self._coordination_task.cancel()
            await asyncio.gather(self._coordination_task, return_exceptions=True)
            await self._stop_heartbeat_task()
            await self._stop_commit_offsets_refresh_task()
        await self._client.close()
