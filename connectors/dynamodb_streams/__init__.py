"""The `dynamodb_streams` connector: its options, and what they allow. Vendor-free, so that `check` imports no vendor's library.

A shard is one lane: ordered, keyed by the item (partition key and sort key).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from connectors.dynamodb_streams.client import RETENTION
from connectors.dynamodb_streams.options import FILTERABLE, DynamoDBOptions, identity, place, problems, refused_by_aws, where
from poller.errors import ConfigError
from poller.settings import Context, Finding, MappingSettings, Traits

if TYPE_CHECKING:
    from connectors.dynamodb_streams.client import DynamoDBClient
    from poller.failures.journal import Entry
    from poller.importing.carried import Importer
    from poller.permissions import Needed, Somewhere
    from poller.policy import Block
    from poller.protocols import Source
    from poller.redrive.letters import RedriveContext, Regainer

Connect: TypeAlias = Callable[[DynamoDBOptions], Awaitable["DynamoDBClient"]]
"""A client for these options."""


async def connect_to_aws(options: DynamoDBOptions) -> DynamoDBClient:
    """Raises NotConnected, SourceError."""
    from connectors.aws.connection import Target, connected
    from connectors.dynamodb_streams.aws import AwsDynamoDB

    region = options.region or where(options.table).region
    target = Target(region, options.profile, options.endpoint, options.role_arn, connections=100)
    return await connected(AwsDynamoDB(place(options)), target)


class DynamoDBConnector:
    """Knows one kind of source: the stream of a table of DynamoDB."""

    options: type[msgspec.Struct] = DynamoDBOptions

    def __init__(self, connect: Connect = connect_to_aws) -> None:
        self._connect = connect

    def __repr__(self) -> str:
        return "<DynamoDBConnector>"

    def traits(self, options: DynamoDBOptions) -> Traits:
        if found := list(problems(options)):
            raise ConfigError(found)
        return Traits(
            "stream",
            default_batch_size=100,
            filterable=FILTERABLE,
            identity=identity(options),
            tumbling=True,
            refused_by_aws=tuple(refused_by_aws(options)),
        )

    def policy(self, options: DynamoDBOptions, settings: MappingSettings) -> Block:
        from poller.policy import Block

        return Block.of(settings, options.partial, RETENTION)

    def describe(self, entry: Entry) -> dict[str, Any]:
        """See `poller.settings.Describing`."""
        from connectors.dynamodb_streams.batch_info import described

        return described(entry)

    def regainer(self, options: DynamoDBOptions, context: RedriveContext) -> Regainer:
        """See `poller.redrive.letters.Regaining`."""
        from connectors.dynamodb_streams.regaining import TableRegainer

        return TableRegainer(self._connect, options, context)

    def importer(self) -> Importer:
        """See `poller.importing.carried.Importing`."""
        from connectors.dynamodb_streams.importing import IMPORTER

        return IMPORTER

    def permissions(self, options: DynamoDBOptions, settings: MappingSettings, place: Somewhere) -> Needed:  # noqa: ARG002 (the protocol's)
        """See `poller.permissions.SourcePermissions`."""
        from connectors.dynamodb_streams.permissions import permissions

        return permissions(options, place)

    async def open(self, options: DynamoDBOptions, context: Context) -> Source:
        from connectors.dynamodb_streams.source import open_source

        self.traits(options)  # ConfigError now is better than a surprise of the service later, for who builds options in code
        return await open_source(await self._connect(options), options, context, self.policy(options, context.mapping))

    async def probe(self, options: DynamoDBOptions, context: Context, timeout: float) -> list[Finding]:  # noqa: ARG002 (the protocol's)
        from connectors.dynamodb_streams.probe import probe

        self.traits(options)
        return await probe(lambda: self._connect(options), options, context.mapping)


connector = DynamoDBConnector()
