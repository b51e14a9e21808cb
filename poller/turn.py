"""One shared time slice, so that no lane stalls the loop: what never suspends (an inline function, a buffered fetch) lets go in time."""

from __future__ import annotations

import asyncio

SLICE_SECONDS = 0.010


class Turn:
    """Shared by every runner of a loop: a slice for each would add up."""

    __slots__ = ("_loop", "_until")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._until = 0.0

    def over(self) -> bool:
        """Whether it is time to `yield_`: the slice since the last one is used up."""
        return self._loop.time() >= self._until

    async def yield_(self) -> None:
        """Let everyone else run; a new slice begins when we are back."""
        await asyncio.sleep(0)
        self._until = self._loop.time() + SLICE_SECONDS
