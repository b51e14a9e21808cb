"""What the tests of Kinesis and DynamoDB Streams play on: workers of one mapping, all in this process, and a function that remembers."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Self

from poller.errors import NotConnected
from poller.functions import Function
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.model import Call, Response, Returned
from poller.protocols import Event, Source
from poller.settings import Backoff, Batching, Connector, Context, FailureSettings, FunctionSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.testing.rows import InARow
from poller.turn import Turn
from poller.work import Work
from tests.integration.attended import Attended, soon

LIMIT = 40.0
"""Seconds any single wait may take; reached only by a failure."""

DONE = Returned(b"null")

Element = dict[str, Any]
"""One of an event's `Records`."""


class Script(InARow):
    """A function: remembers what it was handed, and does what `answer` says. `name` is how a record is called here."""

    def __init__(self, name: Callable[[Element], str], answer: Callable[[list[str]], Awaitable[Response]] | None = None) -> None:
        self.elements: list[Element] = []
        self.batches: list[list[str]] = []
        self._name, self._answer = name, answer

    def __repr__(self) -> str:
        return f"<Script [{self.seen[-20:]}]>"

    @property
    def seen(self) -> list[str]:
        return [name for batch in self.batches for name in batch]

    async def invoke(self, event: Event, call: Call) -> Response:
        elements: list[Element] = event.mapping()["Records"]
        names = [self._name(element) for element in elements]
        self.elements += elements
        self.batches.append(names)
        return DONE if self._answer is None else await self._answer(names)

    async def aclose(self) -> None:
        """Nothing is open."""


class Mapping:
    """One mapping, as all its workers have it. `options` are those of the source."""

    def __init__(self, connector: Connector, options: Any, size: int = 100, width: int = 1) -> None:
        self.id = uuid.uuid4().hex
        self.connector, self.options = connector, options
        failure = FailureSettings(maximum_retry_attempts=2, bisect=False, backoff=Backoff(0.01, 0.05))
        self.settings = MappingSettings(self.id, self.id, "f", Batching(size), failure, width)
        self.store = MemoryStore()


class Worker:
    """A mapping that runs, as a daemon would run it. Leaving the context stops it."""

    def __init__(self, mapping: Mapping, script: Script, name: str = "a") -> None:
        self.name, self.mapping = name, mapping
        self.counters = MappingCounters()
        settings = mapping.settings
        function = Function(FunctionSettings("f", "f.handle", Path(), timeout=60.0, concurrency=2_000), script)
        policy = mapping.connector.policy(mapping.options, settings)
        self.work = Work(settings, function, policy, "", mapping.store.journal, self.counters, time.time, Random(0), Turn())
        self.runner = MappingRunner(self.work, self._open)
        self.task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Worker {self.name} [{self.runner!r}, {self.counters}]>"

    async def _open(self) -> Source:
        mapping = self.mapping
        context = Context(mapping.settings, mapping.store, self.name, time.time, Path(), Path(), tally=self.counters.tally)
        try:
            return Attended(await mapping.connector.open(mapping.options, context))
        except NotConnected as error:
            raise soon(error) from error

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.runner.run(), name=f"worker {self.name}")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self.task is not None
        self.runner.stop(asyncio.get_running_loop().time() + 10.0)
        await self.task

    @property
    def state(self) -> str:
        return self.runner.state

    @property
    def lanes(self) -> set[str]:
        return set(self.runner.runners)

    def errors(self) -> str:
        """What `status` would show of the source's errors, its lanes' included."""
        return "\n".join([self.runner.last_error, *(each.signs.last_error for each in self.runner.runners.values())])

    async def until(self, true: Callable[[], object]) -> None:
        """When it is so; sooner, if this worker fails."""
        task, end = self.task, time.monotonic() + LIMIT
        assert task is not None
        while not true():
            assert not task.done(), task.result()
            assert time.monotonic() < end, f"it never was so: {self}"
            await asyncio.sleep(0.005)

    async def handled(self, count: int) -> None:
        """When it has done with so many records: handled, or kept in the journal."""
        await self.until(lambda: self.counters.done + self.counters.kept >= count)
