"""What a running daemon says of itself, for `poller status`, /readyz and /metrics; and the judgement whether it is ready. Pure.

Times are epoch seconds; a time that never came is None. All structs travel as JSON over the control socket, so new fields have defaults.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeAlias

import msgspec

from poller.metrics import MappingCounters

MappingState: TypeAlias = Literal["starting", "running", "reconnecting", "pausing", "paused", "stopping", "stopped", "failed"]
"""`stopped`: it was asked to, or its source is exhausted, so that there is nothing left to read. `paused`: see poller/pause.py."""

LaneState: TypeAlias = Literal["opening", "running", "reconnecting", "leaving", "ended", "lost", "elsewhere", "free", "failed"]
"""`leaving` has a deadline of its own; `ended` has no records and never will; `elsewhere`: another worker holds it, and answers for it;
`free`: nobody holds it now."""

WorkerState: TypeAlias = Literal["starting", "running", "silent", "down", "stopped"]
"""`silent`: it runs and has not answered for a while; `down`: it has died, and is started again."""

PATIENCE = 60.0
"""Seconds in which a lane must have settled what it holds, or else been read."""


class HeadSpan(msgspec.Struct, kw_only=True):
    """The first records of a lane under retry: what the lane waits for. `first` is a position for a person.

    `last_error` is the function's own, type and message: for the control socket, never for a page that anyone may read.
    """

    first: str = ""
    records: int = 0
    attempts: int = 0
    last_error: str = ""
    not_before: float | None = None


class LaneStatus(msgspec.Struct, kw_only=True):
    """One lane. `owner` holds its lease. `position` is for a person: what is done up to there.

    `held` records are read and not settled, since `held_since` (set when `held` leaves 0). `progressed_at`: records were settled for
    good, that is Ack, Release or Discard; a Retry settles nothing. `read_at`: a fetch returned, with records or without.
    `lag_records`, `lag_seconds`: None where the source does not tell. `last_error`: ours (NotConnected), not the function's.
    `ready` and `reason` are filled in by `judged`. `worker`: which of the daemon's workers has it; 0: there is only one.
    """

    name: str = ""
    state: LaneState = "opening"
    owner: str = ""
    position: str = ""
    held: int = 0
    in_flight: int = 0
    waiting_strands: int = 0
    lag_records: int | None = None
    lag_seconds: float | None = None
    opened_at: float | None = None
    held_since: float | None = None
    progressed_at: float | None = None
    read_at: float | None = None
    head_span: HeadSpan | None = None
    last_error: str = ""
    ready: bool = True
    reason: str = ""
    worker: int = 0


class PauseStatus(msgspec.Struct, kw_only=True):
    """Why a mapping is paused: by what or whom, and since when. `until`: when it ends by itself."""

    by: str = ""
    since: float = 0.0
    until: float | None = None


class CircuitStatus(msgspec.Struct, kw_only=True):
    """An open circuit breaker: since when, for which error (type and message, as `HeadSpan.last_error`), how many probes have failed, and
    when the next one is due. `half-open`: one runs now. Of several workers, the one that has been open for longest."""

    state: Literal["open", "half-open"] = "open"
    since: float = 0.0
    error: str = ""
    probes: int = 0
    next_probe: float = 0.0


class MappingStatus(msgspec.Struct, kw_only=True):
    """One mapping. `source` is the source's identity, `type` its configured kind. `timeout` (the function's) and `window` are seconds.

    `paused`: by what, if it is. Paused, it is ready: nobody wants it to make progress. `circuit`: its circuit breaker, if it is open: then
    it is not ready.
    """

    name: str = ""
    id: str = ""
    source: str = ""
    type: str = ""
    function: str = ""
    enabled: bool = True
    state: MappingState = "starting"
    last_error: str = ""
    paused: PauseStatus | None = None
    circuit: CircuitStatus | None = None
    timeout: float = 3.0
    window: float = 0.0
    counters: MappingCounters = msgspec.field(default_factory=MappingCounters)
    lanes: list[LaneStatus] = msgspec.field(default_factory=list)


class DestinationStatus(msgspec.Struct, kw_only=True):
    """What waits for one destination of a mapping. `mapping` is its name, or its id where the configuration has it no more.

    `oldest`: when the oldest of what waits failed, or was handled. `attempts` and `last_error`: of the oldest that has failed to arrive.
    `damaged`: so many of what waits could not be read, and are set aside.
    `configured`: the configuration names it; else what waits is kept until it does again.
    """

    mapping: str = ""
    name: str = ""
    waiting: int = 0
    oldest: float | None = None
    attempts: int = 0
    last_error: str = ""
    damaged: int = 0
    configured: bool = True


class FunctionStatus(msgspec.Struct, kw_only=True):
    """One function: how many invocations may run at once and do, how many batches wait for a permit, environments that are alive."""

    name: str = ""
    permits: int = 0
    in_use: int = 0
    waiting: int = 0
    environments: int = 0


class JournalStatus(msgspec.Struct, kw_only=True):
    """How many rows the journal has in each state."""

    kept: int = 0
    claimed: int = 0
    parked: int = 0
    replayed: int = 0
    dropped: int = 0


class ProcessStatus(msgspec.Struct, kw_only=True):
    """The process as the operating system sees it; None where it does not tell."""

    resident_bytes: int | None = None
    cpu_seconds: float = 0.0
    open_files: int | None = None
    file_limit: int = 0


class WorkerStatus(msgspec.Struct, kw_only=True):
    """One of several workers, by its number from 1. `pid` 0: it has none now. `restarts`: how often it was started again after it had died.

    `started` is when its process was. `reason` says why it is not running ("" while it is); `again_at`: when it is started again.
    """

    number: int = 0
    pid: int = 0
    state: WorkerState = "starting"
    started: float | None = None
    restarts: int = 0
    reason: str = ""
    again_at: float | None = None


class Unready(msgspec.Struct, kw_only=True, frozen=True):
    """One reason why the daemon is not ready: of a lane, of a whole mapping (no `lane`), or of the daemon (neither)."""

    mapping: str = ""
    lane: str = ""
    reason: str = ""

    def __str__(self) -> str:
        where = "/".join(part for part in (self.mapping, self.lane) if part)
        return f"{where}: {self.reason}" if where else self.reason


class DaemonStatus(msgspec.Struct, kw_only=True):
    """The whole daemon. `config` is the file it was started with; `store_error` says why the store cannot be used now ("": it can).

    `workers`: none where one process does all; else `pid` is the supervisor's, and the rest is the sum over them (totals.py).
    `ready` and `reasons` are filled in by `judged`.
    """

    version: str = ""
    pid: int = 0
    started: float = 0.0
    config: str = ""
    stopping: bool = False
    store_error: str = ""
    ready: bool = False
    reasons: list[Unready] = msgspec.field(default_factory=list)
    mappings: list[MappingStatus] = msgspec.field(default_factory=list)
    functions: list[FunctionStatus] = msgspec.field(default_factory=list)
    destinations: list[DestinationStatus] = msgspec.field(default_factory=list)
    journal: JournalStatus = msgspec.field(default_factory=JournalStatus)
    process: ProcessStatus | None = None
    workers: list[WorkerStatus] = msgspec.field(default_factory=list)


def ready(status: DaemonStatus, now: float) -> tuple[bool, list[Unready]]:
    """Whether every lane of every enabled mapping has made progress or has nothing to read; if not, why not, lane by lane.

    A lane that holds records must have settled some within `patience`; one that holds none must have been read within 60 s. To run is not
    enough: a lane that retries one batch for ever is not ready, and the reason names it.
    """
    reasons = list(_daemon_reasons(status))
    for mapping in status.mappings:
        if mapping.enabled:
            reasons += _mapping_reasons(mapping, now)
    return not reasons, reasons


def judged(status: DaemonStatus, now: float) -> DaemonStatus:
    """The same status with `ready`, `reasons` and each lane's `ready` and `reason` filled in; the given one is left as it is.

    That of several workers has been judged, by each of them for its own lanes.
    """
    if status.workers:
        return status
    verdict, reasons = ready(status, now)
    replace = msgspec.structs.replace
    mappings = []
    for mapping in status.mappings:
        texts = [lane_reason(lane, mapping, now) if mapping.enabled else "" for lane in mapping.lanes]
        lanes = [replace(lane, ready=not text, reason=text) for lane, text in zip(mapping.lanes, texts, strict=True)]
        mappings.append(replace(mapping, lanes=lanes))
    return replace(status, ready=verdict, reasons=reasons, mappings=mappings)


def patience(mapping: MappingStatus) -> float:
    """Seconds within which a lane that holds records must settle some: room for a window, a timeout, and one more attempt."""
    return max(PATIENCE, 2 * mapping.timeout + mapping.window)


def lane_reason(lane: LaneStatus, mapping: MappingStatus, now: float) -> str:
    """Why this lane is not ready, or ""."""
    if not _judged_here(lane):
        return ""
    if lane.state == "failed":
        return _joined("failed", lane.last_error)
    if lane.held:
        # An idle lane that just got records has settled nothing for hours: its time starts when it began to hold some.
        idle = now - _latest(lane.progressed_at, lane.held_since)
        if idle <= patience(mapping):
            return ""
        return _joined(f"holds {lane.held} records and has settled none {_since(idle)}", _head(lane.head_span, now), lane.last_error)
    # A lane whose last records have just been settled may not have been read for as long as the function took.
    idle = now - _latest(lane.read_at, lane.progressed_at, lane.opened_at)
    return _joined(f"has not been read {_since(idle)}", lane.last_error) if idle > PATIENCE else ""


def _daemon_reasons(status: DaemonStatus) -> Iterator[Unready]:
    if status.stopping:
        yield Unready(reason="stopping")
    if status.store_error:
        yield Unready(reason=f"the store cannot be used: {status.store_error}")


def _mapping_reasons(mapping: MappingStatus, now: float) -> Iterator[Unready]:
    if mapping.state in ("starting", "stopping", "failed"):
        yield Unready(mapping=mapping.name, reason=_joined(mapping.state, mapping.last_error))
    elif mapping.state == "reconnecting" and not any(map(_judged_here, mapping.lanes)):
        # With lanes, their own clocks decide: a broken connection of a second is no reason to take the daemon out of service.
        yield Unready(mapping=mapping.name, reason=_joined("reconnecting", mapping.last_error))
    if mapping.circuit is not None:
        yield Unready(mapping=mapping.name, reason=_circuit(mapping.circuit, now))
        return  # the lanes stand still for it, and no other reason
    for lane in mapping.lanes:
        if reason := lane_reason(lane, mapping, now):
            yield Unready(mapping=mapping.name, lane=lane.name, reason=reason)


def _judged_here(lane: LaneStatus) -> bool:
    return lane.state not in ("leaving", "ended", "lost", "elsewhere", "free")


def _circuit(circuit: CircuitStatus, now: float) -> str:
    """Only the type of the error, as in `_head`."""
    text = f"the circuit breaker is open: the function fails with {circuit.error.partition(':')[0]}"
    if circuit.probes:
        text += f", {circuit.probes} probe{'' if circuit.probes == 1 else 's'} too"
    wait = circuit.next_probe - now
    return f"{text}, next probe in {wait:.0f} s" if wait > 0 else text


def _head(span: HeadSpan | None, now: float) -> str:
    """The batch under retry. Only the type of the function's error: its message may hold a record's contents."""
    if span is None:
        return ""
    text = f"{span.records} from {span.first} failed {span.attempts} times with {span.last_error.partition(':')[0] or 'no answer'}"
    wait = (span.not_before or 0.0) - now
    return f"{text}, next attempt in {wait:.0f} s" if wait > 0 else text


def _latest(*times: float | None) -> float:
    return max((time for time in times if time is not None), default=float("-inf"))


def _since(idle: float) -> str:
    return "yet" if idle == float("inf") else f"for {idle:.0f} s"


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)
