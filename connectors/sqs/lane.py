"""One queue as a lane: receives, holds under heartbeat, deletes or gives back.

A message is in one of these places, and goes from left to right: SQS -> arrived -> the runner's strands -> owed (done, its delete has
failed so far) -> gone. All but the first are `held`: hidden by our heartbeat. kill -9 anywhere: hidden until its visibility timeout ends,
then delivered again. What was acknowledged and is not deleted yet is delivered again too: at least once, as SQS itself promises.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from math import ceil

from connectors.sqs.client import LONGEST, MOST, Message, Messages
from connectors.sqs.entries import Answer, entries, hidden, persist, send
from connectors.sqs.heartbeat import MARGIN, Heartbeat
from connectors.sqs.queue import Queue
from poller.errors import NotConnected
from poller.model import Ack, Action, Batch, Discard, Fetched, Release, Retry
from poller.protocols import Format
from poller.settings import Backoff
from poller.strands import Strands

log = logging.getLogger("poller.sqs")

CAPACITY, FIFO_CAPACITY = 100_000, 20_000
"""Messages held at most; SQS's own limits in flight are 120,000 and 20,000."""

AT_ONCE = 16
"""Batches of ten that one settle sends at once."""

CLOSING_SECONDS = 10.0
"""After the long poll: what cannot be given back within that comes again when its visibility timeout ends."""

REPAY = Backoff(initial=1.0, maximum=30.0)


