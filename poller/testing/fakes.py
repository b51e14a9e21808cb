"""Fakes of the outside world, for virtual time: a stream, a queue, and a function whose behaviour is a script.

They outlive the *lives* (workers) that use them, like the real things. A life's `Gate`, once shut, refuses everything, so that nothing a
crashed life still runs can reach the world.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson

from poller.errors import LaneEnded, PollerError
from poller.lineage import Shard
from poller.model import Ack, Action, Batch, Call, Discard, Document, Fetched, Identifier, Release, Response, Retry
from poller.policy import Redeliver
from poller.progress import ORIGIN
from poller.protocols import Event, Lane
from poller.settings import Filterable
from poller.strands import Assign, Strands


class Dead(PollerError):
    """Raised when a crashed life asks anything of the world."""


@dataclass(slots=True)
class Gate:
    """Between one life and the world."""

    life: str
    shut: bool = False

    def check(self) -> None:
        if self.shut:
            raise Dead(f"{self.life} has crashed")


class FakeRecord(NamedTuple):
    """A record of the fakes. `token`: a sequence number (stream) or a receipt number (queue); `name` is the record's own."""

    token: int
    name: str
    key: bytes | None
    arrival: float
    size: int = 100
    receives: int = 1


class FakeFacts:
    """Columns of `FakeRecord`s."""

    def __init__(self, records: Sequence[FakeRecord]) -> None:
        self._records = records

    def tokens(self) -> Sequence[int]:
        return [record.token for record in self._records]

    def arrivals(self) -> Sequence[float]:
        return [record.arrival for record in self._records]

    def sizes(self) -> Sequence[int]:
        return [record.size for record in self._records]

    def keys(self) -> Sequence[bytes | None]:
        return [record.key for record in self._records]

    def receives(self) -> Sequence[int]:
        return [record.receives for record in self._records]


class FakeEvent:
    """`{"Records": [{"id": name, "key": ...}]}`; a record's name is its identifier."""

    def __init__(self, records: Sequence[FakeRecord]) -> None:
        self.records = records

    def _parts(self) -> list[bytes]:
        return [orjson.dumps({"id": r.name, "key": None if r.key is None else base64.b64encode(r.key).decode()}) for r in self.records]

    def json(self) -> bytes:
        return b'{"Records":[' + b",".join(self._parts()) + b"]}"

    def mapping(self) -> dict[str, Any]:
        mapping: dict[str, Any] = orjson.loads(self.json())
        return mapping

    def identifiers(self) -> Sequence[Identifier]:
        return [record.name for record in self.records]

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        return b'{"Records":[', self._parts(), b"]}"


class FakeFormat:
    """The format of `FakeRecord`s."""

    arn = "arn:aws:kinesis:local:000000000000:stream/fake"

    def facts(self, records: Sequence[FakeRecord]) -> FakeFacts:
        return FakeFacts(records)

    def documents(self, records: Sequence[FakeRecord], keys: Collection[str]) -> Iterable[Document]:  # noqa: ARG002
        return FakeEvent(records).mapping()["Records"]  # type: ignore[no-any-return]

    def event(self, records: Sequence[FakeRecord]) -> FakeEvent:
        return FakeEvent(records)

    def names(self, records: Sequence[FakeRecord]) -> Sequence[str]:
        return [record.name for record in records]


FORMAT = FakeFormat()

FILTERABLE = Filterable(("id", "key"), "id")
"""A record's name is its data, in plain text."""


# --- a stream ---------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class FakeStream:
    """Shards of records in the order of their tokens, with gaps. `closed` shards end; `trimmed` ones are listed and read no more."""

    shards: dict[str, list[FakeRecord]]
    closed: set[str] = field(default_factory=set)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    parents: dict[str, tuple[str, ...]] = field(default_factory=dict)
    trimmed: set[str] = field(default_factory=set)

    def put(self, shard: str, record: FakeRecord) -> None:
        self.shards[shard].append(record)
        self._tell()

    def reshard(self, parents: tuple[str, ...], children: tuple[str, ...]) -> None:
        """Close the parents, and go on in the children: a split, a merge, or a roll-over."""
        for child in children:
            self.shards[child] = []
            self.parents[child] = parents
        self.closed.update(parents)
        self._tell()

    def listing(self) -> list[Shard]:
        return [Shard(name, self.parents.get(name, ())) for name in self.shards if name not in self.trimmed]

    def _tell(self) -> None:
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()


