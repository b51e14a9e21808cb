"""What a daemon says of itself, gathered from its parts."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from poller.errors import PollerError
from poller.functions import Function
from poller.lane_runner import LaneRunner
from poller.mapping import MappingRunner
from poller.protocols import Visible
from poller.status import FunctionStatus, HeadSpan, LaneStatus, MappingStatus

SHOW_SECONDS = 2.0
"""A lane that does not say more about itself in this time is shown without it: `status` must answer while a source hangs."""


async def mapping_status(runner: MappingRunner, kind: str, now: float) -> MappingStatus:
    """One running mapping, its lanes in the order of their names."""
    work = runner.work
    lanes = [await lane_status(runner.runners[name], now) for name in sorted(runner.runners)]
    return MappingStatus(
        name=work.settings.name,
        id=work.settings.id,
        source=work.source,
        type=kind,
        function=work.settings.function,
        state=runner.state,
        last_error=runner.last_error,
        timeout=work.function.settings.timeout,
        window=work.settings.batching.window,
        counters=work.counters,
        lanes=lanes,
    )


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
        last_error=signs.last_error if signs.state == "reconnecting" else "",
    )
    if isinstance(runner.lane, Visible):
        try:
            shown = await asyncio.wait_for(runner.lane.show(now), SHOW_SECONDS)
        except (PollerError, TimeoutError):
            return status
        status.position, status.owner = shown.position, shown.owner
        status.lag_records, status.lag_seconds = shown.lag_records, shown.lag_seconds
        if shown.head is not None:
            head = shown.head
            count = len(head.listed) if head.listed is not None else 0
            status.head_span = HeadSpan(
                first=str(head.first), records=count, attempts=head.attempts, last_error=signs.fault, not_before=head.not_before or None
            )
    return status


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
