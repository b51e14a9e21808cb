"""Records of a stream made again, for redrive: from the event that a letter holds, or fetched from the stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.kinesis import Connect
from connectors.kinesis.aggregation import expanded
from connectors.kinesis.client import LIMITS, KinesisClient, Stream
from connectors.kinesis.format import KinesisFormat
from connectors.kinesis.options import KinesisOptions, place, where
from connectors.regaining import of_shards, regained, told_of
from connectors.sharded import ranges
from connectors.sharded.dialect import Dialect
from connectors.sharded.shards import REFUSED, Throttled
from poller.errors import NotConnected, SourceError
from poller.redrive.letters import Letter, RangeGone, RedriveContext, Regained


class StreamRegainer:
    """See `poller.redrive.letters.Regainer`. Asks for the stream once, when it must."""

    def __init__(self, connect: Connect, options: KinesisOptions, context: RedriveContext) -> None:
        self._connect = connect
        self._options = options
        self._context = context
        self._client: KinesisClient | None = None
        self._stream: Stream | None = None
        self._asked = False

    def __repr__(self) -> str:
        return f"<StreamRegainer {self._options.stream}>"

    async def of_event(self, event: bytes, told: Mapping[str, Any]) -> Regained:  # noqa: ARG002 -- its elements name their shard
        stream = await self._found()
        parts = regained(event, of_shards(self._check), "", "", "this stream")
        shard = parts.records[0].id.partition(":")[0]
        return Regained(self._identity(stream), shard, parts.records, parts.identifiers, parts.head, parts.tail)

    async def of_message(self, letter: Letter) -> Regained:  # noqa: ARG002 -- the protocol's
        raise SourceError("it is no invocation record, and a stream's records are not moved to a queue as they are")

    async def of_range(self, told: Mapping[str, Any]) -> Regained:
        wanted = ranges.Range.of(told_of(told, "KinesisBatchInfo"))
        self._check(wanted.stream)
        stream = await self._found()
        if stream is None or self._client is None:
            raise RangeGone(f"{wanted}: the stream is not there any more, and its records are gone")
        dialect = Dialect(
            place=place(self._options),
            client=self._client,
            format=KinesisFormat(stream.arn, f"arn:aws:iam::{stream.account}:role/poller"),
            limits=LIMITS,
            expand=expanded if self._options.deaggregate else None,
        )
        records = await ranges.fetched(dialect, self._options.stream, wanted)
        return ranges.regained(dialect, records, wanted, self._context.mapping, stream.identity, stream.retention)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _check(self, arn: str) -> None:
        named = where(self._options.stream)
        if arn != named.arn if named.arn else not arn.endswith(f":stream/{named.name}"):
            raise SourceError(f"it is of another stream: {arn}")

    async def _found(self) -> Stream | None:
        """None: it is gone. What lies in letters can be run all the same."""
        if not self._asked:
            self._client = self._client or await self._connect(self._options)
            stream = await self._client.stream(self._options.stream)
            if isinstance(stream, Throttled):
                raise NotConnected(stream.text)
            self._stream = None if isinstance(stream, REFUSED) else stream
            self._asked = True
        return self._stream

    def _identity(self, stream: Stream | None) -> str:
        return stream.identity if stream is not None else where(self._options.stream).arn or self._options.stream
