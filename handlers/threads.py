"""Threads that run one call at a time, one queue each. A call that outlives its deadline cannot be ended: its thread is counted as lost.

They are daemon threads: a lost one must not keep the program from ending.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Worker(Generic[Result]):
    """One thread. `answer` is given in the loop, unless the thread was given up meanwhile."""

    def __init__(self, name: str, done: Callable[[Worker[Result], Result], None]) -> None:
        self.answer: asyncio.Future[Result | None] | None = None
        self._loop = asyncio.get_running_loop()
        self._done = done
        self._queue: SimpleQueue[Callable[[], Result] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def put(self, work: Callable[[], Result]) -> asyncio.Future[Result | None]:
        """`work` must not raise."""
        self.answer = self._loop.create_future()
        self._queue.put(work)
        return self.answer

    def stop(self) -> None:
        self._queue.put(None)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            result = work()
            try:
                self._loop.call_soon_threadsafe(self._done, self, result)
            except RuntimeError:  # the loop is closed: nobody waits
                return


class Threads(Generic[Result]):
    """Idle threads, last used first, and how many are lost at the moment."""

    def __init__(self, name: str) -> None:
        self.lost = 0
        self._name = name
        self._idle: list[Worker[Result]] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<Threads {self._name} [{len(self._idle)} idle, {self.lost} lost]>"

    async def call(self, work: Callable[[], Result], limit: float) -> Result | None:
        """None: it did not end within `limit` seconds, and its thread is lost. Cancelled, it is lost as well."""
        worker = self._idle.pop() if self._idle else Worker(self._name, self._done)
        answer = worker.put(work)
        timer = asyncio.get_running_loop().call_later(limit, self._give_up, worker, answer)
        try:
            return await answer
        except asyncio.CancelledError:
            self._give_up(worker, answer)
            raise
        finally:
            timer.cancel()

    def close(self) -> None:
        """The idle ones end now, the others when their call returns."""
        self._closed = True
        for worker in self._idle:
            worker.stop()
        self._idle.clear()

    def _give_up(self, worker: Worker[Result], answer: asyncio.Future[Result | None]) -> None:
        if worker.answer is answer:  # else it came back in the same turn of the loop
            worker.answer = None
            self.lost += 1
        if not answer.done():
            answer.set_result(None)

    def _done(self, worker: Worker[Result], result: Result) -> None:
        answer, worker.answer = worker.answer, None
        if answer is None:
            self.lost -= 1  # it came back after all; what it says is nobody's any more
            worker.stop()
            return
        if not answer.done():
            answer.set_result(result)
        if self._closed:
            worker.stop()
        else:
            self._idle.append(worker)
