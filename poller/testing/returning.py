"""What every source must keep that takes its own records back: its contract suite. A test is a subclass with a fixture `home`.

A record goes the whole way: it is put by its producer, read by the connector's own lane, kept as the journal keeps it, put back, and read
again.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, cast

import pytest

from poller.errors import SourceError
from poller.failures.entry import entry
from poller.failures.journal import KeptRecord
from poller.feed import Returner, Returning
from poller.model import Ack, Batch, Failure, Record
from poller.protocols import Lane
from poller.settings import Batching, Connector, Context, FailureSettings, MappingSettings
from poller.stores.memory import MemoryStore

LIMIT = 30.0
"""Seconds any single wait of the suite may take; reached only by a failure."""

KEYS = 3

OTHERS = (
    b'{"Sns": {}}',
    b"[]",
    b"null",
    b"{",
    b'{"body": 7, "kinesis": {"partitionKey": "k", "data": "%"}, "topic": "t", "partition": 0, "offset": 1, "value": 1}',
    b'{"body": "\\ud83d", "kinesis": {"partitionKey": 7}, "topic": "t", "partition": 0, "offset": 1, "headers": 7, "value": ""}',
    b'{"body": "b", "attributes": {"MessageGroupId": 7}, "kinesis": {}, "topic": "t", "partition": 0, "offset": 1, "value": "", "key": 7}',
    b'{"body": "b", "messageAttributes": {"a": {"dataType": "String", "stringValue": null}}, "topic": "t", "partition": "0", "value": ""}',
)
"""Events that tell none of these sources what was put: of another kind, or edited."""

Essence: TypeAlias = Callable[[Any], Any]


@dataclass(frozen=True, slots=True)
class Home:
    """An empty source. `put` puts texts, each with its key, in this order; `essence` is what of an element of the event its producer had
    put."""

    connector: Connector
    options: Any
    folder: Path
    put: Callable[[Sequence[tuple[str, str]]], Awaitable[object]]
    essence: Essence

    def context(self) -> Context:
        settings = MappingSettings("orders", "orders", "f", Batching(10), FailureSettings(), 2)
        return Context(settings, MemoryStore(), "worker", time.time, self.folder, self.folder)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Reader]:
        source = await self.connector.open(self.options, self.context())
        lanes = cast("Any", source.lanes())
        try:
            async with asyncio.timeout(LIMIT):
                lane = await anext(lanes)
            try:
                yield Reader(lane, self.connector.traits(self.options).kind == "queue")
            finally:
                await lane.aclose()
        finally:
            await lanes.aclose()
            await source.aclose()

    @asynccontextmanager
    async def returner(self) -> AsyncIterator[Returner]:
        assert isinstance(self.connector, Returning)
        returner = await self.connector.returner(self.options, self.context())
        try:
            yield returner
        finally:
            await returner.aclose()
            await returner.aclose()


@dataclass(frozen=True, slots=True)
class Reader:
    """One lane of a source, whose records are kept as they come."""

    lane: Lane
    queue: bool

    async def kept(self, count: int) -> list[KeptRecord]:
        """The next ones; a queue forgets them."""
        found: list[KeptRecord] = []
        async with asyncio.timeout(LIMIT):
            while len(found) < count:
                if records := (await self.lane.fetch(count - len(found))).records:
                    found += self._kept(records)
                    if self.queue:
                        await self.lane.settle(Batch(records, self.lane.format), [Ack(records)])
                    else:
                        self.lane.strands.add(records, self.lane.format.facts(records), 0.0)  # that is how it knows where it is
        return found

    def _kept(self, records: Sequence[Record]) -> Sequence[KeptRecord]:
        failure = Failure(records, "RetryAttemptsExhausted", 1)
        return entry(failure, self.lane.format, mapping="orders", source="s", lane="l", function="f", now=0.0).records


async def put_all(returner: Returner, records: Sequence[KeptRecord]) -> None:
    """As the engine does."""
    while records:
        count = await returner.put(records)
        assert 0 < count <= len(records)
        records = records[count:]


class ReturningContract:
    """poller.feed.Returner."""

    async def test_what_is_put_back_comes_again_as_it_was(self, home: Home) -> None:
        async with home.opened() as reader, home.returner() as returner:
            await home.put([(f"k{n % KEYS}", f"text {n} ☂") for n in range(12)])
            kept = await reader.kept(12)
            await put_all(returner, kept)
            again = await reader.kept(12)
        before, after = [home.essence(json.loads(each.json)) for each in kept], [home.essence(json.loads(each.json)) for each in again]
        assert sorted(map(json.dumps, before)) == sorted(map(json.dumps, after))
        assert {each.id for each in again}.isdisjoint(each.id for each in kept)

    async def test_nothing_is_taken_for_a_repeat(self, home: Home) -> None:
        """Neither of what was put first, nor of what another replay has put back."""
        async with home.opened() as reader:
            await home.put([("k0", "a")])
            kept = await reader.kept(1)
            for _ in range(2):
                async with home.returner() as returner:
                    await put_all(returner, kept)
            await reader.kept(2)

    async def test_what_is_of_another_kind_is_refused_and_nothing_is_put(self, home: Home) -> None:
        async with home.opened() as reader, home.returner() as returner:
            await home.put([("k0", "a")])
            kept = await reader.kept(1)
            for json_ in OTHERS:
                other = [replace(kept[0], json=json_)]
                with pytest.raises(SourceError, match="not of this kind of source"):
                    returner.check(other)
                with pytest.raises(SourceError, match="not of this kind of source"):
                    await returner.put(other)
            returner.check(kept)
            await home.put([("k0", "b")])
            (last,) = await reader.kept(1)
            assert home.essence(json.loads(last.json)) != home.essence(json.loads(kept[0].json))


class KeyedReturningContract(ReturningContract):
    """Of one that keeps the order of a key."""

    async def test_records_of_a_key_keep_their_order(self, home: Home) -> None:
        async with home.opened() as reader, home.returner() as returner:
            await home.put([(f"k{n % KEYS}", str(n)) for n in range(30)])
            kept = await reader.kept(30)
            await put_all(returner, kept)
            again = await reader.kept(30)
        for number in range(KEYS):
            key = f"k{number}"
            before, after = ([home.essence(json.loads(each.json)) for each in some if each.key == key] for some in (kept, again))
            assert before == after and len(after) == 10
