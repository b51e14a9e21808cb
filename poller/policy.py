"""What to do about failure: two policies, chosen by the source. Pure: (batch, outcome, now, dice) -> actions.

`Block`, for streams: the strand waits until a batch is done, discarded or split. `Redeliver`, for queues: the broker counts and delivers
again. The laws, each tested with a counter-test in tests/unit/test_policy.py:

1. The actions cover every record of the batch exactly once; within an action the records keep their order.
2. Done gives only Ack. 4. Busy is free: the same batch, the same attempt.
3. With finite limits every sequence of outcomes with finitely many Busy ends.
5. Redeliver discards at its receive limit (or what can never be delivered); Block never releases.
6. With `cut` nothing past the first failed record is acked; with `listed` exactly the listed records are retried, in order.
23. A fault that no error rule is about (error_rules.py) is decided as without rules. `discard`, `park`: what stands alone, or is not
   bisected, goes at once; `retry`: as if the mapping said what the rule says; `pause`: a stream keeps batch and attempt, a queue decides
   as without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Self, assert_never, cast

from poller import error_rules
from poller.error_rules import GIVING_UP
from poller.model import Ack, Action, Batch, Busy, Discard, Done, Failure, Fault, Outcome, Partial, Reason, Record, Release, Retry
from poller.parts import named_by, parts
from poller.protocols import Receipts
from poller.settings import Backoff, Bisect, ErrorRule, MappingSettings

REPORTED = Fault("partial", "ReportedFailure", "the function named the record in batchItemFailures", unhandled=False)
"""The fault of records that a partial batch response names."""

HELD_BACK = Fault("partial", "GroupFailed", "an earlier record of its group failed, and it was given back unjudged", unhandled=False)
"""The fault of records that are given back for the sake of their group's order."""

SAFE_RECEIVE_COUNT = 10
"""`defaults = "safe"`: where neither the mapping nor the queue has a limit, a message is given up after so many receives."""


PAUSING_SECONDS = 5.0
"""So long a batch waits whose fault pauses its mapping: by then its lane is being left."""


def _again(batch: Batch, fault: Fault) -> Batch:
    """The same records, next attempt."""
    return batch.but(attempt=batch.attempt + 1, cause="retry", fault=fault)


def _fresh(batch: Batch, records: Sequence[Record], fault: Fault | None) -> Batch:
    """Some of the records: a new batch with a count of its own (recorded on AWS: cases/README 2)."""
    return Batch(records, batch.format, batch.strand, "retry", 1, fault, batch.request_id)


def _leaving(state: bytes, actions: tuple[Action, ...]) -> tuple[Action, ...]:
    """The same, and what is done leaves its window in this state."""
    return tuple(Ack(action.records, state) if isinstance(action, Ack) else action for action in actions)


def _too_large(batch: Batch) -> tuple[None, tuple[Action, ...]]:
    return None, (Discard(Failure(batch.records, "MaximumPayloadSizeExceeded", batch.attempt - 1, batch.fault)),)


