"""The streams that the recorded mappings read from, in memory on a virtual clock: one shard, with the local stream's records and events."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, cast

from connectors.local import StreamOptions, stream_connector
from connectors.local.format import Entry, EntryFormat
from poller.model import Document
from poller.ordered_source import OrderedSource
from poller.protocols import Format, Source
from poller.settings import Context, Filterable
from poller.testing.fakes import FakeShards, FakeStream, Gate
from tests.fidelity.stage import Element, clock

SHARD = "shardId-000000000000"


class Put(Entry, frozen=True, gc=False):
    """A record of the local stream, as a stream in memory holds it."""

    @property
    def token(self) -> int:
        return self.sequence


class MemoryStream:
    """One shard."""

    def __init__(self, format: Format | None = None) -> None:
        self._stream = FakeStream({SHARD: []})
        self._format = format

    def put(self, data: Any, key: str = "k", age: float = 0.0) -> None:
        sequence = len(self._stream.shards[SHARD]) + 1
        self._stream.put(SHARD, cast("Any", Put(SHARD, sequence, clock()() - age, key, json.dumps(data).encode())))

    async def open(self, options: StreamOptions, context: Context) -> Source:
        return OrderedSource(
            context,
            identity="memory",
            format=self._format or EntryFormat(options.name),
            policy=stream_connector.policy(options, context.mapping),
            shards=FakeShards(self._stream, Gate("fidelity")),
            origin="TRIM_HORIZON",
        )


# --- changes of a table ---------------------------------------------------------------------------------------------------------------

CHANGE = Filterable(
    ("eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "eventSourceARN"), "dynamodb", text=False
)
"""What filters may look at in the records of DynamoDB Streams."""


class ChangeFormat(EntryFormat):
    """The data of a record is the whole element of the event."""

    data = None  # type: ignore[assignment]  # what filters look at is in the element, as with DynamoDB's own

    def documents(self, records: Sequence[Entry], keys: Collection[str] = ()) -> Iterable[Document]:
        return self.elements(records)

    def elements(self, records: Sequence[Entry]) -> list[Element]:
        return [json.loads(entry.data) for entry in records]


def changes(items: Sequence[Element]) -> Iterator[Element]:
    """What DynamoDB Streams makes of these items, put one after the other into a table with the key `id`; nothing, of an unchanged one."""
    table: dict[str, Element] = {}
    for item in items:
        key = item["id"]["S"]
        old, table[key] = table.get(key), item
        if old == item:
            continue
        change = {"ApproximateCreationDateTime": 1545084650.0, "Keys": {"id": item["id"]}, "NewImage": item}
        element = {"eventName": "INSERT" if old is None else "MODIFY", "eventSource": "aws:dynamodb", "dynamodb": change}
        yield element if old is None else element | {"dynamodb": change | {"OldImage": old}}
