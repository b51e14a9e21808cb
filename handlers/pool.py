"""The environments of one function: processes of its own, killable and alone with their memory, as many as its concurrency.

An environment is started when an invocation finds none idle, and kept; the one used last is used first. A function that cannot be loaded
fails its invocations one by one: its module code runs twice in each, as on Lambda, and between failed starts the pool waits.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from handlers import faults, memory
from handlers.environment import KILL_LIMIT, UNTOUCHED, Environment
from handlers.task import Task
from poller.errors import HandlerError
from poller.model import Busy, Call, Fault, Response
from poller.protocols import Event
from poller.settings import Backoff, FunctionLog

INIT_LIMIT = 10.0
"""Seconds a function may take to load, as on Lambda; this time is not the invocation's."""

BUSY_AFTER = 1.0
_RESTARTS = Backoff(initial=0.1, maximum=5.0)


class Pool:
    """The environments of one function. `init_limit` is seconds."""

    def __init__(self, task: Task, log: FunctionLog, init_limit: float = INIT_LIMIT) -> None:
        self._task = task
        self._log = log
        self._init_limit = init_limit
        self._watch = memory.Watch(task.settings.memory) if task.settings.memory is not None else None
        self._environments: set[Environment] = set()
        self._idle: list[Environment] = []
        self._reserved = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._replacing: set[asyncio.Task[Fault | Busy | None]] = set()
        self._failed_starts = 0
        self._not_before = 0.0
        self._closed = False

    def __repr__(self) -> str:
        settings = self._task.settings
        return f"<Pool {settings.name} [{len(self._environments)}/{settings.concurrency} environments, {len(self._idle)} idle]>"

    async def invoke(self, event: Event, call: Call) -> Response:
        """Run the function once. What an environment takes to start, the first time, is added to the deadline.

        Busy when no process can be started at all; HandlerError after `aclose`. Cancelling kills the environment.
        """
        body = event.json()
        while True:
            self._check_open()
            if self._idle:
                environment, deadline = self._idle.pop(), call.deadline
            else:
                found, deadline = await self._another(call)
                if isinstance(found, (Busy, Fault)):
                    return found
                environment = found
            try:
                response = await environment.invoke(body, call, deadline)
            except asyncio.CancelledError:
                environment.kill()
                raise
            if response is UNTOUCHED:
                if environment.rested:
                    continue  # it died while it was idle: nothing was read, so nothing has begun
                # One that dies as soon as it is loaded would be tried for ever.
                response = faults.exited(call.request_id, await environment.ended)
            if environment.usable:
                self._put(environment)
            elif not self._closed:
                self._replace()
            return response

    async def warm(self) -> Fault | Busy | None:
        """Start an environment, if none is there, and run nothing in it; None: the function is loaded."""
        if self._environments:
            return None
        self._reserved += 1
        return await self._start_ahead()

    @property
    def environments(self) -> int:
        """How many are alive."""
        return len(self._environments)

    async def aclose(self) -> None:
        """Kill every environment and wait until each is reaped. Invocations that still run raise HandlerError."""
        self._closed = True
        for task in self._replacing:
            task.cancel()
        ending = [environment.ended for environment in self._environments]
        for environment in self._environments:
            environment.stop()
        for _ in range(len(self._waiting)):
            self._wake()
        if self._replacing:
            await asyncio.wait(self._replacing)
        if ending:
            await asyncio.wait(ending, timeout=KILL_LIMIT)
        if self._watch is not None:
            self._watch.close()

    def _check_open(self) -> None:
        if self._closed:
            raise HandlerError(f"function {self._task.settings.name} is closed; no invocation can begin")

    # --- finding an environment ---------------------------------------------------------------------------------------------------

    @property
    def _full(self) -> bool:
        return len(self._environments) + self._reserved >= self._task.settings.concurrency

    async def _another(self, call: Call) -> tuple[Environment | Busy | Fault, float]:
        """An environment when none was idle, and the deadline that leaves the invocation its whole time."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while not self._idle:
            self._check_open()
            if not self._full:
                self._reserved += 1
                return await self._start_for(call, since)
            await self._turn()
        return self._idle.pop(), call.deadline + loop.time() - since

    async def _start_for(self, call: Call, since: float) -> tuple[Environment | Busy | Fault, float]:
        """Lambda's rule: a failed start is done again, now on the invocation's own time; only the second failure is told."""
        loop = asyncio.get_running_loop()
        late = partial(faults.init_timed_out, call.request_id, self._init_limit)
        started = await self._start(self._init_limit, late, call.request_id)
        deadline = call.deadline + loop.time() - since
        if isinstance(started, Fault) and not self._closed:
            late = partial(faults.timed_out, call.request_id, call.timeout)
            self._reserved += 1
            started = await self._start(call.timeout, late, call.request_id, again=True)
        return started, deadline

    async def _start(self, limit: float, late: Callable[[], Fault], request_id: str, *, again: bool = False) -> Environment | Busy | Fault:
        """The caller has reserved a place; it is given back here, whatever happens."""
        loop = asyncio.get_running_loop()
        try:
            wait = self._not_before - loop.time()
            if wait > 0 and not again:
                await asyncio.sleep(wait)
            self._check_open()
            environment = Environment(self._task, self._log, self._watch)
            self._environments.add(environment)
        except OSError as error:  # no memory, no processes, no descriptors left; or the interpreter was taken away
            return Busy(BUSY_AFTER, f"function {self._task.settings.name}: cannot start {self._task.python}: {error}")
        finally:
            self._reserved -= 1
            self._wake_if_free()
        environment.ended.add_done_callback(lambda _: self._ended(environment))
        fault = await environment.ready(limit, late, request_id)
        if fault is None:
            self._failed_starts = 0
            return environment
        self._failed_starts += 1
        self._not_before = loop.time() + _RESTARTS.delay(self._failed_starts, 1.0)
        return fault

    def _replace(self) -> None:
        """Start the next environment before it is asked for: its predecessor was killed or has ended."""
        if not self._full and not self._idle:
            self._reserved += 1
            task = asyncio.create_task(self._start_ahead(), name=f"replace an environment of {self._task.settings.name}")
            self._replacing.add(task)
            task.add_done_callback(self._replacing.discard)

    async def _start_ahead(self) -> Fault | Busy | None:
        """Into the place that was reserved. What went wrong is told by the next invocation too, which starts one for itself."""
        started = await self._start(self._init_limit, partial(faults.init_timed_out, "", self._init_limit), "")
        if isinstance(started, Environment):
            self._put(started)
            return None
        return started

    # --- places -------------------------------------------------------------------------------------------------------------------

    def _put(self, environment: Environment) -> None:
        if environment.usable and not self._closed:
            environment.rested = True
            self._idle.append(environment)
            if self._waiting:
                self._wake()
        else:
            environment.kill()

    def _ended(self, environment: Environment) -> None:
        self._environments.discard(environment)
        if environment in self._idle:
            self._idle.remove(environment)
        self._wake_if_free()

    async def _turn(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._wake()  # it was our turn already: pass it on
            raise

    def _wake_if_free(self) -> None:
        if not self._full:
            self._wake()

    def _wake(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
