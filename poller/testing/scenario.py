"""What the simulator draws from a seed before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any, Literal, cast

from poller.policy import Block, Redeliver
from poller.protocols import Policy
from poller.settings import (
    Backoff,
    Batching,
    Bisect,
    BreakerSettings,
    ErrorRule,
    FailureSettings,
    FilterSettings,
    IdempotencySettings,
    MappingSettings,
)
from poller.testing.fakes import FILTERABLE
from poller.testing.oracle import Rules, poison_bound

Kind = Literal["stream", "queue", "fifo"]

WANTED = '{"id": [{"prefix": "r"}]}'
"""The filter of a scenario that has one."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is drawn from a seed before anything runs.

    `reshards`: how often shards split, merge or roll over. Chances are from 0 to 1: `faults` of a call of store or source, `late` of a save
    to be long on its way, `stumbles` of a fetch to fail in a way that nobody foresaw. `lateness`: seconds by which the arrival time of a
    record may go back. `outages`: when the function fails whatever it is given, from and until, in seconds of the run. `named`: the chance
    that an error names a record, not always the right one.
    """

    kind: Kind
    records: int
    lanes: int
    keys: int
    poison: float
    transient: float
    throttled: float
    answers: Literal["full", "partial", "mixed"]
    settings: MappingSettings
    policy: Policy
    concurrency: int
    timeout: float
    visibility: float
    redrive: int | None
    faults: float
    unwanted: float = 0.0
    late: float = 0.0
    stumbles: float = 0.0
    reshards: int = 0
    lateness: float = 0.0
    outages: tuple[tuple[float, float], ...] = ()
    named: float = 0.0

    @classmethod
    def draw(cls, random: Random) -> Scenario:
        kind = random.choice(("stream", "stream", "stream", "queue", "fifo"))
        answers = random.choice(("full", "full", "partial", "mixed"))
        bisect = random.random() < 0.6
        size = random.choice((1, 2, 5, 10, 10, 16))
        attempts = random.choice((0, 1, 2, 5))
        age = random.choice((None, None, None, 60.0))
        backoff = Backoff(random.choice((0.05, 1.0)), random.choice((1.0, 10.0)))
        ours, redrive = random.choice(((3, None), (2, 5), (None, 3), (4, 4)))
        failure = FailureSettings(attempts, age, bisect, answers != "full", ours, backoff, random.random() < 0.3)
        policy: Policy
        if kind == "stream":
            policy = Block(attempts, age, bisect, backoff, random.choice(("cut", "cut", "listed")))
        else:
            policy = Redeliver(ours, redrive, backoff if failure.backoff_set else None, kind == "fifo" and random.random() < 0.5)
        batching = Batching(size, random.choice((0.0, 0.0, 0.5)))
        settings = MappingSettings("sim", "sim", "function", batching, failure, random.choice((1, 1, 2, 4)))
        drawn = cls(
            kind=cast("Kind", kind),
            records=random.randrange(60, 240) + 6 * size,  # large batches make few events
            lanes=random.choice((1, 2, 3)) if kind == "stream" else 1,
            keys=random.choice((1, 3, 20)),
            poison=random.choice((0.0, 0.02, 0.1)),
            transient=random.choice((0.0, 0.05)),
            throttled=random.choice((0.0, 0.1)),
            answers=cast("Any", answers),
            settings=settings,
            policy=policy,
            concurrency=random.choice((1, 2, 5)),
            timeout=20.0,
            visibility=30.0,
            redrive=redrive if kind != "stream" else None,
            faults=random.choice((0.0, 0.03, 0.15)),
        )
        drawn = drawn.filtered(random.choice((0.0, 0.3, 0.6)))
        drawn = replace(drawn, late=random.choice((0.0, 0.0, 0.1)), stumbles=random.choice((0.0, 0.0, 0.03)))
        return replace(drawn, reshards=random.choice((0, 2, 4)) if kind == "stream" else 0)

    def tumbling(self, random: Random, chance: float = 0.5) -> Scenario:
        """Perhaps the same with tumbling windows, if it is a stream."""
        if not isinstance(self.policy, Block) or random.random() >= chance:
            return self
        settings = replace(self.settings, width=1, tumbling_window=random.choice((2, 7, 20)))
        lateness = random.choice((0.0, 0.0, 3.0))
        return replace(self, settings=settings, policy=replace(self.policy, partial="cut"), lateness=lateness)

    def breaking(self, random: Random, storm: float, chance: float = 0.4) -> Scenario:
        """Perhaps the same with a circuit breaker, and with outages of its function, which may outlast the storm."""
        if random.random() >= chance:
            return self
        breaker = BreakerSettings(random.choice((0.2, 2.0)), random.choice((2.0, 10.0)), random.choice((5.0, 300.0)))
        starts = [random.uniform(0.0, storm * 0.9) for _ in range(random.choice((1, 1, 2)))]
        outages = tuple((start, start + random.uniform(2.0, storm * 0.5)) for start in starts)
        return replace(self, settings=replace(self.settings, breaker=breaker), outages=outages)

    def ruled(self, random: Random, chance: float = 0.4) -> Scenario:
        """Perhaps the same with error rules, splits along keys, and errors that name records."""
        if random.random() >= chance:
            return self
        said = self.settings.failure
        limit, receives = random.choice((None, min(1, said.maximum_retry_attempts or 0))), random.choice((None, 1, 2))
        own = ErrorRule("Poison: a *", "retry", limit, receives, Backoff(0.2, 5.0), random.choice((None, True, False)))
        errors = random.choice(((), (ErrorRule("Poison", "discard"),), (ErrorRule("Trans*", "discard"), own)))
        bisect: Bisect = "key" if said.bisect and random.random() < 0.5 else said.bisect
        policy: Any = replace(cast("Any", self.policy), errors=errors)
        if isinstance(policy, Block):
            policy = replace(policy, bisect=bisect)
        settings = replace(self.settings, failure=replace(said, errors=errors, bisect=bisect))
        return replace(self, settings=settings, policy=policy, named=random.choice((0.0, 0.5, 1.0)))

    def remembering(self, random: Random, chance: float = 0.3) -> Scenario:
        """Perhaps the same with an idempotency window, if it has no tumbling one."""
        if self.settings.tumbling_window or random.random() >= chance:
            return self
        return replace(self, settings=replace(self.settings, idempotency=IdempotencySettings(random.choice((5.0, 60.0, 3600.0)))))

    def parking(self, random: Random, chance: float = 0.4) -> Scenario:
        """Perhaps the same with parking, for all failures or by its error rules alone, if it keeps an order and has no windows."""
        if self.kind == "queue" or self.settings.tumbling_window or random.random() >= chance:
            return self
        said = self.settings.failure
        rules = tuple(replace(rule, action="park") if rule.action == "discard" and random.random() < 0.7 else rule for rule in said.errors)
        order = "" if any(rule.action == "park" for rule in rules) and random.random() < 0.5 else "park"
        settings = replace(self.settings, failure=replace(said, errors=rules), on_failure_order=cast("Any", order))
        settings = replace(settings, maximum_parked_keys=random.choice((2, 10_000)))
        return replace(self, settings=settings, policy=replace(cast("Any", self.policy), errors=rules))

    def filtered(self, unwanted: float) -> Scenario:
        """The same with a filter, and more records, of which so many (0 to 1) do not match it; 0: without a filter."""
        filters = FilterSettings((WANTED,), FILTERABLE, logged=10) if unwanted else None
        records = round(self.records / (1 - unwanted))
        return replace(self, records=records, unwanted=unwanted, settings=replace(self.settings, filters=filters))

    def rules(self) -> Rules:
        """The bounds that hold in this scenario; none where its settings make them too loose to be worth a check."""
        failure = self.settings.failure
        attempts = failure.maximum_retry_attempts or 0
        if self.kind != "stream":
            assert isinstance(self.policy, Redeliver)
            limits = [limit for limit in (self.policy.maximum_receive_count, self.redrive) if limit is not None]
            return Rules(self.settings.width, self.concurrency, None, min(limits), ordered=False)
        alone = self.transient == 0 and not self.outages
        halves = failure.bisect is True and not failure.errors and not self.named
        exact = alone and halves and self.answers == "full" and failure.maximum_record_age is None
        record = poison_bound(self.settings.batching.size, attempts) if exact else None
        return Rules(self.settings.width, self.concurrency, attempts + 2, record, ordered=True)
