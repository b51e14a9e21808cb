"""Group commit: calls that come together share one statement, and so one round trip and one fsync.

The first call goes at once; those that come while it is under way wait together and are the next group. So a call that comes alone
waits for nothing, and a thousand lanes that save in the same second cost a few round trips.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from poller.errors import PollerError, StoreUnavailable

Item = TypeVar("Item")
Answer = TypeVar("Answer")

GROUP_ITEMS = 1_000
GROUP_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Group(Generic[Item, Answer]):
    """Runs `perform` on groups of items, one group at a time, and hands each caller its own answer.

    All of a group are of one `kind` and differ in `key`; items of one key are performed in the order in which they came. `weight` is an
    item's bytes. An answer that is a PollerError is raised to its caller; what `perform` raises, to all of the group.
    """

    perform: Callable[[Sequence[Item]], Awaitable[Sequence[Answer | PollerError]]]
    key: Callable[[Item], Hashable]
    kind: Callable[[Item], Hashable] = lambda _: None
    weight: Callable[[Item], int] = lambda _: 0
    _waiting: list[tuple[Item, asyncio.Future[Answer]]] = field(init=False, default_factory=list)
    _task: asyncio.Task[None] | None = field(init=False, default=None)

    async def ask(self, item: Item) -> Answer:
        """This item's answer. A caller that is cancelled does not know whether it was done."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="group commit")
        return await answer

    async def aclose(self) -> None:
        """All that was asked is answered. Tolerated twice."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        group: list[tuple[Item, asyncio.Future[Answer]]] = []
        try:
            while self._waiting:
                group = self._cut()
                await self._answer(group)
        finally:
            # Only a loop that is being shut down cancels this task. Nobody may wait for ever.
            for _, answer in (*group, *self._waiting):
                if not answer.done():
                    answer.set_exception(StoreUnavailable("the store is being closed"))
            self._waiting.clear()
            self._task = None

    def _cut(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        """The next group; it is taken out of what waits."""
        kind, weight = self.kind(self._waiting[0][0]), 0
        group = list[tuple[Item, asyncio.Future[Answer]]]()
        left, seen = list[tuple[Item, asyncio.Future[Answer]]](), set[Hashable]()
        for place, (item, answer) in enumerate(self._waiting):
            if len(group) == GROUP_ITEMS or (group and weight + self.weight(item) > GROUP_BYTES):
                left += self._waiting[place:]
                break
            key = self.key(item)
            # Behind one of the same key that stays, it stays too, whatever its kind.
            if key in seen or self.kind(item) != kind:
                left.append((item, answer))
            else:
                group.append((item, answer))
                weight += self.weight(item)
            seen.add(key)
        self._waiting = left
        return group

    async def _answer(self, group: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        results: Sequence[Any]
        try:
            results = await self.perform([item for item, _ in group])
        except Exception as error:
            # Each caller gets an exception of its own: one that several tasks raise gathers their tracebacks.
            results = [type(error)(*error.args) if isinstance(error, PollerError) else error for _ in group]
            for result in results:
                result.__cause__ = error.__cause__
        for (_, answer), result in zip(group, results, strict=True):
            if answer.done():
                continue  # its caller was cancelled
            if isinstance(result, Exception):
                answer.set_exception(result)
            else:
                answer.set_result(result)
