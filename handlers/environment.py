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
from math import inf
from typing import Literal

from handlers import faults
from handlers.channel import Channel
from handlers.child import REQUEST
from handlers.memory import Watch
from handlers.output import Output
from handlers.process import Process
from handlers.task import CHILD, Task
from poller.errors import HandlerError
from poller.model import Call, Fault, FaultKind, Response, Returned
from poller.settings import FunctionLog

KILL_LIMIT = 5.0
"""Seconds after which a killed process that does not end (stuck in the kernel) is no longer waited for."""

TIMER_SECONDS = 0.001
"""How exact the loop's timers are."""

ALL_TAKEN, MORE_PRINTED = b"rp"  # what a result begins with (child.py)

READY = Returned(b"")
NULL = Returned(b"null")
UNTOUCHED = Returned(b"")
"""An invocation's answer when the process ended without having read a byte of it."""


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
        self._answer: asyncio.Future[Response] | None = None  # there while one is awaited
        self._limit = inf  # when it is too late for the answer, by the monotonic clock
        self._late: Callable[[], Fault] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._alarm = inf  # when the timer looks whether it is too late
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
        return not self._closed

    async def ready(self, limit: float, late: Callable[[], Fault], request_id: str) -> Fault | None:
        """Wait until the function is loaded, for at most `limit` seconds: then it is killed, and `late()` is why. None: it is loaded."""
        try:
            answer = await self._expect(limit, late, request_id)
        except asyncio.CancelledError:
            self.kill()
            raise
        if answer is READY:
            self._loaded = True
            return None
        self.kill()
        return answer if isinstance(answer, Fault) else faults.exited(request_id, 1, "init")

    def invoke(self, event: bytes, call: Call, deadline: float) -> asyncio.Future[Response]:
        """Run the function once, until `deadline` (epoch seconds), then kill it. UNTOUCHED: it ended without having read a byte of it.

        Who no longer waits kills it. After a timeout the process has ended when there is an answer: a second attempt never runs beside
        the first.
        """
        request_id = call.request_id
        answer = self._expect(deadline - time.time(), partial(faults.timed_out, request_id, call.timeout), request_id)
        name = request_id.encode()
        if not self._channel.send(b"".join((REQUEST.pack(len(event), deadline, len(name)), name, event))):
            self.kill()
            self._give(UNTOUCHED)
            return answer
        self._request_id = request_id
        if self._watch is not None:
            self._watch.add(self)
        return answer

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

    # --- waiting for an answer ----------------------------------------------------------------------------------------------------

    def _expect(self, limit: float, late: Callable[[], Fault], request_id: str) -> asyncio.Future[Response]:
        self._awaited, self._late = request_id, late
        now = time.monotonic()
        self._limit = now + limit
        # One timer serves many invocations: as a rule it rings when the one that it was set for is long over.
        if self._limit < self._alarm:
            self._set_alarm(now)
        self._answer = answer = self._loop.create_future()
        return answer

    def _give(self, response: Response) -> None:
        """To who awaits an answer, if anybody does."""
        answer, self._answer = self._answer, None
        if self._watch is not None:
            self._watch.remove(self)
        if answer is not None and not answer.done():
            answer.set_result(response)

    def _set_alarm(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._alarm = self._limit
        self._timer = self._loop.call_later(max(0.0, self._limit - now), self._ring)

    def _ring(self) -> None:
        self._timer, self._alarm = None, inf
        if self._answer is None or self._answer.done():
            return
        now = time.monotonic()
        if self._limit - now > TIMER_SECONDS:
            self._set_alarm(now)
        else:
            self._expire()

    def _expire(self) -> None:
        assert self._late is not None
        fault = self._late()
        self.kill(fault)
        self._loop.call_later(KILL_LIMIT, self._give_up, fault, self._answer)

    def _give_up(self, fault: Fault, answer: asyncio.Future[Response] | None) -> None:
        if answer is not None and not answer.done():
            answer.set_result(fault)

    def _answered(self, frame: bytes | None) -> None:
        """An answer counts even when it came after the deadline, in the moment before the kill: the work was done."""
        response = _response(frame)
        if frame is None or response is None or self._distrusted:
            self._distrusted = True  # no frame of ours: something in the process writes to our pipe, and nothing there can be believed
            self.kill()
            return
        # Before the answer is given: what the function printed was flushed before it was sent, so it is all in the pipe, or was read.
        if frame[0] == ALL_TAKEN:
            self._output.finish()
        else:
            self._output.drain()
        self._give(response)
        self._request_id = ""

    def _exited(self, status: int) -> None:
        self._closed = True
        self._channel.drain()  # its last answer, if it gave one
        self._output.drain()
        self._give(self._verdict or self._reason(status))
        self._request_id = ""
        if self._timer is not None:
            self._timer.cancel()
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
    if frame[0] == ALL_TAKEN or frame[0] == MORE_PRINTED:
        return NULL if frame == b"rnull" else Returned(frame[1:])
    if frame == b"i":
        return READY
    try:
        fault = json.loads(frame[1:])
        index = fault["recordIndex"]
        return Fault(_KINDS[fault["kind"]], fault["type"], fault["message"], tuple(fault["trace"]), record_index=index)
    except (ValueError, KeyError, TypeError):
        return None
