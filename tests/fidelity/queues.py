"""The queues that the recorded mappings read from: SQS in memory on a virtual clock, or a real server. Both by the real connector."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from connectors.sqs import SqsConnector, SqsOptions, connector
from poller.protocols import Source
from poller.settings import Context
from poller.testing.sqs import FakeQueue, FakeSqs
from tests.fidelity.cases import Case
from tests.fidelity.parameters import scaled

Attributes = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True)
class Sent:
    """A message to send."""

    body: str
    group: str | None = None
    deduplication: str | None = None
    attributes: Attributes | None = None


@dataclass(frozen=True)
class Dead:
    """A message in a dead-letter queue."""

    id: str
    body: str


class Queue(Protocol):
    """One queue, with its dead-letter queue if it has a redrive policy."""

    @property
    def source(self) -> str:
        """The source of a mapping, as TOML."""

    async def send(self, *messages: Sent) -> None: ...

    async def left(self) -> int:
        """How many messages are in it, hidden ones included."""

    async def dead(self) -> list[Dead]: ...

    async def open(self, options: SqsOptions, context: Context) -> Source: ...


class Broker(Protocol):
    """Makes queues as a case describes them. `second`: how long a second of AWS's is here.

    `early`: by how much less than a visibility timeout may lie between two invocations, since it is counted from the receive.
    """

    second: float
    early: float

    async def create(self, settings: Mapping[str, Any]) -> Queue: ...


async def emptied(queue: Queue) -> None:
    """When no message is left in the queue: nothing more can happen then."""
    async with asyncio.timeout(3600):
        while await queue.left():
            await asyncio.sleep(0.05)


# --- in memory ------------------------------------------------------------------------------------------------------------------------


class MemoryQueue:
    """Of `FakeSqs`. Its clock is the loop's."""

    def __init__(self, sqs: FakeSqs, queue: FakeQueue) -> None:
        self._sqs, self._queue = sqs, queue
        self._dead = sqs.create(f"dead-{queue.name}")
        self.source = f'{{ type = "sqs", queue = "{queue.name}", region = "us-east-1" }}'

    async def send(self, *messages: Sent) -> None:
        for message in messages:
            self._sqs.send(self._queue, message.body, group=message.group, attributes=message.attributes)

    async def left(self) -> int:
        return len(self._queue.messages)

    async def dead(self) -> list[Dead]:
        return [Dead(message.id, message.body) for message in self._dead.messages]

    async def open(self, options: SqsOptions, context: Context) -> Source:
        return await SqsConnector(self._connect).open(options, context)

    async def _connect(self, options: SqsOptions, connections: int) -> FakeSqs:
        return self._sqs


class MemoryBroker:
    """SQS in memory."""

    second = 1.0
    early = 0.02

    def __init__(self) -> None:
        self._sqs = FakeSqs(latency=0.01)

    async def create(self, settings: Mapping[str, Any]) -> Queue:
        name = "orders.fifo" if settings.get("FifoQueue") else "orders"
        redrive = settings.get("RedrivePolicy")
        count = None if redrive is None else (f"dead-{name}", redrive["maxReceiveCount"])
        return MemoryQueue(self._sqs, self._sqs.create(name, settings.get("VisibilityTimeout", 30), count))


# --- a server -------------------------------------------------------------------------------------------------------------------------


class ServerQueue:
    """Of a server; `client` is a raw one, to look at it with."""

    def __init__(self, client: Any, endpoint: str, url: str, dead: str) -> None:
        self._client, self._url, self._dead = client, url, dead
        name = url.rpartition("/")[2]
        self.source = f'{{ type = "sqs", queue = "{name}", region = "us-east-1", endpoint = "{endpoint}", wait_time = "1s" }}'

    async def send(self, *messages: Sent) -> None:
        for message in messages:
            more: dict[str, Any] = {"MessageAttributes": message.attributes} if message.attributes else {}
            if message.group is not None:
                more |= {"MessageGroupId": message.group, "MessageDeduplicationId": message.deduplication or uuid.uuid4().hex}
            await self._client.send_message(QueueUrl=self._url, MessageBody=message.body, **more)

    async def left(self) -> int:
        answer = await self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=["All"])
        found = answer["Attributes"]
        return int(found["ApproximateNumberOfMessages"]) + int(found["ApproximateNumberOfMessagesNotVisible"])

    async def dead(self) -> list[Dead]:
        found, asked = dict[str, Dead](), 0
        while asked < 2:  # until an answer brings nothing new
            answer = await self._client.receive_message(QueueUrl=self._dead, MaxNumberOfMessages=10, VisibilityTimeout=0)
            new = {each["MessageId"]: Dead(each["MessageId"], each["Body"]) for each in answer.get("Messages", ())}
            asked = asked + 1 if new.keys() <= found.keys() else 0
            found |= new
        return list(found.values())

    async def open(self, options: SqsOptions, context: Context) -> Source:
        return await connector.open(options, context)


class ServerBroker:
    """A server with SQS's interface. AWS's seconds are shortened, as far as whole seconds allow."""

    second = 0.2
    early = 0.5

    def __init__(self, client: Any, endpoint: str) -> None:
        self._client, self._endpoint = client, endpoint

    async def create(self, settings: Mapping[str, Any]) -> Queue:
        fifo = ".fifo" if settings.get("FifoQueue") else ""
        dead = await self._create(f"dead-{uuid.uuid4().hex}{fifo}", bool(fifo))
        attributes = {"VisibilityTimeout": str(scaled(settings.get("VisibilityTimeout", 30), self.second))}
        if redrive := settings.get("RedrivePolicy"):
            arn = f"arn:aws:sqs:us-east-1:123456789012:{dead.rpartition('/')[2]}"
            attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": str(redrive["maxReceiveCount"])})
        url = await self._create(f"q{uuid.uuid4().hex}{fifo}", bool(fifo), **attributes)
        return ServerQueue(self._client, self._endpoint, url, dead)

    async def _create(self, name: str, fifo: bool, **attributes: str) -> str:
        if fifo:
            attributes["FifoQueue"] = "true"
        answer = await self._client.create_queue(QueueName=name, Attributes=attributes)
        return str(answer["QueueUrl"])


# --- what a case sends ----------------------------------------------------------------------------------------------------------------


def text(body: Any) -> str:
    return body if isinstance(body, str) else json.dumps(body)


def messages_of(case: Case, body: str | None = None) -> Sequence[Sent]:
    """The messages of a case; `body`: of those whose body the case does not tell."""
    given = case["input"]
    many = given["messages"]
    bodies = [text(each) for each in many] if isinstance(many, list) else [body or json.dumps({"message": n}) for n in range(many)]
    return [Sent(each, given.get("message_group"), f"dedup-{n}") for n, each in enumerate(bodies, 1)]
