"""What the tests of Kafka play on: workers of one mapping, all in this process, and a function that remembers its calls."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

import msgspec

from connectors.kafka import connector
from connectors.kafka.lane import KafkaLane
from connectors.kafka.options import KafkaOptions
from connectors.kafka.source import KafkaSource, open_source
from poller.circuit import Circuit
from poller.errors import NotConnected
from poller.failures.journal import Entry, Selection
from poller.functions import Function
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.model import Call, Fault, Response, Returned
from poller.policy import Block
from poller.protocols import Event, Source
from poller.settings import Backoff, Batching, BreakerSettings, Context, FailureSettings, FunctionSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.testing.rows import InARow
from poller.turn import Turn
from poller.work import Work
from tests.integration.attended import Attended, soon

LIMIT = 40.0
"""Seconds any single wait may take; reached only by a failure."""

DONE = Returned(b"null")
FAULT = Fault("error", "ValueError", "a poison record")


async def until(true: Callable[[], object], what: object = "") -> None:
    """When it is so."""
    end = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < end, f"it never was so: {what}"
        await asyncio.sleep(0.005)


@dataclass(slots=True, eq=False)
class Called:
    """An invocation: by which worker, of what (all of one lane), and whether it `ended` by itself (None: it runs; False: it was ended)."""

    worker: str
    event: dict[str, Any]
    lane: str
    offsets: tuple[int, ...]
    at: float = field(default_factory=time.monotonic)
    until: float = 0.0
    ended: bool | None = None

    @property
    def records(self) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = self.event["records"][self.lane]
        return records


Answer = Callable[[Called], Awaitable[Response]]


class Script:
    """A function, shared by workers: `answer` is what it does."""

    def __init__(self, answer: Answer | None = None) -> None:
        self.answer = answer
        self.calls: list[Called] = []

    def __repr__(self) -> str:
        return f"<Script {[(call.worker, call.lane, call.offsets, call.ended) for call in self.calls[-20:]]}>"

    async def invoke(self, worker: str, event: Event) -> Response:
        document = event.mapping()
        ((lane, records),) = document["records"].items()
        called = Called(worker, document, lane, tuple(record["offset"] for record in records))
        self.calls.append(called)
        try:
            response = DONE if self.answer is None else await self.answer(called)
        except asyncio.CancelledError:
            called.ended = False
            raise
        finally:
            called.until = time.monotonic()
        called.ended = True
        return response

    @property
    def seen(self) -> list[tuple[str, int]]:
        """Lane and offset of all records, as they were handed to it."""
        return [(call.lane, offset) for call in self.calls for offset in call.offsets]

    @property
    def running(self) -> list[Called]:
        return [call for call in self.calls if call.ended is None]

    async def called(self, count: int) -> None:
        """When so many invocations have begun."""
        await until(lambda: len(self.calls) >= count, self)

    async def saw(self, count: int) -> None:
        """When it was handed so many records, the same ones again included."""
        await until(lambda: len(self.seen) >= count, self)


class Held(Script):
    """Each invocation lasts until `release`, and succeeds; those that begin later end at once."""

    def __init__(self) -> None:
        super().__init__(self._wait)
        self._released = asyncio.Event()

    async def _wait(self, called: Called) -> Response:
        await self._released.wait()
        return DONE

    def release(self) -> None:
        self._released.set()


def failing(*offsets: int) -> Script:
    """Raises for batches that hold one of these; for all if none is given."""

    async def answer(called: Called) -> Response:
        return FAULT if not offsets or set(offsets) & set(called.offsets) else DONE

    return Script(answer)


class _Played(InARow):
    """The handler of one worker."""

    def __init__(self, script: Script, worker: str) -> None:
        self._script, self._worker = script, worker

    async def invoke(self, event: Event, call: Call) -> Response:
        return await self._script.invoke(self._worker, event)

    async def aclose(self) -> None:
        """Nothing is open."""


class Mapping:
    """One mapping, as all its workers have it. `options` are those of the source."""

    def __init__(self, bootstrap: str, *topics: str, size: int = 100, width: int = 1, **options: Any) -> None:
        self.id = options.pop("id", uuid.uuid4().hex)
        self.failure = FailureSettings(maximum_retry_attempts=2, bisect=False, backoff=Backoff(0.01, 0.05))
        self.size, self.width = size, width
        self.breaker: BreakerSettings | None = None
        self.store = MemoryStore()
        place = {"topic": topics[0]} if len(topics) == 1 else {"topics": list(topics)}
        given = {"session_timeout": "6s", "drain_limit": "10s", **place, **options}
        self.options = KafkaOptions(bootstrap_servers=bootstrap.split(","), **given)

    @property
    def group(self) -> str:
        return self.options.group_of(self.id)

    def settings(self) -> MappingSettings:
        return MappingSettings(self.id, self.id, "f", Batching(self.size), self.failure, self.width, breaker=self.breaker)

    async def journal(self) -> list[Entry]:
        """The failures that were kept."""
        return [row.entry for row in await self.store.journal.select(Selection())]

    async def kept(self) -> list[str]:
        """The names of the records in them."""
        return sorted(record.id for entry in await self.journal() for record in entry.records)


class Worker:
    """A mapping that runs, as a daemon would run it. Leaving the context stops it."""

    def __init__(self, mapping: Mapping, script: Script, name: str = "a", instance: str | None = None) -> None:
        self.name = name
        self.mapping = mapping
        self.counters = MappingCounters()
        self.opened: list[KafkaSource] = []
        self._instance = instance
        settings = mapping.settings()
        function = Function(FunctionSettings("f", "f.handle", Path(), timeout=60.0, concurrency=2_000), _Played(script, name))
        journal, policy = mapping.store.journal, Block.of(settings, mapping.options.partial)
        circuit = Circuit(settings.breaker, settings.name, self.counters)
        self.work = Work(settings, function, policy, "", journal, self.counters, time.time, Random(0), Turn(), circuit=circuit)
        self.runner = MappingRunner(self.work, self._open)
        self.task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Worker {self.name} [{self.runner!r}, {self.opened[-1:]}, {self.counters}]>"

    async def _open(self) -> Source:
        context = Context(self.work.settings, self.mapping.store, self.name, time.time, Path(), Path(), tally=self.counters.tally)
        options = self.mapping.options
        if self._instance is not None:
            options = _with(options, group_instance_id=self._instance)
        try:
            # Not by the connector, which refuses a session as short as some of these tests want it.
            source = await open_source(options, context, connector.policy(options, self.work.settings))
        except NotConnected as error:
            raise soon(error) from error
        self.opened.append(source)
        return Attended(source)

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.runner.run(), name=f"worker {self.name}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.stop()

    @property
    def state(self) -> str:
        return self.runner.state

    @property
    def source(self) -> KafkaSource:
        return self.opened[-1]

    @property
    def lanes(self) -> dict[str, KafkaLane]:
        """Those that run."""
        lanes = (runner.lane for runner in self.runner.runners.values())
        return {lane.name: lane for lane in lanes if isinstance(lane, KafkaLane) and not lane.lost}

    async def until(self, true: Callable[[], object]) -> None:
        """When it is so; sooner, if this worker fails."""
        assert self.task is not None
        task = self.task
        await until(lambda: (task.done() and task.result()) or true(), self)

    async def owns(self, *lanes: str) -> None:
        """When it runs exactly these, and nothing is about to change."""
        await self.until(lambda: self.opened and set(self.lanes) == set(lanes) and self.source._membership.steady)

    async def steady(self, count: int) -> None:
        """When it runs so many lanes, and nothing is about to change."""
        await self.until(lambda: self.opened and len(self.lanes) == count and self.source._membership.steady)

    async def saved(self) -> None:
        """When nothing is left to save."""
        await self.until(lambda: not any(lane._timer or lane._background for lane in self.lanes.values()))

    async def handled(self, count: int) -> None:
        """When it has done with so many records: handled, or kept in the journal."""
        await self.until(lambda: self.counters.done + self.counters.kept >= count)

    async def stop(self, grace: float = 10.0) -> None:
        assert self.task is not None
        self.runner.stop(asyncio.get_running_loop().time() + grace)
        await self.task

    async def crash(self) -> None:
        """As if the process died here: nothing more is saved. (But it leaves the group, for a test has no time for the session's end.)"""
        assert self.task is not None
        self.task.cancel()
        await asyncio.wait((self.task,))

    async def refresh(self) -> None:
        """It asks now for the topics' partitions, which it does every half minute by itself."""
        await self.source._membership._client.force_metadata_update()


def _with(options: KafkaOptions, **changes: Any) -> KafkaOptions:
    return msgspec.structs.replace(options, **changes)


async def handled(workers: Iterable[Worker], count: int) -> None:
    """When all of them together are done with so many records."""
    everyone = list(workers)
    await until(lambda: sum(worker.counters.done + worker.counters.kept for worker in everyone) >= count, everyone)
