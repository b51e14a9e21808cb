"""Functions in this process: without its protection, and without its price.

`inline = "loop"` calls a sync function on the loop: nothing else runs meanwhile, and it cannot be stopped. `inline = "thread"` calls it in
a thread: at the deadline the batch fails while the thread runs on, and at LOST_LIMIT such calls the function is given up. Coroutine
functions always run on the loop, and are cancelled at the deadline. The context and the faults are those of a process of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import orjson

from handlers import faults
from handlers.child import Broken, context_class, described, marshal, orjson_dumps
from handlers.deadlines import Deadlines
from handlers.loading import Namespace
from handlers.task import Task, task_of
from handlers.threads import Threads
from poller.errors import HandlerError
from poller.model import Call, Fault, Response, Returned
from poller.protocols import Event, Following, Handler
from poller.settings import FunctionLog, FunctionSettings

LOST_LIMIT = 8
CANCEL_LIMIT = 1.0
"""Seconds a cancelled coroutine has to end before it counts as lost."""

NULL = Returned(b"null")
_dumps = orjson_dumps(orjson)


def connect(settings: FunctionSettings, log: FunctionLog) -> Handler:  # noqa: ARG001  # what it prints is this process's own output
    """Raises HandlerError for a folder or file that is named and not there, and for settings that only a process of its own can have."""
    for key, value in (("environment", settings.environment), ("memory", settings.memory), ("python", settings.python)):
        if value:
            raise HandlerError(f"function {settings.name}: {key} needs a process of its own; remove inline, or remove {key}")
    task = task_of(settings)
    return Inline(task, in_thread=settings.inline == "thread")


class _Running:
    """A call, then perhaps another, and what is done when no more follows, or at the deadline."""

    __slots__ = ("call", "over")

    def __init__(self, call: Call, over: asyncio.Future[None]) -> None:
        self.call = call
        self.over = over


def _alone(_: Response) -> None:
    """Nothing follows."""


class Inline:
    """One function, loaded at its first invocation, and again at the next when that failed."""

    def __init__(self, task: Task, *, in_thread: bool) -> None:
        self._task = task
        self._in_thread = in_thread
        self._context = context_class(task.variables(), task.arn)
        self._namespace: Namespace | None = None
        self._function: Callable[[Any, Any], Any] | None = None
        self._is_async = False
        self._lost_tasks = 0
        self._deadlines = Deadlines()
        self._threads: Threads[Response] = Threads(f"function {task.settings.name}")
        self._closed = False

    def __repr__(self) -> str:
        way = "async" if self._is_async else "thread" if self._in_thread else "loop"
        return f"<Inline {self._task.settings.name} [{way}, {self.lost} lost]>"

    @property
    def lost(self) -> int:
        """Calls that outlived their deadline and still run."""
        return self._threads.lost + self._lost_tasks

    @property
    def suspends(self) -> bool:
        return self._is_async or self._in_thread

    def invoke(self, event: Event, call: Call) -> Coroutine[Any, Any, Response]:
        """Run the function once. Raises HandlerError after `aclose`, and while LOST_LIMIT earlier calls still run past their deadline."""
        function = self._function
        if self._is_async and function is not None:  # at once: what is cheap to run is asked for most often
            return self._cancellable(function, event, call)
        return self._called(function, event, call)

    def run(self, event: Event, call: Call, following: Following) -> Coroutine[Any, Any, Response]:
        """See `Successive`: on the loop one call after the other, as Lambda's are in one process; coroutines in one task."""
        function = self._function
        if self._is_async and function is not None:
            return self._cancellable(function, event, call, following)
        return self._called(function, event, call, following)

    async def _called(
        self, function: Callable[[Any, Any], Any] | None, event: Event, call: Call, following: Following = _alone
    ) -> Response:
        if function is None:
            loaded = self._load(call.request_id)
            if isinstance(loaded, Fault):
                return loaded
            function = loaded
        if self._is_async:
            return await self._cancellable(function, event, call, following)
        if self._in_thread:
            self._check_lost()
            work = partial(self._run, function, event, call)
            response = await self._threads.call(work, max(0.0, call.deadline - time.time()))
            return response or faults.timed_out(call.request_id, call.timeout)
        while True:
            answer = self._run(function, event, call)
            more = following(answer)
            if more is None:
                return answer
            event, call, pause = more
            if pause:
                await asyncio.sleep(0)

    async def warm(self) -> Fault | None:
        """Load the function and run nothing; None: it is loaded."""
        loaded = None if self._function is not None else self._load("")
        return loaded if isinstance(loaded, Fault) else None

    async def aclose(self) -> None:
        """Forget the function. What is lost runs on until it ends by itself, or this process does."""
        self._closed = True
        self._function = None
        self._threads.close()
        if self._namespace is not None:
            self._namespace.close()

    def _run(self, function: Callable[[Any, Any], Any], event: Event, call: Call) -> Response:
        try:
            result = function(event.mapping(), self._context(call.request_id, call.deadline))
            return NULL if result is None else Returned(marshal(result, _dumps))
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # SystemExit too: a function must not end this program
            return self._fault(error, call.request_id)

    async def _cancellable(self, function: Callable[[Any, Any], Any], event: Event, call: Call, following: Following = _alone) -> Response:
        if self._lost_tasks:
            self._check_lost()
        loop = asyncio.get_running_loop()
        running = _Running(call, loop.create_future())
        over = running.over
        # A task of its own: one that swallows its cancellation can be left behind, and the invocation still ends.
        task = loop.create_task(self._run_async(function, event, running, following))
        self._deadlines.add(over, call.deadline - time.time())
        try:
            await over
            if not task.done():
                await self._end(task)
                return faults.timed_out(running.call.request_id, running.call.timeout)
        except asyncio.CancelledError:
            await self._end(task)
            raise
        finally:
            self._deadlines.remove(over)
        return Fault("error", "CancelledError", "the function cancelled itself") if task.cancelled() else task.result()

    async def _run_async(self, function: Callable[[Any, Any], Any], event: Event, running: _Running, following: Following) -> Response:
        """As `_run`. `over` is done with it: that is a turn of the loop sooner than the task tells."""
        over = running.over
        try:
            while True:
                call = running.call
                response: Response
                try:
                    result = await function(event.mapping(), self._context(call.request_id, call.deadline))
                    response = NULL if result is None else Returned(marshal(result, _dumps))
                except (KeyboardInterrupt, asyncio.CancelledError):
                    raise
                except BaseException as error:  # SystemExit too: a function must not end this program
                    response = self._fault(error, call.request_id)
                more = None if over.done() else following(response)  # done before: too late, or cancelled
                if more is None:
                    return response
                event, running.call, pause = more
                self._deadlines.add(over, running.call.timeout)
                if pause:
                    await asyncio.sleep(0)
        finally:
            if not over.done():
                over.set_result(None)

    async def _end(self, task: asyncio.Task[Response]) -> None:
        task.cancel()
        await asyncio.wait((task,), timeout=CANCEL_LIMIT)
        if not task.done():
            self._lost_tasks += 1
            task.add_done_callback(self._found)
        elif not task.cancelled():
            task.exception()  # looked at: or asyncio would complain that nobody did

    def _found(self, task: asyncio.Task[Response]) -> None:
        self._lost_tasks -= 1
        if not task.cancelled():
            task.exception()

    def _load(self, request_id: str) -> Callable[[Any, Any], Any] | Fault:
        if self._closed:
            raise HandlerError(f"function {self._task.settings.name} is closed; no invocation can begin")
        if self._namespace is None:
            self._namespace = Namespace(self._task.settings.name, self._task.code)
        try:
            function = self._namespace.load(self._task.settings.handler)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # whatever the module code does
            return self._fault(error, request_id, loading=True)
        self._is_async = inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004
        self._function = function
        return function

    def _fault(self, error: BaseException, request_id: str, *, loading: bool = False) -> Fault:
        if isinstance(error, SystemExit):
            return faults.exited(request_id, _status(error), "init" if loading else "exit")
        type_, message, trace, index = described(error)
        if self._namespace is not None:
            message = self._namespace.public(message)
        if loading:
            return Fault("init", type_, message, trace)
        large = isinstance(error, Broken) and type_ == "Function.ResponseSizeTooLarge"
        return Fault("large" if large else "error", type_, message, trace, record_index=index)

    def _check_lost(self) -> None:
        if self.lost >= LOST_LIMIT:
            raise HandlerError(
                f"function {self._task.settings.name}: {self.lost} calls still run after their deadline and cannot be stopped; "
                "raise its timeout, or remove inline: a process of its own can be killed"
            )


def _status(error: SystemExit) -> int:
    """The exit status that Python would give: `sys.exit("text")` is 1, `sys.exit()` is 0."""
    if error.code is None:
        return 0
    with contextlib.suppress(TypeError, ValueError):
        return int(error.code) & 0xFF
    return 1
