"""What the keys of a mapping may say, given its source's traits. Pure: a rule looks at one case and yields what breaks it.

Limits that protect hold always; AWS's own limits hold under `defaults = "aws"`, where a file is meant to mean what it means on AWS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import msgspec

from poller import units
from poller.config.problems import shown
from poller.config.schema import BreakerTable, MappingTable
from poller.settings import Traits

MAXIMUM_BATCH_SIZE = 10_000
MAXIMUM_BATCHING_WINDOW = 300.0
MAXIMUM_FIFO_BATCH_SIZE = 10
MAXIMUM_TUMBLING_WINDOW = 900.0
MINIMUM_PROBE_WAIT = 0.1


class Breach(NamedTuple):
    """What breaks a rule: a key of the mapping, and the halves of the problem's sentence."""

    key: str
    found: str
    allowed: str
    meant: str | None = None


class Case(msgspec.Struct, frozen=True):
    """A mapping's table, as read and as written, the type of its source ("" when it could not be read), and the source's traits."""

    table: MappingTable
    raw: Mapping[str, Any]
    type: str
    traits: Traits
    safe: bool

    @property
    def window(self) -> float:
        """Seconds."""
        if self.table.maximum_batching_window is None:
            return 0.0 if self.traits.fifo else self.traits.default_batching_window
        return units.duration(self.table.maximum_batching_window)

    @property
    def tumbling(self) -> float:
        """Seconds; 0: none."""
        return 0.0 if self.table.tumbling_window is None else units.duration(self.table.tumbling_window)

    @property
    def size(self) -> int:
        return self.table.batch_size or self.traits.default_batch_size


# Of a source that could not be read: allows whatever some source allows, so that no breach is reported that is none.
UNREAD = Traits(kind="stream", default_batch_size=1, tumbling=True)

Rule = Callable[[Case], Iterator[Breach]]

_REPORT = 'function_response_types = ["ReportBatchItemFailures"]'

# Key -> (the kind of source it is for, what to use instead on the other kind).
_KINDS: dict[str, tuple[Literal["queue", "stream"], str]] = {
    "maximum_retry_attempts": ("stream", "maximum_receive_count, or the queue's redrive policy"),
    "bisect_batch_on_function_error": ("stream", f"{_REPORT}: a queue gives back single messages"),
    "maximum_record_age": ("stream", "the queue's own retention, or maximum_receive_count"),
    "parallelization_factor": ("stream", "maximum_concurrency"),
    "tumbling_window": ("stream", "no tumbling window"),
    "maximum_concurrency": ("queue", "parallelization_factor, or the function's concurrency"),
    "maximum_receive_count": ("queue", "maximum_retry_attempts"),
}


def breaches(case: Case) -> Iterator[Breach]:
    """Everything that the case breaks."""
    rules: tuple[Rule, ...] = (
        *(kind_rule, size_rule, window_rule, tumbling_rule, age_rule),
        *(backoff_rule, breaker_rule, idempotency_rule, parking_rule),
    )
    for rule in rules if case.safe else (*rules, aws_batching_rule, aws_age_rule, aws_range_rule, aws_destination_rule):
        yield from rule(case)


def kind_rule(case: Case) -> Iterator[Breach]:
    for key, (kind, instead) in _KINDS.items():
        if case.type and key in case.raw and case.traits.kind != kind:
            found = f'a key for {kind}s, and the source type "{case.type}" is a {case.traits.kind}'
            yield Breach(key, found, f"on a {case.traits.kind}: {instead}")


def size_rule(case: Case) -> Iterator[Breach]:
    most = min(case.traits.maximum_batch_size, MAXIMUM_FIFO_BATCH_SIZE if case.traits.fifo else MAXIMUM_BATCH_SIZE)
    if case.table.batch_size is not None and case.table.batch_size > most:
        yield Breach("batch_size", str(case.table.batch_size), f"1 to {most}" + (" for a FIFO queue" if case.traits.fifo else ""))


def window_rule(case: Case) -> Iterator[Breach]:
    most = 0.0 if case.traits.fifo else min(case.traits.maximum_batching_window, MAXIMUM_BATCHING_WINDOW)
    if case.table.maximum_batching_window is None or case.window <= most:
        return
    found = shown(case.table.maximum_batching_window)
    if most:
        yield Breach("maximum_batching_window", found, f'"0s" to "{most:g}s"')
    else:
        what = "for a FIFO queue" if case.traits.fifo else f'for the source type "{case.type}"'
        yield Breach("maximum_batching_window", found, f"no window {what}")


def tumbling_rule(case: Case) -> Iterator[Breach]:
    written, factor = case.table.tumbling_window, case.table.parallelization_factor
    if written is None or case.traits.kind != "stream":
        return
    if not case.traits.tumbling:
        yield Breach("tumbling_window", shown(written), f'no tumbling window for the source type "{case.type}"')
    elif not (case.tumbling.is_integer() and case.tumbling <= MAXIMUM_TUMBLING_WINDOW):
        meant = f'"{min(max(1, round(case.tumbling)), round(MAXIMUM_TUMBLING_WINDOW))}s"'
        yield Breach("tumbling_window", shown(written), 'whole seconds from "0s" (none) to "900s"', meant)
    elif case.tumbling and factor is not None and factor > 1:
        found = f"{factor} with a tumbling_window"
        yield Breach("parallelization_factor", found, "1 with a tumbling_window: its state goes from batch to batch")


