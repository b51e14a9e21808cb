"""What a worker knows of a stream's shards: what was listed, what has ended, and where those without progress begin. See lineage.py."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from poller.errors import StoreError, StoreUnavailable
from poller.lineage import Known, Shard, needed, origin, plan, remembered
from poller.model import LaneKey
from poller.progress import Progress
from poller.settings import Context

if TYPE_CHECKING:
    from poller.ordered import Reader

ASKED_AT_ONCE = 32
"""So many calls to the store at the same time."""

FORGOTTEN_AFTER = 3600.0
"""Seconds after which the progress of a shard that nobody lists or names is of no use. Every worker that knew the shard has looked at its
row by then, found that it had ended, and will not open it again; one that stood still for so long finds that its reader says so."""


class Shards(Protocol):
    """The shards of a stream."""

    async def shards(self) -> Sequence[Shard]:
        """All that the source lists now, closed ones too. Called once a second and whenever a shard has ended: it may answer from a cache.

        Never a part: a listing that cannot be read to its end is not given. Raises NotConnected (what is known already is read on), or
        SourceError.
        """

    def reader(self, name: str) -> Reader:
        """For a shard that was listed once, or has progress; it may be gone: then its reader raises LaneEnded."""

    async def aclose(self) -> None: ...


class ShardTree:
    """The shards of one stream, as one worker sees them."""

    def __init__(self, context: Context, identity: str) -> None:
        self._context = context
        self._identity = identity
        self._listing: Sequence[Shard] = ()
        self._shards: dict[str, Shard] = {}
        self._known: dict[str, Known | None] = {}
        self._settled: tuple[frozenset[str], Sequence[str]] | None = None
        # (what ran, what was openable) while nothing has changed, and no answer of the store is waited for
        self._named: set[str] | None = None
        self._unnamed: dict[str, float] = {}
        # shards that have a row, by when they were first found neither listed nor named as a parent; infinity: looked at

    def __repr__(self) -> str:
        return f"<ShardTree of {self._identity} [{len(self._shards)} shards]>"

    def listed(self, listing: Sequence[Shard]) -> None:
        """What the source says now."""
        if listing is not self._listing and listing != self._listing:
            self._listing = listing
            self._look()

    def learn(self, name: str, known: Known | None) -> None:
        """What is durable of a shard's progress."""
        self._known[name] = known
        self._settled = None

    def outlived(self, rows: Iterable[str], now: float) -> Sequence[str]:
        """Which of the shards that have a row nobody has listed, or named as a parent, for FORGOTTEN_AFTER; each is told once.

        `now` is loop time. To be asked only after a listing that was not refused.
        """
        if self._named is None:
            self._named = needed((*self._listing, *self._shards.values()))
        unnamed = {name for name in rows if name not in self._named}
        if not unnamed and not self._unnamed:
            return ()
        self._unnamed = {name: self._unnamed.get(name, now) for name in unnamed}
        due = [name for name, since in self._unnamed.items() if now - since >= FORGOTTEN_AFTER]
        self._unnamed.update(dict.fromkeys(due, float("inf")))
        return due

    def origin(self, name: str, otherwise: str) -> str:
        """Where it begins if it has no progress."""
        return origin(self._shards.get(name, Shard(name)), self._known, otherwise)

    async def openable(self, running: Collection[str]) -> Sequence[str]:
        """What may be opened now, by whoever gets the lease. Raises StoreUnavailable.

        Asks the store about parents that a shard waits for, and about no others; about one that has ended never again.
        """
        asked: set[str] = set()
        running = frozenset(running)
        if self._settled is not None and self._settled[0] == running:
            return self._settled[1]
        while True:
            now = plan(self._shards, self._known, running)
            wanted = [name for name in now.ask if name not in asked]
            if not wanted:
                self._settled = None if now.ask else (running, now.open)
                return now.open
            asked.update(wanted)
            for start in range(0, len(wanted), ASKED_AT_ONCE):
                await asyncio.gather(*map(self._ask, wanted[start : start + ASKED_AT_ONCE]))
            if any(name not in self._shards and self._known[name] is not None for name in wanted):
                self._look()  # it has begun, and is listed no more: what is left of it comes before its children

    async def _ask(self, name: str) -> None:
        try:
            progress = await self._context.store.checkpoints.load(LaneKey(self._context.mapping.id, self._identity, name))
        except StoreUnavailable:
            raise
        except StoreError:
            self._known[name] = Known("")  # damaged: its children wait; who opens it will say so
        else:
            self._known[name] = None if progress is None else Known(progress.origin, progress.ended)

    def _look(self) -> None:
        self._shards = remembered(self._shards, self._listing, self._known)
        names = needed(self._shards.values())
        self._known = {name: known for name, known in self._known.items() if name in names}
        self._settled = self._named = None


async def beginning(context: Context, identity: str, origin: str, lease_seconds: float) -> str | None:
    """Where shards without progress and without known parents begin: `origin`, or for "LATEST <moment>" the time when this mapping first
    began to read this stream. None: another worker is writing that down now; ask again.

    The moment is kept once a stream, as the origin of a lane without a name, and durable before the first shard is opened: what comes
    after it is read, however long the first read takes, and whoever does it. Shards that are made later are read from their beginning.
    A rewind of all lanes changes it to where they were rewound to. Raises StoreUnavailable, LaneLost.
    """
    if not origin.startswith("LATEST "):
        return origin
    store, key = context.store, LaneKey(context.mapping.id, identity, "")
    kept = await store.checkpoints.load(key)
    if kept is None:
        lease = await store.leases.claim(key, context.owner, context.clock(), lease_seconds)
        if lease is None:
            return None
        kept = await store.checkpoints.load(key)  # the owner before us may have come so far
        if kept is None:
            kept = Progress(origin, closed=True)
            await store.checkpoints.save(lease, kept)
        await store.leases.drop(lease)
    return kept.origin.replace("LATEST ", "AT_TIMESTAMP ", 1)


async def forget(context: Context, identity: str, name: str, lease_seconds: float) -> bool:
    """Delete the progress of a shard that has ended, if nobody else is at it: whether that was done. Raises StoreUnavailable, LaneLost."""
    store, key = context.store, LaneKey(context.mapping.id, identity, name)
    kept = await store.checkpoints.load(key)
    if kept is None or not kept.ended:
        return False
    lease = await store.leases.claim(key, context.owner, context.clock(), lease_seconds)
    if lease is None:
        return False
    kept = await store.checkpoints.load(key)  # the owner before us may have been at it
    ended = kept is not None and kept.ended
    if ended:
        await store.states.prune(lease, ())
        await store.checkpoints.forget(lease)
    await store.leases.drop(lease)
    return ended
