"""A bucket of S3 as a destination: `arn:aws:s3:::<bucket>`, or `s3://<bucket>/<prefix>`. Vendor-free.

Objects have AWS's names (`poller.failures.invocation.key`), below the prefix if there is one, and hold the event whatever its size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from connectors.aws import naming
from connectors.aws.destination import ANOTHER, AwsDestination, AwsKind, Call, SystemTraits
from connectors.aws.options import Address, SendOptions, checked
from connectors.aws.refusals import Place
from poller.errors import ConfigError
from poller.failures.invocation import key
from poller.failures.journal import Delivery
from poller.settings import DestinationContext, DestinationTraits, Finding

if TYPE_CHECKING:
    from connectors.s3.letters import BucketLetters
    from poller.permissions import Needed, Somewhere
    from poller.redrive.letters import RedriveContext

_ARN = re.compile(r"arn:(?P<partition>[\w-]+):s3:::(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*?)/?)?", re.ASCII)
_URL = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*?)/?)?", re.ASCII)

LISTING, READING = "s3:ListBucket", "s3:GetObject"
"""What IAM must allow to read the letters there."""


class _Buckets:
    """See `connectors.aws.destination.System`."""

    traits = SystemTraits("s3", "S3 bucket", "s3:PutObject", carried=True, looking="s3:ListBucket", inside="/*")

    def address(self, to: str) -> Address:
        """`name` is the bucket, with the prefix behind it."""
        found = _ARN.fullmatch(to) or _URL.fullmatch(to)
        if found is None:
            raise ConfigError(f"{to!r} names no bucket; write arn:aws:s3:::<bucket>, or s3://<bucket>/<prefix>")
        parts = found.groupdict()
        name = f"{parts['bucket']}/{parts['prefix']}" if parts["prefix"] else parts["bucket"]
        partition = parts.get("partition") or "aws"
        return Address(f"arn:{partition}:s3:::{name}", partition, "", "", name)

    def send(self, address: Address, endpoint: str, delivery: Delivery, context: DestinationContext, text: str) -> Call:  # noqa: ARG002
        bucket, name = _object(address, delivery, context)
        return Call("PutObject", {"Bucket": bucket, "Key": name, "Body": text.encode(), "ContentType": "application/json"})

    def refused(self, operation: str, answer: Mapping[str, Any]) -> tuple[str, str] | None:
        return None if operation != "PutObject" or answer.get("ETag") else ("NotAnswered", ANOTHER)

    def look(self, address: Address, endpoint: str) -> Call:  # noqa: ARG002
        return Call("HeadBucket", {"Bucket": address.name.partition("/")[0]})


def _object(address: Address, delivery: Delivery, context: DestinationContext) -> tuple[str, str]:
    """Bucket and key."""
    bucket, _, prefix = address.name.partition("/")
    name = key(delivery, context.mapping.id)
    return bucket, f"{prefix}/{name}" if prefix else name


class Bucket:
    """What is sent to one bucket; a `poller.failures.protocols.Placing`."""

    def __init__(self, destination: AwsDestination, address: Address, context: DestinationContext) -> None:
        self._destination, self._address, self._context = destination, address, context
        self.send, self.aclose = destination.send, destination.aclose

    def __repr__(self) -> str:
        return f"<Bucket {self._address.name}>"

    def place(self, delivery: Delivery) -> str:
        return "s3://" + "/".join(_object(self._address, delivery, self._context))


class BucketKind:
    """See `poller.settings.DestinationKind`."""

    options: type[msgspec.Struct] = SendOptions

    def __init__(self) -> None:
        self._system = _Buckets()
        self._kind = AwsKind(self._system)

    def __repr__(self) -> str:
        return "<BucketKind>"

    def traits(self, to: str, options: SendOptions) -> DestinationTraits:
        return self._kind.traits(to, options)

    def permissions(self, to: str, options: SendOptions, place: Somewhere) -> Needed:
        """See `poller.permissions.DestinationPermissions`."""
        return self._kind.permissions(to, options, place)

    def reading(self, to: str, options: SendOptions, source: Any, mapping: str, place: Somewhere) -> Needed:  # noqa: ARG002
        """See `poller.permissions.LetterPermissions`."""
        from connectors.aws.permissions import needed
        from poller.permissions import Grant

        address = self._system.address(to)
        listed = Grant("ListLetters", (LISTING,), (address.arn.partition("/")[0],))
        return needed(f"S3 bucket {address.name}", options, listed, Grant("ReadLetters", (READING,), (f"{address.arn}/*",)))

    async def open(self, to: str, options: SendOptions, context: DestinationContext) -> Bucket:
        return Bucket(await self._kind.open(to, options, context), self._system.address(to), context)

    async def letters(self, to: str, options: SendOptions, context: RedriveContext) -> BucketLetters:  # noqa: ARG002 -- the protocol's
        """See `poller.redrive.letters.Readable`: of all objects below the prefix."""
        from connectors.aws.sender import AwsSender
        from connectors.s3.letters import BucketLetters

        address = self._system.address(to)
        place = Place(naming.place("S3 bucket", address, options), f"{LISTING} and {READING}")
        sender = await AwsSender.opened(place, checked(address, options), "s3", options.region, options)
        bucket, _, prefix = address.name.partition("/")
        return BucketLetters(sender, bucket, prefix)

    async def probe(self, to: str, options: SendOptions, context: DestinationContext) -> list[Finding]:
        return await self._kind.probe(to, options, context)


kind = BucketKind()
