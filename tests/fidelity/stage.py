"""A recorded mapping as the engine runs it: its configuration, its source, and a function that does what the case's function did."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64decode
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from poller.config.tree import Config
from poller.failures.journal import Row, Selection
from poller.functions import Function
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.model import Call, Fault, Response, Returned
from poller.protocols import Event, Source, Store
from poller.registry import Registry
from poller.settings import Context
from poller.stores.memory import MemoryStore
from poller.testing.clock import VirtualLoop
from poller.turn import Turn
from poller.work import Work
from tests.engine.scenes import Loaded
from tests.fidelity.cases import Case

Element: TypeAlias = dict[str, Any]
"""One record of an event."""

RAISES = Fault("error", "Exception", "as the case says")
NULL = Returned(b"null")

Answer: TypeAlias = Callable[[Sequence[Element]], Response]


def reporting(*identifiers: str) -> Returned:
    """A partial batch response that names these."""
    return Returned(json.dumps({"batchItemFailures": [{"itemIdentifier": each} for each in identifiers]}).encode())


def receives(element: Element) -> int:
    return int(element["attributes"]["ApproximateReceiveCount"])


def data(element: Element) -> Any:
    """What the producer of a stream's record wrote."""
    return json.loads(b64decode(element["kinesis"]["data"]))


def fails_while_received(element: Element) -> bool:
    """The recorded functions read from each message how often it is to fail."""
    return bool(json.loads(element["body"])["fail_attempts"] >= receives(element))


def reports_what_should_fail(elements: Sequence[Element]) -> Response:
    return reporting(*(each["kinesis"]["sequenceNumber"] for each in elements if data(each)["should_fail"]))


HANDLERS: dict[str, Answer] = {
    "raises": lambda _: RAISES,
    "raises for the whole batch": lambda _: RAISES,
    "succeeds": lambda _: NULL,
    "custom runtime that answers an empty body": lambda _: Returned(b""),
    "raises when ApproximateReceiveCount <= 1": lambda elements: RAISES if min(map(receives, elements)) <= 1 else NULL,
    "fails on the first 2 receives": lambda elements: RAISES if min(map(receives, elements)) <= 2 else NULL,
    "reports a message as failed while fail_attempts >= ApproximateReceiveCount": lambda elements: reporting(
        *(element["messageId"] for element in elements if fails_while_received(element))
    ),
}
"""What the cases' functions do, by the cases' words."""


def answer_of(case: Case) -> Answer:
    """The function of a case."""
    given = case["input"]
    if "handler_returns" in given:
        returned = given["handler_returns"]
        response = RAISES if returned == "RAISES" else Returned(json.dumps(returned).encode())
        return lambda _: response
    if "should_fail" in given:
        return reports_what_should_fail
    return HANDLERS[given.get("handler", "succeeds")]


@dataclass(slots=True)
class Invocation:
    """When it began and ended (loop time), and its event."""

    began: float
    event: dict[str, Any]
    ended: float | None = None

    @property
    def elements(self) -> list[Element]:
        return list(self.event["Records"])


class Recorder:
    """A handler: answers as the case's function, after `seconds`, and remembers what it was called with."""

    def __init__(self, answer: Answer, seconds: float = 0.0) -> None:
        self.invocations: list[Invocation] = []
        self.running = self.most = 0
        self._answer, self._seconds = answer, seconds
        self._changed = asyncio.Event()

    async def invoke(self, event: Event, call: Call) -> Response:
        loop = asyncio.get_running_loop()
        invocation = Invocation(loop.time(), json.loads(event.json()))
        self.invocations.append(invocation)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self._seconds)
            return self._answer(invocation.elements)
        finally:
            self.running -= 1
            invocation.ended = loop.time()
            self._changed.set()

    async def aclose(self) -> None:
        return None

    async def ended(self, count: int) -> None:
        """When so many invocations are over. An hour is too long, half a minute where time is real."""
        async with asyncio.timeout(3600 if isinstance(asyncio.get_running_loop(), VirtualLoop) else 30):
            while sum(invocation.ended is not None for invocation in self.invocations) < count:
                self._changed.clear()
                await self._changed.wait()

    @property
    def elements(self) -> list[Element]:
        """All that it got, in order."""
        return [element for invocation in self.invocations for element in invocation.elements]


def clock() -> Callable[[], float]:
    """Epoch seconds, of the running loop if it is a virtual one. May be called by any thread."""
    loop = asyncio.get_running_loop()
    return loop.now if isinstance(loop, VirtualLoop) else time.time


class Stage:
    """Runs mappings of one configuration, over one store. `open_source` takes the place of the connector's own `open`."""

    def __init__(self, config: Config, state: Path | None = None) -> None:
        self.config = config
        self.store: Store = MemoryStore()
        self._state = state or Path()
        self._clock = clock()
        self._runs: list[tuple[MappingRunner, asyncio.Task[None]]] = []

    def context(self, name: str) -> Context:
        return Context(self.config.mappings[name].settings, self.store, "fidelity", self._clock, self.config.base, self._state)

    def run(
        self, handler: Recorder, name: str = "m", open_source: Callable[[Any, Context], Awaitable[Source]] | None = None
    ) -> MappingRunner:
        """Start a mapping; its function is `handler`."""
        mapping = self.config.mappings[name]
        connector = Registry().connector(mapping.type)
        context, opened = self.context(name), open_source or connector.open
        function = Function(self.config.functions[mapping.settings.function], handler)
        policy = connector.policy(mapping.options, mapping.settings)
        work = Work(mapping.settings, function, policy, "", self.store.journal, MappingCounters(), self._clock, Loaded(), Turn())
        runner = MappingRunner(work, lambda: opened(mapping.options, context))
        self._runs.append((runner, asyncio.get_running_loop().create_task(runner.run())))
        return runner

    async def stop(self) -> None:
        """Every mapping that was started."""
        runs, self._runs = self._runs, []
        for runner, _ in runs:
            runner.stop(asyncio.get_running_loop().time() + 10.0)
        for _, task in runs:
            await task

    async def rows(self) -> Sequence[Row]:
        """What was given up, oldest first."""
        return await self.store.journal.select(Selection(states=()))
