"""One shard, read by position with iterators: the `poller.ordered.Reader` of Kinesis and DynamoDB Streams.

            +----- the iterator expired, or what was read is asked for again -----+
            v                                                                     |
    no iterator --GetShardIterator at the position--> iterator --GetRecords--> records --all handed out--> iterator, ...
            ^                                            |                         |
            +-- trimmed: said, counted, at the horizon --+                         +--no next iterator, all handed out--> ended
                                                         +--gone, and listed no more: said, counted--------------------> ended

Reads wait for pace.py. An iterator is only a bookmark: the position is the lane's, and a new iterator is made of it whenever one is needed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from random import random
from typing import Generic, TypeVar

from connectors.sharded.dialect import Dialect
from connectors.sharded.pace import Pace
from connectors.sharded.sequence import TRIM_HORIZON, Start, parsed, place, shown, start
from connectors.sharded.shards import REFUSED, Expired, Gone, Records, Refused, Throttled, Trimmed
from connectors.sharded.slices import Slices
from poller.errors import LaneEnded, NotConnected
from poller.model import Record
from poller.progress import ORIGIN
from poller.settings import Context

log = logging.getLogger("poller.shards")

R = TypeVar("R")

WAIT_SECONDS = 1.0
"""How long a read waits for records."""

PATIENCE = 5
"""So many refusals in a row, and the lane is told."""

TRIMMED = "is older than what the stream keeps; what came soon after it, if anything did, is lost unread; going on at the trim horizon"

Listed = Callable[[str], Awaitable[bool]]
"""Whether a shard of this name is listed now, asked of the service anew. Raises NotConnected, also where its stream
is gone, or was made anew."""


class ShardReader(Generic[R]):
    """See `poller.ordered.Reader`. `on_end` is told once when the shard's end is in sight: its children may be listed by then."""

    def __init__(
        self,
        name: str,
        stream: str,
        dialect: Dialect[R],
        context: Context,
        listed: Listed,
        on_end: Callable[[str], None] = lambda _: None,
        dice: Callable[[], float] = random,
    ) -> None:
        self.name = name
        self._stream = stream
        self._dialect = dialect
        self._context = context
        self._listed = listed
        self._on_end = on_end
        self._dice = dice
        self._slices: Slices[R] = Slices(dialect.format)
        self._pace = Pace(dialect.limits)
        self._begun = False
        self._origin = ""
        self._iterator: str | None = None
        self._ended = False
        self._trimmed_at: int | None = None
        self._expected: int | None = None
        self._sure = True
        # that the stream is the one that this reader was made for
        self._tip: float | None = None
        self.at_head = 0.0
        """See `poller.ordered.Heading`."""

    def __repr__(self) -> str:
        state = "ended" if self._ended else "reading" if self._iterator else "idle"
        return f"<ShardReader {self.name} of {self._dialect.place} [{state}]>"

    async def read(self, position: int, origin: str, limit: int) -> tuple[Sequence[Record], int]:
        slices = self._slices
        if not self._begun or position != slices.position:
            self._begin(position, origin)
        loop = asyncio.get_running_loop()
        until = loop.time() + WAIT_SECONDS
        while True:
            found = slices.take(limit)
            if found:
                return found, slices.position
            if self._ended:
                raise LaneEnded(f"{self.name}: the shard is closed, and read to its end")
            await asyncio.sleep(max(0.0, min(self._pace.ready, until) - loop.time()))
            if self._pace.ready > until:
                return (), slices.position
            await self._ask(loop)

    async def head(self) -> tuple[int, float] | None:
        """Sequence numbers have gaps, and count nothing."""
        return None if self._tip is None else (ORIGIN, self._tip)

    # --- positions for a person (poller.rewind.Positioned, Verifying) ---------------------------------------------------------------

    def shown(self, position: int) -> str:
        return shown(position)

    def parsed(self, text: str) -> int:
        return parsed(text)

    async def found(self, origin: str) -> int | None:  # noqa: ARG002 (the protocol's)
        """Only a record tells its sequence number."""
        return None

    def distance(self, first: int, last: int) -> int | None:  # noqa: ARG002 (the protocol's)
        """Sequence numbers have gaps."""
        return None

    async def verify(self, position: int) -> None:
        """See `poller.rewind.Verifying`."""
        found = await self._dialect.client.iterator(self._stream, self.name, start(position, "", self._dialect.digits))
        if isinstance(found, REFUSED):
            raise NotConnected(found.text)

    def forget(self) -> None:
        """What was read ahead: the next read begins anew."""
        self._begun, self._iterator = False, None
        self._slices.begin(ORIGIN)

    async def aclose(self) -> None:
        """The client is the stream's to close."""

    # --- asking -------------------------------------------------------------------------------------------------------------------

    def _begin(self, position: int, origin: str) -> None:
        """Who asks for another position than the one after what was handed out last gets it, and that is read anew."""
        self._begun, self._origin, self._ended = True, origin, False
        dialect, since = self._dialect, -inf
        _, _, moment = origin.partition(" ")
        if moment and not dialect.times:
            since = float(moment)
        self._slices.begin(position, since, dialect.expanding(position))
        self._iterator = None

    def _start(self) -> Start:
        position, dialect = self._slices.position, self._dialect
        if position == self._trimmed_at:
            return TRIM_HORIZON
        begin = start(position, self._origin, dialect.digits)
        if begin.time is not None and not dialect.times:
            return TRIM_HORIZON
        if begin.sequence is not None and dialect.silent:
            # The record itself is read again: where it does not come, it was trimmed, and perhaps others after it.
            self._expected = int(begin.sequence)
            return Start("AT_SEQUENCE_NUMBER", begin.sequence)
        return begin

    async def _ask(self, loop: asyncio.AbstractEventLoop) -> None:
        """One read, and an iterator for it if there is none."""
        client = self._dialect.client
        if self._iterator is None:
            self._expected = None
            if not self._sure:
                # Another one may have been made under its name, with shards of the same names: `listed` says so.
                await self._listed(self.name)
                self._sure = True
            iterator = await client.iterator(self._stream, self.name, self._start())
            if isinstance(iterator, REFUSED):
                await self._refused(iterator, loop.time())
                return
            self._slices.repeat()
            self._iterator = iterator
        asked, now = loop.time(), self._context.clock()
        answer = await client.records(self._iterator, self.name, self._dialect.limits.records)
        if isinstance(answer, REFUSED):
            await self._refused(answer, loop.time())
        else:
            self._answered(answer, asked)
            if not answer.records and not answer.behind:
                self.at_head = now

    def _answered(self, answer: Records[R], asked: float) -> None:
        records, dialect = answer.records, self._dialect
        if records:
            if dialect.mark is not None:
                dialect.mark(records, self._stream)
            if self._expected is not None:
                first = place(dialect.format.facts(records[:1]).tokens()[0]).sequence
                if first > self._expected:
                    self._lost(TRIMMED)
                self._expected = None
            self._slices.add(records)
        self._look(answer)
        self._pace = self._pace.answered(asked, len(records), answer.size, answer.behind)
        self._iterator = answer.following
        if answer.following is None:
            self._ended = True
            self._on_end(self.name)

    def _look(self, answer: Records[R]) -> None:
        """When the newest record of the shard came, as far as this answer tells."""
        records, limits = answer.records, self._dialect.limits
        newest = self._dialect.format.facts(records[-1:]).arrivals()[0] if records else self._tip or 0.0
        behind = answer.behind
        if (behind is None and limits.full(len(records), answer.size)) or (behind and not records):
            self._tip = self._context.clock()
        elif newest < inf:
            self._tip = newest + (behind or 0.0)

    # --- what the service refuses -------------------------------------------------------------------------------------------------

    async def _refused(self, refused: Refused, now: float) -> None:
        match refused:
            case Throttled(text, after):
                self._pace = self._pace.refused(now, after, self._dice())
                self._complain(text)
            case Expired(text):
                self._iterator = None
                self._pace = self._pace.again(now)
                self._complain(text)
            case Trimmed():
                self._iterator = None
                self._pace = self._pace.again(now)
                position, before = self._slices.position, self._trimmed_at
                self._trimmed_at = position
                if position != before:  # else what is kept has moved on before it was read
                    self._lost(TRIMMED)
            case Gone(text):
                self._pace = self._pace.again(now)
                self._iterator, self._sure = None, False
                listed = await self._listed(self.name)
                self._sure = True
                if listed:
                    raise NotConnected(text)
                self._lost("was in a shard that the stream keeps no more; what came after it in this shard is lost unread")
                self._ended = True
                self._on_end(self.name)

    def _complain(self, text: str) -> None:
        """Now and then: one whose limits others use up falls behind, and nobody would know why."""
        if self._pace.refusals % PATIENCE == 0:
            raise NotConnected(text, retry_after=0.0)  # it is asked again when pace.py says so

    def _lost(self, what: str) -> None:
        position = self._slices.position
        where = self._origin if position == ORIGIN else str(place(position).sequence)
        log.error("%s, %s: position %s %s", self._dialect.place, self.name, where, what, extra={"lane": self.name})
        self._context.tally.expired += 1
