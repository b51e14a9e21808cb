"""Runs one mapping: opens its source, runs a `LaneRunner` for each lane the source gives, reconnects, and stops in order.

starting --opened--> running --stop--> stopping --lanes closed--> stopped
   ^  |                 |
   |  +-NotConnected----+--> reconnecting          SourceError, HandlerError --> failed (a person must act; other mappings go on)
   +----- backoff -----------+
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Literal

from poller.errors import HandlerError, LaneLost, NotConnected, PollerError, SourceError, StoreUnavailable
from poller.lane_runner import LaneRunner
from poller.protocols import Lane, Source
from poller.work import RECONNECT, Work, reconnect_delay

log = logging.getLogger("poller.mapping")

STEADY_SECONDS = 60.0
"""A lane that ran for so long before it failed starts a new series of backoffs."""

CALM_SECONDS = 5.0
"""A source that raised nothing for so long has got over its last error."""

State = Literal["starting", "running", "reconnecting", "stopping", "stopped", "failed"]


class MappingRunner:
    """One mapping. `open_source` may raise NotConnected (tried again with backoff) or SourceError (given up)."""

    def __init__(
        self, work: Work, open_source: Callable[[], Awaitable[Source]], lane_runner: Callable[[Lane, Work], LaneRunner] = LaneRunner
    ) -> None:
        self.work = work
        self.state: State = "starting"
        self.last_error = ""
        self.runners: dict[str, LaneRunner] = {}
        self.tried = asyncio.Event()
        """Set once its source was opened, or could not be, for the first time, and `state` tells."""
        self._open_source = open_source
        self._lane_runner = lane_runner
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
        self._deadline = deadline
        self._stopping.set()
        if self.state != "failed":
            self.state = "stopping"
        if self._reader is not None:
            self._reader.cancel()
        for runner in self.runners.values():
            if not runner.lane.leaving.done():
                runner.lane.leaving.set_result(deadline)

    async def run(self) -> None:
        """Until stopped, or the source is exhausted. Raises SourceError or HandlerError when only a person can help."""
        while not self._stopping.is_set():
            source = await self._open()
            if source is None:
                continue
            try:
                # Stopped while it was opened: nobody would cancel a reader that starts now.
                exhausted = self._stopping.is_set() or await self._run_source(source)
            finally:
                await source.aclose()
            if self._failed is not None:
                self.state, self.last_error = "failed", str(self._failed)
                raise self._failed
            if exhausted:
                break
            self.work.counters.reconnects += 1
        self.state = "stopped"

    async def _open(self) -> Source | None:
        opening = self._reader = asyncio.get_running_loop().create_task(self._opened(), name=f"open {self.work.settings.name}")
        try:
            await asyncio.wait((opening,))
        finally:
            opening.cancel()  # only when we are cancelled ourselves is it still running
            self.tried.set()  # who waits for it goes on when the state has been changed below: there is no wait before that
        if opening.cancelled():
            return None  # stopped meanwhile
        try:
            source: Source = opening.result()
        except (NotConnected, StoreUnavailable) as error:
            await self._back_off(error)
            return None
        except SourceError as error:
            self.state, self.last_error = "failed", str(error)
            raise
        self.work.source, self.work.policy = source.identity, source.policy
        if self.state in ("starting", "reconnecting"):
            self.state, self.last_error = "running", ""  # its lanes may all be another worker's
        return source

    async def _opened(self) -> Source:
        return await self._open_source()

    async def _run_source(self, source: Source) -> bool:
        """Run its lanes until it is stopped, exhausted (True), or a lane failed in a way that only opening it anew may mend (False)."""
        self._again = False
        self._reader = asyncio.get_running_loop().create_task(self._take_lanes(source), name=f"lanes of {self.work.settings.name}")
        try:
            await asyncio.wait((self._reader,))
            if self._failed is not None:
                self._leave_at_once()
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            # Only when we are cancelled (a second signal, a crash) is anything left here.
            left = (self._reader, *self._tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
        return self._stopping.is_set() or not self._again

    async def _take_lanes(self, source: Source) -> None:
        while True:
            # A source that goes on without an error, and has no new lane to give, is connected too.
            calm = asyncio.get_running_loop().call_later(CALM_SECONDS, self._connected)
            try:
                async for lane in source.lanes():
                    self._connected()
                    self._run(lane)
            except (NotConnected, StoreUnavailable) as error:
                calm.cancel()
                await self._back_off(error)
            except LaneLost as error:
                log.warning("%s", error, extra={"mapping": self.work.settings.name})
            except SourceError as error:
                self._failed = error
                return
            except Exception as error:  # what no contract allows: said out loud, and the source is opened anew
                log.exception("the source failed; it is opened anew", extra={"mapping": self.work.settings.name})
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
        if self._stopping.is_set() and not lane.leaving.done():
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
        await self._pause(RECONNECT.delay(self._lately, 1.0))

    def _leave_at_once(self) -> None:
        for runner in self.runners.values():
            if not runner.lane.leaving.done():
                runner.lane.leaving.set_result(0.0)

    async def _back_off(self, error: PollerError) -> None:
        self._errors += 1
        self.state, self.last_error = "reconnecting", str(error)
        self.work.counters.polling_errors += 1
        delay = reconnect_delay(error, self._errors, self.work.random.random())
        log.warning("source not connected, trying again in %.1f s: %s", delay, error, extra={"mapping": self.work.settings.name})
        await self._pause(delay)

    async def _pause(self, delay: float) -> None:
        stopping = asyncio.get_running_loop().create_task(self._stopping.wait())
        try:
            await asyncio.wait((stopping,), timeout=delay)
        finally:
            stopping.cancel()


def _first(group: BaseExceptionGroup[HandlerError]) -> HandlerError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, HandlerError)
    return error
