"""Enhanced fan-out: shards whose records Kinesis pushes, to a consumer that has its bandwidth for itself.

                        +-- it is over (five minutes, the line broke, taken over): five seconds after it began --+
                        v                                                                                        |
    read -----> subscribing --events--> pushed: what came waits for the lane, so much at most -------------------+
                 ^      |                       |
                 |      |                       +--no continuation (the shard has ended), or records are missing--+
                 |      +--refused for good, or again and again----------------------------------------------+    |
                 |                                                                                           v    v
                 +-------------------- after five minutes (what was missing: a moment) ---------------------- polled --> LaneEnded

Polled means: read by the connector's reader of iterators. What cannot be undone is decided by it alone: whether a shard has ended, is gone,
or was trimmed. Positions are the same both ways, so a shard may change between them at any time.

SubscribeToShard is documented for HTTP/2. AWS answers it over HTTP/1.1 too, which is all that its own library for Python speaks, and
promises nothing about it (FIDELITY.md says what that rests on): where it does not answer, shards are polled.

What comes waits in an `Inbox`, at most 5,000 records or 4 MiB and one event more; then nothing is taken from the line, and Kinesis holds
back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Protocol

from connectors.kinesis.client import KinesisRecord, Pushed
from connectors.kinesis.pushes import APART, AWAY, MOMENT, Again, Inbox, Poll, Subscriptions
from connectors.sharded.dialect import Dialect
from connectors.sharded.reader import ShardReader
from connectors.sharded.sequence import Start
from connectors.sharded.shards import REFUSED, Refused
from poller.errors import NotConnected, SourceError
from poller.model import Record
from poller.ordered import Reader
from poller.progress import ORIGIN

log = logging.getLogger("poller.kinesis")

WAIT = 1.0
"""Seconds that a read waits when there is nothing."""


class Subscribing(Protocol):
    """What is needed of the client (see client.py)."""

    def subscribe(self, consumer_arn: str, shard: str, start: Start) -> AsyncGenerator[Pushed | Refused, None]: ...


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds: see pushes.py."""

    apart: float = APART
    moment: float = MOMENT
    away: float = AWAY


class FanOut:
    """One consumer of a stream. `wrap` gives a reader for each shard."""

    def __init__(
        self,
        client: Subscribing,
        consumer_arn: str,
        dialect: Dialect[KinesisRecord],
        clock: Callable[[], float],
        times: Times | None = None,
    ) -> None:
        """`clock` gives epoch seconds."""
        self.consumer_arn = consumer_arn
        self.client = client
        self.dialect = dialect
        self.clock = clock
        self.times = times or Times()
        self._polled: set[str] = set()
        self._said: set[type] = set()

    def __repr__(self) -> str:
        return f"<FanOut {self.consumer_arn} [{len(self._polled)} shards polled]>"

    def wrap(self, polling: ShardReader[KinesisRecord]) -> Reader:
        """`polling`: the reader of the shard for while it cannot be pushed."""
        return PushedShard(self, polling)

    def polls(self, shard: str, why: Refused | NotConnected | SourceError) -> None:
        """Said once for all shards, and once a kind of reason, until all are pushed again."""
        self._polled.add(shard)
        if type(why) not in self._said:
            self._said.add(type(why))
            told = why.text if isinstance(why, REFUSED) else str(why)
            text = "%s of %s is polled, not pushed (%s); tried again every %d s, and other shards likewise"
            log.warning(text, shard, self.consumer_arn, told, self.times.away, extra={"lane": shard})

    def pushes(self, shard: str) -> None:
        """An event came."""
        if shard in self._polled:
            self.leaves(shard)
            if not self._polled:
                log.info("shards of %s are pushed again", self.consumer_arn)

    def leaves(self, shard: str) -> None:
        """It is read no more."""
        self._polled.discard(shard)
        if not self._polled:
            self._said.clear()


