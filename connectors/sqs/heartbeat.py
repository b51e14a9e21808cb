"""Keeps what a lane holds hidden: everything that was received and is not settled, again at half its visibility timeout.

So a function may run longer than the queue's visibility timeout, and a batch may wait for a permit, without its messages coming again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from math import inf

import msgspec

from connectors.sqs.client import LONGEST, Message, Messages
from connectors.sqs.entries import Answer, hidden, send
from connectors.sqs.queue import Queue

log = logging.getLogger("poller.sqs")

MARGIN = 5
"""Seconds kept off SQS's 12 hours, for what lies between its clock and ours."""

REFUSED_PAUSE = 60.0
"""Seconds until a heartbeat that was forbidden is tried again: someone has to change a permission meanwhile."""

AT_ONCE = 4
"""Batches of ten at once: heartbeats are never in a hurry, and must not take the connections of deletes."""


class Hold(msgspec.Struct, gc=False):
    """A message that this lane received and has not settled. Times are the loop's.

    `until`: hidden until then. `due`: when to extend that; never, if SQS allows no more. `extended`: by us, at least once.
    """

    name: str
    received: float
    until: float
    due: float
    extended: bool = False


class Heartbeat:
    """The messages of a lane that are held, by receipt handle."""

    def __init__(self, client: Messages, queue: Queue) -> None:
        self.held: dict[str, Hold] = {}
        self.expired = 0
        """How many receipt handles were refused: their messages come, or came, again."""
        self._client = client
        self._queue = queue
        self._clock = asyncio.get_running_loop().time
        self._stirred = asyncio.Event()
        self._beating = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._failing = False
        self._closed = False

    def __repr__(self) -> str:
        return f"<Heartbeat {self._queue.name} [{len(self.held)} held, {self.expired} expired]>"

    def add(self, messages: Sequence[Message]) -> None:
        """They were received now."""
        if not messages:
            return
        now, seconds = self._clock(), self._queue.hidden
        until, due = now + seconds, now + seconds / 2
        held = self.held
        for message in messages:
            held[message["ReceiptHandle"]] = Hold(message["MessageId"], now, until, due)
        self._stirred.set()
        if self._task is None and not self._closed:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"heartbeat {self._queue.name}")

    def check(self) -> None:
        """Raises what ended the heartbeat: nobody may go on receiving without it."""
        if self._task is not None and self._task.done():
            self._task.result()

    @asynccontextmanager
    async def still(self) -> AsyncIterator[None]:
        """While no heartbeat is under way: what is taken from `held` here is extended by none that SQS has not yet answered.

        Without this a release could overtake an extension, and the message stay hidden for longer than was asked.
        """
        async with self._beating:
            yield

    async def aclose(self) -> None:
        """No heartbeat from now on; one that is under way ends first, or is ended with this call. Tolerated twice."""
        self._closed = True
        task, self._task = self._task, None
        if task is None:
            return
        try:
            async with self._beating:
                task.cancel()
        finally:
            task.cancel()
            await asyncio.wait((task,))
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("%s: the heartbeat had ended: %r", self._queue.name, error)

    async def _run(self) -> None:
        while True:
            while not self.held:  # also if it was settled before we came to run
                self._stirred.clear()
                await self._stirred.wait()
            # What comes later is due later, so sleeping until the earliest is never too long.
            delay = min(hold.due for hold in self.held.values()) - self._clock()
            if delay > 0:
                await asyncio.sleep(min(delay, self._queue.hidden / 2))
                continue
            async with self._beating:
                answer = await self._beat()
            if answer.left:
                refused = answer.error is not None and getattr(answer.error, "permanent", True)
                await asyncio.sleep(REFUSED_PAUSE if refused else min(1.0, self._queue.hidden / 8))

    async def _beat(self) -> Answer:
        """Extend what is due, and what soon will be: in tens, so that one message does not cost a call of its own."""
        now, seconds = self._clock(), self._queue.hidden
        horizon = now + seconds / 8
        asked: dict[str, int] = {}
        last: list[Hold] = []
        for handle, hold in self.held.items():
            if hold.due > horizon:
                continue
            most = int(LONGEST - MARGIN - (now - hold.received))
            if now + min(seconds, most) <= hold.until:
                last.append(hold)
                continue
            # Before the call: if its answer is lost, SQS may have extended it all the same.
            hold.extended = True
            asked[handle] = min(seconds, most)
        self._no_more(last)
        if not asked:
            return Answer()
        answer = await send(self._client.change_visibility, self._queue.url, hidden(list(asked.items())), AT_ONCE)
        self._note(answer, asked, now)
        return answer

    def _no_more(self, last: Sequence[Hold]) -> None:
        """SQS hides a message for 12 hours in all."""
        names = [hold.name for hold in last]
        for hold in last:
            hold.due = inf
        if names:
            text = "%s: held for so long that SQS's limit of 12 hours ends their hiding; delivered again if not done by then: %s"
            log.warning(text, self._queue.name, ", ".join(names[:10]))

    def _note(self, answer: Answer, asked: dict[str, int], now: float) -> None:
        extended = [(hold, asked[handle]) for handle in answer.done if (hold := self.held.get(handle)) is not None]  # None: settled
        for hold, seconds in extended:
            hold.until, hold.due = now + seconds, now + seconds / 2
        self._no_more([hold for hold, seconds in extended if seconds < self._queue.hidden])
        lost = [hold.name for handle in answer.gone if (hold := self.held.pop(handle, None)) is not None]
        if lost:
            self.expired += len(lost)
            text = "%s: %d messages are no longer ours (%s), and are delivered again: %s"
            log.warning(text, self._queue.name, len(lost), answer.refusal, ", ".join(lost[:10]))
        if answer.left and not self._failing:
            why = answer.error or answer.refusal
            text = "%s: the visibility of %d messages cannot be extended now; they come again if their function outlives it: %s"
            log.warning(text, self._queue.name, len(answer.left), why)
        self._failing = bool(answer.left)
