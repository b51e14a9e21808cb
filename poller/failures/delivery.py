"""Opens destinations, and sends deliveries to them. Who sends what waits in the outbox, and when: courier.py.

Deliveries of one lane arrive in their order, a few lanes at once; only what a destination refuses for good is passed by what comes later.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poller.config import DestinationConfig, MappingConfig
from poller.errors import HandlerError, NotConnected, PollerError, StoreUnavailable
from poller.failures.journal import Delivery, Entry
from poller.failures.protocols import Destination, Placing
from poller.functions import Function, Payload, new_request_id
from poller.model import Busy, Call, Fault, Response
from poller.registry import Registry
from poller.settings import Backoff, Describing, DestinationContext

log = logging.getLogger("poller.delivery")

AT_ONCE = 4
"""So many sends to one destination may be under way."""

RETRY = Backoff(initial=1.0, maximum=300.0)
RETRY_SLOWLY = Backoff(initial=30.0, maximum=900.0)
"""Where trying again needs a person first."""

ABSENT_SECONDS = 5.0
"""After so long a function that is being replaced, or is not there, is asked for again."""


def delay(error: NotConnected, failures: int, dice: float) -> float:
    """Seconds until what failed so often in a row is tried again: what was asked for, but never at once, else a backoff with half its
    jitter. Pure."""
    if error.retry_after is not None:
        return max(error.retry_after, RETRY.initial)
    return (RETRY_SLOWLY if error.permanent else RETRY).delay(failures, 0.5 + dice / 2)


def lanes(deliveries: Iterable[Delivery]) -> list[list[Delivery]]:
    """By the lane they come from, each in its order, the lane of the first one first. Pure."""
    found: dict[tuple[str, str], list[Delivery]] = {}
    for each in deliveries:
        found.setdefault((each.entry.source, each.entry.lane), []).append(each)
    return list(found.values())


@dataclass(frozen=True, slots=True)
class Invoker:
    """Runs configured functions, for destinations that are functions. `functions` changes when they are replaced."""

    functions: Mapping[str, Function]
    clock: Callable[[], float]
    bits: Callable[[], int]

    async def __call__(self, name: str, payload: bytes) -> Response:
        """As any invocation, with a permit of its own. Busy where the function is not there (now)."""
        function = self.functions.get(name)
        if function is None:
            return Busy(ABSENT_SECONDS, "it is not running here")
        await function.permits.wait()
        try:
            timeout = function.settings.timeout
            call = Call(new_request_id(self.bits()), self.clock() + timeout, timeout)
            return await function.invoke(Payload(payload), call)
        except HandlerError as error:
            return Fault("init", "Handler.HandlerError", str(error))
        finally:
            function.permits.give()


@dataclass(frozen=True, slots=True)
class Opening:
    """What destinations are opened with."""

    registry: Registry
    base: Path
    state: Path
    clock: Callable[[], float]
    invoke: Callable[[str, bytes], Awaitable[Response]]

    def context(self, mapping: MappingConfig, spill: Spill | None = None) -> DestinationContext:
        # A replay may send what a mapping has left behind that is not configured any more.
        connector = self.registry.connector(mapping.type) if mapping.type else None
        return DestinationContext(
            mapping.settings,
            self.base,
            self.state,
            self.clock,
            self.invoke,
            connector.describe if isinstance(connector, Describing) else _nothing,
            exact=mapping.settings.aws_exact,
            spill=spill,
        )

    async def open(self, mapping: MappingConfig, destination: DestinationConfig) -> Opened:
        """Raises NotConnected; whatever else a kind raises is logged, and is NotConnected too."""
        others = [each for each in mapping.destinations if each.name != destination.name and each.traits.maximum_bytes is None]
        spill = Spill(self, mapping, others) if others else None
        kind = self.registry.destination(destination.kind)
        try:
            return Opened(await kind.open(destination.to, destination.options, self.context(mapping, spill)), destination, spill)
        except Exception as error:
            raise _understood(error, destination) from error


class Opened:
    """A destination that is open, with the place it spills into."""

    def __init__(self, destination: Destination, config: DestinationConfig, spill: Spill | None) -> None:
        self.destination, self.config = destination, config
        self._spill = spill

    def __repr__(self) -> str:
        return f"<Opened {self.destination!r}>"

    async def send(self, delivery: Delivery) -> None:
        """Raises NotConnected, also when it took too long."""
        limit = self.config.traits.seconds
        try:
            async with asyncio.timeout(limit):
                await self.destination.send(delivery)
        except TimeoutError as error:
            raise NotConnected(f"{self.config.shown}: no answer within {limit or 0:.0f} s") from error
        except Exception as error:
            raise _understood(error, self.config) from error

    async def send_all(
        self,
        deliveries: Sequence[Delivery],
        settle: Callable[[Delivery, NotConnected | None], Awaitable[None]],
        going: Callable[[], bool] = lambda: True,
        at_once: int = AT_ONCE,
    ) -> None:
        """Each in the order of its lane, while `going`, and until one cannot be sent now: then nothing more begins. `settle` hears of each
        that was tried."""
        gate, failed = asyncio.Semaphore(at_once), asyncio.Event()

        async def carry(lane: Sequence[Delivery]) -> None:
            for each in lane:
                error: NotConnected | None = None
                async with gate:
                    if failed.is_set() or not going():
                        return
                    try:
                        await self.send(each)
                    except NotConnected as caught:
                        error = caught
                        if not caught.permanent:
                            failed.set()
                await settle(each, error)

        async with asyncio.TaskGroup() as group:
            for lane in lanes(deliveries):
                group.create_task(carry(lane), name=f"deliveries to {self.config.shown}")

    async def aclose(self) -> None:
        """Tolerated twice. What goes wrong is logged: everything has been sent, or will be again."""
        try:
            await self.destination.aclose()
        except Exception:
            log.exception("%s cannot be closed in order", self.config.shown)
        if self._spill is not None:
            await self._spill.aclose()


class Spill:
    """What is too large for one destination goes to another of the mapping, which has a place for it (`Placing`); opened when needed."""

    def __init__(self, opening: Opening, mapping: MappingConfig, candidates: Sequence[DestinationConfig]) -> None:
        self._opening, self._mapping, self._candidates = opening, mapping, list(candidates)
        self._opened: Opened | None = None
        self._lock = asyncio.Lock()

    async def __call__(self, delivery: Delivery) -> str:
        """Its place there, once it is there; "" where no other destination has places. Raises NotConnected."""
        async with self._lock:
            while self._opened is None and self._candidates:
                config = self._candidates[0]
                kind = self._opening.registry.destination(config.kind)
                destination = await kind.open(config.to, config.options, self._opening.context(self._mapping))
                self._opened = Opened(destination, config, None)
                if not isinstance(destination, Placing):
                    self._candidates.pop(0)
                    await self.aclose()
        if self._opened is None or not isinstance(self._opened.destination, Placing):
            return ""
        await self._opened.send(delivery)
        return self._opened.destination.place(delivery)

    async def aclose(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()


@asynccontextmanager
async def opened(opening: Opening, mapping: MappingConfig, destination: DestinationConfig) -> AsyncIterator[Opened]:
    """For who sends deliveries of his own. Raises NotConnected."""
    whole = await opening.open(mapping, destination)
    try:
        yield whole
    finally:
        await whole.aclose()


def _understood(error: Exception, config: DestinationConfig) -> NotConnected:
    """What a kind may raise, and what it may not, as what the engine knows how to try again. No text shows an address that is a secret."""
    text = config.redacted(str(error))
    if isinstance(error, NotConnected):
        return NotConnected(text, retry_after=error.retry_after, permanent=error.permanent)
    if isinstance(error, PollerError):
        return NotConnected(text, permanent=not isinstance(error, StoreUnavailable))
    # What no contract allows: said out loud, and tried again like anything else.
    log.error("%s failed in a way that nobody foresaw", config.shown, exc_info=error)
    return NotConnected(f"{config.shown}: {type(error).__name__}")


def _nothing(entry: Entry) -> dict[str, Any]:  # noqa: ARG001
    return {}
