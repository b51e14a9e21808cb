"""SQS in memory, on the loop's clock: visibility, receive counts, message groups, redrive, long polls, and refusals by script.

Shapes and rules are SQS's own (developer guide: "visibility timeout", "FIFO delivery logic", "dead-letter queues"), stricter where SQS is
vague: a receipt handle that a later receive replaced is always refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, TypeAlias
from uuid import UUID

from poller.errors import NotConnected

EPOCH = 1_800_000_000.0
LONGEST = 43_200
REGION, ACCOUNT = "us-east-1", "123456789012"

Action: TypeAlias = Literal["receive", "delete", "change_visibility", "queue_url", "attributes"]
Refusal: TypeAlias = Mapping[str, Any]


@dataclass(slots=True)
class SentMessage:
    """A message in a queue. Times are the loop's; `handle` is that of its last receive."""

    id: str
    body: str
    sequence: int
    group: str | None
    sent: float
    visible: float
    attributes: Mapping[str, Mapping[str, Any]]
    receives: int = 0
    received: float = 0.0
    first_received: float = 0.0
    handle: str = ""


@dataclass(slots=True)
class FakeQueue:
    """A queue. `redrive`: the name of its dead-letter queue, and after how many receives."""

    name: str
    visibility: int = 30
    redrive: tuple[str, int] | None = None
    messages: list[SentMessage] = field(default_factory=list)

    @property
    def fifo(self) -> bool:
        return self.name.endswith(".fifo")

    @property
    def arn(self) -> str:
        return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{self.name}"

    @property
    def url(self) -> str:
        return f"https://sqs.{REGION}.amazonaws.com/{ACCOUNT}/{self.name}"


@dataclass(frozen=True, slots=True)
class Called:
    """A call that was made: when, of what, and with how many entries (of a receive: with the most it asked for)."""

    at: float
    action: Action
    entries: int


