"""The shards of a stream as the lanes of a mapping, shared with other workers by lease. A connector gives its `Shards` (shards.py).

                                                +--------------------- crash: the lease runs out -------------+
                                                |  +------------------ left: saved, the lease is dropped ---+ |
                                                v  v                                                        | |
listed --parents not ended--> waiting --ended--> free --claim--> begun (a lane, ordered.py) ------------------+
  |                                              ^                |
  +--no parents, or gone and never begun---------+                +--at its end, all settled, saved--> ended, for good: children are free
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import suppress

from poller.errors import NotConnected, StoreError, StoreUnavailable
from poller.lineage import Known
from poller.model import LaneKey
from poller.ordered import OrderedLane
from poller.protocols import Format, Lane, Policy
from poller.settings import Context
from poller.shards import Shards, ShardTree, beginning

log = logging.getLogger("poller.ordered")

LEASE_SECONDS = 10.0
"""How long a lease holds without renewal: a crashed worker's shards are read again so much later, plus one scan."""

SCAN_SECONDS = 1.0
"""How often shards that nobody here owns are looked at."""

DAMAGED_SECONDS = 5.0
"""After so long a shard whose progress cannot be read is tried again, and the others are looked at."""


class OrderedSource:
    """A `Source` of shards shared by lease. `origin`: where shards without progress start, as `Progress.origin`, or "LATEST <moment>"."""

    def __init__(
        self,
        context: Context,
        *,
        identity: str,
        format: Format,
        policy: Policy,
        shards: Shards,
        origin: str,
        lease: float = LEASE_SECONDS,
        lane: type[OrderedLane] = OrderedLane,
    ) -> None:
        self.identity = identity
        self.format = format
        self.policy = policy
        self._context = context
        self._shards = shards
        self._origin = origin if origin != "LATEST" else f"LATEST {context.clock()!r}"
        self._duration = lease
        self._lane = lane
        self._lanes: dict[str, OrderedLane] = {}
        self._begins: str | None = None
        self._tree = ShardTree(context, identity)
        self._stumbled: set[str] = set()
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    async def lanes(self) -> AsyncIterator[Lane]:
        self._keeper = self._keeper or asyncio.get_running_loop().create_task(self._keep(), name=f"leases of {self.identity}")
        while True:
            self._wake.clear()
            away = None
            if self._begins is None:
                self._begins = await beginning(self._context, self.identity, self._origin, self._duration)
            if self._begins is not None:
                try:
                    self._tree.listed(await self._shards.shards())
                except NotConnected as error:
                    away = error  # what is known is read on: leases of a worker that has crashed wait for no listing
                running = {name for name, lane in self._lanes.items() if not lane.closed}
                # Those that failed come last, so that they keep no other from being opened.
                for name in sorted(await self._tree.openable(running), key=self._stumbled.__contains__):
                    lane = await self._open(name)
                    if lane is not None:
                        yield lane
            if away is not None:
                raise away
            with suppress(TimeoutError):
                async with asyncio.timeout(SCAN_SECONDS):
                    await self._wake.wait()

    async def _open(self, name: str) -> OrderedLane | None:
        before = self._lanes.get(name)
        if before is not None and not before.closed:
            return None
        context = self._context
        key = LaneKey(context.mapping.id, self.identity, name)
        trusted_until = asyncio.get_running_loop().time() + self._duration
        self._stumbled.add(name)
        lease = await context.store.leases.claim(key, context.owner, context.clock(), self._duration)
        if lease is not None:
            assert self._begins is not None
            reader, start = self._shards.reader(name), self._tree.origin(name, self._begins)
            try:
                lane = await self._lane.open(context, lease, reader, self.format, start, trusted_until)
            except StoreUnavailable:
                raise
            except StoreError as error:
                raise NotConnected(str(error), permanent=True, retry_after=DAMAGED_SECONDS) from error
        self._stumbled.discard(name)
        if lease is None:
            return None
        self._lanes[name] = lane
        lane.on_closed = lambda: self._on_closed(lane)
        if lane.over:
            await lane.aclose(broken=True)  # nothing is saved: what is there says all
            return None
        return lane

    def _on_closed(self, lane: OrderedLane) -> None:
        """If it has ended for good, forget it, and look at its children at once."""
        if lane.over and self._lanes.get(lane.name) is lane:
            del self._lanes[lane.name]
            self._tree.learn(lane.name, Known(lane.tracker.earlier.origin, ended=True))
            self._wake.set()

    async def aclose(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        for lane in list(self._lanes.values()):
            await lane.aclose()
        await self._shards.aclose()

    async def _keep(self) -> None:
        """Renew what we own, three times a lease; step down on doubt: when a lease may have run out by our own clock."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(self._duration / 3)
            lanes = {lane.lease: lane for lane in self._lanes.values() if not lane.lost and not lane.closed}
            started = loop.time()
            try:
                kept = await self._context.store.leases.renew(list(lanes), self._context.clock(), self._duration)
            except StoreUnavailable as error:
                log.warning("leases not renewed, trying again: %s", error)
                for lane in lanes.values():
                    if loop.time() + self._duration / 3 > lane.trusted_until:
                        lane.lose("its lease could not be renewed in time")
                continue
            for lease, lane in lanes.items():
                if lease in kept:
                    lane.trusted_until = started + self._duration
                else:
                    lane.lose("its lease ran out or was taken over")
