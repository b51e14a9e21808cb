"""Keeps the journal from growing for ever: removes what is over its age or size. One worker of all that share the store does it.

    kept --over journal_retention--> given up: counted, and logged
    replayed, dropped --over journal_retention, or the oldest while the journal is over journal_maximum_size--> removed, silently
    claimed --never

This is the only way that a failure which was not handled is given up without a person. It happens off the hot path, a few rows in a
transaction, so that appends wait for milliseconds; whatever is cut short goes on at the next look.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from poller import units
from poller.config import Config
from poller.errors import LaneLost, StoreError
from poller.failures.journal import Removed, RowState
from poller.metrics import MappingCounters
from poller.model import LaneKey
from poller.protocols import Store

log = logging.getLogger("poller.upkeep")

LOOK_SECONDS = 60.0
LEASE_SECONDS = 30.0
ROWS = 20
"""At most so many rows are removed in a transaction; fewer where they are large."""
COMPACTED = 1024 * 1024
"""Bytes that are given back to the file system in a transaction."""

DONE: tuple[RowState, ...] = ("replayed", "dropped")


@dataclass(slots=True)
class Upkeep:
    """`config` is asked at every look, for a reload may change it; `counters` are of a mapping that runs, by its name."""

    store: Store
    owner: str
    clock: Callable[[], float]
    config: Callable[[], Config]
    counters: Callable[[str], MappingCounters]
    _warned: bool = field(init=False, default=False)

    def start(self, worker: int = 0) -> asyncio.Task[None]:
        """Runs until it is cancelled. Of several workers of a daemon the first one does it."""
        return asyncio.get_running_loop().create_task(self._run() if worker <= 1 else asyncio.sleep(0), name="upkeep of the journal")

    async def _run(self) -> None:
        while True:
            try:
                await self.look()
            except (StoreError, LaneLost) as error:
                log.warning("the journal's upkeep has to wait: %s", error)
            except Exception:  # a bug: it must show, and the mappings must not end for it
                log.exception("the journal's upkeep failed")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Remove all that is over, if nobody else is doing so. Rows of an older version get their fingerprints first.

        Raises StoreError; what was removed until then is gone."""
        config = self.config()
        if not await self._ours():
            return
        size = before = await self.store.upkeep.size()
        if config.journal_retention is not None:
            size -= await self._over_age(config.journal_retention)
        if config.journal_maximum_size is not None and size > config.journal_maximum_size:
            size -= await self._remove(DONE, inf, size - config.journal_maximum_size)
        if size < before:
            await self._compact()
        self._judge(size, config.journal_maximum_size)

    async def _over_age(self, retention: float) -> int:
        """How many bytes are gone."""
        before, failures, records = self.clock() - retention, Counter[str](), Counter[str]()

        def heard(removed: Sequence[Removed]) -> None:
            for row in removed:
                failures[row.mapping] += 1
                records[row.mapping] += row.records

        done = await self._remove(DONE, before)
        try:
            return done + await self._remove(("kept",), before, heard=heard)
        finally:
            # Also when the store went away in between: these are gone.
            names = {each.settings.id: name for name, each in self.config().mappings.items()}
            for mapping, count in failures.items():
                self.counters(names.get(mapping, "")).given_up += records[mapping]
                what = "journal_retention: %d failures with %d records are given up and removed: nothing was done about them for %s"
                log.warning(what, count, records[mapping], units.show_duration(retention), extra={"mapping": mapping})

    def _judge(self, size: int, maximum: int | None) -> None:
        over = maximum is not None and size > maximum
        if over and not self._warned:
            what = "journal_maximum_size: the journal has about %d bytes of failures that are still to be replayed, and keeps them: %s"
            log.warning(what, size, "replay or drop them, or set a journal_retention")
        self._warned = over

    async def _remove(
        self,
        states: Sequence[RowState],
        before: float,
        enough: float = inf,
        heard: Callable[[Sequence[Removed]], None] = lambda _: None,
    ) -> int:
        """A few rows at a time, until none are left, so many bytes are gone, or another worker does it. How many bytes are gone."""
        gone = 0
        while gone < enough and (removed := await self.store.upkeep.remove(states, before, ROWS)):
            gone += sum(row.bytes for row in removed)
            heard(removed)
            if not await self._ours():
                break
        return gone

    async def _compact(self) -> None:
        while await self.store.upkeep.compact(COMPACTED) and await self._ours():
            pass

    async def _ours(self) -> bool:
        """Only to spare the store: what two remove at once is removed once."""
        # Some ledgers have a table for each mapping: the lease is one of the first mapping's.
        first = min(each.settings.id for each in self.config().mappings.values())
        key = LaneKey(first, "", "upkeep")
        return await self.store.leases.claim(key, self.owner, self.clock(), LEASE_SECONDS) is not None
