"""What filters may look at of SQS's messages and Kinesis's records: the services' own connectors and the local sources make such events.

Outside of their packages, for a package's `__init__` is a connector, and `check` loads only those that a configuration names.
"""

from __future__ import annotations

from poller.settings import Filterable

_SOURCE = ("eventSource", "eventSourceARN", "awsRegion")
_MESSAGE = ("messageId", "receiptHandle", "body", "attributes", "messageAttributes", "md5OfMessageAttributes", "md5OfBody")
_RECORD = ("kinesisSchemaVersion", "partitionKey", "sequenceNumber", "data", "approximateArrivalTimestamp")
_ELEMENT = ("eventSource", "eventVersion", "eventID", "eventName", "invokeIdentityArn", "awsRegion", "eventSourceARN")

MESSAGE = Filterable((*_MESSAGE, *_SOURCE), "body")

RECORD = Filterable((*_RECORD, *_ELEMENT), "data", text=False, inside=("kinesis", "data"), encoding="base64")
"""Kinesis's own fields stand at the top level, beside those of the event; a pattern about plain text is refused, as on AWS."""
