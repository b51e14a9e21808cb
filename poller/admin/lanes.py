"""The lanes of a mapping in one hand: nobody reads them meanwhile, and what is written of each is written under its lease.

looked at --take: every lease, or none--> taken --write, one lane at a time--> dropped
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar

from poller.errors import LaneLost, StoreError, StoreUnavailable
from poller.lineage import Shard
from poller.model import Holding, LaneKey, Lease
from poller.ordered import Reader
from poller.ordered_source import LEASE_SECONDS, OrderedSource
from poller.progress import Progress
from poller.rewind import Change
from poller.settings import Context

A = TypeVar("A")
T = TypeVar("T")

ASKED_AT_ONCE = 32
"""So many calls to the ledger, or the source, at the same time."""

AGAIN_SECONDS = 0.2
"""How often leases that others hold are tried."""


@dataclass(slots=True)
class Lanes:
    """Lanes whose progress is in the ledger. `context.owner` must be nobody else's: whose leases these are is told by it."""

    context: Context
    source: OrderedSource
    leases: dict[str, Lease] = field(init=False, default_factory=dict)

    def reader(self, lane: str) -> Reader:
        """Whoever asks closes it. It is only asked about positions, and reads nothing."""
        return self.source.shards.reader(lane)

    async def look(self) -> tuple[Sequence[Shard], Mapping[str, Progress]]:
        """What is listed, and the progress of all that have some. Raises NotConnected, SourceError, StoreUnavailable, StoreError."""
        shards = await self.source.shards.shards()
        # "": where the mapping began; a ledger need not list it.
        names = list(dict.fromkeys(["", *(each.lane for each in await self._held()), *(shard.name for shard in shards)]))
        found = await asked_of(names, lambda name: self.context.store.checkpoints.load(self._key(name)))
        return shards, {name: progress for name, progress in zip(names, found, strict=True) if progress is not None}

    async def owners(self, lanes: Collection[str]) -> dict[str, str]:
        """Who else has which of them now."""
        holdings = await self._held()
        return {each.lane: each.owner for each in holdings if each.lane in lanes and each.owner not in ("", self.context.owner)}

    @asynccontextmanager
    async def take(self, lanes: Collection[str], seconds: float) -> AsyncIterator[None]:
        """Hold the leases of all of them. Raises StoreUnavailable, which names who holds one after so many seconds, and leaves all."""
        keeper = asyncio.get_running_loop().create_task(self._keep(), name="leases of a rewind")
        try:
            await self._claim(lanes, seconds)
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            with suppress(StoreError):  # what was done under them is done, and they run out
                await asked_of([*self.leases.values()], self.context.store.leases.drop)
            self.leases.clear()

    async def write(self, change: Change) -> None:
        """Durable, and whole, when it returns. Raises LaneLost, StoreUnavailable."""
        store, lease = self.context.store, self.leases[change.lane]
        if change.after is None:
            await store.checkpoints.forget(lease)
        else:
            await store.checkpoints.save(lease, change.after)
        await store.states.prune(lease, ())  # no progress refers to them any more

    async def _claim(self, lanes: Collection[str], seconds: float) -> None:
        loop = asyncio.get_running_loop()
        deadline, left = loop.time() + seconds, list(lanes)
        while left:
            await asked_of(left, self._claim_one)
            left = [name for name in left if name not in self.leases]
            if left and loop.time() > deadline:
                raise StoreUnavailable(_refusal(len(left), await self.owners(left)))
            if left:
                await asyncio.sleep(AGAIN_SECONDS)

    async def _claim_one(self, lane: str) -> None:
        context = self.context
        lease = await context.store.leases.claim(self._key(lane), context.owner, context.clock(), LEASE_SECONDS)
        if lease is not None:
            self.leases[lane] = lease

    async def _keep(self) -> None:
        """A save says whether its lease is still ours: a renewal that failed needs no other answer."""
        while True:
            await asyncio.sleep(LEASE_SECONDS / 3)
            try:
                await self.context.store.leases.renew(list(self.leases.values()), self.context.clock(), LEASE_SECONDS)
            except (StoreError, LaneLost):
                continue

    async def _held(self) -> Sequence[Holding]:
        return await self.context.store.leases.held(self.context.mapping.id, self.source.identity, self.context.clock())

    def _key(self, lane: str) -> LaneKey:
        return LaneKey(self.context.mapping.id, self.source.identity, lane)


async def asked_of(many: Sequence[A], ask: Callable[[A], Awaitable[T]]) -> list[T]:
    """What is found for each, in order, `ASKED_AT_ONCE` at a time. Raises what one of them does, when nothing is under way any more."""
    found = list[T]()
    for start in range(0, len(many), ASKED_AT_ONCE):
        for each in await asyncio.gather(*map(ask, many[start : start + ASKED_AT_ONCE]), return_exceptions=True):
            if isinstance(each, BaseException):
                raise each
            found.append(each)
    return found


def _refusal(count: int, owners: Mapping[str, str]) -> str:
    who = ", ".join(f"{owner} ({lane})" for lane, owner in sorted(owners.items())[:5]) or "somebody who is gone"
    text = f"nothing was changed: {count} lane{'' if count == 1 else 's'} could not be had, held by {who}"
    deaf = "a daemon of an older version, on another store, or whose clock is wrong"
    return f"{text}; stop who does not obey the pause ({deaf}), or wait, and try again"
