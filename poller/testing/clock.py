"""A stdlib event loop whose clock jumps: no test waits, and every run of a seed is the same.

Timers fire in order; time stands still while anything is ready to run, and jumps to the next timer when nothing is. No thread may take
part: what waits for one would see time run away.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

EPOCH = 1_800_000_000.0
"""What `VirtualLoop.now` says when a loop starts: epoch seconds."""


class Stuck(AssertionError):
    """Raised when nothing is ready and no timer is set: the program would wait for ever."""


class _Selector(selectors.SelectSelector):
    """Instead of sleeping, moves the loop's clock."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        self.loop.jump(timeout)
        return []


class _Task(asyncio.Task[Any]):
    """Hashed by its number, not its address: asyncio keeps sets of tasks, and their order must be the same in every run of a seed."""

    def __init__(self, *args: Any, number: int, **options: Any) -> None:
        self.number = number
        super().__init__(*args, **options)

    def __hash__(self) -> int:
        return self.number


class VirtualLoop(asyncio.SelectorEventLoop):
    """`time()` is virtual; `now()` the same as epoch seconds, for what outlives a life."""

    def __init__(self) -> None:
        selector = _Selector()
        self._virtual = 0.0
        self.tasks_made = 0
        super().__init__(selector)
        selector.loop = self
        self.set_task_factory(self._make_task)

    @staticmethod
    def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        assert isinstance(loop, VirtualLoop)
        loop.tasks_made += 1
        return _Task(coroutine, loop=loop, number=loop.tasks_made, **options)

    def time(self) -> float:
        return self._virtual

    def now(self) -> float:
        return EPOCH + self._virtual

    def jump(self, seconds: float) -> None:
        # A hair more than asked: rounding must not leave a timer unfired, and time standing still, for ever.
        self._virtual += seconds + 1e-9


def run_virtually(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on a virtual loop."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)