def age_rule(case: Case) -> Iterator[Breach]:
    age = case.table.maximum_record_age
    if isinstance(age, str) and not units.duration(age):
        yield Breach("maximum_record_age", shown(age), "more than nothing, or -1 for any age")


def backoff_rule(case: Case) -> Iterator[Breach]:
    backoff = case.table.retry_backoff
    if backoff is not None and units.duration(backoff.initial) > units.duration(backoff.maximum):
        yield Breach("retry_backoff", f"initial {shown(backoff.initial)} above maximum {shown(backoff.maximum)}", "initial up to maximum")


def unordered(case: Case) -> tuple[str, str] | None:
    """Why nothing can be parked, and what to do instead: the halves of a problem's sentence. None: it can be."""
    if case.type and case.traits.kind == "queue" and not case.traits.fifo:
        return (
            f'on a queue that keeps no order (source type "{case.type}")',
            "streams and FIFO queues; on a standard queue nothing waits for what failed",
        )
    if case.tumbling:
        return "with a tumbling_window", "one of the two: a window's state needs all of its records"
    return None


def parking_rule(case: Case) -> Iterator[Breach]:
    table = case.table
    if table.on_failure_order and (why := unordered(case)):
        yield Breach("on_failure_order", f'"{table.on_failure_order}" {why[0]}', why[1])
    if "maximum_parked_keys" in case.raw and not table.on_failure_order and all(rule.action != "park" for rule in table.errors):
        yield Breach(
            "maximum_parked_keys", "a limit where nothing is parked", 'on_failure_order = "park", or an error rule with action = "park"'
        )


def breaker_rule(case: Case) -> Iterator[Breach]:
    table = case.table.circuit_breaker
    if not isinstance(table, BreakerTable):
        return
    initial, maximum = units.duration(table.initial), units.duration(table.maximum)
    if initial < MINIMUM_PROBE_WAIT:
        yield Breach("circuit_breaker", f"initial {shown(table.initial)}", 'initial of "100ms" and more')
    if initial > maximum:
        yield Breach("circuit_breaker", f"initial {shown(table.initial)} above maximum {shown(table.maximum)}", "initial up to maximum")


def idempotency_rule(case: Case) -> Iterator[Breach]:
    written = case.table.idempotency_window
    if written is None:
        if case.table.idempotency_maximum_records is not None:
            found = f"{case.table.idempotency_maximum_records} without an idempotency_window"
            yield Breach("idempotency_maximum_records", found, "an idempotency_window beside it, or no limit")
    elif not units.duration(written):
        yield Breach("idempotency_window", shown(written), "more than nothing; leave it out for none")
    elif case.tumbling:
        found = f"{shown(written)} with a tumbling_window"
        yield Breach("idempotency_window", found, "none with a tumbling_window: the state of a window lacks what is not invoked")


# --- AWS's own limits (aws-esm: Validation errors, Parameters) ---------------------------------------------------------------------


def aws_batching_rule(case: Case) -> Iterator[Breach]:
    written = case.table.maximum_batching_window
    # The default of a source may be what AWS lets nobody write (Kafka's 500 ms): leaving it so is allowed.
    if written is not None and not case.window.is_integer() and case.window != case.traits.default_batching_window:
        yield Breach("maximum_batching_window", shown(written), _aws("whole seconds"), f'"{max(1, round(case.window))}s"')
    queue = case.traits.kind == "queue" and not case.traits.fifo
    if queue and case.table.batch_size is not None and case.size > 10 and not case.window:
        yield Breach(
            "batch_size",
            f"{case.size} without a maximum_batching_window",
            _aws('at most 10 on a queue, or maximum_batching_window = "1s" and more'),
        )


def aws_age_rule(case: Case) -> Iterator[Breach]:
    age = case.table.maximum_record_age
    if isinstance(age, str) and not ((seconds := units.duration(age)).is_integer() and 60 <= seconds <= 604_800) and seconds:
        yield Breach("maximum_record_age", shown(age), _aws('whole seconds from "60s" to "604800s" ("7d"), or -1'))


def aws_range_rule(case: Case) -> Iterator[Breach]:
    ranges = (
        ("maximum_retry_attempts", case.table.maximum_retry_attempts, -1, 10_000),
        ("parallelization_factor", case.table.parallelization_factor, 1, case.traits.aws_parallelization_factor),
        ("maximum_concurrency", case.table.maximum_concurrency, 2, 1000),
    )
    for key, value, low, high in ranges:
        if value is not None and not low <= value <= high:
            yield Breach(key, str(value), _aws(f"{low} to {high}" if low < high else f"{low} for this source, or leave it out"))


def aws_destination_rule(case: Case) -> Iterator[Breach]:
    failure, success = case.table.on_failure, case.table.on_success
    if failure and case.traits.kind == "queue":
        yield Breach("on_failure", "a destination of a queue", _aws("none: a queue names its dead-letter queue itself"))
    elif isinstance(failure, list) and len(failure) > 1:
        yield Breach("on_failure", f"{len(failure)} destinations", _aws("one"))
    if success:
        yield Breach("on_success", "a destination", _aws("none"))


def _aws(allowed: str) -> str:
    return f'under defaults = "aws": {allowed}'
