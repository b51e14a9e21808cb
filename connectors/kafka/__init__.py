"""The `kafka` connector: consumer groups of Apache Kafka, and of Amazon MSK. Vendor-free, so that `check` imports no vendor's library.

A partition is one lane: ordered, keyed by the record's key.

Two clients: *membership* (the group: who owns what, commits) and *reading* (a consumer outside the group), so that no rebalance throws
away what was read, and no function that runs for hours looks idle. A rebalance is not leaving:

            +--------------- another member comes or goes; partitions are added ----------------+
            v                                                                                   |
 joining -> revoked: lanes stop at the gate, what runs is waited for (drain_limit),             |
            ^        all saved as closed, what still runs as begun                              |
            |        -> assigned: lanes that went elsewhere are lost                            |
            |           -> looked after: whose last commit bears the lane's stamp stays, the rest is lost
            |              -> saved as open again -> steady: fetch and begin -------------------+
            +---- thrown out: no heartbeat answered for session_timeout, or a commit refused <--+

Nothing begins that passed the gate before a rebalance and is not waited for: `begin` counts its strand in the same step. The stamp is a
number that each opened lane draws; it is in every commit, so a partition that another worker had meanwhile (however short) is never gone
on with. Commits present the generation that the partitions were given in, one at a time, for all lanes at once. A process that stood still
finds its gate shut: it is open only until the last answered heartbeat is `session_timeout` old. A topic's retention is no age limit: Kafka
removes whole segments, long after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from connectors.kafka.options import FILTERABLE, KafkaOptions, problems, refused_by_aws
from poller.errors import ConfigError
from poller.settings import Context, Finding, MappingSettings, Traits

if TYPE_CHECKING:
    from connectors.kafka.returning import TopicsReturner
    from poller.failures.journal import Entry
    from poller.feed import Place
    from poller.importing.carried import Importer
    from poller.permissions import Needed, Somewhere
    from poller.policy import Block
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
        from poller.policy import Block

        return Block.of(settings, options.partial)

    def describe(self, entry: Entry) -> dict[str, Any]:
        """See `poller.settings.Describing`."""
        from connectors.kafka.batch_info import described

        return described(entry)

    def regainer(self, options: KafkaOptions, context: RedriveContext) -> Regainer:
        """See `poller.redrive.letters.Regaining`."""
        from connectors.kafka.regaining import TopicRegainer

        return TopicRegainer(options, context)

    async def returner(self, options: KafkaOptions, place: Place) -> TopicsReturner:
        """See `poller.feed.Returning`."""
        from connectors.kafka.returning import TopicsReturner

        self.traits(options)
        return TopicsReturner(options, place.base)

    def importer(self) -> Importer:
        """See `poller.importing.carried.Importing`."""
        from connectors.kafka.importing import IMPORTER

        return IMPORTER

    def permissions(self, options: KafkaOptions, settings: MappingSettings, place: Somewhere) -> Needed:
        """See `poller.permissions.SourcePermissions`."""
        from connectors.kafka.permissions import reading

        return reading(options, settings.id, place)

    def returning(self, options: KafkaOptions, place: Somewhere) -> Needed:
        """See `poller.permissions.ReturnPermissions`."""
        from connectors.kafka.permissions import sending

        return sending(options, place)

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
