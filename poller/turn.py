"""Shared time slices, so that no lane stalls the loop: what never suspends (an inline function, a buffered fetch) lets go in time."""

from __future__ import annotations

import asyncio
from collections import deque

SLICE_SECONDS = 0.010


class Slice:
    """Shared: a slice for each would add up. Each round of the loop goes on with one who waits, in turn."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def over(self) -> bool:
        """Whether it is time to `yield_`: the slice since the last one is used up."""
        return self._loop.time() >= self._until

    async def yield_(self) -> None:
        """Let everyone else run; a new slice begins when we are back."""
        waiter: asyncio.Future[None] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._next)
        self._waiting.append(waiter)
        await waiter

    def _next(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                self._until = self._loop.time() + SLICE_SECONDS
                break
        if self._waiting:
            self._loop.call_soon(self._next)


class Turn(Slice):
    """The slice that all strands of a loop share. That of the `readers` is another: behind a thousand strands they would come so late that
    these ran dry."""

    def __init__(self) -> None:
        super().__init__()
        self.readers = Slice()
