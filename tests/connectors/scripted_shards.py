"""A service of shards in memory that does as the test says: for what no real server does when asked."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from connectors.kinesis.client import KinesisRecord
from connectors.kinesis.format import KinesisFormat
from connectors.sharded.dialect import Dialect
from connectors.sharded.pace import Limits
from connectors.sharded.reader import ShardReader
from connectors.sharded.sequence import Start
from connectors.sharded.shards import Expired, Gone, Heard, Page, Records, Refused, Shard, Trimmed
from poller.settings import Batching, Context, FailureSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.testing.clock import VirtualLoop

FORMAT = KinesisFormat("arn:aws:kinesis:us-east-1:123456789012:stream/s", "r")
LIMITS = Limits(reads=5.0, bytes=2e6, records=1000, answer=10_000_000, busy=0.25, idle=1.0)

Refusing = Callable[[str, str], Refused | Exception | None]
"""(operation, shard or page) -> what to answer instead."""


@dataclass
class Kept:
    """A shard: all records it ever had, and how many of them are trimmed."""

    records: list[KinesisRecord] = field(default_factory=list)
    trimmed: int = 0
    closed: bool = False


class Service:
    """`connectors.sharded.shards.ShardReading`. `silent` as Kinesis: says nothing of what was trimmed. `most`: records an answer."""

    def __init__(self, silent: bool = True, most: int = 1000) -> None:
        self.shards_kept: dict[str, Kept] = {}
        self.listing: list[Shard] = []
        self.page = 100
        self.silent, self.most = silent, most
        self.refuse: Refusing = lambda _operation, _what: None
        self.asked: list[tuple[str, str]] = []
        self.starts: list[Start] = []
        self.epoch = 0
        """Iterators of an earlier one have expired."""

    def add(self, name: str, *parents: str) -> Kept:
        self.listing.append(Shard(name, parents))
        return self.shards_kept.setdefault(name, Kept())

    def drop(self, name: str) -> None:
        del self.shards_kept[name]
        self.listing = [each for each in self.listing if each.name != name]

    async def shards(self, stream: str, more: str | None = None) -> Page | Refused:
        await self._answer("shards", more or "0")
        if (refused := self._refused("shards", more or "0")) is not None:
            return refused
        begin = int(more or 0)
        end = begin + self.page
        return Page(tuple(self.listing[begin:end]), str(end) if end < len(self.listing) else None)

    async def iterator(self, stream: str, shard: str, start: Start) -> str | Refused:
        await self._answer("iterator", shard)
        self.starts.append(start)
        if (refused := self._refused("iterator", shard)) is not None:
            return refused
        kept = self.shards_kept.get(shard)
        if kept is None:
            return Gone(f"no {shard}")
        if start.kind == "TRIM_HORIZON":
            at = kept.trimmed
        elif start.time is not None:
            at = next((i for i, each in enumerate(kept.records) if each.arrival >= start.time), len(kept.records))
        else:
            assert start.sequence is not None
            number = int(start.sequence) + (start.kind == "AFTER_SEQUENCE_NUMBER")
            at = next((i for i, each in enumerate(kept.records) if int(each.sequence) >= number), len(kept.records))
            if not self.silent and int(start.sequence) < self._horizon(kept):
                return Trimmed("trimmed")
        return f"{self.epoch} {max(at, kept.trimmed)}"

    async def records(self, iterator: str, shard: str, limit: int) -> Records[KinesisRecord] | Refused:
        await self._answer("records", shard)
        if (refused := self._refused("records", shard)) is not None:
            return refused
        epoch, at = map(int, iterator.split())
        kept = self.shards_kept.get(shard)
        if kept is None:
            return Gone(f"no {shard}")
        if epoch < self.epoch:
            return Expired("too old")
        if at < kept.trimmed:
            if not self.silent:
                return Trimmed("trimmed")
            at = kept.trimmed
        end = min(len(kept.records), at + min(limit, self.most))
        found = [cast("Any", KinesisRecord)(*[getattr(each, name) for name in each.__struct_fields__]) for each in kept.records[at:end]]
        following = None if kept.closed and end == len(kept.records) else f"{self.epoch} {end}"
        return Records(found, following, 1.0 if end < len(kept.records) else 0.0, sum(len(each.data) for each in found))

    def heard(self) -> Heard | None:
        return None

    async def aclose(self) -> None:
        return None

    def count(self, operation: str) -> int:
        return sum(asked == operation for asked, _ in self.asked)

    async def _answer(self, operation: str, what: str) -> None:
        self.asked.append((operation, what))
        await asyncio.sleep(0.01)

    def _refused(self, operation: str, what: str) -> Refused | None:
        answer = self.refuse(operation, what)
        if isinstance(answer, Exception):
            raise answer
        return answer

    @staticmethod
    def _horizon(kept: Kept) -> int:
        """Below this sequence number nothing is kept."""
        return int(kept.records[kept.trimmed].sequence) if kept.trimmed < len(kept.records) else int(kept.records[-1].sequence) + 1


def record(number: int, data: bytes = b"", arrival: float = 0.0, shard: str = "s") -> KinesisRecord:
    """`data`: else the number."""
    return KinesisRecord(str(number), arrival, f"k{number}", b64encode(data or b"%d" % number).decode(), shard)


def dialect(service: Service, **changes: Any) -> Dialect[KinesisRecord]:
    return Dialect(**{"place": "stream s", "client": service, "format": FORMAT, "limits": LIMITS, "silent": service.silent, **changes})


def context() -> Context:
    """On a virtual loop."""
    loop = cast("VirtualLoop", asyncio.get_running_loop())
    settings = MappingSettings("m", "m", "f", Batching(100), FailureSettings(), 1)
    return Context(settings, MemoryStore(), "w", loop.now, Path(), Path())


def reader(service: Service, name: str = "s", of: Context | None = None, **changes: Any) -> ShardReader[KinesisRecord]:
    """Its shard is listed as long as it is kept."""

    async def listed(shard: str) -> bool:
        return shard in service.shards_kept

    return ShardReader(name, "stream", dialect(service, **changes), of or context(), listed, dice=lambda: 0.5)


def numbers(records: Sequence[KinesisRecord]) -> list[tuple[int, int]]:
    """(sequence number, sub-sequence number)."""
    return [(int(each.sequence), each.sub) for each in records]
