"""A function: its permits, and the handler that runs it.

A permit is the right to run one invocation. Who waits longest gets the next one, whichever mapping or lane it is for.
"""

from __future__ import annotations

import asyncio
import logging
from binascii import hexlify
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from struct import Struct
from typing import Any

import orjson

from poller.errors import HandlerError
from poller.model import Call, Fault, Identifier, Response
from poller.protocols import Event, Handler
from poller.settings import FunctionSettings

log = logging.getLogger("poller.functions")

STAMPED_FILES = 2_000
"""A task root is looked through so far, to see whether a reload finds other code."""


class Permits:
    """At most `limit` at once; first come, first served."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    def __repr__(self) -> str:
        return f"<Permits [{self.in_use}/{self.limit} in use, {self.waiting} waiting]>"

    @property
    def free(self) -> int:
        """How many could be had at once."""
        return max(0, self.limit - self.in_use - self.waiting)

    @property
    def waiting(self) -> int:
        return sum(not waiter.done() for waiter in self._waiting)

    def take(self) -> bool:
        """One now, if one is free and nobody waits."""
        if self.in_use < self.limit and not self._waiting:
            self.in_use += 1
            return True
        return False

    def kept(self) -> bool:
        """Whether one that is in use may be used once more: nobody waits for it, and the limit has not gone below."""
        return self.in_use <= self.limit and not self._waiting

    async def wait(self) -> None:
        """One, when it is our turn. Cancelling gives the place in the queue, or the permit, to the next."""
        if self.take():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.give()  # it was handed to us in the same turn of the loop
            else:
                with suppress(ValueError):  # `give` may have passed it over already
                    self._waiting.remove(waiter)
            raise

    def give(self) -> None:
        """One back: straight to who waits longest."""
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return
        self.in_use -= 1


def code_stamp(settings: FunctionSettings) -> frozenset[tuple[str, int, int]]:
    """Differs when the function's code does: the Python files of its task root, each with its time and size."""
    files = islice(settings.code.rglob("*.py"), STAMPED_FILES)
    return frozenset((str(file), status.st_mtime_ns, status.st_size) for file in files for status in (file.stat(),))


_VERSION_4 = 0x4000_8000_0000_0000_0000
_parts_of = Struct("8s4s4s4s12s").unpack
_RANDOM = (1 << 128) - 1 & ~0xF000_C000_0000_0000_0000


def new_request_id(bits: int) -> str:
    """A version 4 UUID of these 128 bits; `uuid.UUID` takes several times as long."""
    return b"-".join(_parts_of(hexlify((bits & _RANDOM | _VERSION_4).to_bytes(16)))).decode()


class Payload:
    """An event that is one JSON object, and no batch: `poller.protocols.Event`."""

    def __init__(self, text: bytes) -> None:
        self._text = text

    def json(self) -> bytes:
        return self._text

    def mapping(self) -> dict[str, Any]:
        whole: dict[str, Any] = orjson.loads(self._text)
        return whole

    def identifiers(self) -> Sequence[Identifier]:
        return ()

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        return self._text, (), b""


class Function:
    """A function as the engine runs it: shared by all mappings that name it."""

    def __init__(self, settings: FunctionSettings, handler: Handler) -> None:
        self.settings = settings
        self.handler = handler
        self.permits = Permits(settings.concurrency)

    def __repr__(self) -> str:
        return f"<Function {self.settings.name} {self.permits!r}>"

    @property
    def name(self) -> str:
        return self.settings.name

    async def invoke(self, event: Event, call: Call) -> Response:
        """Run it once; the caller holds a permit. Raises HandlerError when this way of running it is exhausted."""
        try:
            return await self.handler.invoke(event, call)
        except Exception as error:  # one of the two broad catches of the engine: a handler's bug must not end a lane
            return self.broken(error, call)

    def broken(self, error: Exception, call: Call) -> Fault:
        """What its handler raised, against its contract: it is logged, and counts as a failed attempt. HandlerError is raised again."""
        if isinstance(error, HandlerError):
            raise error
        fields = {"function": self.name, "request_id": call.request_id}
        log.error("the handler of function %s failed", self.name, extra=fields, exc_info=error)
        return Fault("error", f"Handler.{type(error).__name__}", str(error))

    async def aclose(self) -> None:
        await self.handler.aclose()