class FakeShards:
    """`Shards` (shards.py) over a `FakeStream`, for one life. `fault` is awaited before each answer and may raise or wait."""

    def __init__(self, stream: FakeStream, gate: Gate, fault: Callable[[str], Any] | None = None) -> None:
        self._stream, self._gate, self._fault = stream, gate, fault

    async def shards(self) -> Sequence[Shard]:
        self._gate.check()
        if self._fault is not None:
            await self._fault("list")
            self._gate.check()
        return self._stream.listing()

    def reader(self, name: str) -> FakeReader:
        return FakeReader(self._stream, name, self._gate, self._fault)

    async def aclose(self) -> None:
        return None


class FakeReader:
    """`Reader` over one shard of a `FakeStream`."""

    def __init__(self, stream: FakeStream, name: str, gate: Gate, fault: Callable[[str], Any] | None) -> None:
        self._stream, self._name, self._gate, self._fault = stream, name, gate, fault

    async def read(self, position: int, origin: str, limit: int) -> tuple[Sequence[FakeRecord], int]:
        self._gate.check()
        if self._fault is not None:
            await self._fault("read")
            self._gate.check()
        if self._name in self._stream.trimmed:
            raise LaneEnded(self._name)
        shard, since = self._stream.shards[self._name], 0.0
        if position == ORIGIN and origin.startswith("AT_TIMESTAMP "):
            since = float(origin.removeprefix("AT_TIMESTAMP "))
        if not shard or shard[-1].token < position:
            if self._name in self._stream.closed:
                raise LaneEnded(self._name)
            try:
                await asyncio.wait_for(self._stream.changed.wait(), 1.0)
            except TimeoutError:
                return (), position
            self._gate.check()
        records = [record for record in shard if record.token >= position and record.arrival >= since][:limit]
        last = records or shard
        return records, max(position, last[-1].token + 1) if last else position

    async def head(self) -> tuple[int, float] | None:
        shard = self._stream.shards[self._name]
        return (shard[-1].token + 1, shard[-1].arrival) if shard else None

    async def aclose(self) -> None:
        return None


# --- a queue ----------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Message:
    name: str
    key: bytes | None
    sent: float
    receives: int = 0
    visible_at: float = 0.0
    receipt: int = 0


class FakeQueue:
    """SQS in memory: visibility, receive counts, groups (`fifo`), and a redrive policy that moves what was received too often.

    `clock` is epoch seconds. Messages leave through `delete`, or into `dead`.
    """

    def __init__(self, clock: Callable[[], float], visibility: float, redrive: int | None = None, fifo: bool = False) -> None:
        self.clock, self.visibility, self.redrive, self.fifo = clock, visibility, redrive, fifo
        self.messages: list[_Message] = []
        self.dead: list[str] = []
        self.deleted: list[str] = []
        self.arrived = asyncio.Event()
        self._receipts: dict[int, _Message] = {}
        self._number = 0

    def send(self, name: str, key: bytes | None = None) -> None:
        self.messages.append(_Message(name, key, self.clock()))
        arrived, self.arrived = self.arrived, asyncio.Event()
        arrived.set()

    def receive(self, limit: int) -> list[FakeRecord]:
        now = self.clock()
        locked = {m.key for m in self.messages if m.visible_at > now} if self.fifo else set()
        records: list[FakeRecord] = []
        for message in list(self.messages):
            if len(records) == limit:
                break
            if message.visible_at > now or message.key in locked:
                continue
            if self.redrive is not None and message.receives >= self.redrive:
                self.messages.remove(message)
                self.dead.append(message.name)
                continue
            self._number += 1
            message.receives += 1
            message.receipt = self._number
            message.visible_at = now + self.visibility
            self._receipts[self._number] = message
            records.append(FakeRecord(self._number, message.name, message.key, message.sent, 100, message.receives))
        return records

    def change(self, receipt: int, seconds: float) -> None:
        """ChangeMessageVisibility; an expired handle changes nothing."""
        message = self._receipts.get(receipt)
        if message is not None and message.receipt == receipt and message in self.messages and message.visible_at > self.clock():
            message.visible_at = self.clock() + seconds

    def delete(self, receipt: int) -> None:
        message = self._receipts.get(receipt)
        if message is not None and message.receipt == receipt and message in self.messages:
            self.messages.remove(message)
            self.deleted.append(message.name)


