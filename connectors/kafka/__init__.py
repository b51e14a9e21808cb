"""The `kafka` connector: consumer groups of Apache Kafka, and of Amazon MSK. Vendor-free, so that `check` imports no vendor's library.

A partition is one lane: ordered, keyed by the record's key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from connectors.kafka.options import FILTERABLE, KafkaOptions, problems, refused_by_aws
from poller.errors import ConfigError
from poller.policy import Block
from poller.settings import Context, Finding, MappingSettings, Traits

if TYPE_CHECKING:
    from poller.failures.journal import Entry
    from poller.importing.carried import Importer
    from poller.permissions import Needed, Somewhere
    from poller.protocols import Source
    from poller.redrive.letters import RedriveContext, Regainer

AWS_BATCHING_WINDOW = 0.5
"""What AWS gives a Kafka mapping that names no window: 500 ms (aws-esm: Parameters)."""


ASSUMED = "how long the topics keep their records is known only when they are asked; assumed here: for ever"


class KafkaConnector:
    """Knows one kind of source: topics of Kafka, read as a member of a consumer group."""

    options: type[msgspec.Struct] = KafkaOptions

    def __repr__(self) -> str:
        return "<KafkaConnector>"

    def traits(self, options: KafkaOptions) -> Traits:
        if found := problems(options):
            raise ConfigError(found)
        return Traits(
            "stream",
            default_batch_size=100,
            default_batching_window=AWS_BATCHING_WINDOW,
            filterable=FILTERABLE,
            assumed=(ASSUMED,),
            refused_by_aws=tuple(refused_by_aws(options)),
            aws_parallelization_factor=1,
        )

    def policy(self, options: KafkaOptions, settings: MappingSettings) -> Block:
        return Block.of(settings, options.partial)

    def describe(self, entry: Entry) -> dict[str, Any]:
        """See `poller.settings.Describing`."""
        from connectors.kafka.batch_info import described

        return described(entry)

    def regainer(self, options: KafkaOptions, context: RedriveContext) -> Regainer:
        """See `poller.redrive.letters.Regaining`."""
        from connectors.kafka.regaining import TopicRegainer

        return TopicRegainer(options, context)

    def importer(self) -> Importer:
        """See `poller.importing.carried.Importing`."""
        from connectors.kafka.importing import IMPORTER

        return IMPORTER

    def permissions(self, options: KafkaOptions, settings: MappingSettings, place: Somewhere) -> Needed:
        """See `poller.permissions.SourcePermissions`."""
        from connectors.kafka.permissions import reading

        return reading(options, settings.id, place)

    async def open(self, options: KafkaOptions, context: Context) -> Source:
        from connectors.kafka.source import open_source

        self.traits(options)  # ConfigError now is better than a surprise of a broker later, for who builds options in code
        return await open_source(options, context, self.policy(options, context.mapping))

    def rewound_by(self, options: KafkaOptions, mapping: str) -> str:
        """See `poller.rewind.KeepsPositions`. What is committed without our metadata is gone on with, with fresh attempts."""
        server, topics = options.bootstrap_servers[0], " ".join(f"--topic {name}" for name in options.names)
        return (
            f"the consumer group keeps its positions. Set them back there, with kafka-consumer-groups.sh --bootstrap-server {server} "
            f"--group {options.group_of(mapping)} {topics} --reset-offsets --to-earliest --execute (or --to-latest, --to-datetime, "
            "--to-offset)"
        )

    async def probe(self, options: KafkaOptions, context: Context, timeout: float) -> list[Finding]:
        from connectors.kafka.probe import probe

        self.traits(options)
        return await probe(options, context, timeout)


connector = KafkaConnector()
