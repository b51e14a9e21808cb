"""One environment: a process of a function, which runs one invocation at a time.

    starting --loaded--> idle --invoke--> running --answer--> idle
       any of them --kill, exit--> ended

It has pipes of its own that die with it, so no late answer can ever reach another invocation.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Literal

import orjson

from handlers import faults
from handlers.channel import Channel
from handlers.memory import Watch
from handlers.output import Output
from handlers.process import Process
from handlers.task import CHILD, Task
from poller.errors import HandlerError
from poller.model import Call, Fault, FaultKind, Response, Returned
from poller.settings import FunctionLog

KILL_LIMIT = 5.0
"""Seconds after which a killed process that does not end (stuck in the kernel) is no longer waited for."""

READY = Returned(b"")
UNTOUCHED = Returned(b"")


class Environment:
    """Raises OSError when it cannot be started. `ended` is set when the process is reaped and every descriptor closed."""

    def __init__(self, task: Task, log: FunctionLog, watch: Watch | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = task
        self._log = log
        self._watch = watch
        self.rested = False
        """Whether it was ever idle: the pool's own mark."""
        self._request_id = ""  # whose output it is
        self._awaited = ""  # whose answer is awaited: while loading, that of the invocation that will come first
        self._loaded = False
        self._answer: asyncio.Future[Response] | None = None
        self._distrusted = False
        self._verdict: Fault | None = None
        self._closed = False
        self._start()
        self.ended = self._process.ended

    def __repr__(self) -> str:
        state = "ended" if self.ended.done() else f"running {self._request_id}" if self._answer else "idle"
        return f"<Environment {self._task.settings.name} {self.pid} {state}>"

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def usable(self) -> bool:
        """Loaded, alive, and nobody has asked for its end."""
        return not (self._closed or self.ended.done())

    async def ready(self, limit: float, late: Callable[[], Fault], request_id: str) -> Fault | None:
        """Wait until the function is loaded, for at most `limit` seconds: then it is killed, and `late()` is why. None: it is loaded."""
        answer = await self._outcome(limit, late, request_id)
        if answer is READY:
            self._loaded = True
            return None
        self.kill()
        return answer if isinstance(answer, Fault) else faults.exited(request_id, 1, "init")

    async def invoke(self, event: bytes, call: Call, deadline: float) -> Response | None:
        """Run the function once, until `deadline` (epoch seconds), then kill it. None: it ended without having read a byte of it.

        Cancelling kills it. After a timeout the process has ended when this returns: a second attempt never runs beside the first.
        """
        head = orjson.dumps({"id": call.request_id, "deadline": deadline})
        if not self._channel.send(head[:-1], b',"event":', event, b"}"):
            self.kill()
            return None
        self._request_id = call.request_id
        if self._watch is not None:
            self._watch.add(self)
        try:
            late = partial(faults.timed_out, call.request_id, call.timeout)
            response = await self._outcome(max(0.0, deadline - time.time()), late, call.request_id)
        finally:
            if self._watch is not None:
                self._watch.remove(self)
        return None if response is UNTOUCHED else response

    def overweight(self) -> None:
        """Called by the watch while an invocation runs."""
        self.kill(faults.out_of_memory(self._request_id))

    def kill(self, verdict: Fault | None = None) -> None:
        """End the whole process group at once. A waiting invocation gets `verdict`; without one, what the exit status says."""
        self._closed = True
        if self._verdict is None:
            self._verdict = verdict
        self._process.kill()

    def stop(self) -> None:
        """Kill it because we stop: an invocation that still waits is not the function's fault, and raises HandlerError."""
        self.kill()
        if self._answer is not None and not self._answer.done():
            name, request_id = self._task.settings.name, self._request_id
            self._answer.set_exception(HandlerError(f"function {name} was closed while invocation {request_id} ran; it has not ended"))

    def _start(self) -> None:
        with ExitStack() as theirs, ExitStack() as ours:
            requests, to_child = _pipe(theirs, ours)
            from_child, answers = _pipe(ours, theirs)
            output, printed = _pipe(ours, theirs)
            self._channel = Channel(to_child, from_child, self._answered)
            ours.callback(self._channel.close)
            self._output = Output(output, self._line)
            ours.callback(self._output.close)
            task = self._task
            self._process = Process(
                [task.python, CHILD, str(requests), str(answers), str(os.getpid()), task.arn],
                cwd=task.code,
                variables=task.variables(),
                output=printed,
                pipes=(requests, answers),
                on_end=self._exited,
            )
            self._pipes = ours.pop_all()

    async def _outcome(self, limit: float, late: Callable[[], Fault], request_id: str) -> Response:
        answer: asyncio.Future[Response] = self._loop.create_future()
        self._answer, self._awaited = answer, request_id
        timer = self._loop.call_later(limit, self._expire, late)
        try:
            return await answer
        except asyncio.CancelledError:
            self.kill()
            raise
        finally:
            timer.cancel()
            self._answer = None

    def _expire(self, late: Callable[[], Fault]) -> None:
        fault = late()
        self.kill(fault)
        self._loop.call_later(KILL_LIMIT, self._give_up, fault, self._answer)

    def _give_up(self, fault: Fault, answer: asyncio.Future[Response] | None) -> None:
        if answer is not None and not answer.done():
            answer.set_result(fault)

    def _answered(self, frame: bytes | None) -> None:
        """An answer counts even when it came after the deadline, in the moment before the kill: the work was done."""
        response = _response(frame)
        if response is None or self._distrusted:
            self._distrusted = True  # no frame of ours: something in the process writes to our pipe, and nothing there can be believed
            self.kill()
            return
        # Before the answer is given: what the function printed was flushed before it was sent, so it is all in the pipe.
        self._output.drain()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(response)
        self._request_id = ""

    def _exited(self, status: int) -> None:
        self._closed = True
        self._channel.drain()  # its last answer, if it gave one
        self._output.drain()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(self._verdict or self._reason(status))
        self._request_id = ""
        self._pipes.close()

    def _reason(self, status: int) -> Response:
        if self._loaded and self._channel.untouched():
            return UNTOUCHED
        kind: FaultKind = "exit" if self._loaded else "init"
        return faults.exited(self._awaited, status, kind)

    def _line(self, line: str) -> None:
        self._log(self._task.settings.name, self._request_id, line)


def _pipe(reading: ExitStack, writing: ExitStack) -> tuple[int, int]:
    """(reading end, writing end), each closed by the stack it is given to."""
    ends = os.pipe()
    reading.callback(os.close, ends[0])
    writing.callback(os.close, ends[1])
    return ends


_KINDS: dict[str, Literal["init", "error", "large"]] = {"init": "init", "error": "error", "large": "large"}


def _response(frame: bytes | None) -> Response | None:
    if not frame:
        return None
    if frame[0] == ord("r"):
        return Returned(frame[1:])
    if frame == b"i":
        return READY
    try:
        fault = json.loads(frame[1:])
        index = fault["recordIndex"]
        return Fault(_KINDS[fault["kind"]], fault["type"], fault["message"], tuple(fault["trace"]), record_index=index)
    except (ValueError, KeyError, TypeError):
        return None
