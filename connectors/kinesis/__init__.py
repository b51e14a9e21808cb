"""The `kinesis` connector: its options, and what they allow. Vendor-free, so that `check` imports no vendor's library.

A shard is one lane: ordered, keyed by the partition key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from connectors import fields
from connectors.kinesis.options import KinesisOptions, identity, place, problems, refused_by_aws, where
from poller.errors import ConfigError
from poller.settings import Context, Finding, MappingSettings, Traits

if TYPE_CHECKING:
    from connectors.kinesis.client import KinesisClient
    from connectors.kinesis.returning import StreamReturner
    from poller.failures.journal import Entry
    from poller.feed import Place
    from poller.importing.carried import Importer
    from poller.permissions import Needed, Somewhere
    from poller.policy import Block
    from poller.protocols import Source
    from poller.redrive.letters import RedriveContext, Regainer

RETENTION = 24 * 3600.0
"""What a stream has unless it was given more, in seconds; up to 365 days."""

ASSUMED = "how long the stream keeps its records is known only when it is asked; assumed here: 24 hours"


Connect: TypeAlias = Callable[[KinesisOptions], Awaitable["KinesisClient"]]
"""A client for these options."""


async def connect_to_aws(options: KinesisOptions) -> KinesisClient:
    """Raises NotConnected, SourceError."""
    from connectors.aws.connection import UNLIMITED, Target, connected
    from connectors.kinesis.aws import AwsKinesis

    region = options.region or where(options.stream).region
    # Subscriptions keep a connection each: with a limit, so many shards would leave none for other calls. A reader has one call under way.
    target = Target(region, options.profile, options.endpoint, options.role_arn, connections=UNLIMITED)
    return await connected(AwsKinesis(place(options)), target)


class KinesisConnector:
    """Knows one kind of source: a stream of Kinesis Data Streams."""

    options: type[msgspec.Struct] = KinesisOptions

    def __init__(self, connect: Connect = connect_to_aws) -> None:
        self._connect = connect

    def __repr__(self) -> str:
        return "<KinesisConnector>"

    def traits(self, options: KinesisOptions) -> Traits:
        if found := problems(options):
            raise ConfigError(found)
        return Traits(
            "stream",
            default_batch_size=100,
            filterable=fields.RECORD,
            identity=identity(options),
            tumbling=True,
            assumed=(ASSUMED,),
            refused_by_aws=tuple(refused_by_aws(options)),
        )

    def policy(self, options: KinesisOptions, settings: MappingSettings) -> Block:
        """As if the stream had the retention that it has unless it was given more (`ASSUMED`)."""
        from poller.policy import Block

        return Block.of(settings, options.partial, RETENTION)

    def describe(self, entry: Entry) -> dict[str, Any]:
        """See `poller.settings.Describing`."""
        from connectors.kinesis.batch_info import described

        return described(entry)

    def regainer(self, options: KinesisOptions, context: RedriveContext) -> Regainer:
        """See `poller.redrive.letters.Regaining`."""
        from connectors.kinesis.regaining import StreamRegainer

        return StreamRegainer(self._connect, options, context)

    async def returner(self, options: KinesisOptions, place: Place) -> StreamReturner:  # noqa: ARG002 (the protocol's)
        """See `poller.feed.Returning`."""
        from connectors.kinesis.returning import open_returner

        self.traits(options)
        return await open_returner(options)

    def importer(self) -> Importer:
        """See `poller.importing.carried.Importing`."""
        from connectors.kinesis.importing import IMPORTER

        return IMPORTER

    def permissions(self, options: KinesisOptions, settings: MappingSettings, place: Somewhere) -> Needed:  # noqa: ARG002 (the protocol's)
        """See `poller.permissions.SourcePermissions`."""
        from connectors.kinesis.permissions import permissions

        return permissions(options, place)

    def returning(self, options: KinesisOptions, place: Somewhere) -> Needed:
        """See `poller.permissions.ReturnPermissions`."""
        from connectors.kinesis.permissions import returning

        return returning(options, place)

    async def open(self, options: KinesisOptions, context: Context) -> Source:
        from connectors.kinesis.source import open_source

        self.traits(options)  # ConfigError now is better than a surprise of the service later, for who builds options in code
        return await open_source(await self._connect(options), options, context)

    async def probe(self, options: KinesisOptions, context: Context, timeout: float) -> list[Finding]:  # noqa: ARG002 (the protocol's)
        from connectors.kinesis.probe import probe

        self.traits(options)
        return await probe(lambda: self._connect(options), options, context.mapping)


connector = KinesisConnector()
