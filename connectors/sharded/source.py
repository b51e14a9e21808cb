"""A stream of shards as a source."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from connectors.sharded.dialect import Dialect
from connectors.sharded.lane import ShardLane, TakenApartLane
from connectors.sharded.listing import StreamShards
from connectors.starting import Position, origin
from poller.errors import SourceError
from poller.ordered_source import OrderedSource
from poller.protocols import Policy
from poller.settings import Context

R = TypeVar("R")


def sharded_source(
    context: Context,
    dialect: Dialect[R],
    shards: StreamShards[R],
    identity: str,
    policy: Policy,
    position: Position,
    timestamp: str | float | None = None,
) -> OrderedSource:
    """`position` and `timestamp`: where shards without progress start, as the options say. Raises SourceError for a time to come.

    LATEST begins by the service's clock, which records are stamped by: by ours, if it is ahead, what comes next would be passed over.
    """
    now, heard = context.clock(), dialect.client.heard() if position == "LATEST" else None
    try:
        start = origin(position, timestamp, now if heard is None else heard.corrected(now, asyncio.get_running_loop().time()))
    except ValueError as error:
        raise SourceError(f"{dialect.place}: {error}") from None
    return OrderedSource(
        context,
        identity=identity,
        format=dialect.format,
        policy=policy,
        shards=shards,
        origin=start,
        lane=ShardLane if dialect.expand is None else TakenApartLane,
    )
