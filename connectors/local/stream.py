"""The stream as a source: shards that `poller.ordered` reads by position."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from connectors.local import StreamOptions, records
from connectors.local.database import Database
from connectors.local.feed import ensure_stream, topic
from connectors.local.format import EntryFormat
from connectors.local.records import Stream, shard_name
from connectors.starting import origin
from poller.errors import NotConnected, SourceError
from poller.lineage import Shard
from poller.model import Record
from poller.ordered_source import OrderedSource
from poller.policy import Block
from poller.progress import ORIGIN
from poller.settings import Context, Finding
from poller.units import show_duration

log = logging.getLogger("poller.local")

WAIT_SECONDS = 1.0
"""How long a read waits for records."""

TRIM_SECONDS = 30.0
"""How often records past their retention are looked for."""


class StreamReader:
    """One shard; see `poller.ordered.Reader` and `poller.rewind.Positioned`: a position is a sequence number."""

    def __init__(self, database: Database, stream: Stream, number: int) -> None:
        self.name = shard_name(number)
        self._database = database
        self._stream = stream
        self._shard = stream.shards[number]
        self._topic = topic(stream.name, number)

    async def read(self, position: int, origin: str, limit: int) -> tuple[Sequence[Record], int]:
        loop, bells = asyncio.get_running_loop(), self._database.bells
        until = loop.time() + WAIT_SECONDS
        if position == ORIGIN:
            position = await self._start(origin)
        while True:
            count = bells.count(self._topic)
            found, position = await self._read(position, limit)
            rest = until - loop.time()
            if found or rest <= 0:
                return found, position
            await bells.wait(self._topic, count, rest)

    async def head(self) -> tuple[int, float] | None:
        shard = self._shard
        _, following, newest = await self._database.read(lambda connection: records.bounds(connection, shard))
        return following, newest

    async def aclose(self) -> None:
        """The database is the source's to close."""

    def shown(self, position: int) -> str:
        return str(position)

    def parsed(self, text: str) -> int:
        if not text.isdecimal():
            raise ValueError("write a sequence number, as `poller status` shows it, such as 1024")
        return int(text)

    async def found(self, origin: str) -> int:
        return await self._start(origin)

    def distance(self, first: int, last: int) -> int:
        return last - first

    async def _start(self, origin: str) -> int:
        """The position of `Progress.origin`."""
        shard, (kind, _, moment) = self._shard, origin.partition(" ")
        if kind == "AT_TIMESTAMP":
            return await self._database.read(lambda connection: records.position_at(connection, shard, float(moment)))
        first, _, _ = await self._database.read(lambda connection: records.bounds(connection, shard))
        return first

    async def _read(self, position: int, limit: int) -> tuple[Sequence[Record], int]:
        shard, name = self._shard, self.name
        stretch = await self._database.read(lambda connection: records.read(connection, shard, name, position, limit))
        if not stretch.entries and position > stretch.end:
            # Waiting here would swallow what is written until the numbers have caught up.
            text = f"local stream {self._stream.name!r}, {name}: progress is at {position}, but the stream only at {stretch.end}: "
            raise NotConnected(f"{text}its database is older than the store's; restore both from one moment", permanent=True)
        if stretch.trimmed:
            text = "%s: %d records were older than the retention (%s) and are gone unread; going on at the trim horizon"
            log.warning(text, name, stretch.trimmed, show_duration(self._stream.retention), extra={"lane": name})
        return stretch.entries, stretch.following


class StreamShards:
    """The shards of one stream; see `poller.shards.Shards`. Trims the stream while it is open."""

    def __init__(self, database: Database, stream: Stream, clock: Callable[[], float]) -> None:
        self._database = database
        self._stream = stream
        self._clock = clock
        self._listing = tuple(Shard(shard_name(number)) for number in range(len(stream.shards)))
        self._trimming = asyncio.get_running_loop().create_task(self._trim(), name=f"retention of {stream.name}")
        self._closed = False

    async def shards(self) -> Sequence[Shard]:
        return self._listing

    def reader(self, name: str) -> StreamReader:
        return StreamReader(self._database, self._stream, int(name.removeprefix("shardId-")))

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._trimming.cancel()
        await asyncio.gather(self._trimming, return_exceptions=True)
        await self._database.release()

    async def _trim(self) -> None:
        stream, clock = self._stream, self._clock
        while True:
            try:
                trimmed = await self._database.write(lambda connection: records.trim(connection, stream, clock()))
            except NotConnected as error:
                log.warning("%s: retention not looked after: %s", stream.name, error)
                trimmed = 0
            await asyncio.sleep(0 if trimmed else TRIM_SECONDS)


def starting_point(options: StreamOptions, now: float) -> str:
    """What `OrderedSource` takes as `origin`. Raises SourceError for a time in the future."""
    try:
        return origin(options.starting_position, options.starting_position_timestamp, now)
    except ValueError as error:
        raise SourceError(f"local stream {options.name!r}: {error}") from None


async def ensure(database: Database, options: StreamOptions) -> Stream:
    """The stream as the options say."""
    return await database.write(lambda connection: ensure_stream(connection, options))


async def open_stream(options: StreamOptions, context: Context, policy: Block) -> OrderedSource:
    """See `Connector.open`."""
    start = starting_point(options, context.clock())
    database = await Database.acquire(context.state)
    try:
        stream = await ensure(database, options)
    except BaseException:
        await database.release()
        raise
    return OrderedSource(
        context,
        identity=f"local-stream:{database.identity}:{options.name}",
        format=EntryFormat(options.name),
        policy=policy,
        shards=StreamShards(database, stream, context.clock),
        origin=start,
    )


async def probe(options: StreamOptions, context: Context) -> list[Finding]:
    """See `Connector.probe`; makes nothing."""
    new = [Finding("ok", f"local stream {options.name!r} will be made")]
    if not Database.exists(context.state):
        return new
    async with Database.shared(context.state) as database:
        rows = await database.read(
            lambda connection: connection.execute(
                "SELECT s.next - s.first FROM shards s JOIN streams t ON s.stream=t.id WHERE t.name=?", (options.name,)
            ).fetchall()
        )
    if not rows:
        return new
    if len(rows) != options.shards:
        text = f"local stream {options.name!r} has {len(rows)} shards, the configuration says {options.shards}; resharding is not offered"
        return [Finding("error", text)]
    return [Finding("ok", f"local stream {options.name!r} holds {sum(count for (count,) in rows)} records")]
