"""A source beside which a person stands."""

from __future__ import annotations

from collections.abc import AsyncIterator

from poller.errors import NotConnected
from poller.protocols import Lane, Policy, Source


class Attended:
    """A source beside which a person stands: where the engine waits for one to act, it waits a moment."""

    def __init__(self, source: Source) -> None:
        self._source = source

    @property
    def policy(self) -> Policy:
        return self._source.policy

    @property
    def identity(self) -> str:
        return self._source.identity

    async def lanes(self) -> AsyncIterator[Lane]:
        try:
            async for lane in self._source.lanes():
                yield lane
        except NotConnected as error:
            raise soon(error) from error

    async def aclose(self) -> None:
        await self._source.aclose()


def soon(error: NotConnected) -> NotConnected:
    return NotConnected(str(error), retry_after=0.1, permanent=error.permanent)
