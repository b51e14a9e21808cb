"""Changes of a table made again, for redrive: from the event that a letter holds, or fetched from the table's stream."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import inf
from typing import Any

from connectors.dynamodb_streams import Connect
from connectors.dynamodb_streams.client import DIGITS, LIMITS, RETENTION, DynamoDBClient
from connectors.dynamodb_streams.format import ChangeFormat, item_key
from connectors.dynamodb_streams.options import DynamoDBOptions, place, stream, where
from connectors.dynamodb_streams.source import mark
from connectors.regaining import element, regained, told_of
from connectors.sharded import ranges
from connectors.sharded.dialect import Dialect
from poller.errors import SourceError
from poller.failures.journal import KeptRecord
from poller.redrive.letters import Letter, RedriveContext, Regained


class TableRegainer:
    """See `poller.redrive.letters.Regainer`. A letter names its stream, so nothing is asked for unless records are fetched."""

    def __init__(self, connect: Connect, options: DynamoDBOptions, context: RedriveContext) -> None:
        self._connect = connect
        self._options = options
        self._context = context
        self._client: DynamoDBClient | None = None

    def __repr__(self) -> str:
        return f"<TableRegainer {self._options.table}>"

    async def of_event(self, event: bytes, told: Mapping[str, Any]) -> Regained:
        info = told_of(told, "DDBStreamBatchInfo")
        shard, arn = str(info.get("shardId")), str(info.get("streamArn"))
        self._check(arn)

        def read(text: bytes) -> tuple[KeptRecord, str]:
            found = element(text)
            self._check(found["eventSourceARN"])
            change = found["dynamodb"]
            sequence, created = str(change["SequenceNumber"]), change.get("ApproximateCreationDateTime", inf)
            arrival = float(created) if created < inf else self._context.clock()
            return KeptRecord(f"{shard}:{sequence}", item_key(json.dumps(change["Keys"]).encode()).decode(), arrival, text), sequence

        return regained(event, read, self._identity(arn), shard, "this table")

    async def of_message(self, letter: Letter) -> Regained:  # noqa: ARG002 -- the protocol's
        raise SourceError("it is no invocation record, and a stream's records are not moved to a queue as they are")

    async def of_range(self, told: Mapping[str, Any]) -> Regained:
        wanted = ranges.Range.of(told_of(told, "DDBStreamBatchInfo"))
        self._check(wanted.stream)
        self._client = self._client or await self._connect(self._options)
        dialect = Dialect(
            place=place(self._options),
            client=self._client,
            format=ChangeFormat(wanted.stream),
            limits=LIMITS,
            digits=DIGITS,
            mark=mark,
        )
        records = await ranges.fetched(dialect, wanted.stream, wanted)
        return ranges.regained(dialect, records, wanted, self._context.mapping, self._identity(wanted.stream), RETENTION)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def _check(self, arn: str) -> None:
        one, named = stream(self._options), where(self._options.table)
        table = arn.partition("/stream/")[0]
        mine = arn == one if one is not None else table == named.arn if named.arn else table.endswith(f":table/{named.name}")
        if not mine:
            raise SourceError(f"it is of another stream: {arn}")

    def _identity(self, arn: str) -> str:
        """As the source's own: a table's streams are one source, unless one of them is named."""
        return arn if stream(self._options) is not None else arn.partition("/stream/")[0]
