"""What polling a stream needs of IAM. Pure. Source: Service Authorization Reference, Amazon Kinesis Data Streams."""

from __future__ import annotations

from connectors.aws.permissions import needed
from connectors.kinesis.options import KinesisOptions, where
from poller.permissions import Grant, Needed, Somewhere

ACTIONS = ("kinesis:DescribeStreamSummary", "kinesis:ListShards", "kinesis:GetShardIterator", "kinesis:GetRecords")
FAN_OUT = ("kinesis:DescribeStreamConsumer", "kinesis:SubscribeToShard")


def permissions(options: KinesisOptions, place: Somewhere) -> Needed:
    named = where(options.stream)
    # A consumer's ARN begins with its stream's.
    whole = (options.consumer_arn or "").partition("/consumer/")[0]
    arn = named.arn or whole or place.arn("kinesis", f"stream/{named.name}", options.region)
    consumer = () if options.consumer_arn is None else (Grant("ReadAsConsumer", FAN_OUT, (options.consumer_arn,)),)
    return needed(f"stream {named.name}", options, Grant("PollStream", ACTIONS, (arn,)), *consumer)
