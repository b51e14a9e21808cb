"""A rewind to TRIM_HORIZON that kills its process: `rewind_program.py CONFIG MAPPING COUNT`, before change COUNT (from 1) is written."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

from poller.admin.rewinding import Rewinding, Wish
from poller.config import load
from poller.daemon import open_configured_store
from poller.failures.protocols import Journal
from poller.model import LaneKey, Lease
from poller.progress import Progress
from poller.protocols import Checkpoints, Leases, States, Store
from poller.registry import Registry
from poller.settings import Context


class DoomedStore:
    """A `Store` whose lanes are changed so often, and then never again. Its checkpoints are this object itself."""

    def __init__(self, store: Store, left: int) -> None:
        self._store, self._left = store, left
        self.checkpoints: Checkpoints = self
        self.journal: Journal = store.journal
        self.leases: Leases = store.leases
        self.states: States = store.states
        self.runs, self.outbox, self.upkeep, self.acknowledged = store.runs, store.outbox, store.upkeep, store.acknowledged
        self.parking = store.parking

    async def load(self, key: LaneKey) -> Progress | None:
        return await self._store.checkpoints.load(key)

    async def save(self, lease: Lease, progress: Progress) -> None:
        if lease.key.source:  # a lane, not the pause
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)
        await self._store.checkpoints.save(lease, progress)

    async def forget(self, lease: Lease) -> None:
        await self._store.checkpoints.forget(lease)

    async def aclose(self) -> None:
        await self._store.aclose()


async def main(path: str, mapping: str, count: str) -> None:
    registry = Registry()
    config = load(Path(path), registry, os.environ)
    store = DoomedStore(await open_configured_store(config), int(count))
    context = Context(config.mappings[mapping].settings, store, "doomed", time.time, config.base, config.state)
    await Rewinding(config.mappings[mapping], registry, context, config.shutdown_grace).run(Wish(origin="TRIM_HORIZON"))
    await store.aclose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
