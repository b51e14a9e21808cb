"""Putting back what a stream once held. See `poller.feed.Returner`: one at a time, for of several in a call no order is promised.

Source: PutRecord in the API reference (`SequenceNumberForOrdering`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from connectors.aws.destination import ANOTHER
from connectors.aws.refusals import Place
from connectors.aws.rejections import rejection
from connectors.aws.sender import AwsSender
from connectors.kinesis.options import KinesisOptions, place, where
from connectors.returning import streamed
from poller.failures.journal import KeptRecord

SECONDS = 30.0
"""How long an answer may take."""

KEYS = 10_000
"""Of so many keys it is remembered which record was the last: what came before that many others came is long there."""


class StreamReturner:
    """Of one stream. Needs kinesis:PutRecord."""

    def __init__(self, sender: AwsSender, place: Place, stream: dict[str, str]) -> None:
        self._sender, self._place, self._stream = sender, place, stream
        self._last = dict[str, str]()
        """By key, the sequence number of the record that the next one is to stand behind."""

    def __repr__(self) -> str:
        return f"<StreamReturner {self._place.name}>"

    def check(self, records: Sequence[KeptRecord]) -> None:
        for record in records:
            streamed(record)

    async def put(self, records: Sequence[KeptRecord]) -> int:
        key, data = streamed(records[0])
        asked: dict[str, Any] = {**self._stream, "PartitionKey": key, "Data": data}
        if key in self._last:
            asked["SequenceNumberForOrdering"] = self._last[key]
        answer = await self._sender.call("PutRecord", asked)
        if (sequence := answer.get("SequenceNumber")) is None:
            raise rejection(self._place, "PutRecord", "NotAnswered", ANOTHER)
        self._last.pop(key, None)  # it is the newest of all then
        if len(self._last) >= KEYS:
            del self._last[next(iter(self._last))]
        self._last[key] = sequence
        return 1

    async def aclose(self) -> None:
        await self._sender.aclose()


async def open_returner(options: KinesisOptions) -> StreamReturner:
    """Raises NotConnected."""
    named = where(options.stream)
    named_by = {"StreamName": named.name} if named.arn is None else {"StreamARN": named.arn}
    what = Place(place(options), "kinesis:PutRecord")
    sender = await AwsSender.opened(what, SECONDS, "kinesis", options.region or named.region, options)
    return StreamReturner(sender, what, named_by)
