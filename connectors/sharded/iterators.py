"""The calls that Kinesis and DynamoDB Streams have in common, over AWS's protocol. Imported only when a source opens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import floor
from typing import Any, Generic, TypeVar

import msgspec

from connectors.aws.connection import AwsConnection
from connectors.aws.refusals import WrongCall
from connectors.sharded.sequence import LATEST, Start
from connectors.sharded.shards import REFUSED, Records, Refused, Shard

R = TypeVar("R")


class Iterators(Generic[R]):
    """GetShardIterator over aiobotocore, GetRecords over `JsonCaller`. `named`: the parameters that name a stream; `number`: the one that
    holds a sequence number; `answered`: what GetRecords told of a shard (raises msgspec's errors, ValueError)."""

    def __init__(
        self,
        aws: AwsConnection,
        named: Callable[[str], Mapping[str, str]],
        number: str,
        answered: Callable[[bytes, str], Records[R]],
    ) -> None:
        self._aws = aws
        self._named = named
        self._number = number
        self._answered = answered

    async def iterator(self, stream: str, shard: str, start: Start) -> str | Refused:
        """See `ShardReading`. A time to come begins now: Kinesis refuses it, and whoever wrote it had a clock that was ahead."""
        try:
            return await self._iterator(stream, shard, start)
        except WrongCall:
            heard = self._aws.heard
            if start.time is None or heard is None or start.time <= heard.time:
                raise
            return await self._iterator(stream, shard, LATEST)

    async def _iterator(self, stream: str, shard: str, start: Start) -> str | Refused:
        asked = {
            **self._named(stream),
            "ShardId": shard,
            "ShardIteratorType": start.kind,
            self._number: start.sequence,
            "Timestamp": None if start.time is None else moment(start.time),
        }
        answer = await self._aws.ask("get_shard_iterator", **asked)
        if isinstance(answer, REFUSED):
            return answer
        try:
            return str(answer["ShardIterator"])
        except KeyError as error:
            raise self._aws.malformed("GetShardIterator", error) from error

    async def records(self, iterator: str, shard: str, limit: int) -> Records[R] | Refused:
        """See `ShardReading`."""
        body = await self._aws.read("GetRecords", {"ShardIterator": iterator, "Limit": limit})
        if not isinstance(body, bytes):
            return body
        try:
            return self._answered(body, shard)
        except (msgspec.MsgspecError, ValueError) as error:
            raise self._aws.malformed("GetRecords", error) from error


def moment(time: float) -> datetime:
    """For the service, which knows milliseconds: never a later one."""
    return datetime.fromtimestamp(floor(time * 1000) / 1000, UTC)


def shard(told: Mapping[str, Any]) -> Shard:
    """Of a listing. Raises KeyError."""
    parents = (told.get("ParentShardId"), told.get("AdjacentParentShardId"))
    last = told.get("SequenceNumberRange", {}).get("EndingSequenceNumber")
    return Shard(told["ShardId"], tuple(parent for parent in parents if parent is not None), last)
