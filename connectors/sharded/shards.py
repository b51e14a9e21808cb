"""What Kinesis and DynamoDB Streams have in common, as their clients tell it: shards, records of one read, and refusals. Vendor-free.

Calls give a value, or a `Refused`: what the service said that a reader must act upon, and that is no fault of anyone. What needs time or a
person (no connection, no permission, an answer that is none) is raised: NotConnected, or SourceError where nothing will ever help.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeAlias, TypeVar

from connectors.sharded.sequence import Start

R_co = TypeVar("R_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Shard:
    """One shard of a stream. `parents`: those it came from, one of a split, two of a merge; they may be gone already.

    `last`: the sequence number where it ends; None: it is open.
    """

    name: str
    parents: tuple[str, ...] = ()
    last: str | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the shards of a stream. `more`: the token of the next page; None: that was all."""

    shards: tuple[Shard, ...]
    more: str | None = None


@dataclass(frozen=True, slots=True)
class Records(Generic[R_co]):
    """What one read brought. `following`: the iterator to go on with; None: the shard is closed, and this was its end.

    `behind`: seconds that this read is behind the head of the shard; None where the service does not tell. `size`: bytes of the answer.
    """

    records: Sequence[R_co]
    following: str | None
    behind: float | None = None
    size: int = 0


@dataclass(frozen=True, slots=True)
class Heard:
    """What a service's clock said in an answer: `time` in epoch seconds, whole ones. `sent` and `received`: when, by the loop's clock."""

    time: float
    sent: float
    received: float

    def corrected(self, ours: float, now: float) -> float:
        """Our clock's time `ours` at the loop's time `now`, if it may be right; else the service's, or up to a second less."""
        sent, received = ours - (now - self.sent), ours - (now - self.received)
        return ours if self.time <= received and sent < self.time + 1.0 else self.time + (now - self.received)


# --- refusals -------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expired:
    """The iterator (after five minutes; DynamoDB: fifteen), or the token of the next page, is too old: begin again from the position."""

    text: str


@dataclass(frozen=True, slots=True)
class Throttled:
    """Asked too often, or for too much: ask again after `after` seconds."""

    text: str
    after: float = 1.0


@dataclass(frozen=True, slots=True)
class Trimmed:
    """The position is older than what the stream keeps: records are lost, and reading goes on at the trim horizon."""

    text: str


@dataclass(frozen=True, slots=True)
class Gone:
    """The stream, shard or consumer that was named is not there (any more)."""

    text: str


Refused: TypeAlias = Expired | Throttled | Trimmed | Gone

REFUSED = (Expired, Throttled, Trimmed, Gone)
"""For isinstance."""


class ShardReading(Protocol[R_co]):
    """What reading over shards needs of either client. `stream` is what the client's own calls take. Every call raises NotConnected and
    SourceError, and nothing else."""

    async def shards(self, stream: str, more: str | None = None) -> Page | Refused:
        """A page of all shards that are known, closed ones included: the first, or the one that `more` of the page before names."""

    async def iterator(self, stream: str, shard: str, start: Start) -> str | Refused:
        """A bookmark. Where `start` is a time to come by the service's clock: of the shard's end now."""

    async def records(self, iterator: str, shard: str, limit: int) -> Records[R_co] | Refused:
        """At most `limit` records of `shard`, in order; none is no sign that there are none further on."""

    def heard(self) -> Heard | None:
        """Of the last answer to a call other than `records`; None: it did not tell."""
