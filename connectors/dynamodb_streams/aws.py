"""The connector's client. Imported only when a source opens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from connectors.aws import AwsConnection, Target
from connectors.aws_json import Service
from connectors.aws_refusals import Place
from connectors.dynamodb_streams.client import ChangeRecord, StreamPage, answered
from connectors.sequence import Start
from connectors.shards import REFUSED, Records, Refused, Shard

STREAMS = Service("dynamodbstreams", "dynamodb", "DynamoDBStreams_20120810", "1.0")

ALLOWED = "dynamodb:ListStreams, dynamodb:DescribeStream, dynamodb:GetShardIterator and dynamodb:GetRecords"


class AwsDynamoDB:
    """`client.DynamoDBClient`: GetRecords over `aws_json`, everything else over aiobotocore."""

    def __init__(self, place: str) -> None:
        self._aws = AwsConnection(Place(place, ALLOWED), STREAMS)

    def __repr__(self) -> str:
        return f"<AwsDynamoDB {self._aws!r}>"

    async def connect(self, target: Target) -> None:
        """The service itself is not asked yet. Raises NotConnected, SourceError."""
        await self._aws.connect(target)

    async def streams(self, table: str) -> Sequence[str] | Refused:
        found, last = list[tuple[str, str]](), None
        while True:
            answer = await self._aws.ask("list_streams", TableName=table, ExclusiveStartStreamArn=last)
            if isinstance(answer, REFUSED):
                return answer
            try:
                found += [(each["StreamLabel"], each["StreamArn"]) for each in answer["Streams"]]
            except KeyError as error:
                raise self._aws.malformed("ListStreams", error) from error
            last = answer.get("LastEvaluatedStreamArn")
            if last is None:
                # The label is the time when it was enabled, in ISO 8601.
                return [arn for _, arn in sorted(found)]

    async def shards(self, stream: str, more: str | None = None) -> StreamPage | Refused:
        answer = await self._aws.ask("describe_stream", StreamArn=stream, ExclusiveStartShardId=more)
        if isinstance(answer, REFUSED):
            return answer
        try:
            described = answer["StreamDescription"]
            keys = {each["KeyType"]: each["AttributeName"] for each in described.get("KeySchema", ())}
            return StreamPage(
                shards=tuple(_shard(each) for each in described.get("Shards", ())),
                more=described.get("LastEvaluatedShardId"),
                status=described["StreamStatus"],
                view=described.get("StreamViewType", ""),
                keys=tuple(keys[kind] for kind in ("HASH", "RANGE") if kind in keys),
            )
        except KeyError as error:
            raise self._aws.malformed("DescribeStream", error) from error

    async def iterator(self, stream: str, shard: str, start: Start) -> str | Refused:
        answer = await self._aws.ask(
            "get_shard_iterator", StreamArn=stream, ShardId=shard, ShardIteratorType=start.kind, SequenceNumber=start.sequence
        )
        if isinstance(answer, REFUSED):
            return answer
        try:
            return str(answer["ShardIterator"])
        except KeyError as error:
            raise self._aws.malformed("GetShardIterator", error) from error

    async def records(self, iterator: str, shard: str, limit: int) -> Records[ChangeRecord] | Refused:
        body = await self._aws.read("GetRecords", {"ShardIterator": iterator, "Limit": limit})
        if not isinstance(body, bytes):
            return body
        try:
            return answered(body, shard)
        except (msgspec.MsgspecError, ValueError) as error:
            raise self._aws.malformed("GetRecords", error) from error

    async def aclose(self) -> None:
        await self._aws.aclose()


async def connected(place: str, target: Target) -> AwsDynamoDB:
    """Raises NotConnected, SourceError."""
    client = AwsDynamoDB(place)
    try:
        await client.connect(target)
    except BaseException:
        await client.aclose()
        raise
    return client


def _shard(told: Mapping[str, Any]) -> Shard:
    sequences, parent = told.get("SequenceNumberRange", {}), told.get("ParentShardId")
    return Shard(
        name=told["ShardId"],
        parents=() if parent is None else (parent,),
        first=sequences.get("StartingSequenceNumber", "0"),
        last=sequences.get("EndingSequenceNumber"),
    )
