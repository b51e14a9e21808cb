"""A stream of Kinesis Data Streams as a source."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from connectors.kinesis.aggregation import expanded
from connectors.kinesis.client import LIMITS, KinesisClient, KinesisRecord, Stream
from connectors.kinesis.fanout import FanOut, Times
from connectors.kinesis.format import KinesisFormat
from connectors.kinesis.options import KinesisOptions, place
from connectors.sharded.dialect import Dialect
from connectors.sharded.listing import StreamShards
from connectors.sharded.reader import ShardReader
from connectors.sharded.shards import REFUSED, Throttled
from connectors.sharded.source import sharded_source
from poller.errors import NotConnected, SourceReplaced
from poller.ordered import Reader
from poller.ordered_source import OrderedSource
from poller.policy import Block
from poller.settings import Context

REFRESH_SECONDS = 10.0
"""ListShards: a hundred calls a second for a stream (Kinesis, "Quotas and limits"); a page has a thousand shards."""


class OneStream:
    """Looks whether the stream is still the one that was opened: one that was made anew under its name has its shards' names too."""

    def __init__(self, client: KinesisClient, options: KinesisOptions, stream: Stream) -> None:
        self._client = client
        self._options = options
        self._stream = stream

    async def find(self) -> Sequence[str]:
        """See `connectors.sharded.listing.Find`."""
        named = self._options.stream
        found = await self._client.stream(named)
        if isinstance(found, REFUSED):
            if isinstance(found, Throttled):
                return [named]  # nothing was said against it
            raise NotConnected(f"{found.text}: the stream is gone", permanent=True)
        if found.identity != self._stream.identity:
            text = "it was deleted and made again: its records are another stream's, read from starting_position; what was left is gone"
            raise SourceReplaced(f"{place(self._options)}: {text}")
        return [named]


async def described(client: KinesisClient, options: KinesisOptions) -> Stream:
    """The stream that the options name. Raises NotConnected, SourceError."""
    stream = await client.stream(options.stream)
    if isinstance(stream, REFUSED):
        raise NotConnected(stream.text, permanent=not isinstance(stream, Throttled))
    if stream.status not in {"ACTIVE", "UPDATING"}:
        raise NotConnected(f"{place(options)} is {stream.status}; it is read once it is ACTIVE")
    return stream


async def open_source(client: KinesisClient, options: KinesisOptions, context: Context, times: Times | None = None) -> OrderedSource:
    """Takes the client over: closes it if this fails. `times` None: Kinesis's own. Raises NotConnected, SourceError."""
    try:
        stream = await described(client, options)
        dialect = Dialect(
            place=place(options),
            client=client,
            format=KinesisFormat(stream.arn, f"arn:aws:iam::{stream.account}:role/poller"),
            limits=LIMITS,
            silent=True,
            expand=expanded if options.deaggregate else None,
            expanded=expanded,
            refresh=REFRESH_SECONDS,
        )
        wrap = _wrapping(client, options, dialect, context, times)
        shards = StreamShards(dialect, context, OneStream(client, options, stream).find, options.stream, client.aclose, wrap)
        policy = Block.of(context.mapping, options.partial, stream.retention)
        position, timestamp = options.starting_position, options.starting_position_timestamp
        return sharded_source(context, dialect, shards, stream.identity, policy, position, timestamp)
    except BaseException:
        await client.aclose()
        raise


def _wrapping(
    client: KinesisClient, options: KinesisOptions, dialect: Dialect[KinesisRecord], context: Context, times: Times | None
) -> Callable[[ShardReader[KinesisRecord]], Reader]:
    """To a consumer its shards are pushed."""
    if options.consumer_arn is None:
        return lambda polling: polling
    return FanOut(client, options.consumer_arn, dialect, context.clock, times).wrap