class SqsLane:
    """A queue. `width`: batches at once; `size`: records a batch; `receives`: ReceiveMessage at once; `wait`: seconds of a long poll."""

    def __init__(self, client: Messages, queue: Queue, format: Format, width: int, size: int, receives: int, wait: int) -> None:
        self.name = queue.name
        self.format: Format = format
        self.strands = Strands(width, "free" if queue.fifo else "any")
        self.leaving: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        self._client = client
        self._queue = queue
        self._wait = wait
        # A group is locked while any of its messages is in flight, so more of it than a batch takes would wait here, hidden in vain.
        self._quota = min(MOST, size) if queue.fifo else MOST
        self._capacity = FIFO_CAPACITY if queue.fifo else CAPACITY
        self._most_receives = receives
        self._receives = 1
        self._receiving: list[asyncio.Task[tuple[int, int]]] = []
        self._arrived: list[Message] = []
        self._heartbeat = Heartbeat(client, queue)
        self._owed: set[str] = set()
        self._repaying: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()
        self.leaving.add_done_callback(lambda _: self._settled.set())

    def __repr__(self) -> str:
        counts = f"{len(self._heartbeat.held)} held, {len(self._owed)} owed, {self._receives} receives, {self._heartbeat.expired} expired"
        return f"<SqsLane {self.name} [{counts}]>"

    @property
    def held(self) -> int:
        """Messages received and not settled."""
        return len(self._heartbeat.held)

    @property
    def expired(self) -> int:
        """Messages that were no longer ours when we came to extend or delete them: delivered again, or deleted by someone else."""
        return self._heartbeat.expired

    # --- in ---------------------------------------------------------------------------------------------------------------------

    async def fetch(self, limit: int) -> Fetched:
        """One long poll while the queue is empty; several short ones at once while answers are full.

        Cancelled all the same, its receives go on, and the next fetch, or `aclose`, has what they bring.
        """
        self._heartbeat.check()
        if self._arrived or self.leaving.done():
            return Fetched(self._take(limit))
        if not self._receiving:
            room = min(limit, self._capacity - self.held)
            if room <= 0:
                await self._wait_for_room()
                return Fetched(())
            self._receive(room)
        await asyncio.wait(self._receiving)
        self._adapt()
        return Fetched(self._take(limit))

    def _take(self, limit: int) -> list[Message]:
        arrived = self._arrived
        self._arrived = arrived[limit:]
        return arrived[:limit] if self._arrived else arrived

    async def _wait_for_room(self) -> None:
        self._settled.clear()
        try:
            async with asyncio.timeout(self._wait):
                await self._settled.wait()
        except TimeoutError:
            pass

    def _receive(self, room: int) -> None:
        create = asyncio.get_running_loop().create_task
        count = min(self._receives, ceil(room / self._quota))
        # Only a single receive waits: the full answers of others must not wait for a long poll beside them.
        wait = self._wait if count == 1 else 0
        mosts = [min(self._quota, room - i * self._quota) for i in range(count)]
        self._receiving = [create(self._receive_one(most, wait), name=f"receive {self.name}") for most in mosts]

    async def _receive_one(self, most: int, wait: int) -> tuple[int, int]:
        messages = await self._client.receive(self._queue.url, most, wait, self._queue.hidden)
        # Before anything else: from here on they are ours to extend and to give back, whatever becomes of the fetch.
        self._heartbeat.add(messages)
        self._arrived += messages
        return most, len(messages)

    def _adapt(self) -> None:
        """More receives at once after full answers, fewer after an empty one. Raises the receives' error if they brought nothing."""
        tasks, self._receiving = self._receiving, []
        errors = [error for task in tasks if (error := task.exception()) is not None]
        if errors:
            self._receives = 1
            if not self._arrived or not isinstance(errors[0], NotConnected):
                raise errors[0]
            return  # what did arrive goes on; if SQS is away, the next fetch says so
        answers = [task.result() for task in tasks]
        if any(brought == 0 for _, brought in answers):
            self._receives = max(1, self._receives // 2)
        elif all(brought >= most for most, brought in answers):
            self._receives = min(self._most_receives, self._receives * 2)

    # --- out --------------------------------------------------------------------------------------------------------------------

    async def begin(self, batch: Batch) -> None:
        """Nothing: SQS counted the attempt when it gave the messages out."""

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:  # noqa: ARG002 (a receipt handle says it all)
        """Deletes what is done, and gives back the rest. Raises nothing: what SQS does not take now is tried again, under heartbeat."""
        done: list[str] = []
        back: list[tuple[Sequence[Message], float | None]] = []
        for action in actions:
            match action:
                case Ack(records):
                    done += [record["ReceiptHandle"] for record in records]
                case Discard(failure):  # in the journal already
                    done += [record["ReceiptHandle"] for record in failure.records]
                case Release(records, delay):
                    back.append((records, delay))
                case Retry():
                    pass  # stays held
        if done:
            self._note_deleted(await persist(self._client.delete, self._queue.url, entries(done), AT_ONCE))
        if back:
            await self._give_back(back)
        self._settled.set()

    def _note_deleted(self, answer: Answer) -> None:
        held = self._heartbeat.held
        for handle in answer.done:
            held.pop(handle, None)
        if answer.gone:
            names = [hold.name for handle in answer.gone if (hold := held.pop(handle, None)) is not None]
            self._heartbeat.expired += len(answer.gone)
            text = "%s: %d messages were done, but no longer ours to delete (%s); they may be delivered again: %s"
            log.warning(text, self.name, len(answer.gone), answer.refusal, ", ".join(names[:10]))
        if answer.left:
            self._owed.update(entry["ReceiptHandle"] for entry in answer.left)
            text = "%s: %d messages are done, but cannot be deleted now; trying again, and holding them meanwhile: %s"
            log.warning(text, self.name, len(answer.left), answer.error or answer.refusal)
            if self._repaying is None or self._repaying.done():
                self._repaying = asyncio.get_running_loop().create_task(self._repay(), name=f"deletes {self.name}")

    async def _repay(self) -> None:
        tries = 0
        while self._owed:
            tries += 1
            await asyncio.sleep(max(0.5, REPAY.delay(tries, 1.0)))
            await self._repay_once()

    async def _repay_once(self) -> None:
        answer = await send(self._client.delete, self._queue.url, entries(list(self._owed)), AT_ONCE)
        for handle in (*answer.done, *answer.gone):
            self._owed.discard(handle)
            self._heartbeat.held.pop(handle, None)
        self._heartbeat.expired += len(answer.gone)
        self._settled.set()

    async def _give_back(self, back: Sequence[tuple[Sequence[Message], float | None]]) -> None:
        """Stop extending them, and say when they are to be visible again.

        Without a delay a failed message comes again as on AWS: when the queue's visibility timeout, counted from its receive, is over.
        If we never extended it, that is already so, and costs no call. If we did (it was long in its function, or waited for a permit),
        it is set back to that moment, or to now if that has passed: it had its visibility timeout, so no message is tried more often than
        once a timeout, and none waits for a second one because we kept it hidden through the first.
        """
        held, changes = self._heartbeat.held, list[tuple[str, int]]()
        async with self._heartbeat.still():
            now = asyncio.get_running_loop().time()
            for records, delay in back:
                for record in records:
                    handle = record["ReceiptHandle"]
                    hold = held.pop(handle, None)
                    if hold is None:
                        continue  # settled before, or no longer ours
                    until = hold.received + self._queue.visibility if delay is None else now + delay
                    if delay is None and not hold.extended and self._queue.visibility:
                        continue
                    latest = LONGEST - MARGIN - (now - hold.received)
                    changes.append((handle, max(0, min(ceil(until - now), int(latest)))))
        if not changes:
            return
        answer = await persist(self._client.change_visibility, self._queue.url, hidden(changes), AT_ONCE)
        self._heartbeat.expired += len(answer.gone)
        if answer.left:
            text = "%s: %d messages cannot be given back now; they come again when their visibility timeout ends: %s"
            log.warning(text, self.name, len(answer.left), answer.error or answer.refusal)

    # --- the end ----------------------------------------------------------------------------------------------------------------

    async def aclose(self, broken: bool = False) -> None:  # noqa: ARG002 (SQS knows what was not deleted, whatever became of the runner)
        """Whatever is held and not done is visible again at once. Within the long poll and some seconds; tolerated twice."""
        try:
            async with asyncio.timeout(self._wait + CLOSING_SECONDS):
                await self._end_receives()
                await _stop(self._repaying)
                if self._owed:
                    await self._repay_once()
                await self._heartbeat.aclose()
                await self._release_all()
        except TimeoutError:
            log.warning("%s: SQS did not take back in time what was held; it comes again when its visibility timeout ends", self.name)
        finally:
            await _stop(self._repaying, *self._receiving)
            await self._heartbeat.aclose()

    async def _end_receives(self) -> None:
        """Awaited, not cancelled: SQS may have given messages out already, and nobody else would get them for a visibility timeout."""
        if not self._receiving:
            return
        await asyncio.wait(self._receiving, timeout=self._wait + CLOSING_SECONDS / 2)
        errors = [error for task in self._receiving if task.done() and not task.cancelled() and (error := task.exception()) is not None]
        if errors:
            log.warning("%s: the last receive failed: %s", self.name, errors[0])

    async def _release_all(self) -> None:
        held, owed = self._heartbeat.held, self._owed
        changes = [(handle, 0) for handle in held if handle not in owed]
        self._arrived = []
        held.clear()  # given back once: a second call finds nothing
        if changes:
            answer = await send(self._client.change_visibility, self._queue.url, hidden(changes), AT_ONCE)
            if answer.left:
                text = "%s: %d messages could not be given back; they come again when their visibility timeout ends: %s"
                log.warning(text, self.name, len(answer.left), answer.error or answer.refusal)


async def _stop(*tasks: asyncio.Task[None] | asyncio.Task[tuple[int, int]] | None) -> None:
    running = [task for task in tasks if task is not None and not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
