"""Which shards a stream has: the `poller.shards.Shards` of Kinesis and DynamoDB Streams.

A listing is a whole one or none: a page that cannot be had leaves what was known before. It is kept for a while; when a shard has ended it
is asked for at every look, until it shows what came after that shard.

A source may be a series of streams, one after the other (a table's, turned off and on). Then the first shards of a stream are children of
the last ones of the stream before it: what is done about an item stays in order.

Once an ended shard has a child, one look waits a second for a later one. A shard ends only on its own word, or when it is both gone and
missing in a listing that was asked for after that; a stream that is gone ends nothing. LATEST begins by our clock where it may be right by
the Date of the answers, else by the service's (`Heard.corrected`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from random import random
from typing import Generic, TypeVar

from connectors.sharded.dialect import Dialect
from connectors.sharded.reader import ShardReader
from connectors.sharded.shards import Gone, Page, Shard, Throttled
from poller import lineage
from poller.errors import NotConnected
from poller.ordered import Reader
from poller.settings import Context

R = TypeVar("R")

TRIES = 5
"""So often the same page is asked for while the service refuses, and so often a listing begins anew because a page's token has expired."""

PATIENCE = 1.0
"""Seconds that a listing is waited for where an earlier one will do."""

CHILDREN_SECONDS = 30.0
"""How long a shard that has ended is looked after for children: there may be none."""

Find = Callable[[], Awaitable[Sequence[str]]]
"""The source's streams, the oldest first, as the client names them; at least one. Raises NotConnected, also where there is none (left)."""


class StreamShards(Generic[R]):
    """See `poller.shards.Shards`. `latest`: the last of the source's streams; `close` closes the client; `wrap` makes another reader of the
    polling one of a shard (enhanced fan-out)."""

    def __init__(
        self,
        dialect: Dialect[R],
        context: Context,
        find: Find,
        latest: str,
        close: Callable[[], Awaitable[None]],
        wrap: Callable[[ShardReader[R]], Reader] = lambda reader: reader,
        dice: Callable[[], float] = random,
    ) -> None:
        self._dialect = dialect
        self._context = context
        self._find = find
        self._close = close
        self._wrap = wrap
        self._dice = dice
        self._loop = asyncio.get_running_loop()
        self._listing: Sequence[lineage.Shard] | None = None
        self._streams: dict[str, str] = {}
        self._latest = latest
        self._due = 0.0
        self._ended: dict[str, float] = {}
        self._asked = self._answered = 0
        self._running: asyncio.Task[None] | None = None
        self._failed: BaseException | None = None
        # the error of the last listing, until it is told

    def __repr__(self) -> str:
        return f"<StreamShards of {self._dialect.place} [{len(self._streams)} listed]>"

    async def shards(self) -> Sequence[lineage.Shard]:
        now = self._loop.time()
        if self._listing is None:
            await self._refresh()
        elif self._failed is not None or now >= self._due or self._awaited(now):
            await self._look()
        assert self._listing is not None
        return self._listing

    def reader(self, name: str) -> Reader:
        # One that is not listed is gone from every stream alike: the latest will say so.
        stream = self._streams.get(name, self._latest)
        return self._wrap(ShardReader(name, stream, self._dialect, self._context, self.listed, self.ended, self._dice))

    async def aclose(self) -> None:
        """Tolerated twice."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        await self._close()

    async def listed(self, name: str) -> bool:
        """Asked of the service after this call. Raises NotConnected."""
        await self._refresh()
        return name in self._streams

    def ended(self, name: str) -> None:
        """The shard has no more records: look for its children."""
        self._ended[name] = self._loop.time() + CHILDREN_SECONDS

    def _awaited(self, now: float) -> bool:
        """Whether children of an ended shard are still to be seen."""
        if self._ended:
            seen = {parent for shard in self._listing or () for parent in shard.parents}
            self._ended = {name: until for name, until in self._ended.items() if now < until and name not in seen}
        return bool(self._ended)

    # --- asking -------------------------------------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Wait a while for a listing, the one that is under way if there is one. It goes on; its error is told to who looks next."""
        if self._failed is None:
            running = self._running or self._begin()
            await asyncio.wait((running,), timeout=PATIENCE)
        failed, self._failed = self._failed, None
        if failed is not None:
            raise failed

    async def _refresh(self) -> None:
        """A listing that begins after this call. Who comes while one is under way shares the next."""
        self._asked += 1
        mine = self._asked
        while self._answered < mine:
            # A caller that is cancelled does not take the listing from the others.
            await asyncio.shield(self._running or self._begin())

    def _begin(self) -> asyncio.Task[None]:
        self._running = self._loop.create_task(self._list(self._asked), name=f"list {self._dialect.place}")
        self._running.add_done_callback(self._done)
        return self._running

    def _done(self, listing: asyncio.Task[None]) -> None:
        self._failed = None if listing.cancelled() else listing.exception()

    async def _list(self, asked: int) -> None:
        try:
            listing, streams, leaves = list[lineage.Shard](), dict[str, str](), tuple[str, ...]()
            found = await self._find()
            for stream in found:
                shards = await self._all(stream, last=stream == found[-1])
                for shard in shards.values():
                    rooted = any(parent in shards for parent in shard.parents)
                    listing.append(lineage.Shard(shard.name, shard.parents if rooted else (*shard.parents, *leaves)))
                    streams[shard.name] = stream
                if shards:
                    parents = {parent for shard in shards.values() for parent in shard.parents}
                    leaves = tuple(name for name in shards if name not in parents)
            self._listing, self._streams, self._latest = tuple(listing), streams, found[-1]
            self._due = self._loop.time() + self._dialect.refresh * (0.5 + self._dice() / 2)
            self._answered = asked
        finally:
            self._running = None

    async def _all(self, stream: str, last: bool) -> dict[str, Shard]:
        """Every shard of one stream, by name. Raises NotConnected, also where the last stream is gone; one before it may be."""
        shards, more = dict[str, Shard](), None
        throttled = anew = 0
        while True:
            page = await self._dialect.client.shards(stream, more)
            if isinstance(page, Page):
                shards |= {shard.name: shard for shard in page.shards}
                throttled = 0
                if page.more is None:
                    return shards
                more = page.more
                await asyncio.sleep(self._dialect.pause)
                continue
            if isinstance(page, Gone) and not last:
                return {}
            if isinstance(page, Throttled):
                throttled += 1
                if throttled >= TRIES:
                    raise NotConnected(page.text, retry_after=page.after)
                await asyncio.sleep(page.after * 2.0 ** (throttled - 1) * (0.5 + self._dice()))
            elif isinstance(page, Gone):
                raise NotConnected(f"{page.text}: the stream is gone", permanent=True)
            else:
                anew += 1
                if anew >= TRIES:
                    raise NotConnected(page.text)
                shards, more = {}, None  # what was read so far may not fit what comes
