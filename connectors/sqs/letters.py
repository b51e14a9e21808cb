"""Dead letters of a queue: received one by one, hidden meanwhile, deleted once they are in the journal; the others are given back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from connectors.sqs.client import MOST, Message, SqsClient
from connectors.sqs.entries import entries, hidden, persist
from poller.redrive.letters import GROUPS, Letter

HIDDEN_SECONDS = 300
"""Whoever is killed gives nothing back: so long then."""

WAIT_SECONDS = 1
AT_ONCE = 4


class QueueLetters:
    """See `poller.redrive.letters.DeadLetters`. Takes the client over. `queue`: its URL."""

    stays = ""

    @property
    def behind(self) -> str:
        return GROUPS if self._held and self._fifo else ""

    def __init__(self, client: SqsClient, queue: str) -> None:
        self._client = client
        self._queue = queue
        self._fifo = queue.endswith(".fifo")
        self._held: dict[str, str] = {}
        self._seen = set[str]()
        self._empty = False

    def __repr__(self) -> str:
        return f"<QueueLetters {self._queue} [{len(self._held)} held]>"

    async def fetch(self, limit: int) -> Sequence[Letter]:
        found = list[Letter]()
        while len(found) < limit and not self._empty:
            messages = await self._client.receive(self._queue, min(MOST, limit - len(found)), WAIT_SECONDS, HIDDEN_SECONDS)
            self._held |= {message["MessageId"]: message["ReceiptHandle"] for message in messages}
            fresh = [message for message in messages if message["MessageId"] not in self._seen]
            self._seen |= {message["MessageId"] for message in fresh}
            found += map(_letter, fresh)
            self._empty = not fresh  # or what was seen comes again
        return found

    async def remove(self, letters: Sequence[Letter]) -> int:
        handles = [self._held[letter.name] for letter in letters]
        answer = await persist(self._client.delete, self._queue, entries(handles), AT_ONCE)
        done = {*answer.done}
        # What could not be deleted comes again once it is hidden no more: it is known by then.
        self._held = {name: handle for name, handle in self._held.items() if handle not in done}
        # Of a FIFO queue the next messages of a group come once those before them are gone.
        self._empty = self._empty and not (done and self._fifo)
        return len(done)

    async def aclose(self) -> None:
        try:
            if self._held:
                await persist(self._client.change_visibility, self._queue, hidden([(each, 0) for each in self._held.values()]), AT_ONCE)
                self._held = {}
        finally:
            await self._client.aclose()


def _letter(message: Message) -> Letter:
    told: Mapping[str, Mapping[str, str]] = message.get("MessageAttributes", {})
    attributes = {name: value["StringValue"] for name, value in told.items() if "StringValue" in value}
    sent = int(message["Attributes"]["SentTimestamp"]) / 1000
    # Half of a surrogate pair is no JSON; SQS refuses it, its imitations may not.
    return Letter(message["MessageId"], message["Body"].encode(errors="replace"), sent, attributes, message)
