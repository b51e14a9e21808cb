"""Powertools' batch processors for queues, as its documentation has them: plain, asynchronous, as a decorator, and for FIFO queues."""

from __future__ import annotations

import asyncio
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    BatchProcessor,
    EventType,
    SqsFifoPartialProcessor,
    async_process_partial_response,
    process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord
from aws_lambda_powertools.utilities.typing import LambdaContext
from powertools_testimony import begun, handled

logger = Logger(service="orders")
processor = BatchProcessor(event_type=EventType.SQS)
concurrent = AsyncBatchProcessor(event_type=EventType.SQS)
in_order = SqsFifoPartialProcessor()
group_by_group = SqsFifoPartialProcessor(skip_group_on_error=True)


def testify(event: dict[str, Any], context: LambdaContext) -> None:
    begun(event, [record["body"] for record in event["Records"]], context)


def record_handler(record: SQSRecord, lambda_context: LambdaContext) -> None:
    assert record.json_body["n"] is not None
    assert int(record.attributes.approximate_receive_count) >= 1
    logger.info("handling", extra={"message_id": record.message_id, "queue": record.queue_url})
    handled(record.body, lambda_context.aws_request_id)


async def async_record_handler(record: SQSRecord) -> None:
    await asyncio.sleep(0)
    handled(record.body, "")


@logger.inject_lambda_context(log_event=True)
def handle(event: dict[str, Any], context: LambdaContext) -> Any:
    testify(event, context)
    return process_partial_response(event=event, record_handler=record_handler, processor=processor, context=context)


def handle_async(event: dict[str, Any], context: LambdaContext) -> Any:
    testify(event, context)
    return async_process_partial_response(event=event, record_handler=async_record_handler, processor=concurrent, context=context)


@event_source(data_class=SQSEvent)
def handle_with_context_manager(event: SQSEvent, context: LambdaContext) -> Any:
    testify(event.raw_event, context)
    with processor(records=event["Records"], handler=record_handler, lambda_context=context):
        processor.process()
    return processor.response()


@logger.inject_lambda_context
def handle_in_order(event: dict[str, Any], context: LambdaContext) -> Any:
    testify(event, context)
    return process_partial_response(event=event, record_handler=record_handler, processor=in_order, context=context)


def handle_group_by_group(event: dict[str, Any], context: LambdaContext) -> Any:
    testify(event, context)
    return process_partial_response(event=event, record_handler=record_handler, processor=group_by_group, context=context)
