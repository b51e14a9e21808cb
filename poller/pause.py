"""Pauses: a mapping that nobody reads for the time being, by a person's decision, or while its lanes are rewound.

    (none) --put--> kept --end, or `until` is past--> (none)

A pause is kept in the ledger, beside the mapping's lanes: it outlives every daemon, and all workers of the mapping obey it, each as soon as
it looks again (`LOOK_SECONDS`), and before it opens the source. So a pause that was asked for once is not lifted by a restart.

It is the progress of the lane "paused" of the source "", so that it needs no protocol of its own. A store that is away changes nothing. A
pause leaves the lanes as a stop does, closes the source, and keeps the identity. A paused mapping is ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec

from poller.errors import LaneLost, PollerError, StoreError, StoreUnavailable
from poller.model import LaneKey, Lease
from poller.progress import Progress
from poller.protocols import Ledger

if TYPE_CHECKING:
    from poller.mapping import MappingRunner

log = logging.getLogger("poller.pause")

LOOK_SECONDS = 2.0
"""How often a worker looks whether its mapping is to be paused, or may go on."""

KEPT_SECONDS = 10.0
"""How long a pause that somebody keeps outlives him who died."""

_LANE = "paused"
_LEASE_SECONDS = 5.0
_AGAIN_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Pause:
    """`since` in epoch seconds; `by`: who or what, for a person. `until` 0: until it is ended; else it ends by itself then."""

    since: float
    by: str
    until: float = 0.0

    def holds(self, now: float) -> bool:
        return not self.until or now < self.until

    def yields_to(self, other: Pause) -> bool:
        """Whether `other` takes its place while it holds: one without an end takes that of one with an end, and who keeps one, his own."""
        return bool(self.until) and (not other.until or other.by == self.by)


class Pauses:
    """The pauses of a ledger, by mapping id. `owner` names who writes; `clock` is epoch seconds. All raise StoreUnavailable, StoreError."""

    def __init__(self, ledger: Ledger, owner: str, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._owner = f"pause-{owner}"
        self._clock = clock

    async def load(self, mapping: str) -> Pause | None:
        """The pause that holds now."""
        pause = await self._load(mapping)
        return pause if pause is not None and pause.holds(self._clock()) else None

    async def put(self, mapping: str, pause: Pause) -> Pause:
        """The pause that holds from now on: this one, or another that held before; one without an end takes the place of one that has.

        Durable when it returns.
        """
        async with self._writing(mapping) as lease:
            before = await self._load(mapping)
            if before is not None and before.holds(self._clock()) and not before.yields_to(pause):
                return before
            # A progress is what a ledger keeps of a name; nothing reads lanes of the source "".
            await self._ledger.checkpoints.save(lease, Progress(msgspec.json.encode(pause).decode(), closed=True))
            return pause

    @asynccontextmanager
    async def kept(self, mapping: str, by: str) -> AsyncIterator[None]:
        """A pause while this is entered, which soon ends by itself if this process dies. One without an end is there before and after.

        Raises PollerError if somebody else keeps one.
        """
        since = self._clock()

        async def put() -> Pause:
            return await self.put(mapping, Pause(since, by, self._clock() + KEPT_SECONDS))

        async def keep() -> None:
            while True:
                await asyncio.sleep(KEPT_SECONDS / 3)
                try:
                    await put()
                except StoreError as error:  # it is tried again before it ends, as often as may be
                    log.warning("cannot keep the mapping paused: %s", error, extra={"mapping": mapping})

        found = await put()
        if found.until and found.by != by:
            began = datetime.fromtimestamp(found.since, UTC).isoformat(timespec="seconds")
            raise PollerError(f"mapping {mapping}: {found.by} is under way since {began}; try again when it is over")
        keeper = asyncio.get_running_loop().create_task(keep(), name=f"pause of {mapping}")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            with suppress(StoreError):  # what was done meanwhile is done: the pause ends by itself
                await self.end(mapping, by)

    async def end(self, mapping: str, kept_by: str | None = None) -> Pause | None:
        """The pause that was there, and is no more; `kept_by`: only if it is one that he keeps."""
        async with self._writing(mapping) as lease:
            before = await self._load(mapping)
            if before is None or (kept_by is not None and not (before.until and before.by == kept_by)):
                return None
            await self._ledger.checkpoints.forget(lease)
            return before if before.holds(self._clock()) else None

    def putter(self, mapping: str, seen: Callable[[], None]) -> Callable[[str], Awaitable[None]]:
        """What pauses one mapping until it is resumed, given by whom; `seen` is called when the pause is there."""

        async def pause(by: str) -> None:
            await self.put(mapping, Pause(self._clock(), by))
            seen()

        return pause

    async def _load(self, mapping: str) -> Pause | None:
        kept = await self._ledger.checkpoints.load(_key(mapping))
        if kept is None:
            return None
        try:
            return msgspec.json.decode(kept.origin, type=Pause)
        except msgspec.DecodeError:
            return Pause(0.0, "a pause in the store that cannot be read")  # whoever resumes it has looked at it

    @asynccontextmanager
    async def _writing(self, mapping: str) -> AsyncIterator[Lease]:
        """The right to write; whoever has it is done at once."""
        lease = await self._claim(mapping)
        try:
            yield lease
        except LaneLost as error:  # the store has taken longer than the lease lasts
            raise _taken(mapping) from error
        finally:
            with suppress(StoreError):  # it runs out
                await self._ledger.leases.drop(lease)

    async def _claim(self, mapping: str) -> Lease:
        # Each writer for itself, those of one daemon too: who has a lease already would be given it again, and fence himself.
        owner = f"{self._owner}-{uuid4().hex[:6]}"
        for _ in range(round(2 * _LEASE_SECONDS / _AGAIN_SECONDS)):
            lease = await self._ledger.leases.claim(_key(mapping), owner, self._clock(), _LEASE_SECONDS)
            if lease is not None:
                return lease
            await asyncio.sleep(_AGAIN_SECONDS)
        raise _taken(mapping)


def _taken(mapping: str) -> StoreUnavailable:
    return StoreUnavailable(f"the pause of mapping {mapping} is being changed by someone else; try again")


def _key(mapping: str) -> LaneKey:
    return LaneKey(mapping, "", _LANE)


async def watch(runner: MappingRunner, pauses: Pauses, grace: Callable[[], float], look: asyncio.Event) -> None:
    """Pause and resume the mapping as the ledger says, until cancelled; at once when `look` is set. `grace`: seconds that what runs has."""
    loop, settings = asyncio.get_running_loop(), runner.work.settings
    while True:
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await look.wait()
        except TimeoutError:
            pass
        look.clear()
        try:
            pause = await pauses.load(settings.id)
        except StoreError as error:  # it goes on as it was: neither paused nor resumed by a store that is away
            log.warning("cannot see whether the mapping is paused: %s", error, extra={"mapping": settings.name})
            continue
        if pause is not None:
            runner.pause(pause, loop.time() + grace())
        else:
            runner.resume()
