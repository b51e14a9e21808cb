"""Putting back what a local queue or stream once held. See `poller.feed.Returner`."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.local import QueueOptions, StreamOptions
from connectors.local.feed import draft, pair, put_messages, put_records
from connectors.returning import message, streamed
from poller.failures.journal import KeptRecord
from poller.feed import Item, Place


class QueueReturner:
    """Of one queue."""

    def __init__(self, options: QueueOptions, place: Place) -> None:
        self._options, self._place = options, place

    def __repr__(self) -> str:
        return f"<QueueReturner {self._options.name}>"

    def check(self, records: Sequence[KeptRecord]) -> None:
        for number, record in enumerate(records):
            draft(number, _message(record), self._options.fifo)

    async def put(self, records: Sequence[KeptRecord]) -> int:
        await put_messages(self._options, self._place, [_message(record) for record in records])
        return len(records)

    async def aclose(self) -> None:
        """Nothing is open."""


class StreamReturner:
    """Of one stream."""

    def __init__(self, options: StreamOptions, place: Place) -> None:
        self._options, self._place = options, place

    def __repr__(self) -> str:
        return f"<StreamReturner {self._options.name}>"

    def check(self, records: Sequence[KeptRecord]) -> None:
        for number, record in enumerate(records):
            pair(number, _record(record))

    async def put(self, records: Sequence[KeptRecord]) -> int:
        await put_records(self._options, self._place, [_record(record) for record in records])
        return len(records)

    async def aclose(self) -> None:
        """Nothing is open."""


def _message(record: KeptRecord) -> Item:
    sent = message(record)
    # What is no string attribute cannot be put either (Item.attributes).
    attributes = {name: value for name, (_, value) in sent.attributes.items() if isinstance(value, str)}
    return Item(sent.body.encode(), sent.group, attributes)


def _record(record: KeptRecord) -> Item:
    key, data = streamed(record)
    return Item(data, key)
