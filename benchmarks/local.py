"""What the local queue and the local stream cost a record, from the file to the function and back; putting is measured apart, beside it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.comparison import Comparison, Reading, Side
from benchmarks.mapping import polled
from benchmarks.records import BYTES, KEYS
from connectors.local import QueueOptions, StreamOptions, queue_connector, stream_connector
from poller.feed import Item

NAME = "orders"
QUEUE, STREAM = QueueOptions(name=NAME), StreamOptions(name=NAME)
PUT = 1000
"""Items a put: a transaction."""


@dataclass(frozen=True, slots=True)
class _Place:
    """See `poller.feed.Place`."""

    base: Path
    state: Path
    clock = staticmethod(time.time)


def _items(first: int, count: int) -> Sequence[Item]:
    return [Item(b"%0*d" % (BYTES, number), f"key-{number % KEYS}") for number in range(first, first + count)]


async def put(kind: str, records: int, folder: str) -> Reading:
    """CPU a record of putting them in, a thousand at a time."""
    place, spent = _Place(Path(folder), Path(folder)), 0.0
    for first in range(0, records, PUT):
        items = _items(first, min(PUT, records - first))
        began = time.process_time()
        if kind == "queue":
            await queue_connector.put(QUEUE, place, items)
        else:
            await stream_connector.put(STREAM, place, items)
        spent += time.process_time() - began
    return Reading(spent / records * 1e6)


async def queue(records: int, size: int, folder: str) -> Reading:
    """CPU a message from receive to delete."""
    return await polled(queue_connector, QUEUE, "queue", Path(folder), records, lambda counters: counters.deleted, size=size, width=4)


async def stream(records: int, size: int, folder: str) -> Reading:
    """CPU a record of one shard, progress and all."""
    return await polled(stream_connector, STREAM, "stream", Path(folder), records, lambda counters: counters.invoked, size=size, width=1)


SIDES = {"put": put, "queue": queue, "stream": stream}


def comparisons(quick: bool) -> list[Comparison]:
    def stated(kind: str, size: int, records: int) -> Comparison:
        count = records // 10 if quick else records
        ours = Side("local", kind, {"records": count, "size": size}, in_folder=True)
        first = Side("local", "put", {"kind": kind, "records": count}, in_folder=True)
        return Comparison(f"local {kind}, batches of {size}", "us/record", ours, first, beside="to put")

    return [stated("stream", 100, 50_000), stated("queue", 100, 20_000), stated("queue", 10, 20_000)]
