"""What a subscription to a shard brings, and when there is to be another. Pure.

Source: Kinesis Data Streams API reference, SubscribeToShard and SubscribeToShardEvent. A subscription lasts five minutes at most; the next
one goes on after the continuation of the last event, which grows also while nothing comes. A call within five seconds of one that succeeded
is refused; a later one takes the shard over, and ends the subscription before it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from connectors.kinesis.client import KinesisRecord
from connectors.sharded.sequence import Start, apart, place, start
from connectors.sharded.shards import Refused, Throttled
from connectors.sharded.slices import Expand, Slices
from poller.errors import NotConnected, SourceError
from poller.progress import ORIGIN
from poller.protocols import Format

MOST_RECORDS = 5_000
MOST_BYTES = 4 << 20
"""What waits for a slow lane at most, and one event more: then nothing is taken from the line, and Kinesis holds back."""

_OVERHEAD = 400
"""Bytes of a record beside its data and key, about."""

APART = 5.0
"""Seconds between two subscriptions to a shard: a second call within them is refused."""

MOMENT = 1.0
"""Seconds until a call that failed is made again: one a second is allowed, a consumer and shard."""

PATIENCE = 6
"""So many calls in a row that brought nothing, and the shard is polled."""

AWAY = 300.0
"""Seconds that it is polled, before it is subscribed to again."""


Doubt: TypeAlias = Literal["ended", "trimmed"]
"""What an event seems to say, and a read is to confirm, for nothing can be done about it afterwards: the shard has ended; records that were
to be read are kept no more."""


class Inbox:
    """What was pushed of one shard from a position on, and is not taken yet; and where a subscription begins, or goes on.

    Nothing is taken twice, whatever subscriptions repeat, and nothing below the position. `expand` (None: not wanted): see `Dialect`.
    """

    __slots__ = ("_came", "_continuation", "_expected", "_origin", "_slices", "_waiting", "behind", "bytes", "doubt", "newest")

    def __init__(self, format: Format, position: int, origin: str, expand: Expand[KinesisRecord] | None = None) -> None:
        self.bytes = 0
        self.behind = 0.0
        """Seconds that the last event was behind the head of the shard."""
        self.newest: float | None = None
        """When the newest record that came had arrived at Kinesis (epoch seconds)."""
        self.doubt: Doubt | None = None
        self._origin = origin
        self._came: int | None = None
        self._continuation = 0
        # Kinesis begins at the oldest record it has, without a word, where the one asked for is gone. So that is asked for itself.
        self._expected = None if position == ORIGIN else place(position).sequence
        self._waiting = deque[KinesisRecord]()
        self._slices: Slices[KinesisRecord] = Slices(format)
        # Positions say which way they were made; see connectors/sharded/lane.py.
        self._slices.begin(position, expand=expand if position == ORIGIN or apart(position) else None)

    def __repr__(self) -> str:
        return f"<Inbox [{len(self._waiting)} wait, {self.bytes} bytes]>"

    @property
    def position(self) -> int:
        """After all that was taken."""
        return self._slices.position

    @property
    def waiting(self) -> int:
        """Records as they came, not counting what `take` has begun to hand out."""
        return len(self._waiting)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= MOST_RECORDS or self.bytes >= MOST_BYTES

    @property
    def start(self) -> Start:
        """Of the next subscription.

        A continuation counts only when it is past all that came: one that merely repeats where the subscription was to begin says nothing
        about the record that stands there.
        """
        reached = self._expected if self._came is None else self._came
        if self._continuation > (reached or 0):
            return Start("AFTER_SEQUENCE_NUMBER", str(self._continuation))
        if self._came is not None:
            return Start("AFTER_SEQUENCE_NUMBER", str(self._came))
        if self._expected is not None:
            return Start("AT_SEQUENCE_NUMBER", str(self._expected))
        return start(ORIGIN, self._origin)

    def add(self, records: Sequence[KinesisRecord], continuation: str | None, behind: float) -> None:
        """An event. `continuation` None: there is nothing after it."""
        least = (self._expected or 0) if self._came is None else self._came + 1
        fresh = [record for record in records if int(record.sequence) >= least]
        if fresh:
            first = int(fresh[0].sequence)
            if self._came is None and self._expected is not None and first > self._expected and not self._continuation > self._expected:
                self.doubt = "trimmed"
                return
            self._came = int(fresh[-1].sequence)
            self._waiting.extend(fresh)
            self.bytes += sum(map(_size, fresh))
            self.newest = fresh[-1].arrival
        self.behind = behind
        if continuation is None:
            self.doubt = "ended"
        else:
            self._continuation = max(self._continuation, int(continuation))

    def take(self, limit: int) -> tuple[list[KinesisRecord], int]:
        """At most so many, oldest first, and the position after them; none: nothing waits."""
        slices, waiting = self._slices, self._waiting
        found = slices.take(limit)
        while not found and waiting:
            some = [waiting.popleft() for _ in range(min(limit, len(waiting)))]
            self.bytes -= sum(map(_size, some))
            slices.add(some)
            found = slices.take(limit)
        return found, slices.position


def _size(record: KinesisRecord) -> int:
    return len(record.data) + len(record.key) + _OVERHEAD


@dataclass(frozen=True, slots=True)
class Again:
    """Subscribe at `at`."""

    at: float


@dataclass(frozen=True, slots=True)
class Poll:
    """Poll until `until`. `why`: what keeps the shard from being pushed; None: nothing, there is something to confirm."""

    until: float
    why: Refused | NotConnected | SourceError | None = None


Next: TypeAlias = Again | Poll


@dataclass(slots=True)
class Subscriptions:
    """One after the other, to one shard. Times are seconds of any clock.

    A shard is polled where only a person can help, and where a call brings nothing again and again. What a read is needed to decide (is it
    the consumer that is gone, the shard, or the stream? is what was asked for trimmed?) is left to who polls.
    """

    apart: float = APART
    moment: float = MOMENT
    away: float = AWAY
    failures: int = 0

    def after(self, began: float, now: float, brought: bool, why: Refused | NotConnected | SourceError | None) -> Next:
        """What comes after a subscription that was asked for at `began`, and is over. `brought`: there was an event. `why` None: it came to
        its end, after five minutes say."""
        if why is not None and not _passing(why):
            return self._poll(now, why)
        wait = why.after if isinstance(why, Throttled) else self.moment
        if brought:
            self.failures = 0
            return Again(max(began + self.apart, now + (wait if isinstance(why, Throttled) else 0.0)))
        self.failures += 1
        if self.failures >= PATIENCE:
            return self._poll(now, why or NotConnected("SubscribeToShard brings nothing"))
        return Again(now + wait)

    def confirm(self, doubt: Doubt, began: float, now: float) -> Poll:
        """What comes after a subscription, asked for at `began`, that left a doubt. One that began to read is not to be repeated sooner."""
        return Poll(now + self.away if doubt == "ended" else max(now, began + self.apart))

    def _poll(self, now: float, why: Refused | NotConnected | SourceError) -> Poll:
        # What was given up on once gets one call the next time: meanwhile nobody reads.
        self.failures = PATIENCE - 1
        return Poll(now + self.away, why)


def _passing(why: Refused | NotConnected | SourceError) -> bool:
    return isinstance(why, Throttled) or (isinstance(why, NotConnected) and not why.permanent)
