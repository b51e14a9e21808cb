"""The attempts that a failing record would get: the policy itself, asked step by step about a scripted function. Pure.

One batch with one poison record. The function fails whenever that record is there: as a whole ("full"), with an error that names it
("named": parts.py), or by naming it in its response ("partial"). Error rules have their say; where one pauses the mapping, it ends there.
Block's retries run on the strand, as strand_runner.py runs them; what Redeliver gives back comes again once it is visible.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Any, Literal, NamedTuple, TypeAlias, assert_never, cast

from poller import error_rules
from poller.model import Ack, Action, Batch, Discard, Fault, Outcome, Partial, Record, Release, Retry
from poller.outcome import DONE
from poller.parts import KEY_CUTS
from poller.policy import Block, Redeliver
from poller.protocols import Format
from poller.settings import ErrorRule
from poller.units import show_duration

MOST_STEPS = 2_000
"""After so many invocations an explanation ends, and says that it goes on."""

SHOWN_SERIES = 4
"""A longer series of attempts of one batch is shortened."""

Kind: TypeAlias = Literal["full", "named", "partial"]

POISON = Fault("error", "Poison", "the record that always fails")


@dataclass(slots=True)
class Step:
    """One invocation, at `at` seconds, of the records at places `first`..`last` (from 0).

    `attempt`: which of this batch; of a queue, how often it was received. `outcome` "none": it was given up uninvoked. `decided`: what the
    policy did about it. `then`: what became of parts of the batch; the next attempt of the same batch is the next step beside this one.
    """

    first: int
    last: int
    attempt: int
    at: float
    outcome: Literal["done", "full", "partial", "none"]
    decided: str
    then: list[Step] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class End:
    """What became of a record, and when (seconds): `how` is "done", "dead-letter queue", or why it was discarded."""

    how: str
    at: float


@dataclass(frozen=True, slots=True)
class Bounds:
    """The most that can be: `invocations` of the poison record, wherever it stands; `seconds` until it is given up, where it stands,
    with the longest backoffs. None: without limit, or beyond MOST_STEPS. Crashes of the worker may add to both (law 11)."""

    invocations: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Explanation:
    """`invocations` and `ends` are by record. `finished` False: it goes on like this, for ever or for very long, or the mapping is
    `paused`, until a person resumes it."""

    poison: int
    steps: tuple[Step, ...]
    invocations: tuple[int, ...]
    ends: tuple[End | None, ...]
    total: int
    finished: bool
    bounds: Bounds
    paused: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """The tree, indented, records counted from 1; then what it comes to."""
        yield from _lines(self.steps, "")
        if not self.finished and not self.paused:
            yield "... and so on"
        end = self.ends[self.poison]
        what = "is not given up" if end is None else f"ends after {_time(end.at)}: {end.how}"
        yield f"record {self.poison + 1} is in {self.invocations[self.poison]} of {self.total} invocations, and {what}"
        if self.paused:
            return
        invocations = "any number of" if self.bounds.invocations is None else self.bounds.invocations
        seconds = "for longer than is shown" if self.bounds.seconds is None else _time(self.bounds.seconds)
        yield f"at most: {invocations} invocations, {seconds}"


def explain(
    policy: Block | Redeliver,
    batch_size: int,
    poison: int,
    kind: Kind = "full",
    dice: float = 0.5,
    *,
    seconds: float = 0.0,
    visibility: float = 30.0,
    fault: Fault = POISON,
) -> Explanation:
    """What happens to a batch of so many records, of which the one at place `poison` (from 0) always fails.

    `dice` in [0, 1) scales every backoff. `seconds`: how long an invocation takes. `visibility`: the queue's timeout, in seconds. `fault`:
    the error that the function fails with.
    Raises ValueError for a place that is not in the batch.
    """
    if not 0 <= poison < batch_size:
        raise ValueError(f"there is no record {poison} in a batch of {batch_size}")
    script = _Script(poison, kind, fault, seconds)
    run, worst = (_run(policy, batch_size, script, each, visibility) for each in (dice, 1.0))
    last = worst.ends[poison]
    bounds = Bounds(_most_invocations(_meant(policy, script), batch_size, kind), None if last is None else last.at)
    finished = all(end is not None for end in run.ends)
    return Explanation(poison, tuple(run.steps), tuple(run.invocations), tuple(run.ends), run.total, finished, bounds, run.paused)


def _meant(policy: Block | Redeliver, script: _Script) -> Block | Redeliver:
    """The policy as it is for these faults."""
    rule = script.rule(policy)
    if rule is None or rule.action == "pause":
        return policy
    made = policy.under(rule)
    if rule.action in error_rules.GIVING_UP:
        made = replace(made, maximum_retry_attempts=0) if isinstance(made, Block) else replace(made, maximum_receive_count=1)
    return made


def _most_invocations(policy: Block | Redeliver, size: int, kind: Kind) -> int | None:
    if isinstance(policy, Redeliver):
        return min((count for count in (policy.limit, policy.redrive_count) if count is not None), default=None)
    if policy.maximum_retry_attempts is None:
        return None
    once = policy.maximum_retry_attempts + 1
    if kind == "partial":
        return once + (size > 1)  # in the whole batch, then in what is left of it, which counts anew
    if kind == "named" or not policy.bisect:
        return once + (size > 1 and bool(policy.bisect))
    return once + (size - 1).bit_length() * (KEY_CUTS if policy.bisect == "key" else 1)


# --- running it -------------------------------------------------------------------------------------------------------------------


class _Scripted(NamedTuple):
    place: int
    receives: int = 1


class _Facts:
    """The columns that a policy may ask for; everything came at 0."""

    def __init__(self, records: Sequence[_Scripted]) -> None:
        self._records = records

    def arrivals(self) -> Sequence[float]:
        return [0.0] * len(self._records)

    def keys(self) -> Sequence[bytes | None]:
        return [None] * len(self._records)

    def receives(self) -> Sequence[int]:
        return [record.receives for record in self._records]


class _Columns:
    """A `Format` of which a policy asks nothing but facts."""

    def facts(self, records: Sequence[_Scripted]) -> _Facts:
        return _Facts(records)


_FORMAT = cast("Format", _Columns())


class _Script(NamedTuple):
    """What the function does."""

    poison: int
    kind: Kind
    fault: Fault
    seconds: float

    def rule(self, policy: Block | Redeliver) -> ErrorRule | None:
        return None if self.kind == "partial" else error_rules.found(policy.errors, self.fault)


def _run(policy: Block | Redeliver, size: int, script: _Script, dice: float, visibility: float) -> _Run:
    run = _Run(policy, size, script, dice)
    if isinstance(policy, Block):
        run.block()
    else:
        run.redeliver(policy.redrive_count, visibility)
    return run


class _Run:
    """One throw of the dice."""

    def __init__(self, policy: Block | Redeliver, size: int, script: _Script, dice: float) -> None:
        self.steps: list[Step] = []
        self.invocations = [0] * size
        self.ends: list[End | None] = [None] * size
        self.total = 0
        self.paused = False
        self._policy, self._script, self._dice = policy, script, dice
        rule = script.rule(policy)
        self._pausing = rule is not None and rule.action == "pause"
        self._now = 0.0

    def block(self) -> None:
        """Every batch and all that comes of it before the next, as a strand does."""
        whole = Batch([_Scripted(place) for place in range(len(self.ends))], _FORMAT)
        stack: list[tuple[Batch, float, list[Step]]] = [(whole, 0.0, self.steps)]
        while stack and self.total < MOST_STEPS and not self.paused:
            batch, due, beside = stack.pop()
            self._now = max(self._now, due)
            step, actions = self._invoke(batch, batch.attempt, beside)
            for action in reversed(actions):
                if isinstance(action, Retry):
                    same = len(action.batch) == len(batch)
                    stack.append((action.batch, self._now + action.delay, beside if same else step.then))

    def redeliver(self, redrive: int | None, visibility: float) -> None:
        """Messages that become visible at one time come together."""
        visible: list[tuple[float, Sequence[_Scripted], list[Step]]] = [
            (0.0, [_Scripted(place) for place in range(len(self.ends))], self.steps)
        ]
        while visible and self.total < MOST_STEPS and not self.paused:
            visible.sort(key=lambda each: each[0])
            at, records, beside = visible.pop(0)
            self._now = max(self._now, at)
            if redrive is not None and records[0].receives > redrive:
                self._end(records, "dead-letter queue")
                continue
            received = self._now
            step, actions = self._invoke(Batch(records, _FORMAT), records[0].receives, beside)
            for action in actions:
                if isinstance(action, Release):
                    until = max(self._now, received + visibility) if action.delay is None else self._now + action.delay
                    again = [record._replace(receives=record.receives + 1) for record in action.records]
                    visible.append((until, again, beside if len(again) == len(records) else step.then))

    def _invoke(self, batch: Batch, attempt: int, beside: list[Step]) -> tuple[Step, tuple[Action, ...]]:
        at, first, last = self._now, batch.records[0].place, batch.records[-1].place
        # All records are of one age and one receive count: they are screened out together, or not at all.
        screened, actions = self._policy.screen(batch, self._now)
        outcome: Literal["done", "full", "partial", "none"] = "none"
        if screened is not None:
            outcome, meant = self._call(screened.records)
            actions = self._policy.decide(screened, meant, self._now, self._dice)
        self.paused = self._pausing and outcome == "full"
        sentences = ["pauses the mapping, until it is resumed"] if self.paused else _sentences(batch, actions)
        step = Step(first, last, attempt, at, outcome, "; ".join(sentences))
        beside.append(step)
        for action in actions:
            if isinstance(action, Ack):
                self._end(action.records, "done")
            elif isinstance(action, Discard):
                self._end(action.failure.records, action.failure.reason)
        return step, actions

    def _call(self, records: Sequence[_Scripted]) -> tuple[Literal["done", "full", "partial"], Outcome]:
        self.total += 1
        self._now += self._script.seconds
        for record in records:
            self.invocations[record.place] += 1
        places = [record.place for record in records]
        if self._script.poison not in places:
            return "done", DONE
        place, fault = places.index(self._script.poison), self._script.fault
        if self._script.kind == "partial":
            return "partial", Partial((place,))
        return "full", replace(fault, record_index=place) if self._script.kind == "named" else fault

    def _end(self, records: Sequence[_Scripted], how: str) -> None:
        for record in records:
            self.ends[record.place] = End(how, self._now)


# --- words ------------------------------------------------------------------------------------------------------------------------


def _sentences(batch: Batch, actions: Sequence[Action]) -> Iterator[str]:
    retried = [action.batch for action in actions if isinstance(action, Retry)]
    if len(retried) > 1:
        *others, last = [_places(part.records) for part in retried]
        yield f"split into {', '.join(others)} and {last}"
        return
    for action in actions:
        match action:
            case Ack(records):
                yield "done" if len(records) == len(batch) else f"{len(records)} done"
            case Retry(again, delay):
                what = "again" if len(again) == len(batch) else f"{_places(again.records)} again, as a new batch,"
                yield f"{what} after {_time(delay)}" if delay else f"{what} at once"
            case Release(records, delay, failure):
                what = "given back" if len(records) == len(batch) else f"{_places(records)} given back"
                yield what + (" for the rest of its visibility timeout" if delay is None else f" for {_time(delay)}")
                if failure is not None:
                    yield "kept in the journal as a copy, for the queue moves it to its dead-letter queue next"
            case Discard(failure):
                what = "discarded" if len(failure.records) == len(batch) else f"{_places(failure.records)} discarded"
                yield f"{what} to the journal ({failure.reason})"
            case _ as never:
                assert_never(never)


def _places(records: Sequence[Record]) -> str:
    places = _range(records[0].place, records[-1].place)
    return places if records[-1].place - records[0].place < len(records) else f"{len(records)} of {places}"


def _range(first: int, last: int) -> str:
    return f"record {first + 1}" if first == last else f"records {first + 1}-{last + 1}"


def _time(seconds: float) -> str:
    shown = show_duration(round(seconds, 3)) if seconds else "0s"
    return f"{seconds:.1f}s" if shown.endswith("ms") and seconds >= 1 else shown


_OUTCOMES = {"done": "succeeds", "full": "fails", "partial": "names a record", "none": "is not run"}


def _lines(steps: Sequence[Step], indent: str) -> Iterator[str]:
    """Of a longer series of attempts of one batch only the first two and the last are shown."""
    for _, group in groupby(steps, key=lambda step: (step.first, step.last)):
        series = list(group)
        for number, step in enumerate(series):
            if len(series) <= SHOWN_SERIES or number < 2 or number == len(series) - 1:
                what = f"{_range(step.first, step.last)}, attempt {step.attempt}, at {_time(step.at)}"
                yield f"{indent}{what}: {_OUTCOMES[step.outcome]}, {step.decided}"
                yield from _lines(step.then, indent + "  ")
            elif number == 2:
                yield f"{indent}  ... attempts {step.attempt} to {series[-2].attempt} too"
