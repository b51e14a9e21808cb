"""Powertools for Kinesis and DynamoDB Streams, as its documentation has it: the batch processors, and the events' data classes."""

from __future__ import annotations

from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes import DynamoDBStreamEvent, KinesisStreamEvent, event_source
from aws_lambda_powertools.utilities.data_classes.dynamo_db_stream_event import DynamoDBRecord, DynamoDBRecordEventName
from aws_lambda_powertools.utilities.data_classes.kinesis_stream_event import KinesisStreamRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from powertools_testimony import begun, handled

logger = Logger(service="orders")
records = BatchProcessor(event_type=EventType.KinesisDataStreams)
changes = BatchProcessor(event_type=EventType.DynamoDBStreams)


def record_handler(record: KinesisStreamRecord, lambda_context: LambdaContext) -> None:
    assert record.kinesis.data_as_json()["n"] is not None
    logger.info("handling", extra={"shard": record.event_id, "key": record.kinesis.partition_key})
    handled(record.kinesis.data_as_text(), lambda_context.aws_request_id)


def change_handler(record: DynamoDBRecord, lambda_context: LambdaContext) -> None:
    assert record.dynamodb is not None and record.dynamodb.new_image is not None
    assert record.event_name is DynamoDBRecordEventName.INSERT
    logger.info("handling", extra={"keys": record.dynamodb.keys})
    handled(record.dynamodb.new_image["body"], lambda_context.aws_request_id)


@logger.inject_lambda_context
def handle_records(event: dict[str, Any], context: LambdaContext) -> Any:
    """Partial failures."""
    begun(event, [KinesisStreamRecord(record).kinesis.data_as_text() for record in event["Records"]], context)
    return process_partial_response(event=event, record_handler=record_handler, processor=records, context=context)


@logger.inject_lambda_context
def handle_changes(event: dict[str, Any], context: LambdaContext) -> Any:
    """Partial failures."""
    begun(event, [record["dynamodb"]["NewImage"]["body"]["S"] for record in event["Records"]], context)
    return process_partial_response(event=event, record_handler=change_handler, processor=changes, context=context)


@event_source(data_class=KinesisStreamEvent)
def look_at_records(event: KinesisStreamEvent, context: LambdaContext) -> Any:
    """All that the data class reads, as text."""
    return [
        {
            "id": record.event_id,
            "name": record.event_name,
            "source": record.event_source,
            "arn": record.event_source_arn,
            "version": record.event_version,
            "region": record.aws_region,
            "role": record.invoke_identity_arn,
            "arrival": record.kinesis.approximate_arrival_timestamp,
            "schema": record.kinesis.kinesis_schema_version,
            "key": record.kinesis.partition_key,
            "number": record.kinesis.sequence_number,
            "data": record.kinesis.data_as_text(),
        }
        for record in event.records
    ]


@event_source(data_class=DynamoDBStreamEvent)
def look_at_changes(event: DynamoDBStreamEvent, context: LambdaContext) -> Any:
    """All that the data class reads, as text."""
    return [
        {
            "id": record.event_id,
            "name": record.event_name.name if record.event_name is not None else None,
            "source": record.event_source,
            "arn": record.event_source_arn,
            "version": record.event_version,
            "region": record.aws_region,
            "identity": record.user_identity,
            "created": change.approximate_creation_date_time,
            "keys": repr(change.keys),
            "old": repr(change.old_image),
            "new": repr(change.new_image),
            "number": change.sequence_number,
            "size": change.size_bytes,
            "view": change.stream_view_type.name if change.stream_view_type is not None else None,
        }
        for record in event.records
        if (change := record.dynamodb) is not None
    ]
