"""What the connector asks of DynamoDB Streams, as small protocols. Vendor-free; `aws.py` implements them.

Every call raises NotConnected, or SourceError, and nothing else; what the service refuses is a value (connectors/sharded/shards.py).
`stream` is a stream's ARN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
from msgspec import UNSET, Raw, UnsetType

from connectors.sharded.pace import Limits
from connectors.sharded.shards import Page, Records, Refused, ShardReading

LIMITS = Limits(reads=10.0, bytes=10_000_000.0, records=1_000, answer=1_000_000, busy=0.25, idle=0.25)
"""A read brings a thousand records or a megabyte (API reference: GetRecords). Nothing is said of how often; Lambda reads four times a
second (guide, "Using Lambda with Amazon DynamoDB"), which is more than a shard can be written, so ten are only for what lags behind."""

RETENTION = 24 * 3600.0
"""Seconds that a record is kept; nobody can change it."""

DIGITS = 21
"""A sequence number that is asked for has at least so many digits, and at most 40 (API reference: GetShardIterator)."""


class Identity(msgspec.Struct, gc=False):
    """Who made the change, if not a person's request: the service itself, for an item whose time to live was over."""

    type: str | UnsetType = msgspec.field(name="Type", default=UNSET)
    principal: str | UnsetType = msgspec.field(name="PrincipalId", default=UNSET)


class Change(msgspec.Struct, gc=False, kw_only=True, rename="pascal"):
    """`dynamodb` of a record, in the order of Lambda's event. Keys and images are JSON text as DynamoDB wrote it: the event wants its typed
    values as they are. `created`: epoch seconds."""

    created: float | UnsetType = msgspec.field(name="ApproximateCreationDateTime", default=UNSET)
    keys: Raw
    new_image: Raw | UnsetType = UNSET
    old_image: Raw | UnsetType = UNSET
    sequence: str = msgspec.field(name="SequenceNumber")
    size_bytes: int | UnsetType = UNSET
    view: str | UnsetType = msgspec.field(name="StreamViewType", default=UNSET)


class ChangeRecord(msgspec.Struct, gc=False):
    """A record of a shard. `name`: INSERT, MODIFY or REMOVE. `shard`, and `stream`, its ARN, are set while it is read, before anyone else
    sees it; from then on it never changes."""

    id: str = msgspec.field(name="eventID")
    name: str = msgspec.field(name="eventName")
    change: Change = msgspec.field(name="dynamodb")
    version: str = msgspec.field(name="eventVersion", default="1.1")
    source: str = msgspec.field(name="eventSource", default="aws:dynamodb")
    region: str = msgspec.field(name="awsRegion", default="")
    identity: Identity | None = msgspec.field(name="userIdentity", default=None)
    shard: str = msgspec.field(name="-shard", default="")
    stream: str = msgspec.field(name="-stream", default="")


@dataclass(frozen=True, slots=True)
class StreamPage(Page):
    """Some of the shards of a stream, and what it says of itself. `status`: ENABLING, ENABLED, DISABLING, DISABLED (it is read to its end).
    `keys`: the names of the partition key and, if there is one, of the sort key."""

    status: str = "ENABLED"
    view: str = ""
    keys: tuple[str, ...] = ()


class Streams(Protocol):
    """The calls made once."""

    async def streams(self, table: str) -> Sequence[str] | Refused:
        """ListStreams: the ARNs of the table's streams of the last 24 hours, by its name, oldest first; none if it never had one. The last
        is the one that is enabled, if any is."""

    async def shards(self, stream: str, more: str | None = None) -> StreamPage | Refused:
        """DescribeStream."""


class DynamoDBClient(Streams, ShardReading[ChangeRecord], Protocol):
    """All that the connector needs."""

    async def aclose(self) -> None:
        """Tolerated twice."""


def answered(body: bytes, shard: str) -> Records[ChangeRecord]:
    """GetRecords's answer. Raises msgspec.DecodeError, msgspec.ValidationError for what is none."""
    answer = _ANSWER.decode(body)
    for record in answer.records:
        record.shard = shard
    return Records(answer.records, answer.following, size=len(body))


class _Answer(msgspec.Struct):
    records: list[ChangeRecord] = msgspec.field(name="Records")
    following: str | None = msgspec.field(name="NextShardIterator", default=None)


_ANSWER = msgspec.json.Decoder(_Answer)
