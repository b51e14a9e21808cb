"""A queue and a stream in a file beside the store: no server, and exactly SQS's and Kinesis's events and rules.

Here are the options and the two connectors; the database is opened only by `open`, `probe` and `put`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import msgspec

from connectors import fields
from connectors.starting import Position, contradictions
from poller.errors import ConfigError
from poller.settings import Context, Finding, MappingSettings, Traits
from poller.units import duration

if TYPE_CHECKING:
    from poller.failures.journal import Entry
    from poller.feed import Item, Place, Returner
    from poller.policy import Block, Redeliver
    from poller.protocols import Source
    from poller.redrive.letters import RedriveContext, Regainer

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,128}")
_DAY = 86400.0


class Redrive(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[...source.redrive]`: a message that was received so often moves to `queue` instead of being received once more."""

    queue: str
    maximum_receive_count: int


class QueueOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`type = "local-queue"`. Defaults are SQS's. `release_failed_groups`: FIFO; see `poller.policy.Redeliver.groups`."""

    name: str
    fifo: bool = False
    visibility_timeout: str = "30s"
    retention: str = "4d"
    redrive: Redrive | None = None
    release_failed_groups: bool = False


class StreamOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`type = "local-stream"`. Defaults are Kinesis's. `starting_position_timestamp`: ISO 8601, or epoch seconds."""

    name: str
    shards: int = 1
    retention: str = "24h"
    starting_position: Position = "TRIM_HORIZON"
    starting_position_timestamp: str | float | None = None


class _Problems:
    """What is wrong with the options, one line each."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def name(self, key: str, value: str) -> None:
        if _NAME.fullmatch(value) is None:
            self.found.append(f"{key} = {value!r}: a name has 1 to 128 letters, digits, '_', '-' or '.'")

    def duration(self, key: str, value: str, least: float, most: float, allowed: str) -> None:
        try:
            seconds = duration(value)
        except ValueError as error:
            self.found.append(f"{key}: {error}")
            return
        if not least <= seconds <= most:
            self.found.append(f"{key} = {value!r}: must be {allowed}")

    def number(self, key: str, value: int, least: int, most: int) -> None:
        if not least <= value <= most:
            self.found.append(f"{key} = {value}: must be {least} to {most}")

    def check(self) -> None:
        if self.found:
            raise ConfigError(self.found)


class QueueConnector:
    """`type = "local-queue"`: a `Connector` that is a `Feed` too."""

    options: type[msgspec.Struct] = QueueOptions

    def traits(self, options: QueueOptions) -> Traits:
        problems = _Problems()
        problems.name("name", options.name)
        problems.duration("visibility_timeout", options.visibility_timeout, 0.01, 12 * 3600.0, "10ms to 12h")
        problems.duration("retention", options.retention, 60.0, 14 * _DAY, "1m to 14d")
        if options.redrive is not None:
            problems.name("redrive.queue", options.redrive.queue)
            problems.number("redrive.maximum_receive_count", options.redrive.maximum_receive_count, 1, 1000)
            if options.redrive.queue == options.name:
                problems.found.append(f"redrive.queue = {options.name!r}: a queue cannot be its own dead-letter queue")
        if options.release_failed_groups and not options.fifo:
            problems.found.append("release_failed_groups is for FIFO queues only: set fifo = true, or leave it out")
        problems.check()
        # A name is one queue, whatever its other options: all sources of a configuration share one database.
        visibility = duration(options.visibility_timeout)
        identity = f"local-queue:{options.name}"
        traits = Traits("queue", 10, filterable=fields.MESSAGE, identity=identity, visibility=visibility, local=True)
        return replace(traits, maximum_batch_size=10, maximum_batching_window=0.0, fifo=True) if options.fifo else traits

    def policy(self, options: QueueOptions, settings: MappingSettings) -> Redeliver:
        from poller.policy import Redeliver

        redrive = None if options.redrive is None else options.redrive.maximum_receive_count
        return Redeliver.of(settings, redrive, options.release_failed_groups)

    def describe(self, entry: Entry) -> dict[str, Any]:
        """See `poller.settings.Describing`."""
        from connectors.sqs.batch_info import described

        return described(entry)

    def regainer(self, options: QueueOptions, context: RedriveContext) -> Regainer:
        """See `poller.redrive.letters.Regaining`."""
        from connectors.local.regaining import QueueRegainer

        return QueueRegainer(options, context)

    async def open(self, options: QueueOptions, context: Context) -> Source:
        from connectors.local.queue import QueueSource

        self.traits(options)
        return await QueueSource.open(options, context, self.policy(options, context.mapping))

    async def probe(self, options: QueueOptions, context: Context, timeout: float) -> list[Finding]:
        from connectors.local.queue import probe

        self.traits(options)
        return await probe(options, context, timeout)

    async def put(self, options: QueueOptions, place: Place, items: Sequence[Item]) -> int:
        from connectors.local.feed import put_messages

        self.traits(options)
        return await put_messages(options, place, items)

    async def returner(self, options: QueueOptions, place: Place) -> Returner:
        """See `poller.feed.Returning`."""
        from connectors.local.returning import QueueReturner

        return QueueReturner(options, place)


class StreamConnector:
    """`type = "local-stream"`: a `Connector` that is a `Feed` too."""

    options: type[msgspec.Struct] = StreamOptions

    def traits(self, options: StreamOptions) -> Traits:
        problems = _Problems()
        problems.name("name", options.name)
        problems.number("shards", options.shards, 1, 1000)
        problems.duration("retention", options.retention, 60.0, 365 * _DAY, "1m to 365d")
        problems.found += contradictions(options.starting_position, options.starting_position_timestamp)
        problems.check()
        return Traits("stream", 100, filterable=fields.RECORD, identity=f"local-stream:{options.name}", tumbling=True, local=True)

    def policy(self, options: StreamOptions, settings: MappingSettings) -> Block:
        from poller.policy import Block

        return Block.of(settings, "cut", duration(options.retention))

    def describe(self, entry: Entry) -> dict[str, Any]:
        """See `poller.settings.Describing`."""
        from connectors.kinesis.batch_info import described

        return described(entry)

    def regainer(self, options: StreamOptions, context: RedriveContext) -> Regainer:
        """See `poller.redrive.letters.Regaining`."""
        from connectors.local.regaining import StreamRegainer

        return StreamRegainer(options, context)

    async def open(self, options: StreamOptions, context: Context) -> Source:
        from connectors.local.stream import open_stream

        self.traits(options)
        return await open_stream(options, context, self.policy(options, context.mapping))

    async def probe(self, options: StreamOptions, context: Context, timeout: float) -> list[Finding]:  # noqa: ARG002 (the protocol's)
        from connectors.local.stream import probe

        self.traits(options)
        return await probe(options, context)

    async def put(self, options: StreamOptions, place: Place, items: Sequence[Item]) -> int:
        from connectors.local.feed import put_records

        self.traits(options)
        return await put_records(options, place, items)

    async def returner(self, options: StreamOptions, place: Place) -> Returner:
        """See `poller.feed.Returning`."""
        from connectors.local.returning import StreamReturner

        return StreamReturner(options, place)


queue_connector = QueueConnector()
stream_connector = StreamConnector()
