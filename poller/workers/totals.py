"""One status from those of several workers: counters are summed, lanes are listed with their worker, reasons are everyone's. Pure.

A worker's counters begin at nothing whenever it, or one of its mappings, is started again. What it had counted before is kept (`Earlier`),
so that the sums only grow, as counters must.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import msgspec

from poller.metrics import MappingCounters
from poller.settings import Tally
from poller.status import (
    DaemonStatus,
    FunctionStatus,
    LaneState,
    LaneStatus,
    MappingState,
    MappingStatus,
    ProcessStatus,
    Unready,
    WorkerStatus,
)

_COUNTS = tuple(each.name for each in fields(MappingCounters) if each.name not in ("in_flight", "tally", "durations"))
_TALLIES = tuple(each.name for each in fields(Tally))

_WORST: tuple[MappingState, ...] = ("failed", "starting", "stopping", "reconnecting", "pausing", "paused", "running", "stopped")
"""The state of a mapping is the first of these that one of its workers is in."""

_AWAY: tuple[LaneState, ...] = ("elsewhere", "free", "ended", "lost")


@dataclass(frozen=True, slots=True)
class Earlier:
    """What a worker's earlier lives, and earlier lives of its mappings, have counted: by mapping, and CPU seconds."""

    counters: Mapping[str, MappingCounters] = field(default_factory=dict)
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of one worker. `told`: its own last status of this life, None if it has told nothing yet."""

    status: WorkerStatus
    told: DaemonStatus | None = None
    earlier: Earlier = Earlier()


def added(first: MappingCounters, second: MappingCounters) -> MappingCounters:
    """The sum of both; `in_flight` too."""
    return MappingCounters(
        in_flight=first.in_flight + second.in_flight,
        tally=Tally(**{name: getattr(first.tally, name) + getattr(second.tally, name) for name in _TALLIES}),
        durations=[one + other for one, other in zip(first.durations, second.durations, strict=True)],
        **{name: getattr(first, name) + getattr(second, name) for name in _COUNTS},
    )


def learned(earlier: Earlier, before: DaemonStatus | None, told: DaemonStatus) -> Earlier:
    """After a worker that had told `before` has told `told`: what counts less than before began anew, and what was before is kept."""
    if before is None:
        return earlier
    after = {mapping.name: mapping.counters for mapping in told.mappings}
    return _kept(earlier, (each for each in before.mappings if each.name not in after or _fell(each.counters, after[each.name])), 0.0)


def ended(earlier: Earlier, told: DaemonStatus | None) -> Earlier:
    """After the end of a life in which the worker last told `told`."""
    if told is None:
        return earlier
    return _kept(earlier, told.mappings, told.process.cpu_seconds if told.process else 0.0)


def total(own: DaemonStatus, workers: Sequence[Seen]) -> DaemonStatus:
    """`own` is what the supervisor says of itself: its mappings are those of the configuration, in the order to be shown."""
    alive = [(each.status.number, each.told) for each in workers if each.told is not None]
    journals = [told.journal for _, told in alive if not told.store_error]
    reasons = [*_own_reasons(own, workers), *_shared_reasons(alive, len(workers))]
    return msgspec.structs.replace(
        own,
        store_error=next((told.store_error for _, told in alive if told.store_error), ""),
        ready=not reasons,
        reasons=reasons,
        mappings=[_mapping(mapping, workers) for mapping in own.mappings],
        functions=_functions(told for _, told in alive),
        destinations=next((told.destinations for _, told in alive if not told.store_error), own.destinations),
        journal=journals[0] if journals else own.journal,
        process=_process(own.process, workers),
        workers=[each.status for each in workers],
    )


def _kept(earlier: Earlier, mappings: Iterable[MappingStatus], cpu_seconds: float) -> Earlier:
    counters = dict(earlier.counters)
    for mapping in mappings:
        # What ran has ended with the life it ran in.
        counters[mapping.name] = replace(added(counters.get(mapping.name, MappingCounters()), mapping.counters), in_flight=0)
    return Earlier(counters, earlier.cpu_seconds + cpu_seconds)


def _fell(before: MappingCounters, after: MappingCounters) -> bool:
    return (
        any(getattr(after, name) < getattr(before, name) for name in _COUNTS)
        or any(getattr(after.tally, name) < getattr(before.tally, name) for name in _TALLIES)
        or any(later < first for first, later in zip(before.durations, after.durations, strict=True))
    )


def _mapping(own: MappingStatus, workers: Sequence[Seen]) -> MappingStatus:
    parts = [
        (each.status.number, mapping)
        for each in workers
        if each.told is not None
        for mapping in each.told.mappings
        if mapping.name == own.name and mapping.enabled
    ]
    counters = MappingCounters()
    for each in workers:
        counters = added(counters, each.earlier.counters.get(own.name, MappingCounters()))
        for mapping in each.told.mappings if each.told is not None else ():
            if mapping.name == own.name:
                counters = added(counters, mapping.counters)
    if not parts:
        return msgspec.structs.replace(own, counters=counters)
    known = next((part for _, part in parts if part.source), parts[0][1])
    return msgspec.structs.replace(
        known,
        enabled=own.enabled,
        state=min((part.state for _, part in parts), key=_WORST.index),
        last_error=next((part.last_error for _, part in parts if part.last_error), ""),
        paused=next((part.paused for _, part in parts if part.paused), None),
        circuit=min((part.circuit for _, part in parts if part.circuit), key=lambda each: each.since, default=None),
        counters=counters,
        lanes=list(_lanes(parts)),
    )


def _lanes(parts: Sequence[tuple[int, MappingStatus]]) -> Iterator[LaneStatus]:
    """Those that a worker has, with its number; and once, without one, those that nobody here has."""
    lanes = [(lane.name, 0 if lane.state in _AWAY else number, lane) for number, mapping in parts for lane in mapping.lanes]
    had = {name for name, number, _ in lanes if number}
    for name, number, lane in sorted(lanes, key=lambda each: each[:2]):
        if number or name not in had:
            had.add(name)
            yield msgspec.structs.replace(lane, worker=number)


def _functions(told: Iterable[DaemonStatus]) -> list[FunctionStatus]:
    sums: dict[str, FunctionStatus] = {}
    for function in (each for status in told for each in status.functions):
        sums[function.name] = FunctionStatus(
            name=function.name,
            **{
                name: getattr(function, name) + getattr(sums.get(function.name), name, 0)
                for name in ("permits", "in_use", "waiting", "environments")
            },
        )
    return list(sums.values())


def _process(own: ProcessStatus | None, workers: Sequence[Seen]) -> ProcessStatus | None:
    told = [each.told.process for each in workers if each.told is not None and each.told.process is not None]
    if own is None:
        return None
    resident = [each.resident_bytes for each in (own, *told)]
    files = [each.open_files for each in (own, *told)]
    return ProcessStatus(
        resident_bytes=None if None in resident else sum(each or 0 for each in resident),
        cpu_seconds=sum(each.cpu_seconds for each in (own, *told)) + sum(each.earlier.cpu_seconds for each in workers),
        open_files=None if None in files else sum(each or 0 for each in files),
        file_limit=sum(each.file_limit for each in (own, *told)),
    )


def _own_reasons(own: DaemonStatus, workers: Sequence[Seen]) -> Iterator[Unready]:
    if own.stopping:
        yield Unready(reason="stopping")
    for each in workers:
        if each.status.state != "running" and not own.stopping:
            ended = " again, it has ended" if each.status.state == "starting" else ""
            reason = f"{ended}: {each.status.reason}" if each.status.reason else ""
            yield Unready(reason=f"worker {each.status.number} is {each.status.state}{reason}")


def _shared_reasons(alive: Sequence[tuple[int, DaemonStatus]], workers: int) -> Iterator[Unready]:
    """Each once, with the workers that give it; without, where all do."""
    who: dict[tuple[str, str, str], list[int]] = {}
    for number, told in alive:
        for each in told.reasons:
            if each.mapping or each.reason != "stopping":
                who.setdefault((each.mapping, each.lane, each.reason), []).append(number)
    for (mapping, lane, reason), numbers in who.items():
        place = "" if len(numbers) == workers else f" (worker{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))})"
        yield Unready(mapping=mapping, lane=lane, reason=f"{reason}{place}")
