"""Deadlines of what runs on the loop: one timer for all of them, because nearly all end long before, and a timer each is dear."""

from __future__ import annotations

import asyncio
import time


class Deadlines:
    """Wakes who waits for something until its time is over. Times are monotonic: the loop's stands still within a turn."""

    __slots__ = ("_ends", "_next", "_timer")

    def __init__(self) -> None:
        self._ends: dict[asyncio.Future[None], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0
        """When the timer looks; it means something while there is one."""

    def __repr__(self) -> str:
        return f"<Deadlines [{len(self._ends)} waiting]>"

    def add(self, waiter: asyncio.Future[None], seconds: float) -> None:
        """`waiter` is woken in so many seconds, unless it is removed before."""
        end = self._ends[waiter] = time.monotonic() + seconds
        if self._timer is None or end < self._next:
            self._look_at(end, seconds)

    def remove(self, waiter: asyncio.Future[None]) -> None:
        # The timer stays: it looks once more, and finds nothing to do.
        del self._ends[waiter]

    def _look_at(self, end: float, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._next = end
        self._timer = asyncio.get_running_loop().call_later(max(0.0, seconds), self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        later = [end for end in self._ends.values() if end > now]
        for waiter, end in self._ends.items():
            if end <= now and not waiter.done():
                waiter.set_result(None)
        if later:
            end = min(later)
            self._look_at(end, end - now)