class FakeQueueLane:
    """The one lane of a `FakeQueue`, for one life: `Lane` with a heartbeat at half the visibility timeout."""

    def __init__(self, queue: FakeQueue, width: int, gate: Gate, fault: Callable[[str], Any] | None = None, poll: float = 5.0) -> None:
        assign: Assign = "free" if queue.fifo else "any"
        self.name, self.format = "queue", FORMAT
        self.strands = Strands(width, assign)
        self.leaving: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._queue, self._gate, self._fault, self._poll = queue, gate, fault, poll
        self._held: dict[int, float] = {}
        self._heart = asyncio.get_running_loop().create_task(self._beat(), name="heartbeat")

    async def _ask(self, what: str) -> None:
        self._gate.check()
        if self._fault is not None:
            await self._fault(what)
            self._gate.check()

    async def fetch(self, limit: int) -> Fetched:
        await self._ask("receive")
        until = asyncio.get_running_loop().time() + self._poll
        while not (records := self._queue.receive(limit)):
            arrived, left = self._queue.arrived.wait(), until - asyncio.get_running_loop().time()
            waiting = asyncio.ensure_future(arrived)
            try:
                # Looked at ten times a second too: a visibility timeout that ends tells nobody.
                await asyncio.wait((waiting, self.leaving), timeout=min(0.1, left), return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()
            self._gate.check()
            if self.leaving.done() or left <= 0.1:
                return Fetched(())
        now = self._queue.clock()
        self._held.update((record.token, now) for record in records)
        return Fetched(records)

    async def begin(self, batch: Batch) -> None:  # noqa: ARG002
        self._gate.check()

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:  # noqa: ARG002
        await self._ask("settle")
        for action in actions:
            match action:
                case Ack(records):
                    self._delete(records)
                case Discard(failure):
                    self._delete(failure.records)
                case Release(records, delay):
                    for record in records:
                        received = self._held.pop(record.token, None)
                        if received is not None:
                            rest = max(0.0, received + self._queue.visibility - self._queue.clock())
                            self._queue.change(record.token, rest if delay is None else delay)
                case Retry():
                    pass

    def _delete(self, records: Sequence[FakeRecord]) -> None:
        for record in records:
            self._held.pop(record.token, None)
            self._queue.delete(record.token)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._queue.visibility / 2)
            if self._gate.shut:
                return
            for receipt in self._held:
                self._queue.change(receipt, self._queue.visibility)

    async def aclose(self, broken: bool = False) -> None:  # noqa: ARG002
        self._heart.cancel()
        self._gate.check()
        for receipt in self._held:
            self._queue.change(receipt, 0.0)
        self._held.clear()


class FakeQueueSource:
    """A `Source` with the one lane of a `FakeQueue`."""

    def __init__(
        self,
        queue: FakeQueue,
        policy: Redeliver,
        width: int,
        gate: Gate,
        fault: Callable[[str], Any] | None = None,
        lane: type[FakeQueueLane] = FakeQueueLane,
    ) -> None:
        self.identity, self.format, self.policy = "fake:queue", FORMAT, policy
        self._queue, self._width, self._gate, self._fault, self._lane = queue, width, gate, fault, lane

    async def lanes(self) -> AsyncIterator[Lane]:
        yield self._lane(self._queue, self._width, self._gate, self._fault)

    async def aclose(self) -> None:
        return None


# --- a function -------------------------------------------------------------------------------------------------------------------


class FakeHandler:
    """Answers by a script: `behave(names, call)` gives a response, or the seconds to wait before it and the response."""

    def __init__(self, behave: Callable[[Sequence[str], Call], tuple[float, Response]], gate: Gate | None = None) -> None:
        self._behave, self._gate = behave, gate

    async def invoke(self, event: Event, call: Call) -> Response:
        if self._gate is not None:
            self._gate.check()
        names = [str(identifier) for identifier in event.identifiers()]
        seconds, response = self._behave(names, call)
        if seconds:
            await asyncio.sleep(seconds)
        if self._gate is not None:
            self._gate.check()
        return response

    async def aclose(self) -> None:
        return None
