"""The connector's client. Imported only when a source opens."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import msgspec

from connectors.aws import AwsConnection, Target
from connectors.aws_json import Service
from connectors.aws_refusals import Place
from connectors.kinesis.client import Consumer, KinesisRecord, Pushed, Stream, answered
from connectors.sequence import Start
from connectors.shards import REFUSED, Page, Records, Refused, Shard

KINESIS = Service("kinesis", "kinesis", "Kinesis_20131202", "1.1")

ALLOWED = (
    "kinesis:DescribeStreamSummary, kinesis:ListShards, kinesis:GetShardIterator and kinesis:GetRecords (with consumer_arn"
    " kinesis:DescribeStreamConsumer and kinesis:SubscribeToShard)"
)


class AwsKinesis:
    """`client.KinesisClient`: GetRecords over `aws_json`, everything else over aiobotocore."""

    def __init__(self, place: str) -> None:
        self._aws = AwsConnection(Place(place, ALLOWED), KINESIS)

    def __repr__(self) -> str:
        return f"<AwsKinesis {self._aws!r}>"

    async def connect(self, target: Target) -> None:
        """The service itself is not asked yet. Raises NotConnected, SourceError."""
        await self._aws.connect(target)

    async def stream(self, stream: str) -> Stream | Refused:
        answer = await self._aws.ask("describe_stream_summary", **_named(stream))
        if isinstance(answer, REFUSED):
            return answer
        try:
            summary = answer["StreamDescriptionSummary"]
            return Stream(
                arn=summary["StreamARN"],
                status=summary["StreamStatus"],
                retention=summary["RetentionPeriodHours"] * 3600.0,
                created=_epoch(summary["StreamCreationTimestamp"]),
                consumers=summary.get("ConsumerCount", 0),
            )
        except (KeyError, TypeError) as error:
            raise self._aws.malformed("DescribeStreamSummary", error) from error

    async def shards(self, stream: str, more: str | None = None) -> Page | Refused:
        # The token names the stream, and AWS refuses to be told twice.
        asked = _named(stream) if more is None else {"NextToken": more}
        answer = await self._aws.ask("list_shards", **asked)
        if isinstance(answer, REFUSED):
            return answer
        try:
            return Page(tuple(_shard(each) for each in answer["Shards"]), answer.get("NextToken"))
        except (KeyError, ValueError) as error:
            raise self._aws.malformed("ListShards", error) from error

    async def iterator(self, stream: str, shard: str, start: Start) -> str | Refused:
        moment = None if start.time is None else datetime.fromtimestamp(start.time, UTC)
        answer = await self._aws.ask(
            "get_shard_iterator",
            **_named(stream),
            ShardId=shard,
            ShardIteratorType=start.kind,
            StartingSequenceNumber=start.sequence,
            Timestamp=moment,
        )
        if isinstance(answer, REFUSED):
            return answer
        try:
            return str(answer["ShardIterator"])
        except KeyError as error:
            raise self._aws.malformed("GetShardIterator", error) from error

    async def records(self, iterator: str, shard: str, limit: int) -> Records[KinesisRecord] | Refused:
        body = await self._aws.read("GetRecords", {"ShardIterator": iterator, "Limit": limit})
        if not isinstance(body, bytes):
            return body
        try:
            return answered(body, shard)
        except (msgspec.MsgspecError, ValueError) as error:
            raise self._aws.malformed("GetRecords", error) from error

    async def register_consumer(self, stream_arn: str, name: str) -> Consumer | Refused:
        answer = await self._aws.ask("register_stream_consumer", StreamARN=stream_arn, ConsumerName=name)
        return answer if isinstance(answer, REFUSED) else self._consumer("RegisterStreamConsumer", answer.get("Consumer"))

    async def describe_consumer(self, consumer_arn: str) -> Consumer | Refused:
        answer = await self._aws.ask("describe_stream_consumer", ConsumerARN=consumer_arn)
        return answer if isinstance(answer, REFUSED) else self._consumer("DescribeStreamConsumer", answer.get("ConsumerDescription"))

    def _consumer(self, operation: str, told: Any) -> Consumer:
        try:
            return Consumer(told["ConsumerARN"], told["ConsumerStatus"])
        except (KeyError, TypeError) as error:
            raise self._aws.malformed(operation, error) from error

    async def subscribe(self, consumer_arn: str, shard: str, start: Start) -> AsyncGenerator[Pushed | Refused, None]:
        position: dict[str, Any] = {"Type": start.kind}
        if start.sequence is not None:
            position["SequenceNumber"] = start.sequence
        if start.time is not None:
            position["Timestamp"] = datetime.fromtimestamp(start.time, UTC)
        answer = await self._aws.ask("subscribe_to_shard", ConsumerARN=consumer_arn, ShardId=shard, StartingPosition=position)
        if isinstance(answer, REFUSED):
            yield answer
            return
        if "EventStream" not in answer:
            raise self._aws.malformed("SubscribeToShard", KeyError("EventStream"))
        # Its connection is of no use to anyone else.
        with closing(answer["EventStream"]) as events:
            try:
                async for event in events:
                    if (pushed := event.get("SubscribeToShardEvent")) is not None:
                        yield _pushed(pushed, shard)
            except Exception as error:  # what is not botocore's comes out again
                yield self._aws.refused("subscribe_to_shard", error)

    async def aclose(self) -> None:
        await self._aws.aclose()


async def connected(place: str, target: Target) -> AwsKinesis:
    """Raises NotConnected, SourceError."""
    client = AwsKinesis(place)
    try:
        await client.connect(target)
    except BaseException:
        await client.aclose()
        raise
    return client


def _named(stream: str) -> dict[str, str]:
    return {"StreamARN": stream} if stream.startswith("arn:") else {"StreamName": stream}


def _epoch(moment: datetime | float) -> float:
    return moment.timestamp() if isinstance(moment, datetime) else float(moment)


def _shard(told: Mapping[str, Any]) -> Shard:
    """Of ListShards, or a child of an answer."""
    sequences, hashes = told.get("SequenceNumberRange", {}), told.get("HashKeyRange")
    parents = (told.get("ParentShardId"), told.get("AdjacentParentShardId"), *told.get("ParentShards", ()))
    return Shard(
        name=told["ShardId"],
        parents=tuple(parent for parent in parents if parent is not None),
        first=sequences.get("StartingSequenceNumber", "0"),
        last=sequences.get("EndingSequenceNumber"),
        hashes=None if hashes is None else (int(hashes["StartingHashKey"]), int(hashes["EndingHashKey"])),
    )


def _pushed(told: Mapping[str, Any], shard: str) -> Pushed:
    return Pushed(
        records=_records(told.get("Records", ()), shard),
        continuation=told.get("ContinuationSequenceNumber"),
        behind=told.get("MillisBehindLatest", 0) / 1000,
        children=tuple(_shard(each) for each in told.get("ChildShards", ())),
    )


def _records(told: Sequence[Mapping[str, Any]], shard: str) -> list[KinesisRecord]:
    """botocore has decoded what the event wants encoded."""
    return [
        KinesisRecord(
            sequence=each["SequenceNumber"],
            arrival=_epoch(each["ApproximateArrivalTimestamp"]),
            key=each["PartitionKey"],
            data=b64encode(each["Data"]).decode("ascii"),
            shard=shard,
        )
        for each in told
    ]
