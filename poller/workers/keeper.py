"""Keeps one worker: starts its process, asks it how it is, and starts it again when it has died.

    starting --answers `started`--> running --no status for a while--> silent
        |                            |                                   |
        +---------- it dies ---------+-----------------------------------+--> down --backoff--> starting        (stop: stopped)

A worker that fails at every start is tried for ever, at last once a minute: what it says is the reason why the daemon is not ready.
Two things are asked of one that runs: whether it lives (`silence`), which its loop alone answers, and how it is, for which it asks its
store and its sources: those that are away are no reason to kill it.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from poller.admin.line import Line
from poller.admin.socket_file import ControlError
from poller.config import Config
from poller.status import DaemonStatus, WorkerState, WorkerStatus
from poller.workers.assignment import Assignment, packed
from poller.workers.limits import shared
from poller.workers.totals import Earlier, Seen, ended, learned

log = logging.getLogger("poller.supervisor")

PROGRAM = (sys.executable, "-P", "-m", "poller.workers.worker")
"""-P: or what lies in the folder that the daemon was started in would be taken for modules of ours."""

STEADY_SECONDS = 60.0
"""A life of this length starts the backoff anew."""

ANSWER_SECONDS = 3.0
"""How long an answer is waited for before what was last told is shown instead."""

SILENT_SECONDS = 15.0
"""A worker that has not told how it is for so long is not ready."""

_IN_ORDER = (0, -signal.SIGTERM)
"""Exit codes of a worker that was stopped: by SIGTERM itself where that came before the worker listened for it, with nothing begun."""

_OTHERS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What the service manager says to the supervisor, not to its children."""


def delay(failures: int) -> float:
    """Seconds before the start after so many lives (from 1) in a row that were short."""
    return min(60.0, 2.0 ** (min(failures, 10) - 1))


