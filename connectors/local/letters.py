"""Dead letters of an embedded queue: received, and hidden for its visibility timeout; deleted once they are in the journal."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.local import messages
from connectors.local.database import Database
from connectors.local.format import Message
from connectors.local.messages import Queue
from poller.errors import NotConnected
from poller.redrive.letters import GROUPS, Letter, RedriveContext


class LocalLetters:
    """See `poller.redrive.letters.DeadLetters`. Takes the database over."""

    stays = ""

    @property
    def behind(self) -> str:
        return GROUPS if self._held and self._queue.fifo else ""

    def __init__(self, database: Database, queue: Queue, context: RedriveContext) -> None:
        self._database = database
        self._queue = queue
        self._clock = context.clock
        self._held: dict[str, Message] = {}
        self._seen = set[str]()
        self._closed = False

    def __repr__(self) -> str:
        return f"<LocalLetters {self._queue.name} [{len(self._held)} held]>"

    async def fetch(self, limit: int) -> Sequence[Letter]:
        received = await self._database.write(lambda connection: messages.receive(connection, self._queue, limit, self._clock()))
        self._held |= {message.message_id: message for message in received.messages}
        fresh = [message for message in received.messages if message.message_id not in self._seen]
        self._seen |= {message.message_id for message in fresh}
        return [Letter(each.message_id, each.body.encode(errors="replace"), each.sent, {}, each) for each in fresh]

    async def remove(self, letters: Sequence[Letter]) -> int:
        done = [self._held.pop(letter.name) for letter in letters]
        return await self._settle(done, ())

    async def aclose(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            if self._held:
                await self._settle((), [*self._held.values()])
        finally:
            await self._database.release()

    async def _settle(self, done: Sequence[Message], back: Sequence[Message]) -> int:
        queue, now = self._queue, self._clock()
        groups = {each.group for each in (*done, *back) if each.group is not None}
        deletes, changes = [each.receipt for each in done], [(now, each.receipt) for each in back]
        return await self._database.write(lambda connection: messages.settle(connection, queue, deletes, changes, groups, now))


async def open_letters(name: str, context: RedriveContext) -> LocalLetters:
    """Raises NotConnected: there is no such queue; none is made."""
    missing = NotConnected(f"there is no local queue {name!r} in {context.state}; check its name", permanent=True)
    if not Database.exists(context.state):
        raise missing
    database = await Database.acquire(context.state)
    try:
        queue = await database.read(lambda connection: messages.found(connection, name))
        if queue is None:
            raise missing
        return LocalLetters(database, queue, context)
    except BaseException:
        await database.release()
        raise
