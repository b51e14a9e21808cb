"""The connector's client. Imported only when a source opens."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.aws.connection import AwsConnection, Target
from connectors.aws.json import Service
from connectors.aws.refusals import Place
from connectors.dynamodb_streams.client import ChangeRecord, StreamPage, answered
from connectors.sharded.iterators import Iterators
from connectors.sharded.iterators import shard as shard_of
from connectors.sharded.sequence import Start
from connectors.sharded.shards import REFUSED, Heard, Records, Refused

STREAMS = Service("dynamodbstreams", "dynamodb", "DynamoDBStreams_20120810", "1.0")

ALLOWED = "dynamodb:ListStreams, dynamodb:DescribeStream, dynamodb:GetShardIterator and dynamodb:GetRecords"


class AwsDynamoDB:
    """`client.DynamoDBClient`: GetRecords over `JsonCaller`, everything else over aiobotocore."""

    def __init__(self, place: str) -> None:
        self._aws = AwsConnection(Place(place, ALLOWED), STREAMS)
        self._iterators = Iterators(self._aws, lambda stream: {"StreamArn": stream}, "SequenceNumber", answered)

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
                shards=tuple(shard_of(each) for each in described.get("Shards", ())),
                more=described.get("LastEvaluatedShardId"),
                status=described["StreamStatus"],
                view=described.get("StreamViewType", ""),
                keys=tuple(keys[kind] for kind in ("HASH", "RANGE") if kind in keys),
            )
        except KeyError as error:
            raise self._aws.malformed("DescribeStream", error) from error

    async def iterator(self, stream: str, shard: str, start: Start) -> str | Refused:
        return await self._iterators.iterator(stream, shard, start)

    async def records(self, iterator: str, shard: str, limit: int) -> Records[ChangeRecord] | Refused:
        return await self._iterators.records(iterator, shard, limit)

    def heard(self) -> Heard | None:
        return self._aws.heard

    async def aclose(self) -> None:
        await self._aws.aclose()
