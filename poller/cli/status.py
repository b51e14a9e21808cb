"""`poller status`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from poller.cli.options import config_option, json_option, load_config
from poller.cli.text import clean, json_line, lasting, moment, shortened, table

if TYPE_CHECKING:
    from poller.status import DaemonStatus, LaneStatus, MappingStatus

_RECORDS, _BATCHES = ("READ", "FILTERED", "DONE", "HELD"), ("BATCHES", "INVOCATIONS", "FAULTS", "RETRIES", "SPLITS")
_MAPPING = ("MAPPING", "STATE", "FUNCTION", *_RECORDS, *_BATCHES, "KEPT", "")
_LANE = ("LANE", "STATE", "HELD", "IN FLIGHT", "WAITING", "LAG", "AGE", "DONE UP TO", "UNDER RETRY")
_CLEAR = "\x1b[H\x1b[2J\x1b[3J"


@click.command(short_help="Show what the running daemon does.")
@config_option
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between two looks.")
@json_option
def status(config_path: Path, watch: bool, interval: float, as_json: bool) -> None:
    """Show what the running daemon does: mappings, lanes, functions, and why it is not ready."""
    from msgspec import convert

    from poller.cli.contact import status_of
    from poller.status import DaemonStatus

    config = load_config(config_path)
    while True:
        answer = status_of(config)
        text = json_line(answer) if as_json else page(convert(answer, DaemonStatus), time.time())
        click.echo(f"{_CLEAR}{text}" if watch and not as_json and sys.stdout.isatty() else text)
        if not watch:
            return
        time.sleep(interval)


def page(status: DaemonStatus, now: float) -> str:
    """A status for a person. Pure."""
    return "\n".join(_sections(status, now))


def _sections(status: DaemonStatus, now: float) -> Iterator[str]:
    yield f"poller {status.version}, process {status.pid}, since {moment(status.started)} ({lasting(now - status.started)})"
    yield clean(f"{status.config}: {'ready' if status.ready else 'not ready'}")
    yield from (clean(f"    {reason}") for reason in status.reasons)
    yield ""
    yield table(_MAPPING, map(_mapping, status.mappings))
    lanes = [(mapping, lane) for mapping in status.mappings for lane in mapping.lanes]
    if lanes:
        yield ""
        yield table(_LANE, (_lane(mapping, lane, now) for mapping, lane in lanes))
    if status.functions:
        yield ""
        rows = ((each.name, each.permits, each.in_use, each.waiting, each.environments) for each in status.functions)
        yield table(("FUNCTION", "PERMITS", "IN USE", "WAITING", "ENVIRONMENTS"), rows)
    journal = status.journal
    yield ""
    yield f"journal: {journal.kept:,} kept, {journal.claimed:,} in replay, {journal.replayed:,} replayed, {journal.dropped:,} dropped"


def _mapping(mapping: MappingStatus) -> tuple[object, ...]:
    counters = mapping.counters
    faults = counters.faults + counters.partials
    held = sum(lane.held for lane in mapping.lanes)
    records = (counters.polled, counters.filtered, counters.done, held)
    batches = (counters.batches, counters.invocations, faults, counters.retries, counters.splits)
    state = mapping.state if mapping.enabled else "disabled"
    return (mapping.name, state, mapping.function, *records, *batches, counters.kept, shortened(mapping.last_error, 80))


def _lane(mapping: MappingStatus, lane: LaneStatus, now: float) -> tuple[object, ...]:
    counts = (lane.held, lane.in_flight, lane.waiting_strands, lane.lag_records)
    name = f"{mapping.name}/{lane.name}"
    return (name, lane.state, *counts, lasting(lane.lag_seconds), lane.position, _head(lane, now) or shortened(lane.last_error, 80))


def _head(lane: LaneStatus, now: float) -> str:
    """What the lane waits for: the first records under retry."""
    span = lane.head_span
    if span is None:
        return ""
    wait = (span.not_before or 0.0) - now
    soon = f", again in {lasting(wait)}" if wait > 0 else ""
    return f"{span.records or 'some'} from {span.first}, {span.attempts} attempts{soon}: {shortened(span.last_error, 60)}"
