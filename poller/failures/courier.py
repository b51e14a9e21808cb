"""Delivers what waits in the outbox for one destination of a mapping, for as long as it holds the lease of it.

    idle --woken--> claims --had--> opens --> a page that is due --> sends --> settles --+
      ^               |               |            ^  | nothing is due                   |
      |               '--another's    '--failed----+--'---- pause, doubling to 5 min <---+ failed
      '------------ closes, drops <-- nothing for LINGER_SECONDS <---------'

At least once: a delivery is settled after it has arrived, so what a crash left in between is sent again, by whoever holds the lease then.
While a destination fails, its oldest delivery alone is tried; memory holds a page, however much waits.

It reads a page of eight, sends a few lanes at once, each in its order. What a destination refuses for good (`permanent`) waits for itself,
from 30 s to 15 min, and what has failed five times otherwise twice as long as the pause: then others are tried before it, so that one that
a receiver cannot take holds up nothing. What cannot be read (`Damaged`: a torn row, or one that a later version put down) comes from
`Outbox.due` beside the others, is set aside for an hour, and is counted apart (`Waiting.damaged`). Nothing more begins once a courier is
stopped or its lease has run out, whatever its page still holds. A new delivery is due by any clock (`due` 0): hosts' clocks differ, and
may be set back. Couriers stop last, after the lanes, so what a stop gives up may still leave; sends end within the shutdown grace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol, TypeVar

from poller.config import DestinationConfig, MappingConfig
from poller.errors import NotConnected, StoreError
from poller.failures.delivery import AT_ONCE, Opened, Opening, delay
from poller.failures.journal import Damaged, Delivery
from poller.failures.protocols import Outbox
from poller.failures.redaction import redacted_delivery
from poller.metrics import MappingCounters
from poller.model import LaneKey
from poller.settings import Backoff

log = logging.getLogger("poller.courier")

T = TypeVar("T")

PAGE = 2 * AT_ONCE
"""Read at a time: each may have six megabytes."""

LINGER_SECONDS = 5.0
"""So long a destination stays open, and its lease held, after the last delivery."""

PATIENCE = 5
"""After so many attempts a delivery holds up no other."""

UNREADABLE_SECONDS = 3600.0
"""After so long it is looked whether a delivery that could not be read can be: a worker of a later version may have put it down."""

STORE_RETRY = Backoff(initial=0.2, maximum=5.0)


def key_of(mapping: str, destination: str) -> LaneKey:
    """The lane whose lease is the right to deliver. Its source is "": a ledger keeps it beside the lanes of the mapping's source."""
    return LaneKey(mapping, "", f"outbox {destination}")


class Tenure(Protocol):
    """The leases of a worker's couriers."""

    async def claim(self, key: LaneKey) -> bool:
        """Whether it is ours now; it is renewed until it is dropped. Raises StoreError."""

    def holds(self, key: LaneKey) -> bool:
        """Whether it is ours still, as far as can be known here and now."""

    async def drop(self, key: LaneKey) -> None:
        """Free it. Tolerated when it is not ours."""


@dataclass(frozen=True, slots=True)
class Route:
    """From where to where a courier delivers."""

    mapping: MappingConfig
    destination: DestinationConfig

    @property
    def key(self) -> LaneKey:
        return key_of(self.mapping.settings.id, self.destination.name)


@dataclass(frozen=True, slots=True)
class Office:
    """What the couriers of a worker share. `counters`: of a mapping, by name."""

    outbox: Outbox
    opening: Opening
    tenure: Tenure
    random: Random
    counters: Callable[[str], MappingCounters]


