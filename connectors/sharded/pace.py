"""When a shard may be read again. Pure: times are values, in seconds of any one clock; chance is an argument.

A read that leaves something behind it (a full answer, or one that says so) is followed by the next as soon as the service allows it. At the
head of a shard where records come, reads are `busy` seconds apart; where none come, they become rarer, up to `idle` seconds apart: an idle
shard costs one cheap call in so long. All idle shards are asked in step: a loop that wakes up once for fifty of them has half the work for
each. What the service refuses is asked again later and later. Laws: tests/connectors/test_shard_pace.py:

- Never more than `reads` reads in any second, nor more than `bytes` bytes a second over any stretch but for the last answer of it.
- At the head of a shard no wait is longer than `idle` (and EARLY_SECONDS), and behind the head none is longer than the limits ask for.
- Idle shards, whenever they were begun, are asked at whole multiples of `busy`, by one clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

NEARLY = 0.9
"""An answer of so much of the most that one may hold left something behind it: the next record did not fit."""

EARLY_SECONDS = 0.005
"""A timer may be so much early: who was to be asked at a moment, and was so just before, waits for the same next one."""

LONGEST_REFUSAL = 10.0
"""Seconds between tries, at most, while the service refuses (unless it asks for more)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a service allows for one shard: `reads` and `bytes` a second, `records` and `answer` (bytes) a read. `busy` and `idle`: seconds
    between reads at the head of a shard, where records come and where none do."""

    reads: float
    bytes: float
    records: int
    answer: int
    busy: float
    idle: float

    def full(self, count: int, size: int) -> bool:
        """Whether an answer of so many records and bytes had to leave some out."""
        return count >= self.records or size >= self.answer * NEARLY


@dataclass(frozen=True, slots=True)
class Pace:
    """`ready`: from then on the shard may be read. `interval`: between reads that bring nothing; `refusals`: one after the other."""

    limits: Limits
    ready: float = float("-inf")
    interval: float = 0.0
    refusals: int = 0

    def answered(self, asked: float, count: int, size: int, behind: float | None) -> Pace:
        """After a read that was sent at `asked`. `behind`: seconds behind the head; None: the service does not tell."""
        limits = self.limits
        allowed = asked + max(1 / limits.reads, size / limits.bytes)
        if behind or limits.full(count, size):
            return Pace(limits, allowed)
        interval = limits.busy if count or not self.interval else min(limits.idle, self.interval * 2)
        due = asked + interval
        if not count:
            due = (due + EARLY_SECONDS) // limits.busy * limits.busy
        return Pace(limits, max(allowed, due), interval)

    def again(self, now: float) -> Pace:
        """After a call that brought nothing but the need for another one."""
        return replace(self, ready=now + 1 / self.limits.reads, refusals=self.refusals + 1)

    def refused(self, now: float, after: float, dice: float) -> Pace:
        """`after`: seconds that the service asks for; `dice` in [0, 1). Who shares the shard's limits is refused at the same moment."""
        delay = max(after, min(LONGEST_REFUSAL, after * 2.0 ** min(self.refusals, 10)))
        return replace(self, ready=now + delay * (0.5 + dice), refusals=self.refusals + 1)