@dataclass(slots=True)
class Keeper:
    """Keeps worker `number`. `owner`: see `Assignment`. `config` gives the whole daemon's configuration; `clock` is epoch seconds."""

    number: int
    owner: str
    config: Callable[[], Config]
    environ: Mapping[str, str]
    clock: Callable[[], float]
    program: Sequence[str] = PROGRAM
    came_up: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    """It has started for the first time."""
    given: Config | None = field(init=False, default=None)
    """What it runs now."""
    _state: WorkerState = field(init=False, default="starting")
    _process: asyncio.subprocess.Process | None = field(init=False, default=None)
    _line: Line | None = field(init=False, default=None)
    _stopping: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _restarts: int = field(init=False, default=0)
    _began: float | None = field(init=False, default=None)
    _reason: str = field(init=False, default="")
    _again_at: float | None = field(init=False, default=None)
    _told: DaemonStatus | None = field(init=False, default=None)
    _earlier: Earlier = field(init=False, default_factory=Earlier)
    _heard: float | None = field(init=False, default=None)
    _told_at: float | None = field(init=False, default=None)
    _asked: dict[str, asyncio.Task[None]] = field(init=False, default_factory=dict)

    def __repr__(self) -> str:
        return f"<Keeper {self.number} [{self._state}, {self._restarts} restarts]>"

    @property
    def name(self) -> str:
        return f"worker {self.number}"

    @property
    def up(self) -> bool:
        """Whether it has started and lives."""
        return self._state in ("running", "silent")

    # --- its lives ------------------------------------------------------------------------------------------------------------------

    async def run(self) -> str:
        """Until `stop`, and its process has ended; returns how, if that was not in order. Cancelled, it kills the process."""
        loop, failures, how = asyncio.get_running_loop(), 0, ""
        while not self._stopping.is_set():
            began = loop.time()
            how = await self._live()
            if self._stopping.is_set():
                break
            failures = 1 if loop.time() - began >= STEADY_SECONDS else failures + 1
            wait = delay(failures)
            self._state, self._reason, self._again_at = "down", how, self.clock() + wait
            log.error("%s has ended: %s; it is started again in %.0f s", self.name, how, wait)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._stopping.wait()
            self._restarts += not self._stopping.is_set()
            how = ""  # told already, and nothing runs now that a stop could end
        self._state, self._reason, self._again_at = "stopped", "", None
        return how

    async def _live(self) -> str:
        """One life; returns how it ended, for a person: nothing, if it was stopped in order."""
        self._state, self._again_at, self._began = "starting", None, self.clock()  # why it ended is still worth telling
        self.given = shared(self.config(), self.number)
        try:
            self._line = line = Line(self.name)
        except OSError as error:
            return f"there is no line to it: {error.strerror}"
        self._ask_aside("rise", self._rise(line))
        try:
            code = await self._process_ended(line, Assignment(self.number, self.owner, self.given))
            return "" if self._stopping.is_set() and code in _IN_ORDER else line.last_words() or _how(code)
        except OSError as error:
            return f"its process cannot be started: {error.strerror}"
        finally:
            self._line = None
            line.close()  # breaks off what is asked
            await asyncio.gather(*self._asked.values(), return_exceptions=True)
            self._earlier, self._told, self._told_at, self._heard = ended(self._earlier, self._told), None, None, None

    async def _process_ended(self, line: Line, given: Assignment) -> int:
        environ = {key: value for key, value in self.environ.items() if key not in _OTHERS}
        # A session of its own: Ctrl-C at the terminal is for the supervisor, which stops it in order.
        process = await asyncio.create_subprocess_exec(
            *self.program,
            str(line.theirs.fileno()),
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=(line.theirs.fileno(),),
            start_new_session=True,
            env=environ,
        )
        self._process = process
        try:
            line.theirs.close()
            if self._stopping.is_set():
                self._signal(signal.SIGTERM)  # `stop` came before there was a process
            assert process.stdin is not None
            with suppress(ConnectionError):  # it died at once: its exit code says more
                process.stdin.write(packed(given))
                await process.stdin.drain()
            process.stdin.close()
            return await process.wait()
        finally:
            self._process = None
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    process.kill()
                await process.wait()

    async def _rise(self, line: Line) -> None:
        await self._hear(line)
        if self._heard is not None:  # else it died before
            self._state, self._reason, self._told_at = "running", "", self._heard
            log.info("%s runs", self.name)
            self.came_up.set()

    def stop(self) -> None:
        """Stop it in order; once more: end it at once."""
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End its process at once, as a crash would; unless it was stopped, it is started again."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    # --- asking it ------------------------------------------------------------------------------------------------------------------

    async def ask(self, command: str, /, **arguments: Any) -> AsyncGenerator[dict[str, Any]]:
        """Its answers. Raises ControlError."""
        if self._line is None:
            raise ControlError(f"{self.name} is {self._state}{': ' + self._reason if self._reason else ''}; try again in a while")
        async with aclosing(self._line.ask(command, **arguments)) as answers:
            async for answer in answers:
                yield answer

    async def adopt(self, config: Config) -> list[str]:
        """Give it its share of another configuration; returns what changed. One without a process has it from its start."""
        if self._line is None:
            return []
        self.given = shared(config, self.number)
        text = packed(Assignment(self.number, self.owner, self.given)).decode()
        async with aclosing(self.ask("adopt", assignment=text)) as answers:
            return [answer["change"] async for answer in answers]

    def inquire(self) -> None:
        """Ask it whether it lives, and how it is, and wait for no answer."""
        if self._line is not None and self.up:
            # One status at a time: an older answer after a newer one would look as if it had counted backwards.
            for name, asked in (("started", self._hear), ("status", self._look)):
                if name not in self._asked:
                    self._ask_aside(name, asked(self._line))

    async def look(self) -> Seen:
        """What is known of it, fresh if it answers within `ANSWER_SECONDS`."""
        self.inquire()
        if "status" in self._asked:
            await asyncio.wait((self._asked["status"],), timeout=ANSWER_SECONDS)
        if self.up:
            silence = _since(self._told_at)
            self._state = "silent" if silence > SILENT_SECONDS else "running"
            self._reason = f"it has not told how it is for {silence:.0f} s" if self._state == "silent" else ""
        return Seen(self._status(), self._told, self._earlier)

    @property
    def silence(self) -> float:
        """Seconds since it last showed that it lives; 0 while it is not expected to."""
        return _since(self._heard)

    async def _hear(self, line: Line) -> None:
        with suppress(ControlError):
            async with aclosing(line.ask("started")) as answers:
                async for _ in answers:
                    self._heard = asyncio.get_running_loop().time()

    async def _look(self, line: Line) -> None:
        with suppress(ControlError):
            async with aclosing(line.ask("status")) as answers:
                async for answer in answers:
                    told = msgspec.convert(answer, DaemonStatus)
                    self._earlier, self._told = learned(self._earlier, self._told, told), told
                    self._told_at = asyncio.get_running_loop().time()

    def _ask_aside(self, name: str, asking: Coroutine[Any, Any, None]) -> None:
        def answered(task: asyncio.Task[None]) -> None:
            del self._asked[name]
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("%s told what cannot be understood: %r", self.name, error)

        self._asked[name] = task = asyncio.get_running_loop().create_task(asking)
        task.add_done_callback(answered)

    def _status(self) -> WorkerStatus:
        return WorkerStatus(
            number=self.number,
            pid=self._process.pid if self._process is not None else 0,
            state=self._state,
            started=self._began,
            restarts=self._restarts,
            reason=self._reason,
            again_at=self._again_at,
        )


def _since(moment: float | None) -> float:
    return 0.0 if moment is None else asyncio.get_running_loop().time() - moment


def _how(code: int) -> str:
    if code < 0:
        return f"killed by {signal.Signals(-code).name}" if -code in set(signal.Signals) else f"killed by signal {-code}"
    return f"exit code {code}; see its lines in the log"
