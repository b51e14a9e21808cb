"""Powertools for Kafka, as its documentation has it: the batch processor, the event's data class, and the consumer decorator."""

from __future__ import annotations

import json
from typing import Any

from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes import KafkaEvent, event_source
from aws_lambda_powertools.utilities.data_classes.kafka_event import KafkaEventRecord
from aws_lambda_powertools.utilities.kafka import ConsumerRecords, SchemaConfig, kafka_consumer
from aws_lambda_powertools.utilities.typing import LambdaContext
from powertools_testimony import begun, handled

logger = Logger(service="orders")
processor = BatchProcessor(event_type=EventType.Kafka)


def record_handler(record: KafkaEventRecord, lambda_context: LambdaContext) -> None:
    assert record.json_value["n"] is not None
    logger.info("handling", extra={"topic": record.topic, "offset": record.offset})
    handled(record.decoded_value.decode(), lambda_context.aws_request_id)


@logger.inject_lambda_context
def handle(event: dict[str, Any], context: LambdaContext) -> Any:
    """Partial failures."""
    records = [record for partition in event["records"].values() for record in partition]
    begun(event, [KafkaEventRecord(record).decoded_value.decode() for record in records], context)
    return process_partial_response(event=event, record_handler=record_handler, processor=processor, context=context)


@event_source(data_class=KafkaEvent)
def look(event: KafkaEvent, context: LambdaContext) -> Any:
    """All that the data class reads, as text."""
    return {
        "source": event.event_source,
        "arn": event.event_source_arn,
        "servers": event.decoded_bootstrap_servers,
        "records": [
            {
                "topic": record.topic,
                "partition": record.partition,
                "offset": record.offset,
                "timestamp": record.timestamp,
                "timestamp_type": record.timestamp_type,
                "key": None if record.decoded_key is None else record.decoded_key.decode(),
                "value": record.value if record.value is None else record.decoded_value.decode(),
                "headers": {name: value.hex() for name, value in record.decoded_headers.items()},
            }
            for record in event.records
        ],
    }


@kafka_consumer(schema_config=SchemaConfig(value_schema_type="JSON"))
def consume(event: ConsumerRecords, context: LambdaContext) -> Any:
    """Values by the decorator's schema, keys as they are."""
    return [
        [record.key, json.dumps(record.value), {name: value.hex() for name, value in record.headers.items()}] for record in event.records
    ]
