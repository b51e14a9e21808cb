"""Hypothesis strategies for the values of the engine: what laws.py and the suites of `tests/unit` are run with.

Everything here is without a database and derandomised, so that a failing law fails everywhere and always.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st

from poller.model import Batch, Busy, Done, Fault, Outcome, Partial
from poller.policy import Block, Redeliver
from poller.settings import Backoff
from poller.testing.fakes import FORMAT, FakeRecord

NOW = 1_800_000_000.0
"""The moment that ages are counted from."""

FAULT = Fault("error", "ValueError", "no such order", ("app.py:3 in handle",))

HOUR = 3600.0

dice = st.floats(0, 1, exclude_max=True)
ages = st.sampled_from((0.0, 1.0, 59.0, 60.0, 61.0, 599.0, 700.0, 2 * HOUR))
"""On both sides of the limits that `blocks` draws."""


SHARE = float(os.environ.get("POLLER_EXAMPLES", "1"))
"""The share of its examples that a law is run with: all, unless POLLER_EXAMPLES says less, as `make check` does."""

_PHASES = ContextVar[tuple[Phase, ...]]("phases", default=(Phase.explicit, Phase.generate, Phase.shrink))


def laws(examples: int) -> settings:
    """How a law is run: with so many examples, or a share of them (SHARE); a counter-test always with all."""
    phases = _PHASES.get()
    return settings(
        max_examples=max(1, round(examples * SHARE)) if Phase.explicit in phases else examples,
        phases=phases,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],  # a busy machine is no fault of the law
    )


@contextmanager
def counter_test() -> Iterator[None]:
    """Within it a law stops at the first example that breaks it: nobody reads the smallest one."""
    token = _PHASES.set((Phase.generate,))
    try:
        yield
    finally:
        _PHASES.reset(token)


@st.composite
def batches(draw: st.DrawFn, most: int = 20, attempts: int = 5, receives: int = 6) -> Batch:
    """Records with gaps between their tokens, few keys, and any age, attempt and receive count."""
    count = draw(st.integers(1, most))
    steps = draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    keys = draw(st.lists(st.sampled_from((None, b"a", b"b", b"c")), min_size=count, max_size=count))
    old = draw(st.one_of(ages.map(lambda age: [age] * count), st.lists(ages, min_size=count, max_size=count)))
    counts = st.integers(1, receives)
    seen = draw(st.one_of(counts.map(lambda n: [n] * count), st.lists(counts, min_size=count, max_size=count)))
    tokens = [sum(steps[: i + 1]) for i in range(count)]
    columns = zip(tokens, keys, old, seen, strict=True)
    records = [FakeRecord(token, f"r{token}", key, NOW - age, 100, count_) for token, key, age, count_ in columns]
    attempt = draw(st.integers(1, attempts))
    return Batch(records, FORMAT, attempt=attempt, fault=FAULT if attempt > 1 else None)


@st.composite
def partials(draw: st.DrawFn, batch: Batch) -> Partial:
    """Some of the records, or all."""
    indices = draw(st.sets(st.integers(0, len(batch) - 1), min_size=1))
    return Partial(tuple(sorted(indices)))


def failed(batch: Batch) -> st.SearchStrategy[Outcome]:
    return st.one_of(partials(batch), st.just(FAULT))


def outcomes(batch: Batch) -> st.SearchStrategy[Outcome]:
    return st.one_of(st.just(Done()), st.floats(0, 300).map(Busy), partials(batch), st.just(FAULT))


def decisions(
    outcome: Callable[[Batch], st.SearchStrategy[Outcome]] = outcomes, most: int = 20
) -> st.SearchStrategy[tuple[Batch, Outcome]]:
    """A batch, and what became of it."""
    return batches(most).flatmap(lambda batch: st.tuples(st.just(batch), outcome(batch)))


def blocks(policy: Callable[..., Block] = Block, *, finite: bool = False) -> st.SearchStrategy[Block]:
    """Settings of a policy for streams. `finite`: with a limit of attempts."""
    retries = st.integers(0, 4) if finite else st.sampled_from((0, 1, 2, 3, 5, None))
    age = st.sampled_from((None, None, 60.0, HOUR))
    backoff = st.builds(Backoff, st.sampled_from((0.1, 1.0)), st.sampled_from((1.0, 60.0)))
    meaning, retention = st.sampled_from(("cut", "listed")), st.sampled_from((None, None, 2 * HOUR, 660.0))
    return st.builds(policy, retries, age, st.booleans(), backoff, meaning, retention)


def redelivers(policy: Callable[..., Redeliver] = Redeliver, *, finite: bool = False) -> st.SearchStrategy[Redeliver]:
    """Settings of a policy for queues. `finite`: with a limit of receives: ours, the queue's, or the fallback."""
    limit = st.integers(1, 5)
    limits = st.sampled_from(
        ("ours", "queue", "ours queue", "ours queue fallback", "queue fallback", "fallback", *(() if finite else ("",)))
    )
    backoff = st.one_of(st.none(), st.just(Backoff(1.0, 60.0)))

    def build(which: str, ours: int, queues: int, waits: Backoff | None, groups: bool, fallback: int) -> Redeliver:
        return policy(
            ours if "ours" in which else None,
            queues if "queue" in which else None,
            waits,
            groups,
            fallback if "fallback" in which else None,
        )

    return st.builds(build, limits, limit, limit, backoff, st.booleans(), limit)
