"""Who waits for data is woken: at once by what this process does, within 50 ms by what another process commits."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable
from typing import Any

LOOK_SECONDS = 0.05


class Bells:
    """One bell a topic ("queue orders", "stream clicks"). `version` changes with every commit of any connection to the database.

    To wait without missing anything: read `count` first, then look for data, then `wait` with that count.
    """

    def __init__(self, version: Callable[[], int | None]) -> None:
        self._version = version
        # Known from the start, so that the first look already sees what was committed since.
        self._seen = version()
        self._all = 0
        self._rung: defaultdict[str, int] = defaultdict(int)
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._waiters = 0
        self._look: asyncio.Task[None] | None = None

    def count(self, topic: str) -> int:
        """How often the topic's bell has rung."""
        return self._rung[topic] + self._all

    def ring(self, topic: str) -> None:
        self._rung[topic] += 1
        self._wake(self._waiting[topic])

    async def wait(self, topic: str, count: int, timeout: float, also: asyncio.Future[float] | None = None) -> None:
        """Return when the bell has rung since `count`, after `timeout` seconds, or when `also` is done."""
        if self.count(topic) != count or timeout <= 0:
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[topic].add(woken)
        self._waiters += 1
        if self._look is None:
            # One for all who wait, and none while nobody does.
            self._look = asyncio.get_running_loop().create_task(self._keep_looking(), name="look for other processes' writes")
        try:
            wanted: set[asyncio.Future[Any]] = {woken} if also is None else {woken, also}
            await asyncio.wait(wanted, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._waiting[topic].discard(woken)
            self._waiters -= 1

    async def aclose(self) -> None:
        if self._look is not None:
            self._look.cancel()
            await asyncio.gather(self._look, return_exceptions=True)
            self._look = None

    async def _keep_looking(self) -> None:
        while self._waiters:
            version = self._version()
            if version is not None and version != self._seen:
                self._seen = version
                self._all += 1
                for waiting in self._waiting.values():
                    self._wake(waiting)
            await asyncio.sleep(LOOK_SECONDS)
        self._look = None

    @staticmethod
    def _wake(waiting: set[asyncio.Future[None]]) -> None:
        for woken in waiting:
            if not woken.done():
                woken.set_result(None)
