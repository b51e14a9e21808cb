"""The shards of a stream as the lanes of a mapping, shared with other workers by lease. A connector gives its `Shards` (shards.py).

Once a scan a worker looks at what all of them have, and does what sharing.py says:

                                                  .------------ crash: the lease runs out <-----------.
                                                  |  .--------- stop: saved, dropped <--------------. |
                                                  v  v                                              | |
listed --parents not ended--> waiting --ended--> free --claim--> begun (a lane, ordered.py) --------+-+
  |                                               ^               | |  ^                            |
  +--no parents, or gone and never begun----------+               | |  '--claimed by who asked--.   |
                                                                  | |                           |   |
                                                                  | +--asked for--> given up: nothing begins, what runs
                                                                  |                 ends, saved as closed, dropped --> kept
                                                                  +--at its end, all settled, saved--> ended, for good: children are free

Who has asked tries to claim each moment, so a lane changes hands within a fraction of a second after its last invocation; until it is given
up it is read on. For who asked, and is gone by then, it is kept until his word runs out.

Trust. A lease holds until `now + duration` by the clock of whoever wrote it, and is taken by whoever finds that time past by his own. So an
owner believes in a lease for nine tenths of it only (TRUST), from before he asked for it, by his own monotonic clock: where the clocks of
two hosts differ by less than the last tenth (a second of ten), at no time two workers believe in one lane. If they differ by more, both may
run invocations of it for that time; what the old owner saves is refused all the same. A store with a clock of its own knows no such
difference.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from random import Random

from poller.errors import LaneLost, NotConnected, StoreError, StoreUnavailable
from poller.lineage import Known
from poller.model import LaneKey, Lease
from poller.ordered import OrderedLane
from poller.protocols import Format, Lane, Policy
from poller.settings import Context
from poller.shards import Shards, ShardTree, beginning, forget
from poller.sharing import Shares, View, share
from poller.tumbling import open_lane

log = logging.getLogger("poller.ordered")

LEASE_SECONDS = 10.0
"""How long a lease holds without renewal: a crashed worker's shards are read again so much later, plus one scan."""

TRUST = 0.9
"""The share of a lease that its owner believes in; the rest is for clocks that differ."""

RENEWALS = 3
"""So many times a lease it is renewed; and while the store does not answer, tried every twentieth of it."""

SCAN_SECONDS = 0.75
"""How often shards that nobody here owns are looked at. With SECOND_LOOK_SECONDS below a second: so long after a lease has run out, its
lane is claimed."""

SECOND_LOOK_SECONDS = 0.2
"""After so long, what was free and beyond our share is looked at again."""

OPENED_AT_ONCE = 16
"""So many lanes are claimed and opened between two looks at what the others have."""

HANDOVER_SECONDS = 25.0
"""So long what runs may go on, on a lane that another worker has asked for. Then it is ended, and its attempt handed back."""

WORD_SECONDS = 3.0
"""So long our word holds that we want a lane; it is given anew each scan."""

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 3.0
"""A lane that was asked for is tried so often; after so long only once a scan: then a long invocation is waited for."""

