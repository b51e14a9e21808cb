"""How one strand waits: for its turn, for a delay to end, for store and source to answer. Only the leaving of its lane ends that early."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Literal, TypeAlias, TypeVar

from poller.errors import NotConnected, ParkingFull, StoreUnavailable
from poller.protocols import Lane
from poller.settings import Backoff
from poller.work import Signs, Work

log = logging.getLogger("poller.strand")

T = TypeVar("T")

STORE_RETRY = Backoff(initial=0.1, maximum=5.0)

Phase: TypeAlias = Literal["permit", "backoff", "invoking", "settling"]


class Left(Exception):
    """Raised inside a strand that stops where it is, because its lane is leaving."""


class Waits:
    """The waits of the strand whose task is `task`; `phase` is what it does now."""

    def __init__(self, lane: Lane, work: Work, signs: Signs) -> None:
        self.task: asyncio.Task[None] | None = None
        self.phase: Phase = "settling"
        self._lane, self._work, self._signs = lane, work, signs
        self._interrupted = False

    def interrupt(self, *phases: Phase) -> None:
        """End what this strand is doing, if it is one of these. A settling is never interrupted."""
        if self.task is not None and self.phase in phases:
            self._interrupted = True  # so that no other cancelling, which must end everything, is taken for ours
            self.task.cancel()

    def was_interrupted(self) -> bool:
        """Whether the cancelling that has just arrived is `interrupt`'s; it is over then."""
        interrupted, self._interrupted = self._interrupted, False
        if interrupted and self.task is not None:
            self.task.uncancel()
        return interrupted

    async def interruptible(self, phase: Phase, wait: Awaitable[None]) -> None:
        """Wait, unless the lane is left meanwhile: then raise Left."""
        self.phase = phase
        try:
            await wait
        except asyncio.CancelledError:
            if not self.was_interrupted():
                raise
            raise Left from None
        finally:
            self.phase = "settling"

    async def sleep(self, seconds: float) -> None:
        """Raises Left, at once where the lane is being left."""
        if self._lane.leaving.done():
            raise Left
        await self.interruptible("backoff", asyncio.sleep(seconds))

    async def surely(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the store until it answers. Raises Left."""
        try:
            return await ask()
        except StoreUnavailable as error:
            return await self.insist(ask, error)

    async def insist(self, ask: Callable[[], Awaitable[T]], error: StoreUnavailable | NotConnected) -> T:
        """Ask store or source again, with backoff, until it answers; what is asked is idempotent. Raises Left."""
        tries = 0
        while True:
            tries += 1
            await self._unanswered(tries, error)
            try:
                answer = await ask()
            except (StoreUnavailable, NotConnected) as again:
                error = again
            else:
                self._signs.store_error = self._signs.full = ""
                return answer

    async def _unanswered(self, tries: int, error: StoreUnavailable | NotConnected) -> None:
        what = "the store does not answer"
        match error:
            case ParkingFull():
                what, self._signs.full = "the lane waits", str(error)
            case StoreUnavailable():
                self._work.counters.save_errors += 1
                self._signs.store_error = str(error)
            case NotConnected():
                what, self._signs.last_error = "the source does not answer", str(error)
        delay = STORE_RETRY.delay(tries, 0.5 + self._work.random.random() / 2)
        fields = {"mapping": self._work.settings.name, "lane": self._lane.name}
        log.warning("%s, trying again in %.1f s: %s", what, delay, error, extra=fields)
        await self.sleep(delay)
