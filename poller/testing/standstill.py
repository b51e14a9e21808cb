"""Workers on one virtual loop that can stand still: what a process does while it is suspended, or its host is.

While a `Standstill` stands, nothing that was started under it runs: its tasks make no step, its timers do not fire. The clock goes on. Once
it goes on, all that became due meanwhile runs at once, as in a process that was continued.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from poller.testing.clock import VirtualLoop

T = TypeVar("T")

_UNDER: ContextVar[Standstill | None] = ContextVar("standstill", default=None)


class Standstill:
    """One worker's."""

    def __init__(self) -> None:
        self.stands = False
        self._due: list[tuple[list[asyncio.Handle], Callable[..., object], tuple[Any, ...], Context]] = []

    def start(self, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """A task that stands still with this, as does all that it starts."""
        context = copy_context()
        context.run(_UNDER.set, self)
        return asyncio.get_running_loop().create_task(coroutine, name=name, context=context)

    def stand(self) -> None:
        self.stands = True

    def go_on(self) -> None:
        self.stands = False
        due, self._due = self._due, []
        loop = asyncio.get_running_loop()
        for handle, callback, arguments, context in due:
            if not handle[0].cancelled():
                loop.call_soon(callback, *arguments, context=context)

    def step(self, handle: list[asyncio.Handle], callback: Callable[..., object], arguments: tuple[Any, ...], context: Context) -> None:
        """Run the callback, or keep it until this goes on. Called by the loop."""
        if self.stands:
            self._due.append((handle, callback, arguments, context))
        else:
            callback(*arguments)


class StandstillLoop(VirtualLoop):
    """A virtual loop whose callbacks ask their `Standstill` first."""

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        context = context or copy_context()
        under = context.get(_UNDER)
        if under is None:
            return super().call_soon(callback, *args, context=context)
        handle: list[asyncio.Handle] = []
        handle.append(super().call_soon(under.step, handle, callback, args, context, context=context))
        return handle[0]

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.TimerHandle:  # type: ignore[override]
        context = context or copy_context()
        under = context.get(_UNDER)
        if under is None:
            return super().call_at(when, callback, *args, context=context)
        handle: list[asyncio.Handle] = []
        timer = super().call_at(when, under.step, handle, callback, args, context, context=context)
        handle.append(timer)
        return timer


def run_with_standstills(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end on such a loop."""
    with asyncio.Runner(loop_factory=StandstillLoop) as runner:
        return runner.run(main)
