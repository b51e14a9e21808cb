"""`kafka://TOPIC`: a message for each record, with its key and headers. Vendor-free, so that `check` imports no vendor's library.

    kafka://orders-dlq                        the cluster of the mapping's own source, or of `bootstrap_servers`
    kafka://broker1:9092,broker2:9092/orders-dlq

The value is AWS's invocation record of that one record (`recordInfo`, `batchSize` 1, the event as an object), or with `raw` what the
record's own value was. What went wrong stands in headers too (messages.py).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta

from connectors.kafka.options import KafkaOptions, Sasl, Tls, problems
from poller.errors import ConfigError
from poller.settings import DestinationContext, DestinationTraits, Finding, Surroundings
from poller.units import duration, size

if TYPE_CHECKING:
    from connectors.kafka.letters import TopicLetters
    from connectors.kafka.topic import KafkaTopic
    from poller.permissions import Needed, Somewhere
    from poller.redrive.letters import RedriveContext

_ADDRESS = re.compile(r"kafka://(?:(?P<servers>[^/]*)/)?(?P<topic>[^/]+)")
_NEEDED = 'bootstrap_servers: give them (["host:port"]), or write "kafka://host:port/topic"; only a mapping of a Kafka source knows its own'


class TopicOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A topic, `kafka://TOPIC` or `kafka://host:port/TOPIC`: where its cluster is and how to log in, and what is sent."""

    bootstrap_servers: Annotated[
        list[str],
        Meta(
            description='Brokers to begin with: `["host:port"]`. Without them, and none in the address, cluster and login are those of the '
            "mapping's own source.",
            extra={"default": "those of the source"},
        ),
    ] = []
    raw: Annotated[bool, Meta(description="The record's own value instead of the invocation record; what went wrong is in headers.")] = (
        False
    )
    maximum_bytes: Annotated[
        str,
        Meta(
            description="A larger message is sent without the event. No larger than the topic's `max.message.bytes`.",
            extra={"unit": "size"},
        ),
    ] = "1MiB"
    timeout: Annotated[str, Meta(description="How long brokers may take to acknowledge a delivery.", extra={"unit": "duration"})] = "30s"
    client_id: Annotated[str | None, Meta(description="What brokers' logs and quotas call us.", extra={"default": "`poller`"})] = None
    tls: Annotated[Tls | None, Meta(description="As a Kafka source's.", extra={"default": "no TLS"})] = None
    sasl: Annotated[Sasl | None, Meta(description="As a Kafka source's.", extra={"default": "no login"})] = None


class Address(NamedTuple):
    """`servers` may be empty."""

    servers: tuple[str, ...]
    topic: str


class TopicKind:
    """See `poller.settings.DestinationKind`, and `poller.settings.Surrounded`."""

    options: type[msgspec.Struct] = TopicOptions

    def __repr__(self) -> str:
        return "<TopicKind>"

    def completed(self, to: str, options: TopicOptions, around: Surroundings) -> TopicOptions:
        address, source = _address(to), around.source
        if not isinstance(source, KafkaOptions):
            return options
        servers = address.servers or tuple(options.bootstrap_servers)
        if address.topic in source.names and (not servers or set(servers) & set(source.bootstrap_servers)):
            raise ConfigError(f"{to!r} is the mapping's own source; name another topic: it would feed itself")
        if servers:
            return options
        client, tls, sasl = options.client_id or source.client_id, options.tls or source.tls, options.sasl or source.sasl
        return msgspec.structs.replace(options, bootstrap_servers=source.bootstrap_servers, client_id=client, tls=tls, sasl=sasl)

    def traits(self, to: str, options: TopicOptions) -> DestinationTraits:
        address = _address(to)
        found = []
        if address.servers and options.bootstrap_servers:
            found.append("bootstrap_servers: they are in the address already; leave them out in one place")
        elif not address.servers and not options.bootstrap_servers:
            found.append(_NEEDED)
        else:
            found += problems(cluster(to, options))
        found += _limits(options)
        if found:
            raise ConfigError(found)
        # Twice, where a broker finds the first try too large; and time for its place.
        return DestinationTraits(maximum_bytes=size(options.maximum_bytes), seconds=2 * duration(options.timeout) + 60)

    def permissions(self, to: str, options: TopicOptions, place: Somewhere) -> Needed:
        """See `poller.permissions.DestinationPermissions`."""
        from connectors.kafka.permissions import sending

        return sending(cluster(to, options), place)

    def reading(self, to: str, options: TopicOptions, source: Any, mapping: str, place: Somewhere) -> Needed:  # noqa: ARG002
        """See `poller.permissions.LetterPermissions`."""
        from connectors.kafka.permissions import reading

        return reading(msgspec.structs.replace(cluster(to, options), group=redrive_group(mapping)), mapping, place)

    async def open(self, to: str, options: TopicOptions, context: DestinationContext) -> KafkaTopic:
        from connectors.kafka.topic import KafkaTopic

        return KafkaTopic(cluster(to, options), options, context)

    async def letters(self, to: str, options: TopicOptions, context: RedriveContext) -> TopicLetters:
        """See `poller.redrive.letters.Readable`."""
        from connectors.kafka.letters import open_letters

        self.traits(to, options)
        return await open_letters(cluster(to, options), context)

    async def probe(self, to: str, options: TopicOptions, context: DestinationContext) -> list[Finding]:
        from connectors.kafka.topic import probe

        return await probe(cluster(to, options), options, context)


def redrive_group(mapping: str) -> str:
    """The consumer group that remembers which letters of a topic were taken for the mapping with this id."""
    return f"poller-redrive-{mapping}"


def cluster(to: str, options: TopicOptions) -> KafkaOptions:
    """As a source of this topic would have it. Raises ConfigError: no address of this kind."""
    address = _address(to)
    servers = list(address.servers or options.bootstrap_servers)
    client = options.client_id or "poller"
    return KafkaOptions(bootstrap_servers=servers, topic=address.topic, client_id=client, tls=options.tls, sasl=options.sasl)


def _address(to: str) -> Address:
    found = _ADDRESS.fullmatch(to)
    if found is None:
        raise ConfigError(f'{to!r} names no topic; write "kafka://topic", or "kafka://host:port/topic"')
    return Address(tuple(each for each in (found["servers"] or "").split(",") if each), found["topic"])


def _limits(options: TopicOptions) -> list[str]:
    found = []
    try:
        if size(options.maximum_bytes) < 16 * 1024:
            found.append(f"maximum_bytes = {options.maximum_bytes!r}: must be 16KiB or more")
    except ValueError as error:
        found.append(f"maximum_bytes: {error}")
    try:
        if not 0.1 <= duration(options.timeout) <= 900:
            found.append(f"timeout = {options.timeout!r}: must be 100ms to 15m")
    except ValueError as error:
        found.append(f"timeout: {error}")
    return found


kind = TopicKind()