class PushedShard:
    """A `Reader` of one shard, `Positioned` and `Verifying` (poller/rewind.py). Nothing is asked for before the first read."""

    def __init__(self, fan_out: FanOut, polling: ShardReader[KinesisRecord]) -> None:
        self._fan_out = fan_out
        self._shard = polling.name
        self._polling = polling
        self._until = float("-inf")  # it is polled
        self._inbox: Inbox | None = None
        self._poll: Poll | None = None
        self._receiver: asyncio.Task[None] | None = None
        self._subscriptions = Subscriptions(fan_out.times.apart, fan_out.times.moment, fan_out.times.away)
        self._news = asyncio.Event()
        self._room = asyncio.Event()
        self._at_head = 0.0

    def __repr__(self) -> str:
        return f"<PushedShard {self._shard} [{self._inbox or 'polled'!r}]>"

    async def read(self, position: int, origin: str, limit: int) -> tuple[Sequence[Record], int]:
        """See `Reader`. Who reads elsewhere than where the last read ended is subscribed anew."""
        if _now() < self._until:
            return await self._polling.read(position, origin, limit)
        inbox = self._inbox
        if inbox is None or inbox.position != position:
            inbox = await self._begin(position, origin)
        found = inbox.take(limit)
        if not found[0] and self._poll is None:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(WAIT):
                    await self._news.wait()
            found = inbox.take(limit)
        self._room.set()
        if found[0]:
            return found
        if self._poll is not None:
            self._turn_to_polling(self._poll)
            return await self._polling.read(inbox.position, origin, limit)
        if self._receiver is not None and self._receiver.done():
            self._receiver.result()  # it ends by itself only to be polled
        return found

    async def head(self) -> tuple[int, float] | None:
        """As the polling reader tells it: no token, and when the newest came."""
        inbox = self._inbox
        if inbox is None:
            return await self._polling.head()
        if inbox.behind and inbox.newest is None:
            return ORIGIN, self._fan_out.clock()
        return None if inbox.newest is None else (ORIGIN, inbox.newest + inbox.behind)

    @property
    def at_head(self) -> float:
        """See `poller.ordered.Heading`."""
        return max(self._at_head, self._polling.at_head)

    def shown(self, position: int) -> str:
        return self._polling.shown(position)

    def parsed(self, text: str) -> int:
        return self._polling.parsed(text)

    async def found(self, origin: str) -> int | None:
        return await self._polling.found(origin)

    def distance(self, first: int, last: int) -> int | None:
        return self._polling.distance(first, last)

    async def verify(self, position: int) -> None:
        await self._polling.verify(position)

    async def aclose(self) -> None:
        """Tolerated twice."""
        await self._stop()
        await self._polling.aclose()
        self._fan_out.leaves(self._shard)

    # --- being pushed -----------------------------------------------------------------------------------------------------------------

    async def _begin(self, position: int, origin: str) -> Inbox:
        await self._stop()
        self._polling.forget()
        dialect = self._fan_out.dialect
        inbox = self._inbox = Inbox(dialect.format, position, origin, dialect.expanding(position))
        self._receiver = asyncio.create_task(self._receive(inbox), name=f"subscription to {self._shard}")
        return inbox

    async def _receive(self, inbox: Inbox) -> None:
        """One subscription after the other, until the shard is to be polled."""
        try:
            while True:
                began = _now()
                brought, why = await self._subscribed(inbox)
                if inbox.doubt is not None:
                    self._poll = self._subscriptions.confirm(inbox.doubt, began, _now())
                    return
                match self._subscriptions.after(began, _now(), brought, why):
                    case Again(at):
                        await asyncio.sleep(at - _now())
                    case Poll() as poll:
                        self._poll = poll
                        return
        finally:
            self._news.set()

    async def _subscribed(self, inbox: Inbox) -> tuple[bool, Refused | NotConnected | SourceError | None]:
        """One subscription, to its end: whether it brought anything, and why it ended."""
        fan_out, brought = self._fan_out, False
        try:
            async with aclosing(fan_out.client.subscribe(fan_out.consumer_arn, self._shard, inbox.start)) as events:
                async for event in events:
                    if isinstance(event, REFUSED):
                        return brought, event
                    if not brought:
                        brought = True
                        fan_out.pushes(self._shard)
                    inbox.add(event.records, event.continuation, event.behind)
                    if inbox.waiting:
                        self._news.set()
                    elif not event.records and not event.behind:
                        self._at_head = fan_out.clock()
                    if inbox.doubt is not None:
                        break
                    while inbox.full:
                        # Nothing is taken from the line meanwhile: its window closes, and Kinesis holds back.
                        self._room.clear()
                        await self._room.wait()
        except (NotConnected, SourceError) as error:
            return brought, error
        return brought, None

    def _turn_to_polling(self, poll: Poll) -> None:
        if poll.why is not None:
            self._fan_out.polls(self._shard, poll.why)
        self._inbox = self._receiver = self._poll = None
        self._until = poll.until

    async def _stop(self) -> None:
        receiver, self._receiver = self._receiver, None
        self._inbox = self._poll = None
        if receiver is not None:
            receiver.cancel()
            await asyncio.gather(receiver, return_exceptions=True)


def _now() -> float:
    return asyncio.get_running_loop().time()
