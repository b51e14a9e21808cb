"""What a daemon says of itself, gathered from its parts; and what its store says of the lanes that others have."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import msgspec

from poller.admin.commands import Command
from poller.admin.lanes import asked_of
from poller.admin.rewinding import shown
from poller.config import Config
from poller.config.destinations import hidden
from poller.errors import PollerError
from poller.failures.journal import Waiting
from poller.functions import Function
from poller.lane_runner import LaneRunner
from poller.mapping import MappingRunner
from poller.model import Holding, LaneKey
from poller.ordered_source import OrderedSource
from poller.pause import Pause
from poller.protocols import Source, Store, Visible
from poller.registry import Registry
from poller.rewind import Positioned
from poller.status import CircuitStatus, DestinationStatus, FunctionStatus, HeadSpan, LaneStatus, MappingStatus, PauseStatus

if TYPE_CHECKING:
    from poller.daemon import Daemon

SHOW_SECONDS = 2.0
"""A lane that does not say more about itself in this time is shown without it: `status` must answer while a source hangs."""


async def mapping_status(runner: MappingRunner, kind: str, now: float) -> MappingStatus:
    """One running mapping, its lanes in the order of their names."""
    work = runner.work
    # All at once: were each that hangs waited for in turn, a mapping of many lanes would never be shown.
    lanes = list(await asyncio.gather(*(lane_status(each, now) for _, each in sorted(runner.runners.items()))))
    return MappingStatus(
        name=work.settings.name,
        id=work.settings.id,
        source=work.source,
        type=kind,
        function=work.settings.function,
        state=runner.state,
        last_error=runner.last_error,
        paused=None if runner.paused is None else pause_status(runner.paused),
        circuit=None if (broken := work.circuit.shown(now)) is None else CircuitStatus(**asdict(broken)),
        timeout=work.function.settings.timeout,
        window=work.settings.batching.window,
        counters=work.counters,
        lanes=lanes,
    )


def pause_status(pause: Pause) -> PauseStatus:
    return PauseStatus(by=pause.by, since=pause.since, until=pause.until or None)


async def lane_status(runner: LaneRunner, now: float) -> LaneStatus:
    """One lane: what its runner knows, and what the lane tells if it is `Visible`."""
    signs, strands = runner.signs, runner.lane.strands
    busy = [strand for strand in strands if strand.flight is not None]
    status = LaneStatus(
        name=runner.lane.name,
        state=signs.state,
        held=strands.held,
        in_flight=sum(len(strand.flight or ()) for strand in busy),
        waiting_strands=sum(bool(strand.records) for strand in busy),
        opened_at=signs.opened_at,
        held_since=signs.held_since,
        progressed_at=signs.progressed_at,
        read_at=signs.read_at,
        last_error=signs.full or (signs.last_error if signs.state == "reconnecting" else ""),
    )
    if isinstance(runner.lane, Visible):
        try:
            told = await asyncio.wait_for(runner.lane.show(now), SHOW_SECONDS)
        except (PollerError, TimeoutError):
            return status
        status.position, status.owner = told.position, told.owner
        status.lag_records, status.lag_seconds = told.lag_records, told.lag_seconds
        if told.head is not None:
            head = told.head
            count = len(head.listed) if head.listed is not None else 0
            status.head_span = HeadSpan(
                first=told.first or str(head.first),
                records=count,
                attempts=head.attempts,
                last_error=signs.fault,
                not_before=head.not_before or None,
            )
    return status


async def kept_lanes(runner: MappingRunner, store: Store, now: float) -> list[LaneStatus]:
    """All lanes of a mapping that the store knows of, here or elsewhere, in the order of their names. Raises StoreError."""
    work, source = runner.work, runner.source
    held = await store.leases.held(work.settings.id, work.source, now) if work.source else ()
    holdings = sorted((each for each in held if each.lane), key=lambda each: each.lane)
    return await asked_of(holdings, lambda holding: _kept_lane(runner, store, holding, source))


async def _kept_lane(runner: MappingRunner, store: Store, holding: Holding, source: Source | None) -> LaneStatus:
    work = runner.work
    progress = await store.checkpoints.load(LaneKey(work.settings.id, work.source, holding.lane))
    reader = source.shards.reader(holding.lane) if isinstance(source, OrderedSource) else None
    try:
        status = LaneStatus(name=holding.lane, owner=holding.owner, state="elsewhere" if holding.owner else "free")
        if progress is None:
            return status
        status.position = shown(progress, reader) if source is not None else ""  # a bare number could be taken for a position
        if progress.ended:
            status.state = "ended"
        if progress.spans and source is not None:
            span = min(progress.spans, key=lambda each: each.first)
            first = reader.shown(span.first) if isinstance(reader, Positioned) else str(span.first)
            status.head_span = HeadSpan(
                first=first, records=len(span.listed or ()), attempts=span.attempts, not_before=span.not_before or None
            )
        return status
    finally:
        if reader is not None:
            await reader.aclose()


def lanes(daemon: Daemon) -> Command:
    """The control command `lanes`: `kept_lanes` of each mapping, which `status` does not ask the store for."""

    async def lanes() -> AsyncIterator[dict[str, Any]]:
        for name, running in list(daemon.running.items()):
            found = await kept_lanes(running.runner, daemon.store, daemon.clock())
            yield {"mapping": name, "lanes": msgspec.to_builtins(found)}

    return lanes


def destination_statuses(config: Config, waiting: Iterable[Waiting], registry: Registry) -> list[DestinationStatus]:
    """Each destination of the configuration, in its order; then those that it does not name any more, and for which something waits."""
    found: dict[tuple[str, str], DestinationStatus] = {}
    for mapping in config.mappings.values():
        for each in mapping.destinations:
            found[mapping.settings.id, each.name] = DestinationStatus(mapping=mapping.settings.name, name=each.shown)
    names = {mapping.settings.id: mapping.settings.name for mapping in config.mappings.values()}
    for line in waiting:
        lost = DestinationStatus(mapping=names.get(line.mapping, line.mapping), name=hidden(line.destination, registry), configured=False)
        status = found.setdefault((line.mapping, line.destination), lost)
        status.waiting, status.oldest, status.attempts, status.last_error = line.count, line.oldest, line.attempts, line.error
        status.damaged = line.damaged
    return list(found.values())


def function_statuses(functions: Iterable[Function]) -> list[FunctionStatus]:
    return [
        FunctionStatus(
            name=function.name,
            permits=function.permits.limit,
            in_use=function.permits.in_use,
            waiting=function.permits.waiting,
            environments=getattr(function.handler, "environments", 0),
        )
        for function in functions
    ]
