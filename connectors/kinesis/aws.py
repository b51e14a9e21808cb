"""The connector's client. Imported only when a source opens."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import closing
from datetime import datetime
from typing import Any

from connectors.aws.connection import AwsConnection, Target
from connectors.aws.json import Service
from connectors.aws.refusals import Place
from connectors.kinesis.client import Consumer, KinesisRecord, Pushed, Stream, answered
from connectors.sharded.iterators import Iterators, moment
from connectors.sharded.iterators import shard as shard_of
from connectors.sharded.sequence import Start
from connectors.sharded.shards import REFUSED, Heard, Page, Records, Refused

KINESIS = Service("kinesis", "kinesis", "Kinesis_20131202", "1.1")

ALLOWED = (
    "kinesis:DescribeStreamSummary, kinesis:ListShards, kinesis:GetShardIterator and kinesis:GetRecords (with consumer_arn"
    " kinesis:DescribeStreamConsumer and kinesis:SubscribeToShard)"
)


class AwsKinesis:
    """`client.KinesisClient`: GetRecords over `JsonCaller`, everything else over aiobotocore."""

    def __init__(self, place: str) -> None:
        self._aws = AwsConnection(Place(place, ALLOWED), KINESIS)
        self._iterators = Iterators(self._aws, _named, "StartingSequenceNumber", answered)

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
            return Page(tuple(shard_of(each) for each in answer["Shards"]), answer.get("NextToken"))
        except (KeyError, ValueError) as error:
            raise self._aws.malformed("ListShards", error) from error

    async def iterator(self, stream: str, shard: str, start: Start) -> str | Refused:
        return await self._iterators.iterator(stream, shard, start)

    async def records(self, iterator: str, shard: str, limit: int) -> Records[KinesisRecord] | Refused:
        return await self._iterators.records(iterator, shard, limit)

    async def describe_consumer(self, consumer_arn: str) -> Consumer | Refused:
        answer = await self._aws.ask("describe_stream_consumer", ConsumerARN=consumer_arn)
        if isinstance(answer, REFUSED):
            return answer
        try:
            told = answer["ConsumerDescription"]
            return Consumer(told["ConsumerARN"], told["ConsumerStatus"])
        except (KeyError, TypeError) as error:
            raise self._aws.malformed("DescribeStreamConsumer", error) from error

    async def subscribe(self, consumer_arn: str, shard: str, start: Start) -> AsyncGenerator[Pushed | Refused, None]:
        position: dict[str, Any] = {"Type": start.kind}
        if start.sequence is not None:
            position["SequenceNumber"] = start.sequence
        if start.time is not None:
            position["Timestamp"] = moment(start.time)
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

    def heard(self) -> Heard | None:
        return self._aws.heard

    async def aclose(self) -> None:
        await self._aws.aclose()


def _named(stream: str) -> dict[str, str]:
    return {"StreamARN": stream} if stream.startswith("arn:") else {"StreamName": stream}


def _epoch(moment: datetime | float) -> float:
    return moment.timestamp() if isinstance(moment, datetime) else float(moment)


def _pushed(told: Mapping[str, Any], shard: str) -> Pushed:
    return Pushed(
        records=_records(told.get("Records", ()), shard),
        continuation=told.get("ContinuationSequenceNumber"),
        behind=told.get("MillisBehindLatest", 0) / 1000,
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
