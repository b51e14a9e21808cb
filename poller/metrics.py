"""What is counted, and how it is shown to Prometheus: AWS's event source mapping metrics, in snake_case. Pure but for `measure`.

Counters belong to one event loop and are plain numbers: the hot path adds to them without a lock, once a slice, never once a record.
"""

from __future__ import annotations

import os
import resource
import sys
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, TypeAlias

from poller.settings import Tally

if TYPE_CHECKING:
    from poller.status import DaemonStatus, LaneStatus, ProcessStatus

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Upper bounds, inclusive, of the buckets of a function's duration, in seconds: 900 s is the longest timeout that Lambda knows."""


@dataclass(slots=True)
class MappingCounters:
    """What one mapping has done since it started. An event is a record; all but `in_flight` only grow.

    Events: `polled` were read, `filtered` matched no filter, `invoked` were handed to the function (again for every attempt), `failed`
    were in an invocation that failed or named records as failed, `dropped` were discarded and go to no destination (they are in the
    journal all the same), `kept` are in the journal, `parked` are there behind a failure of their key, `skipped` were acknowledged
    before, and not invoked again (idempotency window), `done` were handled, `deleted` left their queue for either, `released` were given
    back to it.
    Batches: `batches` were cut from what was read, `begun` counts every invocation that began, `throttles` those that ended as Busy,
    `invocations` the others: `faults` and `partials` are those that ended as Fault or Partial. `in_flight` run now.
    `retries`, `splits`, `discards`: what the policy decided. `handler_seconds` and `durations`: see `observe`.
    Troubles: `polling_errors` are fetches that failed, `save_errors` saves of progress that failed, `reconnects` sources opened again,
    `lost_lanes` lanes that another worker took before we had given them up. `given_up`: events of failures that upkeep has removed from
    the journal before anybody handled them. `opened`: how often the circuit breaker has opened. `tally`:
    what the source counts.
    Destinations: `delivered` events have arrived, at each destination; `delivery_failures` are sends that failed, and are tried again.
    """

    polled: int = 0
    filtered: int = 0
    invoked: int = 0
    failed: int = 0
    dropped: int = 0
    kept: int = 0
    parked: int = 0
    skipped: int = 0
    done: int = 0
    deleted: int = 0
    released: int = 0
    batches: int = 0
    begun: int = 0
    throttles: int = 0
    invocations: int = 0
    faults: int = 0
    partials: int = 0
    in_flight: int = 0
    retries: int = 0
    splits: int = 0
    discards: int = 0
    polling_errors: int = 0
    save_errors: int = 0
    reconnects: int = 0
    lost_lanes: int = 0
    given_up: int = 0
    opened: int = 0
    delivered: int = 0
    delivery_failures: int = 0
    tally: Tally = field(default_factory=Tally)
    handler_seconds: float = 0.0
    durations: list[int] = field(default_factory=lambda: [0] * (len(BOUNDS) + 1))

    def observe(self, seconds: float) -> None:
        """An invocation took so long. One bucket a bound, and a last one for what is above them all."""
        self.handler_seconds += seconds
        self.durations[bisect_left(BOUNDS, seconds)] += 1


_COUNTERS = (
    ("polled", "polled_event", "Events read from the source."),
    ("filtered", "filtered_out_event", "Events that matched no filter, and were not handed to the function."),
    ("invoked", "invoked_event", "Events handed to the function, counted again for every attempt."),
    ("failed", "failed_invoke_event", "Events of invocations that failed or named records as failed."),
    ("dropped", "dropped_event", "Events discarded that go to no destination; the journal keeps them."),
    ("kept", "kept_event", "Events that are kept in the journal because they were given up."),
    ("parked", "parked_event", "Events that are kept in the journal behind a failure that holds their key."),
    ("skipped", "skipped_event", "Events not handed to the function again, because they were acknowledged within the idempotency window."),
    ("done", "done_event", "Events handled: their invocation succeeded, or did not name them as failed."),
    ("deleted", "deleted_event", "Events acked: a queue deletes them, a stream moves past them."),
    ("released", "released_event", "Events given back to their queue."),
    ("batches", "batch", "Batches cut from what was read."),
    ("begun", "begun_attempt", "Attempts that were recorded, just before the function was called."),
    ("throttles", "throttle", "Invocations that were throttled or never reached the function."),
    ("invocations", "invocation", "Calls of the function."),
    ("faults", "invoke_error", "Invocations that failed."),
    ("partials", "partial_batch_failure", "Invocations that named some records as failed."),
    ("retries", "retry", "Batches to be tried again."),
    ("splits", "split", "Batches split in two because they failed."),
    ("discards", "discard", "Batches given up, to the journal."),
    ("given_up", "given_up_event", "Events of failures that the journal's retention removed before anybody handled them."),
    ("polling_errors", "polling_error", "Fetches that failed."),
    ("save_errors", "save_error", "Saves of progress that failed."),
    ("reconnects", "reconnect", "Times the source was opened again after a failure."),
    ("lost_lanes", "lost_lane", "Lanes that another worker took before they were given up here."),
    ("opened", "circuit_opened", "Times the circuit breaker opened, because the function failed whatever it was given."),
    ("delivered", "destination_delivered_event", "Events that have arrived at a destination, once for each."),
    ("delivery_failures", "destination_delivery_failures", "Sends to a destination that failed; they are tried again."),
    ("tally.rebalances", "rebalance", "Times the source's group shared its lanes anew."),
    ("tally.expired", "expired_event", "Events that the source's retention removed before they were read."),
)

