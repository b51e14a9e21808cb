"""One element of Kinesis's event, for every source whose records are Kinesis's. Pure.

Source: AWS Lambda developer guide, "Using Lambda with Amazon Kinesis"; compared with events recorded on AWS.
"""

from __future__ import annotations

from typing import Any

_EMPTY = (
    '{"kinesis":{"kinesisSchemaVersion":"1.0","partitionKey":"","sequenceNumber":"","data":"","approximateArrivalTimestamp":1234567890.123},'
    '"eventSource":"aws:kinesis","eventVersion":"1.0","eventID":":","eventName":"aws:kinesis:record","invokeIdentityArn":"","awsRegion":"",'
    '"eventSourceARN":""},'
)


class Elements:
    """Makes the elements of one stream. `role`: who Lambda would say has called the function."""

    __slots__ = ("_arn", "_region", "_role", "fixed")

    def __init__(self, arn: str, role: str) -> None:
        self._arn = arn
        self._region = arn.split(":")[3]
        self._role = role
        self.fixed = len(_EMPTY) + len(arn) + len(self._region) + len(role)
        """Bytes of an element, its comma included, without key, data, and twice the sequence number, once the shard's name."""

    def element(self, shard: str, sequence: str, key: str, data: str, arrival: float) -> dict[str, Any]:
        """Fresh objects, keys in AWS's order. `data`: base64; `arrival`: epoch seconds, of which AWS gives milliseconds."""
        return {
            "kinesis": {
                "kinesisSchemaVersion": "1.0",
                "partitionKey": key,
                "sequenceNumber": sequence,
                "data": data,
                "approximateArrivalTimestamp": round(arrival, 3),
            },
            "eventSource": "aws:kinesis",
            "eventVersion": "1.0",
            "eventID": f"{shard}:{sequence}",
            "eventName": "aws:kinesis:record",
            "invokeIdentityArn": self._role,
            "awsRegion": self._region,
            "eventSourceARN": self._arn,
        }


def document(element: dict[str, Any], data: Any) -> dict[str, Any]:
    """What filters see of an element (which is taken apart for it): Kinesis's own fields stand at the top level (AWS Lambda guide, "Using
    event filtering with an Amazon Kinesis event source"). `data`: `poller.filtering.readable` of it."""
    return {**element.pop("kinesis"), **element, "data": data}
