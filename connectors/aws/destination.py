"""A destination on AWS: one call for each delivery. What differs from service to service is a `System`. Vendor-free.

A `System` is pure: which address, which call sends, which answer is none, which call looks. Calls go over aiobotocore (sender.py), not
over our JSON caller: five services have five protocols, and at a failure a millisecond of processor is nothing. One attempt a call, but
for a kept connection that the service had closed: the outbox tries again. A service that refuses a body for its size is sent the next
smaller one, and that is remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from connectors.aws import naming
from connectors.aws.options import Address, SendOptions, checked
from connectors.aws.refusals import Place
from connectors.aws.rejections import Forbidden, TooLarge, rejection
from connectors.bodies import body
from poller.errors import NotConnected
from poller.failures.journal import Delivery
from poller.settings import DestinationContext, DestinationTraits, Finding

if TYPE_CHECKING:
    from connectors.aws.sender import AwsSender
    from poller.permissions import Needed, Somewhere

ONE_MEBIBYTE, QUARTER = 1024 * 1024, 256 * 1024

ANOTHER = "what answers is no AWS; check `endpoint`, and proxies"


@dataclass(frozen=True, slots=True)
class Call:
    """An operation of a service, by its own name, and its parameters."""

    operation: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class SystemTraits:
    """What a service is, beside its calls.

    `service`: botocore's name of it; `what`: for messages, "SQS queue"; `action`: what its policies call sending; `limits`: the largest
    bodies it may take, in bytes, the largest first: a service that refuses one for its size is given the next; none: it takes any.
    `carried`: see `invocation.record`. `looking`: the permission that `System.look` needs. `inside`: what a policy appends to the
    ARN to mean what is sent there.
    """

    service: str
    what: str
    action: str
    limits: tuple[int, ...] = ()
    carried: bool = False
    looking: str = ""
    inside: str = ""


class System(Protocol):
    """One service. Pure."""

    @property
    def traits(self) -> SystemTraits: ...

    def address(self, to: str) -> Address:
        """Raises ConfigError."""

    def send(self, address: Address, endpoint: str, delivery: Delivery, context: DestinationContext, text: str) -> Call:
        """The call that sends this body; `endpoint` is the URL that is asked."""

    def refused(self, operation: str, answer: Mapping[str, Any]) -> tuple[str, str] | None:
        """Error code and text, of an answer to `send` or `look` that says that it went well where it did not, or is somebody else's:
        botocore takes a proxy's page for an empty answer."""

    def look(self, address: Address, endpoint: str) -> Call:
        """A call that sends nothing, and fails where the address names nothing."""


class AwsDestination:
    """What is sent to one address of a system."""

    def __init__(self, system: System, sender: AwsSender, place: Place, address: Address, context: DestinationContext) -> None:
        self._system, self._sender, self._place = system, sender, place
        self._address, self._context = address, context
        self._limit = max(system.traits.limits, default=None)

    def __repr__(self) -> str:
        return f"<AwsDestination {self._place.name}>"

    async def send(self, delivery: Delivery) -> None:
        """See `poller.failures.protocols.Destination`."""
        while True:
            limit = self._limit
            text = await body(delivery, self._context, limit, carried=self._system.traits.carried)
            try:
                await self._call(self._system.send(self._address, self._sender.endpoint, delivery, self._context, legible(text)))
            except TooLarge:
                # A queue may be set to less, and not every region and imitation takes what AWS takes today.
                smaller = [each for each in self._system.traits.limits if each < min(limit or 0, len(text))]
                if not smaller:
                    raise
                self._limit = max(smaller)
            else:
                return

    async def look(self) -> None:
        """Raises NotConnected."""
        await self._call(self._system.look(self._address, self._sender.endpoint))

    async def _call(self, call: Call) -> None:
        answer = await self._sender.call(call.operation, call.parameters)
        if (refused := self._system.refused(call.operation, answer)) is not None:
            raise rejection(self._place, call.operation, *refused)

    async def aclose(self) -> None:
        await self._sender.aclose()


class AwsKind:
    """A `DestinationKind` of a system."""

    options: type[msgspec.Struct] = SendOptions

    def __init__(self, system: System) -> None:
        self._system = system

    def __repr__(self) -> str:
        return f"<AwsKind {self._system.traits.what}>"

    def traits(self, to: str, options: SendOptions) -> DestinationTraits:
        seconds = checked(self._system.address(to), options)
        # Of an answer; a send may be two calls, after those for credentials.
        return DestinationTraits(maximum_bytes=max(self._system.traits.limits, default=None), seconds=2 * seconds + 60)

    def permissions(self, to: str, options: SendOptions, place: Somewhere) -> Needed:  # noqa: ARG002 -- an ARN tells all
        """See `poller.permissions.DestinationPermissions`."""
        from connectors.aws.permissions import needed
        from poller.permissions import Grant

        named, traits = self._system.address(to), self._system.traits
        return needed(
            f"{traits.what} {named.name}", options, Grant("SendToDestination", (traits.action,), (f"{named.arn}{traits.inside}",))
        )

    async def open(self, to: str, options: SendOptions, context: DestinationContext) -> AwsDestination:
        from connectors.aws.sender import AwsSender

        named = self._system.address(to)
        region = options.region or named.region or None
        place = Place(naming.place(self._system.traits.what, named, options), self._system.traits.action)
        sender = await AwsSender.opened(place, checked(named, options), self._system.traits.service, region, options)
        return AwsDestination(self._system, sender, place, named, context)

    async def probe(self, to: str, options: SendOptions, context: DestinationContext) -> list[Finding]:
        try:
            destination = await self.open(to, options, replace(context, spill=None))
        except NotConnected as error:
            return [Finding("error", str(error))]
        name, looking, action = self._system.address(to).arn, self._system.traits.looking, self._system.traits.action
        try:
            await destination.look()
        except Forbidden as error:
            if looking == action:
                return [Finding("error", str(error))]
            return [
                Finding("warning", f"{name} could not be looked at, for which {looking} is needed; to send, {action} is enough: {error}")
            ]
        except NotConnected as error:
            return [Finding("error", str(error))]
        finally:
            await destination.aclose()
        tried = "we may send to it" if looking == action else "sending was not tried"
        return [Finding("ok", f"{name} is there ({tried})")]


def legible(text: bytes) -> str:
    """JSON text in characters that every service takes: SQS and SNS refuse two that JSON allows, and that stand in strings only."""
    return text.decode().replace("\ufffe", "\\ufffe").replace("\uffff", "\\uffff")
