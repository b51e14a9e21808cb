"""A function on AWS as a destination: `arn:aws:lambda:...:function:...`, invoked asynchronously. Vendor-free."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.aws.destination import ANOTHER, ONE_MEBIBYTE, QUARTER, AwsKind, Call, SystemTraits
from connectors.aws.options import Address, address
from poller.failures.journal import Delivery
from poller.settings import DestinationContext

_PATTERN = r"lambda:(?P<region>[\w-]+):(?P<account>\w+):function:(?P<name>[\w-]{1,140}(?::[\w$-]{1,128})?)"
_ACTION = "lambda:InvokeFunction"


class _Functions:
    """See `connectors.aws.destination.System`."""

    traits = SystemTraits("lambda", "Lambda function", _ACTION, (ONE_MEBIBYTE, QUARTER), looking=_ACTION)

    def address(self, to: str) -> Address:
        return address(to, _PATTERN, "arn:aws:lambda:<region>:<account>:function:<name>")

    def send(self, address: Address, endpoint: str, delivery: Delivery, context: DestinationContext, text: str) -> Call:  # noqa: ARG002
        return Call("Invoke", {"FunctionName": address.arn, "InvocationType": "Event", "Payload": text.encode()})

    def refused(self, operation: str, answer: Mapping[str, Any]) -> tuple[str, str] | None:  # noqa: ARG002
        """202: it is in the function's queue; 204: a dry run, and it may be invoked."""
        status = answer.get("StatusCode")
        return None if status in {202, 204} else (f"HTTP {status}", ANOTHER)

    def look(self, address: Address, endpoint: str) -> Call:  # noqa: ARG002
        return Call("Invoke", {"FunctionName": address.arn, "InvocationType": "DryRun"})


kind = AwsKind(_Functions())
