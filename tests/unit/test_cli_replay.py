"""A replay over several mappings, alone and as the daemon's command."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, cast

import pytest

from connectors.local import StreamOptions
from poller.admin.replaying import Replaying, command
from poller.cli.replaying import tally_page
from poller.config import Config, MappingConfig
from poller.config.tree import Address
from poller.daemon import Daemon
from poller.errors import StoreError
from poller.functions import Function
from poller.model import Call, Fault, Response, Returned, Selection
from poller.registry import Registry
from poller.settings import Backoff, Batching, FailureSettings, FunctionSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.testing.fakes import FakeHandler
from poller.testing.journals import held, make_entry

ALL = Selection()
FAULT = Fault("error", "KeyError", "'x'")


def mapping(name: str) -> MappingConfig:
    failure = FailureSettings(maximum_retry_attempts=0, bisect=False, backoff=Backoff(0.0, 0.0))
    settings = MappingSettings(f"{name}-id", name, f"f-{name}", Batching(10), failure, 1)
    return MappingConfig(settings, "local-stream", StreamOptions(name=name))


@dataclass
class Bench:
    """A journal with rows of two mappings, and functions that fail for the records in `poison`."""

    store: MemoryStore = field(default_factory=MemoryStore)
    poison: set[str] = field(default_factory=set)
    called: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)
    running: asyncio.Event = field(default_factory=asyncio.Event)
    seconds: float = 0.0

    def function(self, name: str) -> Function:
        def behave(names: Sequence[str], call: Call) -> tuple[float, Response]:
            plain = tuple(each.strip('"') for each in names)
            self.called.append((name, plain))
            self.running.set()
            return self.seconds, FAULT if self.poison & set(plain) else Returned(b"null")

        return Function(FunctionSettings(name, "app.py:handle", Path()), FakeHandler(behave))

    async def fill(self) -> None:
        await self.store.journal.append(
            [
                make_entry(row, record, mapping=f"{name}-id", time=moment, identifiers=(f'"{record}"',))
                for moment, (row, record, name) in enumerate([("a1", "m1", "one"), ("b1", "m2", "two"), ("a2", "m3", "one")])
            ]
        )

    def replaying(self, *names: str) -> Replaying:
        mappings = [mapping(name) for name in names or ("one", "two")]
        return Replaying(self.store.journal, mappings, Registry(), self.function, time.time, Random(1), 0.0)

    async def run(self, selection: Selection = ALL, *names: str) -> list[dict[str, int]]:
        async with aclosing(self.replaying(*names).run(selection, 2)) as tallies:
            return [tally async for tally in tallies]


async def test_every_mapping_runs_its_rows_with_its_own_function() -> None:
    bench = Bench(poison={"m3"})
    await bench.fill()
    tallies = await bench.run()
    assert sorted(bench.called) == [("f-one", ("m1",)), ("f-one", ("m3",)), ("f-two", ("m2",))]
    assert (tallies[-1]["total_rows"], tallies[-1]["done_rows"], tallies[-1]["replayed"], tallies[-1]["failed_again"]) == (3, 3, 2, 1)
    assert {tally["total_rows"] for tally in tallies} == {3}  # the bar's end does not move
    assert await held(bench.store.journal, ALL) == {"a2": ["m3"]}


async def test_nothing_to_run_is_no_error() -> None:
    (tally,) = await Bench().run()
    assert tally_page(tally) == "nothing to replay"


async def test_rows_of_a_mapping_that_is_gone_are_told_before_anything_begins() -> None:
    bench = Bench()
    await bench.fill()
    with pytest.raises(StoreError, match='id = "two-id"'):
        await bench.run(ALL, "one")
    assert bench.called == []
    assert (await bench.run(Selection(mapping="one-id"), "one"))[-1]["replayed"] == 2


async def test_ids_that_are_not_there_are_told_before_anything_begins() -> None:
    bench = Bench()
    await bench.fill()
    with pytest.raises(StoreError, match="no such failure in the journal: zz"):
        await bench.run(Selection(ids=("a1", "zz")))
    assert bench.called == []


@dataclass
class Stand:
    """What the command sees of a daemon."""

    bench: Bench
    config: Config
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    clock: Any = time.time
    random: Random = field(default_factory=Random)
    registry: Registry = field(default_factory=Registry)

    @property
    def store(self) -> MemoryStore:
        return self.bench.store

    @property
    def functions(self) -> dict[str, Function]:
        return {f"f-{name}": self.bench.function(f"f-{name}") for name in self.config.mappings}


def stand(bench: Bench) -> Stand:
    mappings = {name: mapping(name) for name in ("one", "two")}
    return Stand(bench, Config(Path("x"), "memory:", Path(), Address("", 0), 0.0, "auto", "info", {}, mappings))


async def test_the_command_answers_with_tallies() -> None:
    bench = Bench()
    await bench.fill()
    replay = command(cast("Daemon", stand(bench)))
    answers = [answer async for answer in replay(ids=["a1"])]
    assert answers[-1]["replayed"] == 1
    assert bench.called == [("f-one", ("m1",))]


async def test_a_daemon_that_stops_ends_the_replay_and_the_rows_are_kept() -> None:
    bench = Bench(seconds=3600.0)
    await bench.fill()
    daemon = stand(bench)

    async def ask() -> list[dict[str, Any]]:
        return [answer async for answer in command(cast("Daemon", daemon))()]

    asking = asyncio.create_task(ask())
    await asyncio.wait_for(bench.running.wait(), 5)
    daemon.stopping.set()
    with pytest.raises(StoreError, match="the daemon is stopping"):
        await asyncio.wait_for(asking, 5)
    assert len(await held(bench.store.journal, ALL)) == 3


async def test_a_client_that_goes_ends_the_replay_and_the_rows_are_kept() -> None:
    bench = Bench(seconds=3600.0)
    await bench.fill()
    answers = cast("Any", command(cast("Daemon", stand(bench)))())
    await anext(answers)
    following = asyncio.create_task(anext(answers))
    await asyncio.wait_for(bench.running.wait(), 5)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await answers.aclose()
    assert len(await held(bench.store.journal, ALL)) == 3


def test_how_a_run_ended_is_told() -> None:
    tally = {"total_rows": 5, "done_rows": 4, "replayed": 1, "failed_again": 1, "split": 1, "skipped": 1, "given_back": 1}
    assert tally_page(tally).startswith("1 failure replayed; 1 failed again; 1 failed again in part")