_LANE_GAUGES = (
    ("held", "held_records", "Records read and not settled."),
    ("in_flight", "in_flight_invocations", "Invocations running now."),
    ("waiting_strands", "waiting_strands", "Strands that wait for a retry."),
    ("lag_records", "lag_records", "Records of the source that are not settled yet."),
    ("lag_seconds", "lag_seconds", "Age of the oldest record that is not settled yet."),
    ("progressed_at", "progress_timestamp_seconds", "When records were last settled for good."),
    ("read_at", "read_timestamp_seconds", "When the source last answered a fetch."),
    ("ready", "ready", "1: has made progress or has nothing to read."),
)

_FUNCTION_GAUGES = (
    ("permits", "permits_limit", "Invocations that may run at once."),
    ("in_use", "permits_used", "Invocations that run now."),
    ("waiting", "waiting_batches", "Batches that wait for a permit."),
    ("environments", "environments", "Environments of the function that are alive."),
)

Labels: TypeAlias = tuple[tuple[str, str], ...]
Sample: TypeAlias = tuple[Labels, float]


def exposition(status: DaemonStatus) -> str:
    """The daemon in Prometheus' text format 0.0.4. Lanes label gauges only: they come and go, and a counter must not."""
    parts = (_daemon, _workers, _mappings, _durations, _lanes, _destinations, _functions, _process)
    return "".join(f"{line}\n" for part in parts for line in part(status))


