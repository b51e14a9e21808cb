"""Entries of SQS's batch calls: sent in tens, several tens at once, and what became of each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tenacity import AsyncRetrying, retry_if_result, stop_after_attempt, wait_random_exponential

from connectors.sqs.client import MOST, Refusal
from poller.errors import NotConnected, SourceError

Entry: TypeAlias = Mapping[str, Any]
"""Id, ReceiptHandle, and what the call wants besides."""

Call: TypeAlias = Callable[[str, Sequence[Entry]], Awaitable[Sequence[Refusal]]]
"""A batch call of the client."""

GONE = {
    "InvalidParameterValue",
    "AWS.SimpleQueueService.InvalidParameterValue",
    "InvalidParameterValueException",
    "InvalidReceiptHandle",
    "ReceiptHandleIsInvalid",
    "MessageNotInflight",
    "AWS.SimpleQueueService.MessageNotInflight",
}
"""Refusals that no repetition changes: the receipt handle is no longer what hides the message (it expired, or the message was deleted)."""

TRIES = 4


@dataclass(slots=True)
class Answer:
    """What became of the entries, by receipt handle. `left`: not done, may be tried again; `error`: the last reason why."""

    done: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    left: list[Entry] = field(default_factory=list)
    error: NotConnected | SourceError | None = None
    refusal: str = ""

    def take(self, later: Answer) -> None:
        """Add what a further try brought, of what was left."""
        self.done += later.done
        self.gone += later.gone
        self.left, self.error, self.refusal = later.left, later.error, later.refusal or self.refusal


def entries(handles: Sequence[str]) -> list[Entry]:
    """For DeleteMessageBatch."""
    return [{"Id": str(i % MOST), "ReceiptHandle": handle} for i, handle in enumerate(handles)]


def hidden(handles: Sequence[tuple[str, int]]) -> list[Entry]:
    """For ChangeMessageVisibilityBatch: receipt handles, each with the seconds from now that its message is hidden."""
    return [{"Id": str(i % MOST), "ReceiptHandle": handle, "VisibilityTimeout": each} for i, (handle, each) in enumerate(handles)]


async def send(call: Call, queue: str, entries: Sequence[Entry], at_once: int) -> Answer:
    """One try for every entry, `at_once` tens at once. Raises nothing."""
    answer = Answer()
    if len(entries) <= MOST:  # the common case pays for no task
        await _ten(call, queue, entries, answer)
        return answer
    tens = [entries[i : i + MOST] for i in range(0, len(entries), MOST)]
    for start in range(0, len(tens), at_once):
        await asyncio.gather(*(_ten(call, queue, ten, answer) for ten in tens[start : start + at_once]))
    return answer


async def persist(call: Call, queue: str, entries: Sequence[Entry], at_once: int) -> Answer:
    """`send`, and again a few times, within some seconds, for what is left. Raises nothing."""
    answer = await send(call, queue, entries, at_once)
    if not answer.left:
        return answer

    async def again() -> bool:
        # Renumbered: what is left of several tens may share an Id.
        renumbered = [{**entry, "Id": str(i % MOST)} for i, entry in enumerate(answer.left)]
        answer.take(await send(call, queue, renumbered, at_once))
        return bool(answer.left)

    retrying = AsyncRetrying(
        stop=stop_after_attempt(TRIES - 1),
        wait=wait_random_exponential(multiplier=0.1, max=2.0),
        retry=retry_if_result(bool),
        retry_error_callback=lambda _: True,
    )
    await retrying(again)
    return answer


async def _ten(call: Call, queue: str, ten: Sequence[Entry], answer: Answer) -> None:
    try:
        refusals = await call(queue, ten)
    except (NotConnected, SourceError) as error:
        answer.left += ten
        answer.error = error
        return
    if not refusals:
        answer.done += [entry["ReceiptHandle"] for entry in ten]
        return
    codes = {refusal["Id"]: str(refusal.get("Code", "")) for refusal in refusals}
    for entry in ten:
        code = codes.get(entry["Id"])
        if code is None:
            answer.done.append(entry["ReceiptHandle"])
            continue
        answer.refusal = code
        if code in GONE:
            answer.gone.append(entry["ReceiptHandle"])
        else:
            answer.left.append(entry)