class Courier:
    """One destination of one mapping. `run` ends when it is stopped, and leaves nothing open."""

    def __init__(self, route: Route, office: Office) -> None:
        self.route = route
        self._office = office
        self._woken = asyncio.Event()
        self._stopping = asyncio.Event()
        self._opened: Opened | None = None
        self._failures = 0
        self._arrived = False
        self._error: NotConnected | None = None
        self._again = 0.0
        self._fields = {"mapping": route.mapping.settings.name, "destination": route.destination.shown}

    def __repr__(self) -> str:
        return f"<Courier {self.route.destination.shown} of {self.route.mapping.settings.name} [{self._failures} failures in a row]>"

    @property
    def stopped(self) -> bool:
        """Whether it was asked to."""
        return self._stopping.is_set()

    def wake(self) -> None:
        """Something waits. Never blocks."""
        self._woken.set()

    def stop(self) -> None:
        """Begin nothing more; what is being sent goes on."""
        self._stopping.set()
        self._woken.set()

    async def run(self) -> None:
        try:
            while not self._stopping.is_set():
                await self._woken.wait()
                self._woken.clear()
                try:
                    if await self._office.tenure.claim(self.route.key):
                        await self._deliver()
                except StoreError as error:
                    await self._store_away(error)
                finally:
                    await self._leave()
        finally:
            await self._leave()

    # --- what waits -------------------------------------------------------------------------------------------------------------

    async def _deliver(self) -> None:
        """All that is due, and what becomes due while it lingers."""
        office, route = self._office, self.route
        mapping, name = route.mapping.settings.id, route.destination.name
        while self._going():
            page = await office.outbox.due(mapping, name, office.opening.clock(), 1 if self._failures else PAGE)
            if not page:
                if not await self._lingered():
                    return
                continue
            self._arrived, self._error = False, None
            if readable := await self._set_aside(page):
                await self._send(readable)
                await self._rest()

    async def _set_aside(self, page: Sequence[Delivery | Damaged]) -> list[Delivery]:
        """What can be read. The rest is kept, and holds up nothing."""
        for each in page:
            if isinstance(each, Damaged):
                log.error("a delivery is set aside, and the others go on: %s", each.error, extra=self._fields)
                await self._failed(each, UNREADABLE_SECONDS, each.error, damaged=True)
        return [each for each in page if isinstance(each, Delivery)]

    async def _send(self, page: Sequence[Delivery]) -> None:
        if self._opened is None:
            try:
                self._opened = await self._office.opening.open(self.route.mapping, self.route.destination)
            except NotConnected as error:
                await self._settle(page[0], error)
                return
        hidden = self.route.mapping.settings.redaction
        await self._opened.send_all([redacted_delivery(each, hidden) for each in page], self._settle, self._going)

    def _going(self) -> bool:
        """Whether anything may begin. A send may have hung past the lease: then another sends what comes after it."""
        return not self._stopping.is_set() and self._office.tenure.holds(self.route.key)

    async def _settle(self, delivery: Delivery, error: NotConnected | None) -> None:
        office = self._office
        if error is None:
            self._arrived = True
            office.counters(self.route.mapping.settings.name).delivered += len(delivery.entry.records)
            await self._insist(lambda: office.outbox.settle(delivery.number, None))
            return
        self._error = error if self._error is None or not error.permanent else self._error
        # All wait together, so that their order stays. But what is refused for good, or has failed often, waits for longer, and others are
        # tried before it: it alone may be what the destination cannot take.
        dice = office.random.random()
        if error.permanent:
            wait = delay(error, delivery.attempts + 1, dice)
        else:
            wait = pause = delay(error, self._failures + 1, dice)
            self._again = max(self._again, pause)
            if delivery.attempts >= PATIENCE:
                wait = 2 * max(pause, delay(error, delivery.attempts + 1, dice))
        await self._failed(delivery, wait, str(error))

    async def _failed(self, delivery: Delivery | Damaged, wait: float, error: str, damaged: bool = False) -> None:
        office = self._office
        office.counters(self.route.mapping.settings.name).delivery_failures += 1
        due = office.opening.clock() + wait
        await self._insist(lambda: office.outbox.settle(delivery.number, due, error, damaged))

    async def _rest(self) -> None:
        """After a page: go on at once, or pause while the destination fails."""
        error, again = self._error, self._again
        self._again = 0.0
        if error is None or (error.permanent and self._arrived):
            if self._failures and self._arrived:
                log.info("%s takes deliveries again", self.route.destination.shown, extra=self._fields)
            self._failures = 0 if self._arrived else self._failures
            return
        self._failures += 1
        if error.permanent:
            # Perhaps this one alone is refused: the next one is tried soon, unless that was so before.
            again = delay(NotConnected(""), self._failures, self._office.random.random())
        text = "%s does not take deliveries, trying again in %.1f s: %s"
        log.warning(text, self.route.destination.shown, again, error, extra=self._fields)
        await self._close()  # a connection that is broken stays so
        await self.pause(again)

    # --- waiting ----------------------------------------------------------------------------------------------------------------

    async def _lingered(self) -> bool:
        """Whether there may be more to do."""
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                await self._woken.wait()
        except TimeoutError:
            return False
        self._woken.clear()
        return True

    async def pause(self, seconds: float) -> None:
        """So long, unless it is stopped."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            pass

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> None:
        """Until the store answers: what has arrived is sent again if nobody settles it. Given up when stopped, or no longer ours."""
        tries = 0
        while True:
            try:
                await ask()
                return
            except StoreError as error:
                tries += 1
                if self._stopping.is_set() or not self._office.tenure.holds(self.route.key):
                    log.warning("a delivery is not settled, and may be sent again: %s", error, extra=self._fields)
                    return
                await self.pause(STORE_RETRY.delay(tries, 0.5 + self._office.random.random() / 2))

    async def _store_away(self, error: StoreError) -> None:
        log.warning("the outbox cannot be used: %s", error, extra=self._fields)
        await self.pause(STORE_RETRY.maximum)
        self._woken.set()

    async def _close(self) -> None:
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()

    async def _leave(self) -> None:
        """Closed first: who claims next may write to the same place."""
        await self._close()
        await self._office.tenure.drop(self.route.key)
