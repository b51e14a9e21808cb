"""A bus of EventBridge as a destination: `arn:aws:events:...:event-bus/...`. Vendor-free.

Events are those of Lambda's asynchronous invocations (AWS Lambda guide, "Capturing records of Lambda asynchronous invocations").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.aws.destination import ANOTHER, ONE_MEBIBYTE, QUARTER, AwsKind, Call, SystemTraits
from connectors.aws.options import Address, address
from poller.failures.invocation import function_arn, milliseconds
from poller.failures.journal import Delivery
from poller.settings import DestinationContext

SOURCE = "lambda"
KINDS = {"failure": "Lambda Function Invocation Result - Failure", "success": "Lambda Function Invocation Result - Success"}

_PATTERN = r"events:(?P<region>[\w-]+):(?P<account>\w+):event-bus/(?P<name>[/.\w-]{1,256})"
_ENVELOPE = 2048
"""Bytes that an entry has at most besides its detail: EventBridge counts source, kind and resources too."""


class _Buses:
    """See `connectors.aws.destination.System`."""

    traits = SystemTraits(
        "events", "EventBridge bus", "events:PutEvents", (ONE_MEBIBYTE - _ENVELOPE, QUARTER - _ENVELOPE), looking="events:DescribeEventBus"
    )

    def address(self, to: str) -> Address:
        return address(to, _PATTERN, "arn:aws:events:<region>:<account>:event-bus/<name>")

    def send(self, address: Address, endpoint: str, delivery: Delivery, context: DestinationContext, text: str) -> Call:  # noqa: ARG002
        entry = {
            "Time": milliseconds(delivery.entry.time),
            "Source": SOURCE,
            "Resources": [address.arn, f"{function_arn(delivery.entry.function)}:$LATEST"],
            "DetailType": KINDS[delivery.outcome],
            "Detail": text,
            "EventBusName": address.arn,
        }
        return Call("PutEvents", {"Entries": [entry]})

    def refused(self, operation: str, answer: Mapping[str, Any]) -> tuple[str, str] | None:
        """PutEvents succeeds as a call where its entries fail."""
        if operation != "PutEvents":
            return None if answer.get("Name") else ("NotAnswered", ANOTHER)
        entries = answer.get("Entries", ())
        if len(entries) != 1:
            return "NotAnswered", ANOTHER
        if entries[0].get("EventId"):
            return None
        return str(entries[0].get("ErrorCode", "InternalFailure")), str(entries[0].get("ErrorMessage", ""))

    def look(self, address: Address, endpoint: str) -> Call:  # noqa: ARG002
        return Call("DescribeEventBus", {"Name": address.arn})


kind = AwsKind(_Buses())
