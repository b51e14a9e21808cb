"""`poller status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poller.cli import destinations
from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import amount, clean, json_line, lasting, moment, shortened, table

if TYPE_CHECKING:
    from poller.status import DaemonStatus, LaneStatus, MappingStatus, WorkerStatus

_RECORDS, _BATCHES = ("READ", "FILTERED", "DONE", "HELD"), ("BATCHES", "INVOKED", "FAULTS", "RETRIES", "SPLITS")
_MAPPING = ("MAPPING", "STATE", "FUNCTION", *_RECORDS, *_BATCHES, "KEPT")
_LANE = ("STATE", "HELD", "RUNNING", "WAITING", "LAG", "AGE", "DONE UP TO")
_WORKER = ("WORKER", "PROCESS", "STATE", "SINCE", "RESTARTS", "")
FEW = 20
"""So many lanes of a mapping are shown unasked."""

PLACE_WIDTH = 20
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


@click.command(short_help="Show what the running daemon does.")
@config_option
@click.option("--lanes", "all_lanes", is_flag=True, help="Every lane, with positions in full, as `poller rewind` takes them.")
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between two looks.")
@json_option
def status(config_path: Path, all_lanes: bool, watch: bool, interval: float, as_json: bool) -> None:
    """Show what the running daemon does: mappings, lanes, functions, and why it is not ready."""
    from msgspec import convert

    from poller.cli.contact import status_of
    from poller.status import DaemonStatus

    config = load_config(config_path)
    while True:
        answer = status_of(config)
        text = json_line(answer) if as_json else page(convert(answer, DaemonStatus), time.time(), all_lanes)
        click.echo(f"{_CLEAR}{text}" if watch and not as_json and sys.stdout.isatty() else text)
        if not watch:
            return
        time.sleep(interval)


def page(status: DaemonStatus, now: float, all_lanes: bool = False) -> str:
    """A status for a person. Pure."""
    return "\n".join(_sections(status, now, all_lanes))


def _sections(status: DaemonStatus, now: float, all_lanes: bool) -> Iterator[str]:
    yield f"poller {status.version}, process {status.pid}, since {moment(status.started)} ({lasting(now - status.started)})"
    yield clean(f"{status.config}: {'ready' if status.ready else 'not ready'}")
    yield from (clean(f"    {reason}") for reason in status.reasons)
    yield ""
    yield table(_MAPPING, map(_mapping, status.mappings))
    for mapping in status.mappings:
        yield from (clean(f"    {mapping.name}: {remark}") for remark in _remarks(mapping))
    for mapping in status.mappings:
        yield from _lanes(mapping, now, all_lanes)
    if status.workers:
        yield ""
        yield table(_WORKER, (_worker(worker, now) for worker in status.workers))
    if status.functions:
        yield ""
        rows = ((each.name, each.permits, each.in_use, each.waiting, each.environments) for each in status.functions)
        yield table(("FUNCTION", "PERMITS", "IN USE", "WAITING", "ENVIRONMENTS"), rows)
    if status.destinations:
        yield ""
        yield from destinations.overview(status.destinations)
    journal = status.journal
    yield ""
    parked = f"{journal.parked:,} parked, " if journal.parked else ""
    done = f"{journal.replayed:,} replayed, {journal.dropped:,} dropped"
    yield f"journal: {journal.kept:,} kept, {journal.claimed:,} in replay, {parked}{done}"


def _worker(worker: WorkerStatus, now: float) -> tuple[object, ...]:
    since = "" if worker.started is None else moment(worker.started)
    soon = "" if worker.again_at is None else f"; again in {lasting(max(0.0, worker.again_at - now))}"
    return (worker.number, str(worker.pid or ""), worker.state, since, worker.restarts, f"{shortened(worker.reason, 80)}{soon}")


def _mapping(mapping: MappingStatus) -> tuple[object, ...]:
    counters = mapping.counters
    faults = counters.faults + counters.partials
    held = sum(lane.held for lane in mapping.lanes)
    records = (counters.polled, counters.filtered, counters.done, held)
    batches = (counters.batches, counters.invocations, faults, counters.retries, counters.splits)
    state: str = mapping.state if mapping.enabled else "disabled"
    if mapping.circuit is not None and state == "running":
        state = f"circuit {mapping.circuit.state}"
    return (mapping.name, state, mapping.function, *records, *batches, counters.kept)


def _remarks(mapping: MappingStatus) -> Iterator[str]:
    """What a person should not overlook."""
    tally, pause = mapping.counters.tally, mapping.paused
    if pause is not None:
        yield f"{mapping.state} by {pause.by}, since {moment(pause.since)}; to go on: poller resume {mapping.name}"
    if circuit := mapping.circuit:
        probe = "one runs" if circuit.state == "half-open" else f"the next is due {moment(circuit.next_probe)}"
        yield (
            f"its circuit breaker is open since {moment(circuit.since)}: the function fails, whatever it is given: "
            f"{shortened(circuit.error, 80)}; {amount(circuit.probes, 'probe')} failed, {probe}; to close it: poller reset {mapping.name}"
        )
    elif opened := mapping.counters.opened:
        yield f"its circuit breaker has opened {amount(opened, 'time')} since it started, and is closed"
    if mapping.last_error:
        yield shortened(mapping.last_error, 160)
    if parked := mapping.counters.parked:
        yield f"{parked:,} parked behind failures that hold their keys; what still is: poller failures list --mapping {mapping.name}"
    if tally.expired:
        yield f"{tally.expired:,} removed by the source's retention before they were read"
    if tally.rebalances:
        yield amount(tally.rebalances, "rebalance")


def _lanes(mapping: MappingStatus, now: float, every: bool) -> Iterator[str]:
    """A table of its lanes; of many, those that someone should look at. What a lane waits for stands below it."""
    lanes = [lane for lane in mapping.lanes if every or lane.state != "ended"]
    shown = lanes if every or len(lanes) <= FEW else sorted(lanes, key=_urgency)[:FEW]
    if not lanes:
        return
    owned = any(map(_owner, shown))
    heads = (f"{mapping.name}/", *(("OWNER",) if owned else ()), *_LANE)
    rows = [(lane.name, *((_owner(lane),) if owned else ()), *_lane(lane, every)) for lane in shown]
    head, *lines = table(heads, rows).splitlines()
    yield ""
    yield head
    for lane, line in zip(shown, lines, strict=True):
        yield line
        if below := _head(lane, now) or shortened(lane.last_error, 120):
            yield clean(f"    {below}")
    if more := len(mapping.lanes) - len(shown):
        yield f"    and {amount(more, 'lane')} more: --lanes"


def _urgency(lane: LaneStatus) -> tuple[bool, bool, float, float, str]:
    """What sorts first is to be looked at first."""
    return (lane.ready, lane.head_span is None, -(lane.lag_seconds or 0.0), -(lane.lag_records or 0), lane.name)


def _owner(lane: LaneStatus) -> str:
    """Of a lane that this process does not run by itself."""
    return f"worker {lane.worker}" if lane.worker else lane.owner if lane.state == "elsewhere" else ""


def _lane(lane: LaneStatus, whole: bool) -> tuple[object, ...]:
    counts = (lane.held, lane.in_flight, lane.waiting_strands, lane.lag_records)
    kind, _, since = lane.position.partition(" ")
    place = moment(float(since)) if kind == "AT_TIMESTAMP" and since.replace(".", "").isdecimal() else lane.position
    return (lane.state, *counts, lasting(lane.lag_seconds), place if whole else _short(place))


def _short(place: str) -> str:
    """Sequence numbers have up to 56 digits; what tells them apart is at both ends."""
    return place if len(place) <= PLACE_WIDTH else f"{place[:8]}...{place[3 + 8 - PLACE_WIDTH :]}"


def _head(lane: LaneStatus, now: float) -> str:
    """What the lane waits for: the first records under retry."""
    span = lane.head_span
    if span is None:
        return ""
    wait = (span.not_before or 0.0) - now
    soon = f", again in {lasting(wait)}" if wait > 0 else ""
    error = f": {shortened(span.last_error, 60)}" if span.last_error else ""
    return f"under retry: {span.records or 'some'} from {_short(span.first)}, {amount(span.attempts, 'attempt')}{soon}{error}"