DAMAGED_SECONDS = 5.0
"""After so long a shard whose progress cannot be read is tried again."""


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
        # A worker's own: they must not all want the same lane. Nothing secret hangs on it.
        self._random = Random(f"{context.owner} {identity}")
        self._rows: Sequence[str] = ()
        self._spare: tuple[str, ...] = ()
        self._asked: dict[str, float] = {}
        # lane -> loop time when it was first asked for
        self._wake = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def shards(self) -> Shards:
        """For who sets lanes back (poller/admin/lanes.py)."""
        return self._shards

    async def lanes(self) -> AsyncIterator[Lane]:
        loop = asyncio.get_running_loop()
        self._keeper = self._keeper or loop.create_task(self._keep(), name=f"leases of {self.identity}")
        while True:
            self._wake.clear()
            problems: list[Exception] = []
            if self._begins is None:
                self._begins = await beginning(self._context, self.identity, self._origin, self._duration)
            if self._begins is not None:
                try:
                    self._tree.listed(await self._shards.shards())
                except NotConnected as error:
                    problems.append(error)  # what is known is read on: leases of a worker that has crashed wait for no listing
                else:
                    await self._forget()
                # A few at a time: others start or stop in the same moment, and what was free may be theirs by now.
                tried, overdue = set[str](), self._spare
                while claim := [name for name in await self._look(overdue) if name not in tried][:OPENED_AT_ONCE]:
                    tried.update(claim)
                    for lane in await self._open(claim, problems):
                        yield lane
            if problems:
                raise problems[0]
            until = loop.time() + (SECOND_LOOK_SECONDS if self._spare else SCAN_SECONDS)
            while (rest := until - loop.time()) > 0 and not self._wake.is_set():
                for lane in await self._open(self._hasty(), problems, ask=True):
                    yield lane
                if problems:
                    raise problems[0]
                with suppress(TimeoutError):
                    async with asyncio.timeout(min(rest, POLL_SECONDS) if self._hasty() else rest):
                        await self._wake.wait()

    # --- sharing ----------------------------------------------------------------------------------------------------------------

    async def _look(self, overdue: Sequence[str]) -> Sequence[str]:
        """Look at what all workers have, give up what is asked of us, and say what is to be claimed. Raises StoreUnavailable."""
        context, loop = self._context, asyncio.get_running_loop()
        held = await context.store.leases.held(context.mapping.id, self.identity, context.clock())
        holdings = [holding for holding in held if holding.lane]  # the one without a name is the origin of all
        openable = await self._tree.openable([name for name, lane in self._lanes.items() if not lane.closed])
        ours = {name for name, lane in self._lanes.items() if not lane.closed and not lane.leaving.done()}
        leaving = {name for name, lane in self._lanes.items() if not lane.closed} - ours
        shares = self._share(View(context.owner, holdings, openable, ours, leaving, overdue))
        for name in shares.give:
            log.info("%s: another worker has less, and has asked for it: given up", name, extra={"lane": name})
            self._lanes[name].leaving.set_result(loop.time() + HANDOVER_SECONDS)
        self._rows = [holding.lane for holding in holdings]
        self._spare = shares.spare
        self._asked = {name: self._asked.get(name, loop.time()) for name in shares.ask}
        return shares.claim

    async def _forget(self) -> None:
        """Delete rows that are of no use any more; those that were there when we looked last."""
        for name in self._tree.outlived(self._rows, asyncio.get_running_loop().time()):
            try:
                if await forget(self._context, self.identity, name, self._duration):
                    log.info("%s: has ended, and is listed no more: its progress is deleted", name, extra={"lane": name})
            except (StoreError, LaneLost) as error:
                log.warning("%s: its progress is left: %s", name, error, extra={"lane": name})

    def _share(self, view: View) -> Shares:
        return share(view, self._random.random())

    def _hasty(self) -> Sequence[str]:
        """What we have asked for lately."""
        since = asyncio.get_running_loop().time() - PATIENCE_SECONDS
        return [name for name, at in self._asked.items() if at >= since]

    # --- opening ----------------------------------------------------------------------------------------------------------------

    async def _open(self, names: Sequence[str], problems: list[Exception], ask: bool = False) -> Sequence[OrderedLane]:
        """Those of these lanes that could be had, open; what went wrong with the others is added to `problems`."""
        found = await asyncio.gather(*(self._open_one(name, ask) for name in names), return_exceptions=True)
        for each in found:
            if isinstance(each, Exception):
                problems.append(each)
            elif isinstance(each, BaseException):
                raise each
        return [each for each in found if isinstance(each, OrderedLane)]

    async def _open_one(self, name: str, ask: bool) -> OrderedLane | None:
        before = self._lanes.get(name)
        if before is not None and not before.closed:
            return None
        context = self._context
        trusted_until = asyncio.get_running_loop().time() + self._duration * TRUST
        lease = await self._claim(LaneKey(context.mapping.id, self.identity, name), ask)
        if lease is None:
            return None
        self._asked.pop(name, None)
        assert self._begins is not None
        reader, start = self._shards.reader(name), self._tree.origin(name, self._begins)
        try:
            lane = await open_lane(self._lane, context, lease, reader, self.format, start, trusted_until)
        except StoreUnavailable:
            raise
        except StoreError as error:
            raise NotConnected(str(error), permanent=True, retry_after=DAMAGED_SECONDS) from error
        self._lanes[name] = lane
        lane.on_closed = lambda: self._on_closed(lane)
        if lane.over:
            await lane.aclose(broken=True)  # nothing is saved: what is there says all
            return None
        return lane

    async def _claim(self, key: LaneKey, ask: bool) -> Lease | None:
        leases, owner, clock = self._context.store.leases, self._context.owner, self._context.clock
        if not ask:
            return await leases.claim(key, owner, clock(), self._duration)
        # A word that we do not repeat is soon forgotten: nobody counts on our having the lane, and it is not kept for us in vain.
        lease = await leases.claim(key, owner, clock(), min(WORD_SECONDS, self._duration), ask=True)
        return lease if lease is not None and lease in await leases.renew([lease], clock(), self._duration) else None

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

    # --- keeping ----------------------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Renew what we own, all in one call; step down on doubt: when a lease may be taken for run out by another.

        An outage of the store that is over within (TRUST - 1 / RENEWALS) of a lease costs no lane, whenever it begins.
        """
        loop, calm, hurry = asyncio.get_running_loop(), self._duration / RENEWALS, self._duration / 20
        pause = calm
        while True:
            await asyncio.sleep(pause)
            pause = calm
            lanes = {lane.lease: lane for lane in self._lanes.values() if not lane.lost and not lane.closed}
            if not lanes:
                continue
            started = loop.time()
            try:
                # A store that does not answer is one that cannot be asked: nobody runs on in a lease that is over.
                async with asyncio.timeout_at(max(started + hurry, min(lane.trusted_until for lane in lanes.values()))):
                    kept = set(await self._context.store.leases.renew(list(lanes), self._context.clock(), self._duration))
            except (StoreUnavailable, TimeoutError) as error:
                log.warning("leases not renewed, trying again: %s", error or "no answer")
                pause = hurry
                for lane in lanes.values():
                    if loop.time() + pause > lane.trusted_until:
                        lane.lose("its lease could not be renewed in time")
                continue
            for lease, lane in lanes.items():
                if lease in kept:
                    lane.trusted_until = started + self._duration * TRUST
                else:
                    lane.lose("its lease ran out or was taken over")
