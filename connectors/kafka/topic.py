"""A topic as a destination.

One delivery is a message for each record: all of them are acknowledged, or the whole delivery is sent again.
"""

from __future__ import annotations

import asyncio

from aiokafka import errors as kafka

from connectors.kafka.destination import TopicOptions
from connectors.kafka.logins import login, reach
from connectors.kafka.messages import messages
from connectors.kafka.options import KafkaOptions
from connectors.kafka.producer import Writing, look, rejected
from connectors.kafka.refusals import place_of
from poller.errors import NotConnected
from poller.failures.journal import Delivery
from poller.settings import DestinationContext, Finding
from poller.units import duration, size

ANSWER_SECONDS = 4.0
"""How long one question of a probe may take."""

SMALL = 16 * 1024
"""What is tried where a broker takes less than we were told."""


class KafkaTopic:
    """See `poller.failures.protocols.Destination`. Connects with the first delivery."""

    def __init__(self, cluster: KafkaOptions, options: TopicOptions, context: DestinationContext) -> None:
        self._cluster = cluster
        self._raw = options.raw
        self._limit = size(options.maximum_bytes)
        self._context = context
        self._writing = Writing(cluster, context.base, self._limit, duration(options.timeout))

    def __repr__(self) -> str:
        return f"<KafkaTopic {self._writing}>"

    async def send(self, delivery: Delivery) -> None:
        drafts = [*messages(delivery, self._context, self._raw, self._limit)]
        if not all(draft.whole for draft in drafts) and self._context.spill is not None and not self._context.exact:
            place = await self._context.spill(delivery)
            drafts = [*messages(delivery, self._context, self._raw, self._limit, place)]
        if await self._writing.write(drafts):
            return
        # What others of them came of it is sent again then, and bears the same id.
        smaller = [*messages(delivery, self._context, self._raw, SMALL)]
        if not await self._writing.write(smaller):
            text = f"{place_of(self._cluster)}: even without its event the record is too large for the topic; raise its max.message.bytes"
            raise NotConnected(text, permanent=True)

    async def aclose(self) -> None:
        await self._writing.aclose()


async def probe(cluster: KafkaOptions, options: TopicOptions, context: DestinationContext) -> list[Finding]:
    """See `poller.settings.DestinationKind.probe`. Whether we may write is told only to who does."""
    try:
        arguments = await login(cluster, context.base)
        seconds = min(duration(options.timeout), ANSWER_SECONDS)
        server = await reach(cluster, arguments, seconds)
        async with asyncio.timeout(seconds):
            await look(cluster, arguments)
    except (kafka.KafkaError, NotConnected, OSError, TimeoutError) as error:
        return [Finding("error", str(rejected(error, cluster)))]
    return [Finding("ok", f"topic {cluster.topic!r} is there, at {server}; nothing was sent")]
