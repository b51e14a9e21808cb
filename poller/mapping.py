"""Runs one mapping: opens its source, runs a `LaneRunner` for each lane the source gives, reconnects, and stops in order.

starting --opened--> running --stop--> stopping --lanes closed--> stopped
   ^  |                 | |
   |  +-NotConnected----+-|-> reconnecting         SourceError, HandlerError --> failed (a person must act; other mappings go on)
   +----- backoff ---------------+
   ^                      +-pause--> pausing --lanes closed--> paused
   +----- resume --------------------------------------------------+
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from poller.errors import HandlerError, LaneLost, NotConnected, PollerError, SourceError, SourceReplaced, StoreError
from poller.lane_runner import LaneRunner
from poller.pause import Pause
from poller.protocols import Lane, Source
from poller.work import RECONNECT, Work, reconnect_delay

log = logging.getLogger("poller.mapping")

STEADY_SECONDS = 60.0
"""A lane that ran for so long before it failed starts a new series of backoffs."""

CALM_SECONDS = 5.0
"""A source that raised nothing for so long has got over its last error."""

REOPENED_SECONDS = 25.0
"""So long what runs may go on before its source is opened anew."""

State = Literal["starting", "running", "reconnecting", "pausing", "paused", "stopping", "stopped", "failed"]


async def _never() -> Pause | None:
    return None


class MappingRunner:
    """One mapping. `open_source` may raise NotConnected, StoreError (tried again with backoff) or SourceError (given up).

    `pause_kept` is asked before every opening: a mapping that is paused is not opened. May raise StoreError.
    """

    def __init__(
        self,
        work: Work,
        open_source: Callable[[], Awaitable[Source]],
        lane_runner: Callable[[Lane, Work], LaneRunner] = LaneRunner,
        pause_kept: Callable[[], Awaitable[Pause | None]] = _never,
    ) -> None:
        self.work = work
        self.state: State = "starting"
        self.last_error = ""
        self.runners: dict[str, LaneRunner] = {}
        self.source: Source | None = None
        """The last that was opened; closed, it still knows how its positions are shown."""
        self.paused: Pause | None = None
        """By what it is paused, or is being paused."""
        self.tried = asyncio.Event()
        """Set once its source was opened, or could not be, for the first time, and `state` tells."""
        self._open_source = open_source
        self._lane_runner = lane_runner
        self._pause_kept = pause_kept
        self._resumed = asyncio.Event()
        self._resumed.set()
        self._leaving = asyncio.Event()  # what was opened is to be left: until it rests, or stops
        self._stopping = asyncio.Event()
        self._deadline = 0.0
        self._reader: asyncio.Task[Any] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._errors = 0
        self._again = False
        self._lately = 0
        self._crashed_at = 0.0
        self._failed: PollerError | None = None

    def __repr__(self) -> str:
        return f"<MappingRunner {self.work.settings.name} [{self.state}, {len(self.runners)} lanes]>"

    @property
    def store_error(self) -> str:
        """Why the store keeps a lane waiting now; "" when it does not."""
        return next((text for runner in self.runners.values() if (text := runner.signs.store_error)), "")

    def stop(self, deadline: float) -> None:
        """Leave every lane; what runs at `deadline` (loop time) is ended then. Tolerated twice and before `run`."""
        self._stopping.set()
        self._resumed.set()
        if self.state != "failed":
            self.state = "stopping"
        self._leave(deadline)

    def pause(self, pause: Pause, deadline: float) -> None:
        """Leave every lane as `stop` does, close the source, and do not open it before `resume`. Tolerated twice and before `run`."""
        before, self.paused = self.paused, pause
        if before is None and not self._stopping.is_set() and self.state != "failed":
            log.warning("paused by %s", pause.by, extra={"mapping": self.work.settings.name})
            self.state = "pausing"
            self._resumed.clear()
            self._leave(deadline)

    def resume(self) -> None:
        """Go on after `pause`. What is being left is left first. Tolerated without a pause."""
        if self.paused is not None:
            log.info("resumed", extra={"mapping": self.work.settings.name})
        self.paused = None
        self._resumed.set()

    def _leave(self, deadline: float) -> None:
        self._deadline = deadline
        self._leaving.set()
        if self._reader is not None:
            self._reader.cancel()
        self._leave_lanes(deadline)

    async def run(self) -> None:
        """Until stopped, or the source is exhausted. Raises SourceError or HandlerError when only a person can help."""
        while not self._stopping.is_set():
            await self._rest()
            source = None if self._stopping.is_set() else await self._open()
            if source is None:
                continue
            self.source = source
            try:
                # Stopped, or paused, while it was opened: nobody would cancel a reader that starts now.
                exhausted = self._stopping.is_set() if self._leaving.is_set() else await self._run_source(source)
            finally:
                await source.aclose()
            if self._failed is not None:
                self.state, self.last_error = "failed", str(self._failed)
                raise self._failed
            if exhausted:
                break
            if not self._leaving.is_set():
                self.work.counters.reconnects += 1
        self.state = "stopped"

    async def _rest(self) -> None:
        """While it is paused."""
        while not self._resumed.is_set():
            self.state, self.last_error = "paused", ""
            self.tried.set()
            await self._resumed.wait()
        if not self._stopping.is_set():
            self._leaving.clear()
            if self.state in ("pausing", "paused"):
                self.state = "starting"

    async def _open(self) -> Source | None:
        opening = self._reader = asyncio.get_running_loop().create_task(self._opened(), name=f"open {self.work.settings.name}")
        try:
            await asyncio.wait((opening,))
        finally:
            opening.cancel()  # only when we are cancelled ourselves is it still running
            self.tried.set()  # who waits for it goes on when the state has been changed below: there is no wait before that
        if opening.cancelled():
            return None  # stopped or paused meanwhile
        try:
            source: Source | None = opening.result()
        except (NotConnected, StoreError) as error:
            await self._back_off(error)
            return None
        except SourceError as error:
            self.state, self.last_error = "failed", str(error)
            raise
        if source is None:
            return None
        self.work.source, self.work.policy = source.identity, source.policy
        if self.state in ("starting", "reconnecting"):
            self.state, self.last_error = "running", ""  # its lanes may all be another worker's
        return source

    async def _opened(self) -> Source | None:
        pause = await self._pause_kept()
        if pause is not None:
            self.pause(pause, asyncio.get_running_loop().time())
            return None
        return await self._open_source()

    async def _run_source(self, source: Source) -> bool:
        """Run its lanes until it is stopped, exhausted (True), or a lane failed in a way that only opening it anew may mend (False)."""
        self._again = False
        self._reader = asyncio.get_running_loop().create_task(self._take_lanes(source), name=f"lanes of {self.work.settings.name}")
        try:
            await asyncio.wait((self._reader,))
            if self._failed is not None:
                self._leave_lanes(0.0)
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            # Only when we are cancelled (a second signal, a crash) is anything left here.
            left = (self._reader, *self._tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        return self._stopping.is_set() or not (self._again or self._leaving.is_set())

    async def _take_lanes(self, source: Source) -> None:
        while True:
            # A source that goes on without an error, and has no new lane to give, is connected too.
            calm = asyncio.get_running_loop().call_later(CALM_SECONDS, self._connected)
            try:
                async for lane in source.lanes():
                    self._connected()
                    self._run(lane)
            except SourceReplaced as error:
                log.error("%s; it is opened anew", error, extra={"mapping": self.work.settings.name})
                self.last_error = str(error)
                self._reopen()
                return
            except (NotConnected, StoreError) as error:
                calm.cancel()
                await self._back_off(error)
            except LaneLost as error:
                log.warning("%s", error, extra={"mapping": self.work.settings.name})
            except SourceError as error:
                self._failed = error
                return
            except Exception as error:  # what no contract allows: said out loud, and the source is opened anew
                log.exception("the source failed; it is opened anew", extra={"mapping": self.work.settings.name})
                self._reopen()
                await self._crashed(error)
                return
            else:
                return
            finally:
                calm.cancel()

    def _connected(self) -> None:
        self._errors = 0
        if self.state == "reconnecting":
            self.state, self.last_error = "running", ""

    def _run(self, lane: Lane) -> None:
        if self._leaving.is_set() and not lane.leaving.done():
            lane.leaving.set_result(self._deadline)
        runner = self._lane_runner(lane, self.work)
        self.runners[lane.name] = runner
        task = asyncio.get_running_loop().create_task(self._run_lane(runner), name=f"lane {self.work.settings.name}/{lane.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run_lane(self, runner: LaneRunner) -> None:
        name = runner.lane.name
        try:
            await runner.run()
            if runner.signs.state != "ended":
                self._again = True  # left or lost: only a lane that has ended needs no reader any more
        except* HandlerError as group:
            self._failed = _first(group)
            if self._reader is not None:
                self._reader.cancel()
        except* Exception as group:  # the other broad catch: a lane that failed is closed, and opened anew
            log.exception("lane %s failed; it is opened anew", name, extra={"mapping": self.work.settings.name, "lane": name})
            await self._crashed(group.exceptions[0])
        finally:
            if self.runners.get(name) is runner:
                del self.runners[name]

    async def _crashed(self, error: BaseException) -> None:
        now = asyncio.get_running_loop().time()
        self._again = True
        self._lately = self._lately + 1 if now - self._crashed_at < STEADY_SECONDS else 1
        self._crashed_at = now
        self.last_error = str(error)
        await self._wait(RECONNECT.delay(self._lately, 1.0))

    def _reopen(self) -> None:
        """Once the lanes are left: this source gives no others."""
        self._again = True
        if self.state == "running":
            self.state = "reconnecting"
        self._leave_lanes(asyncio.get_running_loop().time() + REOPENED_SECONDS)

    def _leave_lanes(self, deadline: float) -> None:
        for runner in self.runners.values():
            if not runner.lane.leaving.done():
                runner.lane.leaving.set_result(deadline)

    async def _back_off(self, error: PollerError) -> None:
        self._errors += 1
        self.state, self.last_error = "reconnecting", str(error)
        self.work.counters.polling_errors += 1
        delay = reconnect_delay(error, self._errors, self.work.random.random())
        log.warning("source not connected, trying again in %.1f s: %s", delay, error, extra={"mapping": self.work.settings.name})
        await self._wait(delay)

    async def _wait(self, delay: float) -> None:
        leaving = asyncio.get_running_loop().create_task(self._leaving.wait())
        try:
            await asyncio.wait((leaving,), timeout=delay)
        finally:
            leaving.cancel()


def _first(group: BaseExceptionGroup[HandlerError]) -> HandlerError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, HandlerError)
    return error
