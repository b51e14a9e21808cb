"""Putting back what a topic once held, into the partition that it was in, behind what is there. See `poller.feed.Returner`.

A record has the time at which it was put back: with its old one it would be too old again for who has a maximum age.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path

import msgspec

from connectors.kafka.messages import Message, produced
from connectors.kafka.options import KafkaOptions
from connectors.kafka.producer import Writing
from connectors.kafka.refusals import place_of
from connectors.returning import understood
from poller.errors import NotConnected, SourceError
from poller.failures.journal import KeptRecord

SECONDS = 30.0
"""Within which brokers must have acknowledged what one call puts."""

LARGEST = 1024 * 1024 * 1024
"""It was in the topic once: what is too large is for the brokers to say."""


class TopicsReturner:
    """Of all topics of a mapping."""

    def __init__(self, options: KafkaOptions, base: Path) -> None:
        self._options, self._base = options, base
        self._writing = dict[str, Writing]()

    def __repr__(self) -> str:
        return f"<TopicsReturner {' '.join(self._options.names)}>"

    def check(self, records: Sequence[KeptRecord]) -> None:
        for record in records:
            self._draft(record)

    async def put(self, records: Sequence[KeptRecord]) -> int:
        drafts = [self._draft(record) for record in records]
        topic = drafts[0][0]
        messages = [message for _, message in takewhile(lambda each: each[0] == topic, drafts)]
        if topic not in self._writing:
            cluster = msgspec.structs.replace(self._options, topic=topic, topics=[])
            self._writing[topic] = Writing(cluster, self._base, LARGEST, SECONDS)
        if not await self._writing[topic].write(messages):
            text = f"{place_of(self._options)}: a record is too large for topic {topic!r} now; raise its max.message.bytes"
            raise NotConnected(text, permanent=True)
        return len(messages)

    def _draft(self, record: KeptRecord) -> tuple[str, Message]:
        with understood(record) as element:
            had = produced(record, element)
            if had.place is None:
                raise ValueError("of no topic")
        topic, partition, _ = had.place
        if topic not in self._options.names:
            raise SourceError(f"record {record.id} of the journal was in topic {topic!r}, which its mapping does not read any more")
        return topic, Message(had.key, had.value, had.headers, partition=partition)

    async def aclose(self) -> None:
        for writing in self._writing.values():
            await writing.aclose()
