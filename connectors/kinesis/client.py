"""What the connector asks of Kinesis, as small protocols. Vendor-free; `aws.py` implements them.

Every call raises NotConnected, or SourceError, and nothing else; what the service refuses is a value (connectors/sharded/shards.py).
`stream` is a name, or an ARN.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from connectors.sharded.pace import Limits
from connectors.sharded.sequence import Start
from connectors.sharded.shards import Records, Refused, ShardReading

_ENCODED = 4 / 3
"""An answer has its records in base64; Kinesis counts their own bytes."""

LIMITS = Limits(
    reads=5.0,
    bytes=2_000_000 * _ENCODED,
    records=10_000,
    answer=int(10 * 1024 * 1024 * _ENCODED),
    busy=0.25,
    idle=1.0,
)
"""Kinesis's own, for a shard (Kinesis, "Quotas and limits"); those a second are shared by all that read without enhanced fan-out. At the
head of a shard less is used of them, so that others may read it too."""


class KinesisRecord(msgspec.Struct, gc=False):
    """A record of a shard, or one of the user records of an aggregated one.

    `data` is base64, as Kinesis sends it and the event wants it. `arrival`: epoch seconds. `sub`: 0, a record as it came; else which of its
    user records, from 1 (connectors/sharded/sequence.py), and `aggregated`: whether there was an aggregate at all. `shard` and `sub` are
    set while it is read, before anyone else sees it; from then on it never changes.
    """

    sequence: str = msgspec.field(name="SequenceNumber")
    arrival: float = msgspec.field(name="ApproximateArrivalTimestamp")
    key: str = msgspec.field(name="PartitionKey")
    data: str = msgspec.field(name="Data")
    shard: str = msgspec.field(name="-shard", default="")
    sub: int = msgspec.field(name="-sub", default=0)
    aggregated: bool = msgspec.field(name="-aggregated", default=False)


@dataclass(frozen=True, slots=True)
class Stream:
    """What a stream says of itself. `retention` and `created` in seconds (since the epoch)."""

    arn: str
    status: str
    retention: float
    created: float

    @property
    def name(self) -> str:
        return self.arn.rpartition("/")[2]

    @property
    def region(self) -> str:
        return self.arn.split(":")[3]

    @property
    def account(self) -> str:
        return self.arn.split(":")[4]

    @property
    def identity(self) -> str:
        """What makes it the same stream tomorrow: one that was deleted and made anew has the same ARN, and other sequence numbers."""
        return f"{self.arn}@{int(self.created)}"


@dataclass(frozen=True, slots=True)
class Consumer:
    """A registered consumer. `status`: CREATING, ACTIVE, DELETING."""

    arn: str
    status: str


@dataclass(frozen=True, slots=True)
class Pushed:
    """What came in one piece of a subscription. `continuation`: the sequence number to go on after when the subscription has ended; None:
    the shard has. Without records it is still a sign of life, and moves the continuation."""

    records: Sequence[KinesisRecord]
    continuation: str | None
    behind: float


class Streams(Protocol):
    """The calls made once."""

    async def stream(self, stream: str) -> Stream | Refused:
        """DescribeStreamSummary."""

    async def describe_consumer(self, consumer_arn: str) -> Consumer | Refused: ...

    def subscribe(self, consumer_arn: str, shard: str, start: Start) -> AsyncGenerator[Pushed | Refused, None]:
        """SubscribeToShard: ends after five minutes, or with the shard; a `Refused` is the last of it. Close it (`aclose`) to leave early.

        Raises NotConnected when the line breaks. One subscription a consumer and shard: a second one ends the first, at the earliest five
        seconds after it began.
        """


class KinesisClient(ShardReading[KinesisRecord], Streams, Protocol):
    """All that the connector needs."""

    async def aclose(self) -> None:
        """Tolerated twice."""


def answered(body: bytes, shard: str) -> Records[KinesisRecord]:
    """GetRecords's answer. Raises msgspec.DecodeError, msgspec.ValidationError for what is none."""
    answer = _ANSWER.decode(body)
    for record in answer.records:
        record.shard = shard
    behind = None if answer.behind is None else answer.behind / 1000
    return Records(answer.records, answer.following, behind, len(body))


class _Answer(msgspec.Struct):
    records: list[KinesisRecord] = msgspec.field(name="Records")
    following: str | None = msgspec.field(name="NextShardIterator", default=None)
    behind: float | None = msgspec.field(name="MillisBehindLatest", default=None)


_ANSWER = msgspec.json.Decoder(_Answer)
