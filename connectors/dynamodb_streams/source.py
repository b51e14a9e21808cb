"""A table's stream as a source; and the next one, if it is turned off and on again.

A stream that is turned on again is another one, with another ARN; the one before can be read until its records are too old. Both are one
source: the shards of the later come after those of the earlier (connectors/sharded/listing.py), and progress is kept under the table's ARN.
Who names a stream by its own ARN gets that stream alone.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from connectors.dynamodb_streams.client import DIGITS, LIMITS, ChangeRecord, DynamoDBClient
from connectors.dynamodb_streams.format import ChangeFormat
from connectors.dynamodb_streams.options import TURN_ON, DynamoDBOptions, place, stream, where
from connectors.sharded.dialect import Dialect
from connectors.sharded.listing import StreamShards
from connectors.sharded.shards import REFUSED
from connectors.sharded.source import sharded_source
from poller.errors import NotConnected
from poller.ordered_source import OrderedSource
from poller.policy import Block
from poller.settings import Context

log = logging.getLogger("poller.dynamodb")

REFRESH_SECONDS = 20.0
PAUSE_SECONDS = 0.2
"""DescribeStream: ten calls a second for all of an account (DynamoDB, "Service quotas"); a page has a hundred shards."""


class TableStreams:
    """The streams of one table, as far as they can still be read."""

    def __init__(self, client: DynamoDBClient, options: DynamoDBOptions) -> None:
        self._client = client
        self._place = place(options)
        self._table = where(options.table).name
        self._stream = stream(options)
        self._known: Sequence[str] = ()

    async def find(self) -> Sequence[str]:
        """See `connectors.sharded.listing.Find`. Says it loudly when there is another one than before."""
        if self._stream is not None:
            return [self._stream]
        found = await self._client.streams(self._table)
        if isinstance(found, REFUSED):
            raise NotConnected(found.text)
        if not found:
            raise NotConnected(f"{self._place}: the table has no stream, or is not there; {TURN_ON}", permanent=True)
        if self._known and found[-1] not in self._known:
            text = "%s: it was turned off and on: %s is read from its beginning, once %s is done"
            log.warning(text, self._place, found[-1], self._known[-1])
        self._known = found
        return found


def mark(records: Sequence[ChangeRecord], arn: str) -> None:
    """`Dialect.mark`."""
    for record in records:
        record.stream = arn


async def open_source(client: DynamoDBClient, options: DynamoDBOptions, context: Context, policy: Block) -> OrderedSource:
    """Takes the client over: closes it if this fails. Raises NotConnected, SourceError."""
    try:
        streams = TableStreams(client, options)
        latest = (await streams.find())[-1]
        if options.starting_position == "LATEST" and client.heard() is None:
            await client.shards(latest)  # for its time (connectors/sharded/source.py)
        dialect = Dialect(
            place=place(options),
            client=client,
            format=ChangeFormat(latest),
            limits=LIMITS,
            digits=DIGITS,
            times=False,
            mark=mark,
            refresh=REFRESH_SECONDS,
            pause=PAUSE_SECONDS,
        )
        identity = latest if stream(options) is not None else latest.partition("/stream/")[0]
        shards = StreamShards(dialect, context, streams.find, latest, client.aclose)
        return sharded_source(context, dialect, shards, identity, policy, options.starting_position)
    except BaseException:
        await client.aclose()
        raise
