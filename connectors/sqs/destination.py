"""A queue as a destination. On a FIFO queue deliveries of a lane keep their order, and one that comes twice within five minutes is one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from connectors.aws.destination import ANOTHER, ONE_MEBIBYTE, QUARTER, AwsDestination, AwsKind, Call, SystemTraits
from connectors.aws.options import Address, SendOptions, address
from connectors.sqs import SqsOptions, connect_to_aws
from connectors.sqs.queue import identity, where
from poller.failures.invocation import group
from poller.failures.journal import Delivery
from poller.settings import DestinationContext, DestinationTraits, Finding

if TYPE_CHECKING:
    from connectors.sqs.letters import QueueLetters
    from poller.permissions import Needed, Somewhere
    from poller.redrive.letters import RedriveContext

_PATTERN = r"sqs:(?P<region>[\w-]+):(?P<account>\w+):(?P<name>[\w-]{1,75}\.fifo|[\w-]{1,80})"


class _Queues:
    """See `connectors.aws.destination.System`."""

    traits = SystemTraits("sqs", "SQS queue", "sqs:SendMessage", (ONE_MEBIBYTE, QUARTER), looking="sqs:GetQueueAttributes")

    def address(self, to: str) -> Address:
        return address(to, _PATTERN, "arn:aws:sqs:<region>:<account>:<name>")

    def send(self, address: Address, endpoint: str, delivery: Delivery, context: DestinationContext, text: str) -> Call:  # noqa: ARG002
        parameters = {"QueueUrl": _url(address, endpoint), "MessageBody": text}
        if address.fifo:
            parameters |= {"MessageGroupId": group(delivery), "MessageDeduplicationId": delivery.id}
        return Call("SendMessage", parameters)

    def refused(self, operation: str, answer: Mapping[str, Any]) -> tuple[str, str] | None:
        wanted = "MessageId" if operation == "SendMessage" else "Attributes"
        return None if answer.get(wanted) else ("NotAnswered", ANOTHER)

    def look(self, address: Address, endpoint: str) -> Call:
        return Call("GetQueueAttributes", {"QueueUrl": _url(address, endpoint), "AttributeNames": ["QueueArn"]})


def _url(address: Address, endpoint: str) -> str:
    """Of the queue: known without asking for it, for which one more permission would be needed."""
    return f"{endpoint.rstrip('/')}/{address.account}/{address.name}"


def _polled(to: str, options: SendOptions, source: Any) -> SqsOptions:
    """As a source of this queue would have it. Of options that say nothing: as the mapping's source is asked, if that is a queue."""
    given: SendOptions | SqsOptions = source if options == SendOptions() and isinstance(source, SqsOptions) else options
    return SqsOptions(queue=to, region=options.region, profile=given.profile, endpoint=given.endpoint, role_arn=given.role_arn)


class QueueKind:
    """`arn:aws:sqs:...`."""

    options: type[msgspec.Struct] = SendOptions

    def __init__(self) -> None:
        self._kind = AwsKind(_Queues())

    def __repr__(self) -> str:
        return "<QueueKind>"

    def traits(self, to: str, options: SendOptions) -> DestinationTraits:
        """`identity`: as of a source that polls this queue."""
        found = self._kind.traits(to, options)
        what = identity(where(to), options.region, options.profile, options.endpoint, options.role_arn)
        return msgspec.structs.replace(found, identity=what)

    def permissions(self, to: str, options: SendOptions, place: Somewhere) -> Needed:
        """See `poller.permissions.DestinationPermissions`."""
        return self._kind.permissions(to, options, place)

    def reading(self, to: str, options: SendOptions, source: Any, mapping: str, place: Somewhere) -> Needed:  # noqa: ARG002
        """See `poller.permissions.LetterPermissions`: what polling it needs."""
        from connectors.sqs.permissions import permissions

        return permissions(_polled(to, options, source), place)

    async def open(self, to: str, options: SendOptions, context: DestinationContext) -> AwsDestination:
        return await self._kind.open(to, options, context)

    async def letters(self, to: str, options: SendOptions, context: RedriveContext) -> QueueLetters:
        """See `poller.redrive.letters.Readable`."""
        from connectors.sqs.letters import QueueLetters
        from connectors.sqs.source import find

        self.traits(to, options)
        client = await connect_to_aws(_polled(to, options, context.source), 8)
        try:
            return QueueLetters(client, (await find(client, where(to))).url)
        except BaseException:
            await client.aclose()
            raise

    async def probe(self, to: str, options: SendOptions, context: DestinationContext) -> list[Finding]:
        return await self._kind.probe(to, options, context)


kind = QueueKind()
