"""The daemon as a process of the tests: `daemon_program.py CONFIG OPTIONS`, where OPTIONS is `Options` as JSON.

Prints "ready ADDRESS" when it runs. It may kill itself (SIGKILL) at a named point of the store's work, or some seconds after it came to
run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random

import msgspec

from poller.admin.tasks import tasks
from poller.config import Config, load
from poller.daemon import Daemon, open_configured_store
from poller.errors import PollerError
from poller.failures.journal import Delivery, Entry, Row, RowState, Selection
from poller.failures.protocols import Journal, Outbox, Parking
from poller.logs import setup
from poller.model import Fault, LaneKey, Lease
from poller.progress import Progress
from poller.protocols import Acknowledged, Checkpoints, Leases, States, Store
from poller.registry import Registry


class Options(msgspec.Struct, forbid_unknown_fields=True):
    """`point` and `count`: die the count-th time that the store comes to this point. `after`: die so many seconds after coming to run.

    `owner`: the name that leases are held under; lives that share one need not wait for the lease of the one before. `seed`: of the dice.
    """

    point: str = ""
    count: int = 1
    after: float = 0.0
    owner: str = ""
    seed: int = 0


POINTS = ("opened", "beginning", "begun", "keeping", "kept", "settling", "settled")
"""What the points mean, each in the order of the daemon's work:
opened: the first save of a lane is durable;
beginning, begun: just before, and after, a save that counts an attempt to come is durable;
keeping, kept: just before, and after, the journal holds a failure;
settling, settled: just before, and after, the first save of progress behind that is durable."""

DELIVERING = ("posting", "delivering", "delivered")
"""With destinations: just before a success is in the outbox; just before, and after, it is durable that a delivery has arrived."""


REMEMBERING = ("acknowledging", "acknowledged")
"""With an idempotency window: just before, and after, it is durable that records were acknowledged; they are settled behind that."""


PARKING = ("parking", "parked")
"""With on_failure_order: just before, and after, records are parked; they are settled behind that."""


class Doom:
    """Kills this process when it comes to its point."""

    def __init__(self, options: Options) -> None:
        self._point, self._left = options.point, options.count
        assert not self._point or self._point in (*POINTS, *DELIVERING, *REMEMBERING, *PARKING)

    def at(self, point: str) -> None:
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class DoomedStore:
    """A `Store` whose every save and append passes the points. Checkpoints and journal are this object itself."""

    def __init__(self, store: Store, doom: Doom) -> None:
        self._store, self._doom = store, doom
        self.checkpoints: Checkpoints = self
        self.journal: Journal = self
        self.leases: Leases = store.leases
        self.states: States = store.states
        self.outbox: Outbox = DoomedOutbox(store.outbox, doom)
        self.runs, self.upkeep = store.runs, store.upkeep
        self.acknowledged: Acknowledged = DoomedAcknowledged(store.acknowledged, doom)
        self.parking: Parking = DoomedParking(store.parking, doom)
        self._opened: set[LaneKey] = set()
        self._counted: set[tuple[int, int, int, int]] = set()
        self._kept = False

    async def load(self, key: LaneKey) -> Progress | None:
        return await self._store.checkpoints.load(key)

    async def save(self, lease: Lease, progress: Progress) -> None:
        attempts = {(span.strand, span.first, span.last, span.attempts) for span in progress.spans if span.running}
        # What an earlier life left running is no attempt to come.
        fresh = bool(attempts - self._counted) and lease.key in self._opened
        settling, self._kept = self._kept, False
        self._pass("beginning", fresh)
        self._pass("settling", settling)
        await self._store.checkpoints.save(lease, progress)
        self._pass("opened", lease.key not in self._opened)
        self._pass("begun", fresh)
        self._pass("settled", settling)
        self._opened.add(lease.key)
        self._counted |= attempts

    async def forget(self, lease: Lease) -> None:
        await self._store.checkpoints.forget(lease)

    def _pass(self, point: str, there: bool) -> None:
        if there:
            self._doom.at(point)

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        self._doom.at("keeping")
        ids = await self._store.journal.append(entries)
        self._doom.at("kept")
        self._kept = True
        return ids

    async def select(self, selection: Selection) -> Sequence[Row]:
        return await self._store.journal.select(selection)

    async def count(self, selection: Selection) -> int:
        return await self._store.journal.count(selection)

    async def mark(
        self, ids: Sequence[str], state: RowState, now: float, owner: str = "", until: float = 0.0, fault: Fault | None = None
    ) -> Sequence[str]:
        return await self._store.journal.mark(ids, state, now, owner, until, fault)

    async def aclose(self) -> None:
        await self._store.aclose()


class DoomedOutbox:
    """An `Outbox` that passes the points of delivering."""

    def __init__(self, outbox: Outbox, doom: Doom) -> None:
        self._outbox, self._doom = outbox, doom
        self.due, self.waiting, self.drop = outbox.due, outbox.waiting, outbox.drop

    async def put(self, deliveries: Sequence[Delivery]) -> None:
        self._doom.at("posting")
        await self._outbox.put(deliveries)

    async def settle(self, number: int, due: float | None, error: str = "", damaged: bool = False) -> None:
        if due is None:
            self._doom.at("delivering")
        await self._outbox.settle(number, due, error, damaged)
        if due is None:
            self._doom.at("delivered")


class DoomedAcknowledged:
    """An `Acknowledged` that passes the points of remembering."""

    def __init__(self, acknowledged: Acknowledged, doom: Doom) -> None:
        self._acknowledged, self._doom = acknowledged, doom
        self.known, self.forget, self.trim = acknowledged.known, acknowledged.forget, acknowledged.trim

    async def put(self, mapping: str, names: Sequence[bytes], now: float, until: float) -> None:
        self._doom.at("acknowledging")
        await self._acknowledged.put(mapping, names, now, until)
        self._doom.at("acknowledged")


class DoomedParking:
    """A `Parking` that passes the points of parking."""

    def __init__(self, parking: Parking, doom: Doom) -> None:
        self._parking, self._doom = parking, doom
        self.held = parking.held

    async def park(self, entries: Sequence[Entry]) -> Sequence[str]:
        self._doom.at("parking")
        ids = await self._parking.park(entries)
        self._doom.at("parked")
        return ids


async def run(config: Config, registry: Registry, options: Options) -> None:
    """Until SIGTERM."""
    doom = Doom(options)

    async def open_store(config: Config) -> Store:
        return DoomedStore(await open_configured_store(config), doom)

    daemon = Daemon(config, registry, os.environ, random=Random(options.seed or None), open_store=open_store)
    daemon.commands |= tasks(daemon)
    if options.owner:
        daemon.owner = options.owner

    def started() -> None:
        if options.after:
            # From a thread: between any two instructions, not only where the loop turns.
            timer = threading.Timer(options.after, os.kill, (os.getpid(), signal.SIGKILL))
            timer.daemon = True
            timer.start()
        print(f"ready {daemon.address}", flush=True)

    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, daemon.stop)
    await daemon.run(started)


def main(path: str, options: str) -> int:
    setup("text")
    registry = Registry()
    try:
        config = load(Path(path), registry, os.environ)
        asyncio.run(run(config, registry, msgspec.json.decode(options, type=Options)))
    except PollerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