class FakeSqs:
    """All of SQS, and a client of it. `latency`: seconds of every call; `calls`: those made so far."""

    def __init__(self, latency: float = 0.0) -> None:
        self.latency = latency
        self.calls: list[Called] = []
        self.closed = 0
        self.receiving = 0
        self._queues: dict[str, FakeQueue] = {}
        self._numbers = count(1)
        self._arrival = asyncio.Event()
        self._errors: dict[Action, deque[Exception]] = {}
        self._refusals: dict[Action, deque[tuple[str, bool]]] = {}

    def __repr__(self) -> str:
        return f"<FakeSqs [{', '.join(f'{queue.name}: {len(queue.messages)}' for queue in self._queues.values())}]>"

    # --- the world's side ---------------------------------------------------------------------------------------------------------

    def create(self, name: str, visibility: int = 30, redrive: tuple[str, int] | None = None) -> FakeQueue:
        self._queues[name] = queue = FakeQueue(name, visibility, redrive)
        return queue

    def send(
        self,
        queue: FakeQueue,
        *bodies: str,
        group: str | None = None,
        delay: float = 0.0,
        attributes: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> list[str]:
        """Returns the messages' ids."""
        now, sent = self._now(), list[str]()
        for body in bodies:
            number = next(self._numbers)
            id_ = str(UUID(int=number))
            queue.messages.append(SentMessage(id_, body, number, group, now, now + delay, attributes or {}))
            sent.append(id_)
        self._arrival.set()
        return sent

    def fail(self, action: Action, *errors: Exception) -> None:
        """The next calls raise these, one each."""
        self._errors.setdefault(action, deque()).extend(errors)

    def refuse(self, action: Action, *codes: str, sender_fault: bool = False) -> None:
        """The next entries are refused, one for each code; "" is an entry that goes through."""
        self._refusals.setdefault(action, deque()).extend((code, sender_fault) for code in codes)

    def made(self, action: Action) -> list[Called]:
        return [call for call in self.calls if call.action == action]

    def visible(self, queue: FakeQueue) -> list[str]:
        """The bodies that a receive could bring now, in order of sending (groups apart)."""
        return [message.body for message in queue.messages if message.visible <= self._now()]

    # --- the client's side --------------------------------------------------------------------------------------------------------

    async def receive(self, queue: str, most: int, wait: int, visibility: int) -> Sequence[dict[str, Any]]:
        found = await self._called("receive", most, queue)
        self.receiving += 1
        try:
            return await self._receive(found, most, self._now() + wait, visibility)
        finally:
            self.receiving -= 1

    async def _receive(self, queue: FakeQueue, most: int, deadline: float, visibility: int) -> list[dict[str, Any]]:
        while True:
            now = self._now()
            if (taken := self._take(queue, most, visibility)) or now >= deadline:
                return taken
            times = [message.visible for message in queue.messages if message.visible > now]
            self._arrival.clear()
            try:
                async with asyncio.timeout_at(min([deadline, *times])):
                    await self._arrival.wait()
            except TimeoutError:
                pass

    def _take(self, queue: FakeQueue, most: int, visibility: int) -> list[dict[str, Any]]:
        now = self._now()
        # A group is locked while any of its messages is in flight; within one receive it may give several.
        locked = {message.group for message in queue.messages if message.receives and message.visible > now} if queue.fifo else set()
        taken: list[SentMessage] = []
        for message in list(queue.messages):
            if message.visible > now or (queue.fifo and message.group in locked):
                continue
            if queue.redrive is not None and message.receives >= queue.redrive[1]:
                queue.messages.remove(message)
                self._queues[queue.redrive[0]].messages.append(message)
                continue
            if len(taken) == most:
                break
            message.receives += 1
            message.received, message.visible = now, now + visibility
            message.first_received = message.first_received or now
            message.handle = f"{message.id}#{message.receives}"
            taken.append(message)
        return [_shown(message) for message in taken]

    async def delete(self, queue: str, entries: Sequence[Mapping[str, Any]]) -> Sequence[Refusal]:
        found = await self._called("delete", len(entries), queue)

        def delete(entry: Mapping[str, Any], message: SentMessage | None) -> str:
            if message is None:
                return ""  # deleted before: SQS agrees again
            if message.handle != entry["ReceiptHandle"] or (found.fifo and message.visible <= self._now()):
                return "ReceiptHandleIsInvalid"
            found.messages.remove(message)
            self._arrival.set()  # its group may go on
            return ""

        return self._each("delete", found, entries, delete)

    async def change_visibility(self, queue: str, entries: Sequence[Mapping[str, Any]]) -> Sequence[Refusal]:
        found = await self._called("change_visibility", len(entries), queue)

        def change(entry: Mapping[str, Any], message: SentMessage | None) -> str:
            now, seconds = self._now(), entry["VisibilityTimeout"]
            if message is None or message.handle != entry["ReceiptHandle"]:
                return "ReceiptHandleIsInvalid"
            if message.visible <= now:
                return "MessageNotInflight"
            if now + seconds - message.received > LONGEST:
                return "InvalidParameterValue"
            message.visible = now + seconds
            self._arrival.set()
            return ""

        return self._each("change_visibility", found, entries, change)

    async def queue_url(self, name: str, owner: str | None) -> str:  # noqa: ARG002 (one account)
        return (await self._called("queue_url", 0, name)).url

    async def attributes(self, queue: str) -> Mapping[str, str]:
        found = await self._called("attributes", 0, queue)
        attributes = {"QueueArn": found.arn, "VisibilityTimeout": str(found.visibility)}
        if found.redrive is not None:
            target = self._queues[found.redrive[0]].arn
            attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": target, "maxReceiveCount": found.redrive[1]})
        return attributes

    async def aclose(self) -> None:
        self.closed += 1

    # --- behind both --------------------------------------------------------------------------------------------------------------

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()

    async def _called(self, action: Action, entries: int, queue: str) -> FakeQueue:
        self.calls.append(Called(self._now(), action, entries))
        if entries > 10:
            raise AssertionError(f"{action} of {entries}: SQS allows 10")
        if self.latency:
            await asyncio.sleep(self.latency)
        if errors := self._errors.get(action):
            raise errors.popleft()
        name = queue.rpartition("/")[2]
        if name not in self._queues:
            raise NotConnected(f"there is no queue {name}", permanent=True)
        return self._queues[name]

    def _each(
        self,
        action: Action,
        queue: FakeQueue,
        entries: Sequence[Mapping[str, Any]],
        change: Callable[[Mapping[str, Any], SentMessage | None], str],
    ) -> list[Refusal]:
        if len({entry["Id"] for entry in entries}) < len(entries):
            raise AssertionError("BatchEntryIdsNotDistinct")
        script, refused = self._refusals.get(action, deque()), list[Refusal]()
        for entry in entries:
            code, sender_fault = script.popleft() if script else ("", False)
            if not code:
                id_ = entry["ReceiptHandle"].partition("#")[0]
                code = change(entry, next((message for message in queue.messages if message.id == id_), None))
                sender_fault = True
            if code:
                refused.append({"Id": entry["Id"], "Code": code, "SenderFault": sender_fault})
        return refused


def _shown(message: SentMessage) -> dict[str, Any]:
    attributes = {
        "SenderId": "AIDAIENQZJOLO23YVJ4VO",
        "SentTimestamp": str(round((EPOCH + message.sent) * 1000)),
        "ApproximateReceiveCount": str(message.receives),
        "ApproximateFirstReceiveTimestamp": str(round((EPOCH + message.first_received) * 1000)),
    }
    if message.group is not None:
        attributes |= {
            "SequenceNumber": f"{message.sequence:020}",
            "MessageGroupId": message.group,
            "MessageDeduplicationId": message.id,
        }
    shown: dict[str, Any] = {
        "MessageId": message.id,
        "ReceiptHandle": message.handle,
        "MD5OfBody": hashlib.md5(message.body.encode(), usedforsecurity=False).hexdigest(),
        "Body": message.body,
        "Attributes": attributes,
    }
    if message.attributes:
        shown["MessageAttributes"] = dict(message.attributes)
        shown["MD5OfMessageAttributes"] = _digest(message.attributes)
    return shown


def _digest(attributes: Mapping[str, Mapping[str, Any]]) -> str:
    """As SQS counts it (developer guide: "Calculating the MD5 message digest for message attributes")."""
    digest = hashlib.md5(usedforsecurity=False)
    for name in sorted(attributes):
        attribute = attributes[name]
        binary = attribute.get("BinaryValue")
        value = attribute.get("StringValue", "").encode() if binary is None else binary
        for part in (name.encode(), attribute["DataType"].encode()):
            digest.update(len(part).to_bytes(4, "big") + part)
        digest.update((b"\1" if binary is None else b"\2") + len(value).to_bytes(4, "big") + value)
    return digest.hexdigest()
