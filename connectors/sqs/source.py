"""A queue as a source: one lane. Vendor-free; the client comes from outside."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from math import ceil

from connectors.sqs.client import MOST, SqsClient
from connectors.sqs.format import SqsFormat
from connectors.sqs.lane import SqsLane
from connectors.sqs.queue import Queue, Where, queue
from poller.errors import SourceError
from poller.policy import Redeliver
from poller.protocols import Format, Lane, Policy
from poller.settings import MappingSettings

log = logging.getLogger("poller.sqs")

MOST_RECEIVES = 32
"""ReceiveMessage at once: ten each, and their answers come in milliseconds, so more would only wait for our own processor."""

SPARE_CONNECTIONS = 8
"""For heartbeats, and for a release beside deletes."""


def receives(settings: MappingSettings) -> int:
    """How many ReceiveMessage at once can be of use: every strand's batch, and one that waits."""
    quota = min(MOST, settings.batching.size)
    return max(1, min(MOST_RECEIVES, ceil((settings.width + 1) * settings.batching.size / quota)))


def connections(settings: MappingSettings) -> int:
    """The client's pool: receives take theirs and no more, so that deletes and heartbeats never wait behind a long poll."""
    return receives(settings) + min(settings.width, 64) + SPARE_CONNECTIONS


async def find(client: SqsClient, named: Where) -> Queue:
    """Ask for the queue. Raises NotConnected, SourceError."""
    url = named.url or await client.queue_url(named.name, named.owner)
    return queue(url, await client.attributes(url))


class SqsSource:
    """One queue."""

    def __init__(self, client: SqsClient, found: Queue, settings: MappingSettings, wait: int, policy: Redeliver) -> None:
        self.identity = found.arn
        self.policy: Policy = replace(policy, redrive_count=found.redrive_count)
        self.format: Format = SqsFormat(found.arn, found.region)
        self._client = client
        self._queue = found
        self._settings = settings
        self._wait = wait

    def __repr__(self) -> str:
        return f"<SqsSource {self.identity}>"

    async def lanes(self) -> AsyncIterator[Lane]:
        """One, at once: a queue is the same lane for as long as it is there."""
        width, size = self._settings.width, self._settings.batching.size
        yield SqsLane(self._client, self._queue, self.format, width, size, receives(self._settings), self._wait)

    async def aclose(self) -> None:
        await self._client.aclose()


async def open_source(client: SqsClient, named: Where, settings: MappingSettings, wait: int, policy: Redeliver) -> SqsSource:
    """Takes the client over: closes it if this fails. `policy`: without the queue's own limit. Raises NotConnected, SourceError."""
    try:
        found = await find(client, named)
        if found.fifo != named.fifo:
            raise SourceError(f"{named.name} names another queue than {found.arn}; check `queue` and `endpoint`")
    except BaseException:
        await client.aclose()
        raise
    if found.visibility == 0:
        log.warning("%s: its visibility timeout is 0; messages are hidden for %d s while they are handled", found.name, found.hidden)
    return SqsSource(client, found, settings, wait, policy)