def measure() -> ProcessStatus:
    """This process, as far as the operating system tells: resident bytes, CPU seconds, open and allowed file descriptors."""
    from poller.status import ProcessStatus  # status describes counters, so it imports this module

    usage = resource.getrusage(resource.RUSAGE_SELF)
    status = ProcessStatus(cpu_seconds=usage.ru_utime + usage.ru_stime, file_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    if sys.platform == "linux":
        try:
            with open("/proc/self/statm", "rb") as statm:
                status.resident_bytes = int(statm.read().split()[1]) * resource.getpagesize()
            status.open_files = len(os.listdir("/proc/self/fd"))
        except OSError:  # no /proc, or no descriptor is left to read it with: the rest is still worth showing
            pass
    return status


def _daemon(status: DaemonStatus) -> Iterator[str]:
    python = ".".join(map(str, sys.version_info[:3]))
    yield from _gauge("poller_build_info", "Which program this is.", [(_labels(version=status.version, python=python), 1)])
    yield from _gauge("poller_ready", "1: every lane has made progress or has nothing to read.", [((), status.ready)])
    yield from _gauge("poller_start_time_seconds", "When the daemon started.", [((), status.started)])
    rows = status.journal
    states = ((state, getattr(rows, state)) for state in ("kept", "claimed", "parked", "replayed", "dropped"))
    yield from _gauge("poller_journal_rows", "Failures in the journal, by state.", [(_labels(state=s), count) for s, count in states])


def _workers(status: DaemonStatus) -> Iterator[str]:
    up = [(_labels(worker=str(each.number)), each.state == "running") for each in status.workers]
    yield from _gauge("poller_worker_up", "1: the worker's process runs and answers.", up)
    restarts = [(_labels(worker=str(each.number)), each.restarts) for each in status.workers]
    yield from _family("poller_worker_restarts_total", "counter", "Times the worker was started again after it had died.", restarts)


def _mappings(status: DaemonStatus) -> Iterator[str]:
    mappings = status.mappings
    for attribute, name, text in _COUNTERS:
        values = [(_labels(mapping=m.name), attrgetter(attribute)(m.counters)) for m in mappings]
        yield from _family(f"poller_{name}_total", "counter", text, _summed(values))
    running = [(_labels(mapping=m.name), m.counters.in_flight) for m in mappings]
    yield from _gauge("poller_in_flight_invocations", "Invocations running now.", _summed(running))
    yield from _gauge("poller_mapping_enabled", "1: the mapping is to run.", [(_labels(mapping=m.name), m.enabled) for m in mappings])
    circuits = [(_labels(mapping=m.name, state="closed" if m.circuit is None else m.circuit.state), 1) for m in mappings]
    yield from _gauge("poller_circuit_state", "1 for the state of the mapping's circuit breaker: closed, open, half-open.", circuits)
    states = [(_labels(mapping=m.name, state=m.state), 1) for m in mappings]
    yield from _gauge("poller_mapping_state", "1 for the state that the mapping is in.", states)


def _durations(status: DaemonStatus) -> Iterator[str]:
    name = "poller_handler_duration_seconds"
    buckets: list[Sample] = []
    sums: list[Sample] = []
    counts: list[Sample] = []
    for mapping in status.mappings:
        mine = _labels(mapping=mapping.name)
        totals = tuple(accumulate(mapping.counters.durations))
        bounds = (*(_number(bound) for bound in BOUNDS), "+Inf")
        buckets += [((*mine, ("le", bound)), total) for bound, total in zip(bounds, totals, strict=True)]
        counts.append((mine, totals[-1]))
        sums.append((mine, mapping.counters.handler_seconds))
    if buckets:
        yield from _head(name, "histogram", "How long the function took.")
        yield from _lines(f"{name}_bucket", _summed(buckets))
        yield from _lines(f"{name}_sum", _summed(sums))
        yield from _lines(f"{name}_count", _summed(counts))


def _lanes(status: DaemonStatus) -> Iterator[str]:
    lanes = [(_lane_labels(m.name, lane), lane) for m in status.mappings for lane in m.lanes]
    for attribute, name, text in _LANE_GAUGES:
        values = [(labels, getattr(lane, attribute)) for labels, lane in lanes]
        yield from _gauge(f"poller_lane_{name}", text, [(labels, value) for labels, value in values if value is not None])
    heads = [(labels, lane.head_span.attempts) for labels, lane in lanes if lane.head_span is not None]
    yield from _gauge("poller_lane_head_attempts", "Attempts of the batch that the lane tries again.", heads)


def _lane_labels(mapping: str, lane: LaneStatus) -> Labels:
    """With its worker where there are several: each of them has a lane of the same queue."""
    return _labels(mapping=mapping, lane=lane.name, **({"worker": str(lane.worker)} if lane.worker else {}))


def _destinations(status: DaemonStatus) -> Iterator[str]:
    lines = [(_labels(mapping=each.mapping, destination=each.name), each) for each in status.destinations]
    waiting = [(labels, each.waiting) for labels, each in lines]
    yield from _gauge("poller_destination_waiting", "Deliveries that wait for the destination.", waiting)
    oldest = [(labels, each.oldest) for labels, each in lines if each.oldest is not None]
    yield from _gauge("poller_destination_oldest_timestamp_seconds", "When the oldest of them failed, or was handled.", oldest)
    damaged = [(labels, each.damaged) for labels, each in lines]
    yield from _gauge("poller_destination_damaged", "Deliveries that cannot be read, and are set aside.", damaged)
    failing = [(labels, bool(each.attempts)) for labels, each in lines]
    yield from _gauge("poller_destination_failing", "1: a delivery has failed, and is tried again.", failing)


def _functions(status: DaemonStatus) -> Iterator[str]:
    for attribute, name, text in _FUNCTION_GAUGES:
        values = [(_labels(function=function.name), getattr(function, attribute)) for function in status.functions]
        yield from _gauge(f"poller_function_{name}", text, values)


def _process(status: DaemonStatus) -> Iterator[str]:
    process = status.process
    if process is None:
        return
    if process.resident_bytes is not None:
        yield from _gauge("process_resident_memory_bytes", "Resident memory.", [((), process.resident_bytes)])
    if process.open_files is not None:
        yield from _gauge("process_open_fds", "Open file descriptors.", [((), process.open_files)])
    yield from _gauge("process_max_fds", "File descriptors that may be open.", [((), process.file_limit)])
    yield from _family("process_cpu_seconds_total", "counter", "CPU time, user and system.", [((), process.cpu_seconds)])


def _labels(**labels: str) -> Labels:
    return tuple(labels.items())


def _summed(samples: Iterable[Sample]) -> Iterable[Sample]:
    """One sample for each set of labels: while a reload replaces a mapping there are two of one name, and a repeated sample would make
    Prometheus refuse the whole page."""
    totals: dict[Labels, float] = {}
    for labels, value in samples:
        totals[labels] = totals.get(labels, 0) + value
    return totals.items()


def _gauge(name: str, text: str, samples: Iterable[Sample]) -> Iterator[str]:
    # The last one wins where two have the same labels: a lane that was closed and opened again. See `_summed`.
    return _family(name, "gauge", text, dict(samples).items())


def _family(name: str, kind: Literal["counter", "gauge"], text: str, samples: Iterable[Sample]) -> Iterator[str]:
    lines = list(_lines(name, samples))
    if lines:
        yield from _head(name, kind, text)
        yield from lines


def _head(name: str, kind: Literal["counter", "gauge", "histogram"], text: str) -> Iterator[str]:
    yield f"# HELP {name} " + text.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# TYPE {name} {kind}"


def _lines(name: str, samples: Iterable[Sample]) -> Iterator[str]:
    for labels, value in samples:
        inner = ",".join(f'{key}="{_escaped(text)}"' for key, text in labels)
        yield f"{name}{{{inner}}} {_number(value)}" if inner else f"{name} {_number(value)}"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    """Integers stay exact; Prometheus reads Python's shortest form of a float, apart from the names of the three that are no number."""
    if isinstance(value, int):
        return str(int(value))
    return {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}.get(text := repr(value), text)
