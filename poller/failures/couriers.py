"""All couriers of a worker: one a destination of each mapping. Nothing is asked of the store where no mapping has a destination.

They are woken by what this process puts into the outbox; for what others put there, one light query for all looks once a second.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from random import Random

from poller.config import MappingConfig
from poller.errors import LaneLost, StoreError
from poller.failures.courier import Courier, Office, Route
from poller.failures.delivery import Opening
from poller.metrics import MappingCounters
from poller.model import LaneKey, Lease
from poller.ordered_source import LEASE_SECONDS, RENEWALS, TRUST
from poller.protocols import Store

log = logging.getLogger("poller.couriers")

LOOK_SECONDS = 1.0

MENDING_SECONDS = 30.0
"""After so long a courier goes on that failed in a way nobody foresaw."""

LOOK_SHARE = 0.05
"""A look takes no more than this share of the time, however much waits."""


class Leaseholder:
    """`courier.Tenure` over a ledger's leases: all are renewed in one call. A lease is believed in for nine tenths of its time."""

    def __init__(self, store: Store, owner: str, clock: Callable[[], float]) -> None:
        self._leases, self._owner, self._clock = store.leases, owner, clock
        self._held: dict[LaneKey, tuple[Lease, float]] = {}

    async def claim(self, key: LaneKey) -> bool:
        asked = asyncio.get_running_loop().time()
        lease = await self._leases.claim(key, self._owner, self._clock(), LEASE_SECONDS)
        if lease is not None:
            self._held[key] = lease, asked + LEASE_SECONDS * TRUST
        return lease is not None

    def holds(self, key: LaneKey) -> bool:
        held = self._held.get(key)
        return held is not None and asyncio.get_running_loop().time() < held[1]

    async def drop(self, key: LaneKey) -> None:
        """It runs out by itself where the store does not answer."""
        held = self._held.pop(key, None)
        if held is not None:
            try:
                await self._leases.drop(held[0])
            except (StoreError, LaneLost) as error:
                log.warning("a lease is left to run out: %s", error)

    async def renew(self) -> None:
        """For ever."""
        loop, failed = asyncio.get_running_loop(), False
        while True:
            await asyncio.sleep(LEASE_SECONDS / (20 if failed else RENEWALS))
            held, asked = dict(self._held), loop.time()
            try:
                kept = await self._leases.renew([lease for lease, _ in held.values()], self._clock(), LEASE_SECONDS) if held else ()
                failed = False
            except StoreError:
                failed = True
                continue
            for lease in kept:
                # Claimed anew, or dropped, meanwhile: then this is not its lease any more.
                if self._held.get(lease.key, (None, 0.0))[0] == lease:
                    self._held[lease.key] = lease, asked + LEASE_SECONDS * TRUST
            for lease, _ in held.values():
                if lease not in kept and self._held.get(lease.key, (None, 0.0))[0] == lease:
                    del self._held[lease.key]


class Couriers:
    """Used from one event loop. `counters`: of a mapping, by name."""

    def __init__(
        self,
        store: Store,
        opening: Opening,
        owner: str,
        random: Random,
        counters: Callable[[str], MappingCounters],
        courier: Callable[[Route, Office], Courier] = Courier,
    ) -> None:
        self._courier = courier
        self._store = store
        self._tenure = Leaseholder(store, owner, opening.clock)
        self._office = Office(store.outbox, opening, self._tenure, random, counters)
        self._couriers: dict[LaneKey, tuple[Courier, asyncio.Task[None]]] = {}
        self._background: list[asyncio.Task[None]] = []
        self._closed = False

    def __repr__(self) -> str:
        return f"<Couriers [{len(self._couriers)} destinations]>"

    def posted(self, mapping: str) -> None:
        """Something has come into the outbox for the mapping of this id. Never blocks."""
        for key, (courier, _) in self._couriers.items():
            if key.mapping == mapping:
                courier.wake()

    async def adopt(self, mappings: Iterable[MappingConfig], grace: float) -> None:
        """Deliver for these mappings from now on, unless it is closed. Couriers whose mapping or destination is gone or has changed have
        `grace` seconds."""
        routes = {route.key: route for mapping in mappings for route in _routes(mapping)}
        gone = [key for key, (courier, _) in self._couriers.items() if routes.get(key) != courier.route]
        await self._end(gone, grace)
        if self._closed:
            return  # a stop that came meanwhile has seen the couriers that ran; none may begin behind its back
        loop = asyncio.get_running_loop()
        for key, route in routes.items():
            if key not in self._couriers:
                courier = self._courier(route, self._office)
                self._couriers[key] = courier, loop.create_task(self._run(courier), name=f"courier {key.mapping} {route.destination.shown}")
        if self._couriers and not self._background:
            self._background = [
                loop.create_task(self._look(), name="looks at the outbox"),
                loop.create_task(self._tenure.renew(), name="leases of couriers"),
            ]
        elif not self._couriers:
            await self._rest()

    async def aclose(self, grace: float = 0.0) -> None:
        """What is being sent has `grace` seconds; what waits stays in the outbox. Tolerated twice."""
        self._closed = True
        await self._end(list(self._couriers), grace)
        await self._rest()

    async def _run(self, courier: Courier) -> None:
        """What no contract allows is said out loud, and takes neither the others along nor what waits."""
        while not courier.stopped:
            try:
                await courier.run()
            except Exception:
                log.exception("%r failed; it goes on in %.0f s", courier, MENDING_SECONDS)
                await courier.pause(MENDING_SECONDS)

    async def _end(self, keys: Iterable[LaneKey], grace: float) -> None:
        ending = [self._couriers.pop(key) for key in keys]
        for courier, _ in ending:
            courier.stop()
        tasks = [task for _, task in ending]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _rest(self) -> None:
        tasks, self._background = self._background, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                for line in await self._store.outbox.waiting():
                    for key, (courier, _) in self._couriers.items():
                        if (key.mapping, courier.route.destination.name) == (line.mapping, line.destination):
                            courier.wake()
            except StoreError as error:
                log.debug("the outbox cannot be looked at: %s", error)
            await asyncio.sleep(max(LOOK_SECONDS, (loop.time() - began) / LOOK_SHARE))


def _routes(mapping: MappingConfig) -> list[Route]:
    return [Route(mapping, destination) for destination in mapping.destinations]
