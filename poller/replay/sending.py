"""Instead of invoking: rows put back into their source, or sent to a destination. To the engine it is a function that never fails.

What the other side refuses now is asked again; what it refuses for good ends the run, for the row's own error must not be replaced by it.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from poller.errors import HandlerError, NotConnected, PollerError
from poller.failures.journal import Entry
from poller.functions import Function
from poller.model import Busy, Call, Response, Returned
from poller.protocols import Event
from poller.replay.format import ReplayEvent
from poller.settings import Backoff, FunctionSettings

log = logging.getLogger("poller.replay")

AGAIN = Backoff(initial=0.5, maximum=30.0)


class Sender:
    """`poller.protocols.Handler`: `send` takes a row with the records that are meant, and returns when they are there, durably.

    It may raise NotConnected, which is tried again unless it is `permanent`, and other PollerErrors."""

    def __init__(self, send: Callable[[Entry], Awaitable[None]], where: str) -> None:
        self._send, self._where = send, where
        self._refused = 0

    async def invoke(self, event: Event, call: Call) -> Response:  # noqa: ARG002 (the protocol's)
        entry = cast("ReplayEvent", event).entry()
        try:
            await self._send(entry)
        except PollerError as error:
            if not isinstance(error, NotConnected) or error.permanent:
                raise HandlerError(f"failure {entry.id[:12]} cannot be sent to {self._where}: {error}") from error
            self._refused += 1
            log.warning("%s does not take failure %s now, it is tried again: %s", self._where, entry.id[:12], error)
            return Busy(AGAIN.delay(self._refused, 1.0) if error.retry_after is None else error.retry_after, str(error))
        self._refused = 0
        return Returned(b"null")

    async def aclose(self) -> None:
        """Tolerated twice."""


def sending(send: Callable[[Entry], Awaitable[None]], where: str, at_once: int) -> Function:
    """The function that sends; `where` is what a person is told."""
    return Function(FunctionSettings(f"to {where}", "", Path(), concurrency=at_once), Sender(send, where))
