"""Fake handlers that run one invocation after another, as coroutine functions on the loop do."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

from poller.model import Call, Response
from poller.protocols import Event, Following


class InARow(ABC):
    """What makes a handler `Successive`, over its `invoke`."""

    @abstractmethod
    async def invoke(self, event: Event, call: Call) -> Response: ...

    @property
    def suspends(self) -> bool:
        return True

    async def run(self, event: Event, call: Call, following: Following) -> Response:
        while True:
            response = await self.invoke(event, call)
            after = following(response)
            if after is None:
                return response
            event, call, pause = after
            if pause:
                await asyncio.sleep(0)
