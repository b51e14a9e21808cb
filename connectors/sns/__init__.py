"""A topic of SNS as a destination: `arn:aws:sns:...`. Vendor-free. On a FIFO topic as on a FIFO queue."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from connectors.aws.destination import ANOTHER, QUARTER, AwsKind, Call, SystemTraits
from connectors.aws.options import Address, address
from poller.failures.invocation import group
from poller.failures.journal import Delivery
from poller.settings import DestinationContext

_PATTERN = r"sns:(?P<region>[\w-]+):(?P<account>\w+):(?P<name>[\w-]{1,256}(?:\.fifo)?)"


class _Topics:
    """See `connectors.aws.destination.System`."""

    traits = SystemTraits("sns", "SNS topic", "sns:Publish", (QUARTER,), looking="sns:GetTopicAttributes")

    def address(self, to: str) -> Address:
        return address(to, _PATTERN, "arn:aws:sns:<region>:<account>:<name>")

    def send(self, address: Address, endpoint: str, delivery: Delivery, context: DestinationContext, text: str) -> Call:  # noqa: ARG002
        parameters = {"TopicArn": address.arn, "Message": text}
        if address.fifo:
            parameters |= {"MessageGroupId": group(delivery), "MessageDeduplicationId": delivery.id}
        return Call("Publish", parameters)

    def refused(self, operation: str, answer: Mapping[str, Any]) -> tuple[str, str] | None:
        wanted = "MessageId" if operation == "Publish" else "Attributes"
        return None if answer.get(wanted) else ("NotAnswered", ANOTHER)

    def look(self, address: Address, endpoint: str) -> Call:  # noqa: ARG002
        return Call("GetTopicAttributes", {"TopicArn": address.arn})


kind = AwsKind(_Topics())
