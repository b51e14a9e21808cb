"""What polling a stream needs of IAM, and putting records back into it. Pure.

Source: Service Authorization Reference, Amazon Kinesis Data Streams.
"""

from __future__ import annotations

from connectors.aws.permissions import needed
from connectors.kinesis.options import KinesisOptions, where
from poller.permissions import Grant, Needed, Somewhere

ACTIONS = ("kinesis:DescribeStreamSummary", "kinesis:ListShards", "kinesis:GetShardIterator", "kinesis:GetRecords")
FAN_OUT = ("kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard")

RETURN = "kinesis:PutRecord"


def permissions(options: KinesisOptions, place: Somewhere) -> Needed:
    consumer = () if options.consumer_arn is None else (Grant("ReadAsConsumer", FAN_OUT, (options.consumer_arn,)),)
    return needed(f"stream {where(options.stream).name}", options, Grant("PollStream", ACTIONS, (_arn(options, place),)), *consumer)


def returning(options: KinesisOptions, place: Somewhere) -> Needed:
    return needed(f"stream {where(options.stream).name}", options, Grant("ReturnToStream", (RETURN,), (_arn(options, place),)))


def _arn(options: KinesisOptions, place: Somewhere) -> str:
    named = where(options.stream)
    # A consumer's ARN begins with its stream's.
    whole = (options.consumer_arn or "").partition("/consumer/")[0]
    return named.arn or whole or place.arn("kinesis", f"stream/{named.name}", options.region)