@dataclass(frozen=True, slots=True)
class Block:
    """Streams. `maximum_retry_attempts` None: for ever. Ages and `retention` in seconds; `partial`: what a partial failure means.

    Sources: AWS Lambda guide, "Kinesis/DynamoDB: error handling"; ages split a batch, as recorded on AWS.
    """

    maximum_retry_attempts: int | None
    maximum_record_age: float | None
    bisect: Bisect
    backoff: Backoff
    partial: Literal["cut", "listed"] = "cut"
    retention: float | None = None
    errors: tuple[ErrorRule, ...] = ()

    age_limit: float | None = field(init=False, compare=False, default=None)
    """Older records are discarded: the mapping's limit, or shortly before the source's retention would lose them, if that is less."""

    def __post_init__(self) -> None:
        # Once, not for every batch: it is looked at before each invocation.
        expiry = None if self.retention is None else max(self.retention - 600.0, self.retention * 0.9)
        limits = [limit for limit in (self.maximum_record_age, expiry) if limit is not None]
        object.__setattr__(self, "age_limit", min(limits, default=None))

    @classmethod
    def of(cls, settings: MappingSettings, partial: Literal["cut", "listed"], retention: float | None = None) -> Block:
        """What the mapping's settings make of a stream whose retention, in seconds, is known, or None."""
        said = settings.failure
        return cls(said.maximum_retry_attempts, said.maximum_record_age, said.bisect, said.backoff, partial, retention, said.errors)

    def screen(self, batch: Batch, now: float) -> tuple[Batch | None, tuple[Action, ...]]:
        if batch.cause == "oversize":
            return _too_large(batch)
        limit = self.age_limit
        if limit is None:
            return batch, ()
        if self.maximum_record_age is None:
            # Retention trims a lane from its head: while the first record is young, nothing behind it is about to go.
            (first,) = batch.format.facts(batch.records[:1]).arrivals()
            if now - first <= limit:
                return batch, ()
        arrivals = batch.format.facts(batch.records).arrivals()
        if now - min(arrivals) <= limit:
            return batch, ()
        return self._split_by_age(batch, arrivals, now, limit)

    def _split_by_age(self, batch: Batch, arrivals: Sequence[float], now: float, limit: float) -> tuple[Batch | None, tuple[Action, ...]]:
        """Only what is too old is discarded; the young ones are a smaller, so a new batch."""
        old: dict[Reason, list[Record]] = {}
        young: list[Record] = []
        for record, arrival in zip(batch.records, arrivals, strict=True):
            if now - arrival <= limit:
                young.append(record)
            elif self.maximum_record_age is not None and now - arrival > self.maximum_record_age:
                old.setdefault("RecordAgeExceeded", []).append(record)
            else:
                old.setdefault("RetentionExpiring", []).append(record)
        discards = tuple(Discard(Failure(records, reason, batch.attempt - 1, batch.fault)) for reason, records in old.items())
        return (_fresh(batch, young, batch.fault) if young else None), discards

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:  # noqa: ARG002 (the protocol's)
        match outcome:
            case Done():  # without a pattern for its state: nearly all outcomes come here
                return (Ack(batch.records, outcome.state),)
            case Busy(after):
                return (Retry(batch, after),)
            case Partial(indices, state):
                if state is not None:
                    # A tumbling window's state goes from record to record: it is of what lies before the first that failed.
                    return _leaving(state, self._cut(batch, indices[0], dice))
                return self._cut(batch, indices[0], dice) if self.partial == "cut" else self._listed(batch, indices, dice)
            case Fault():
                return self._faulted(batch, outcome, error_rules.found(self.errors, outcome), dice)
            case _ as never:
                assert_never(never)

    def _faulted(self, batch: Batch, fault: Fault, rule: ErrorRule | None, dice: float) -> tuple[Action, ...]:
        if rule is None:
            return self._failed(batch, fault, dice)
        if rule.action == "pause":
            return (Retry(batch, PAUSING_SECONDS),)
        bisect = self.bisect if rule.bisect is None else rule.bisect
        reason = GIVING_UP.get(rule.action)
        if reason is not None and not (bisect and len(batch.records) > 1):
            return (Discard(Failure(batch.records, reason, batch.attempt, fault)),)
        return self.under(rule).decide(batch, fault, 0.0, dice)

    def under(self, rule: ErrorRule) -> Self:
        """As if the mapping said what the rule says."""
        limit = self.maximum_retry_attempts if rule.maximum_retry_attempts is None else rule.maximum_retry_attempts
        return replace(
            self,
            maximum_retry_attempts=None if limit == -1 else limit,
            bisect=self.bisect if rule.bisect is None else rule.bisect,
            backoff=rule.backoff or self.backoff,
            errors=(),
        )

    def _spent(self, batch: Batch) -> bool:
        return self.maximum_retry_attempts is not None and batch.attempt > self.maximum_retry_attempts

    def _failed(self, batch: Batch, fault: Fault, dice: float) -> tuple[Action, ...]:
        if self.bisect and len(batch.records) > 1:
            # A split is no attempt and waits for nothing: its parts are new batches, run one after the other on their strand.
            return tuple(Retry(_fresh(batch, part, fault)) for part in parts(batch, fault, self.bisect))
        if not self._spent(batch):
            return (Retry(_again(batch, fault), self.backoff.delay(batch.attempt, dice)),)
        return (Discard(Failure(batch.records, "RetryAttemptsExhausted", batch.attempt, fault)),)

    def _cut(self, batch: Batch, first: int, dice: float) -> tuple[Action, ...]:
        """Everything before the first failed record is done; from it on, all is retried."""
        records = batch.records
        if first > 0:
            return Ack(records[:first]), Retry(_fresh(batch, records[first:], REPORTED), self.backoff.delay(1, dice))
        if not self._spent(batch):
            return (Retry(_again(batch, REPORTED), self.backoff.delay(batch.attempt, dice)),)
        # AWS drops the whole rest here; good records must not leave with a bad one, so only what was named goes.
        discard = Discard(Failure(records[:1], "RetryAttemptsExhausted", batch.attempt, REPORTED))
        return (discard, Retry(_fresh(batch, records[1:], None))) if len(records) > 1 else (discard,)

    def _listed(self, batch: Batch, indices: tuple[int, ...], dice: float) -> tuple[Action, ...]:
        """Exactly the named records are retried."""
        records = batch.records
        if len(indices) < len(records):
            named = frozenset(indices)
            done = [record for i, record in enumerate(records) if i not in named]
            failed = [records[i] for i in indices]
            return Ack(done), Retry(_fresh(batch, failed, REPORTED), self.backoff.delay(1, dice))
        if not self._spent(batch):
            return (Retry(_again(batch, REPORTED), self.backoff.delay(batch.attempt, dice)),)
        return (Discard(Failure(records, "RetryAttemptsExhausted", batch.attempt, REPORTED)),)


@dataclass(frozen=True, slots=True)
class Redeliver:
    """Queues. `maximum_receive_count` is ours, `redrive_count` the queue's own limit (its redrive policy); None: no such limit.
    `fallback` is ours where there would be neither.

    `backoff` None: a failed record waits for its visibility timeout, as on AWS. `groups`: after a partial failure, later records of a
    failed group are given back too (AWS deletes what is not reported, even out of the group's order).
    Source: AWS Lambda guide, "SQS: error handling"; attempts in a failure are the record's receive count.
    """

    maximum_receive_count: int | None
    redrive_count: int | None
    backoff: Backoff | None
    groups: bool
    fallback: int | None = None
    errors: tuple[ErrorRule, ...] = ()

    @classmethod
    def of(cls, settings: MappingSettings, redrive_count: int | None = None, groups: bool = False) -> Redeliver:
        """What the mapping's settings make of a queue. One that is asked only later fills its limit in with `replace`."""
        said = settings.failure
        backoff = said.backoff if said.backoff_set else None
        return cls(said.maximum_receive_count, redrive_count, backoff, groups, SAFE_RECEIVE_COUNT if settings.safe else None, said.errors)

    @property
    def limit(self) -> int | None:
        """Our limit, where it is the one that acts: of two the lower does, ours when equal."""
        ours, queues = self.maximum_receive_count, self.redrive_count
        if ours is None:
            return self.fallback if queues is None else None
        return ours if queues is None or ours <= queues else None

    def screen(self, batch: Batch, now: float) -> tuple[Batch | None, tuple[Action, ...]]:  # noqa: ARG002 (the protocol's)
        if batch.cause == "oversize":
            return _too_large(batch)
        limit = self.limit
        if limit is None:
            return batch, ()
        receives = cast("Receipts", batch.format.facts(batch.records)).receives()
        if max(receives) <= limit:
            return batch, ()
        # Above the limit: it was received for the last time before, and a crash kept its outcome from us. It is not tried once more.
        over = [record for record, count in zip(batch.records, receives, strict=True) if count > limit]
        rest = [record for record, count in zip(batch.records, receives, strict=True) if count <= limit]
        discard = Discard(Failure(over, "MaximumReceiveCountExceeded", limit, batch.fault))
        return (_fresh(batch, rest, batch.fault) if rest else None), (discard,)

    def decide(self, batch: Batch, outcome: Outcome, now: float, dice: float) -> tuple[Action, ...]:  # noqa: ARG002 (the protocol's)
        match outcome:
            case Done():  # without a pattern for its state: nearly all outcomes come here
                return (Ack(batch.records),)
            case Busy(after):
                return (Retry(batch, after),)
            case Partial(indices):
                return self._failed(batch, frozenset(indices), REPORTED, dice)
            case Fault():
                return self._faulted(batch, outcome, error_rules.found(self.errors, outcome), dice)
            case _ as never:
                assert_never(never)

    def _faulted(self, batch: Batch, fault: Fault, rule: ErrorRule | None, dice: float) -> tuple[Action, ...]:
        """A rule that pauses changes nothing here: the queue has counted the receive already."""
        if rule is not None and (reason := GIVING_UP.get(rule.action)) is not None:
            return self._rejected(batch, fault, reason, dice)
        if rule is None or rule.action == "pause":
            return self._failed(batch, frozenset(range(len(batch.records))), fault, dice)
        return self.under(rule).decide(batch, fault, 0.0, dice)

    def under(self, rule: ErrorRule) -> Self:
        """As if the mapping said what the rule says; of two limits the lower, for a message above the mapping's is not tried again."""
        ours = self.maximum_receive_count
        if ours is None and self.redrive_count is None:
            ours = self.fallback
        limits = [limit for limit in (ours, rule.maximum_receive_count) if limit is not None]
        return replace(self, maximum_receive_count=min(limits, default=None), backoff=rule.backoff or self.backoff, errors=())

    def _rejected(self, batch: Batch, fault: Fault, reason: Reason, dice: float) -> tuple[Action, ...]:
        """Given up at once: the record that the error names, and the others fail as they would without a rule; else all of them.

        With one whose key is held goes what came before it in its group: it would come again, and be parked behind what it comes before.
        """
        named = named_by(fault, len(batch.records))
        facts = cast("Receipts", batch.format.facts(batch.records))
        receives, keys = facts.receives(), facts.keys()
        meant = set(range(len(batch.records))) if named is None else {named}
        if named is not None and reason == "ErrorParked" and keys[named] is not None:
            meant = {i for i in range(named + 1) if keys[i] == keys[named]}
        parts: dict[int, list[Record]] = {}
        for i in sorted(meant):
            parts.setdefault(receives[i], []).append(batch.records[i])
        discards = tuple(Discard(Failure(records, reason, count, fault)) for count, records in parts.items())
        if len(meant) == len(batch.records):
            return discards
        rest = batch.but(records=[record for i, record in enumerate(batch.records) if i not in meant])
        return *discards, *self._failed(rest, frozenset(range(len(rest))), fault, dice)

    def _failed(self, batch: Batch, failed: frozenset[int], fault: Fault, dice: float) -> tuple[Action, ...]:
        facts = cast("Receipts", batch.format.facts(batch.records))
        receives = facts.receives()
        held_back = self._later_of_failed_groups(facts.keys(), failed) if self.groups else frozenset()
        # Few actions, whatever the order of the records: one per disposition, in the order of its first record.
        parts: dict[tuple[str, Hashable], list[Record]] = {}
        for i, (record, count) in enumerate(zip(batch.records, receives, strict=True)):
            disposition = self._disposition(i in failed, i in held_back, count, dice)
            parts.setdefault(disposition, []).append(record)
        return tuple(self._action(what, detail, records, fault) for (what, detail), records in parts.items())

    def _disposition(self, failed: bool, held_back: bool, count: int, dice: float) -> tuple[str, Hashable]:
        if not failed and not held_back:
            return "ack", None
        delay = None if self.backoff is None else self.backoff.delay(count, dice)
        if not failed:
            # Given back, it is received once too often all the same: then the queue moves it.
            moved = self.redrive_count is not None and count >= self.redrive_count
            return ("copy, held back", count) if moved else ("release", delay)
        limit = self.limit
        if limit is not None:
            return ("discard", count) if count >= limit else ("release", delay)
        if self.redrive_count is not None and count >= self.redrive_count:
            return "copy", count
        return "release", delay

    def _action(self, what: str, detail: Hashable, records: list[Record], fault: Fault) -> Action:
        if what == "ack":
            return Ack(records)
        if what == "release":
            return Release(records, cast("float | None", detail))
        count = cast("int", detail)
        if what == "discard":
            return Discard(Failure(records, "MaximumReceiveCountExceeded", count, fault))
        # Nobody else can show why it is in the dead-letter queue.
        fault = HELD_BACK if what == "copy, held back" else fault
        return Release(records, None, Failure(records, "MaximumReceiveCountExceeded", count, fault, kept="queue-dlq"))

    @staticmethod
    def _later_of_failed_groups(keys: Sequence[bytes | None], failed: frozenset[int]) -> frozenset[int]:
        first: dict[bytes, int] = {}
        for i in sorted(failed):
            key = keys[i]
            if key is not None:
                first.setdefault(key, i)
        return frozenset(i for i, key in enumerate(keys) if key in first and i > first[key] and i not in failed)
