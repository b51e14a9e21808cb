"""Keeps the journal from growing for ever: removes what is over its age or size. One worker of all that share the store does it.

    kept --over journal_retention--> given up: counted, and logged
    replayed, dropped --over journal_retention, or the oldest while the journal is over journal_maximum_size--> removed, silently
    claimed --never
    a replay that is done, or was aborted, with its trail --over journal_retention since then--> removed, silently
    parked --never, but released where the row before it is given up, and then kept

And what idempotency windows remember (idempotency.py) is trimmed.

This is the only way that a failure which was not handled is given up without a person. It happens off the hot path, a few rows in a
transaction, so that appends wait for milliseconds; whatever is cut short goes on at the next look.

Ages are told by the wall clock, which may leap: set wrong by a person, or right by a time server. What a leap makes old is removed once the
clock has stayed where it is for DOUBT_SECONDS of time that did pass: long enough for the leap to be undone, or to be seen.

Each minute the first worker that gets the lease looks. A transaction removes at most 20 rows, 500 records or 4 MiB, or 500 lines of a
trail, or 1,000 remembered names. Where others change rows at the same time it looks once more under their locks: a row that an append has
just found must not go. An age counts from the last thing that happened to a row (`changed`): an append that finds a record in an open row
counts as one. A replay goes with the last lines of its trail, in any order: who starts it again meanwhile leaves out what is there then,
and numbers only grow while one of its lines is left. Paused and interrupted ones never go, for a resume asks for what they did. Sizes are
what is kept (stores/kept.py), the same in every store, not the file's. SQLite files give room back (incremental vacuum) unless an older
version made them; PostgreSQL's room is its vacuum's matter.
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
LINES = 500
"""At most so many lines of a replay's trail are removed in a transaction."""
COMPACTED = 1024 * 1024
"""Bytes that are given back to the file system in a transaction."""

DOUBT_SECONDS = 3600.0
"""For so long nothing is removed for its age because the wall clock has leapt ahead."""
LEAP_SECONDS = 5.0
"""A wall clock that is further ahead, after a look, than what has passed since then, has leapt; less is a time server that sets it."""

DONE: tuple[RowState, ...] = ("replayed", "dropped")


@dataclass(frozen=True, slots=True)
class Reckoning:
    """What `time` it is (epoch seconds) at `steady`, a moment of a clock that never leaps. `since`: the wall clock has been ahead of it by
    `ahead` seconds since that moment, and perhaps by more since later; None: it is the wall clock's."""

    time: float
    steady: float
    since: float | None = None
    ahead: float = 0.0


def reckoned(last: Reckoning | None, wall: float, steady: float) -> Reckoning:
    """By the wall clock, or by what has passed since the last reckoning while the wall clock's leap ahead is in doubt. Pure.

    A clock that is set back is believed at once: then everything is younger, and nothing is removed for it."""
    if last is None:
        return Reckoning(wall, steady)
    time = last.time + (steady - last.steady)
    ahead = wall - time
    if ahead <= LEAP_SECONDS:
        return Reckoning(wall, steady)
    if last.since is None:
        return Reckoning(time, steady, steady, ahead)
    # What leaps further meanwhile is doubted for itself, afterwards: a host that is put to sleep each hour would be in doubt for ever.
    doubted = min(last.ahead, ahead)
    if steady - last.since < DOUBT_SECONDS:
        return Reckoning(time, steady, last.since, doubted)
    further = ahead - doubted
    return Reckoning(wall, steady) if further <= LEAP_SECONDS else Reckoning(time + doubted, steady, steady, further)


@dataclass(slots=True)
class Upkeep:
    """`config` is asked at every look, for a reload may change it; `counters` are of a mapping that runs, by its name."""

    store: Store
    owner: str
    clock: Callable[[], float]
    config: Callable[[], Config]
    counters: Callable[[str], MappingCounters]
    _warned: bool = field(init=False, default=False)
    _reckoning: Reckoning | None = field(init=False, default=None)

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
        now = self._now()
        if not await self._ours():
            return
        size = before = await self.store.upkeep.size()
        if config.journal_retention is not None:
            size -= await self._over_age(config.journal_retention, now)
            await self._forget(now - config.journal_retention)
        if config.journal_maximum_size is not None and size > config.journal_maximum_size:
            size -= await self._remove(DONE, inf, size - config.journal_maximum_size)
        if size < before:
            await self._compact()
        self._judge(size, config.journal_maximum_size)
        windows = [(each.settings.id, each.settings.idempotency) for each in config.mappings.values()]
        await self.store.acknowledged.trim(now, {mapping: window.maximum_records for mapping, window in windows if window})

    def _now(self) -> float:
        """Epoch seconds; asked at every look, whoever does the work."""
        last = self._reckoning
        self._reckoning = now = reckoned(last, self.clock(), asyncio.get_running_loop().time())
        if now.since is not None and (last is None or now.since != last.since):
            what = "the clock has leapt %s ahead: what that makes older than journal_retention is removed if it stays so for %s"
            log.warning(what, units.show_duration(round(now.ahead)), units.show_duration(DOUBT_SECONDS))
        return now.time

    async def _over_age(self, retention: float, now: float) -> int:
        """How many bytes are gone."""
        before, failures, records = now - retention, Counter[str](), Counter[str]()

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
                log.warning(what, count, records[mapping], units.show_duration(retention), extra={"mapping": names.get(mapping, mapping)})

    async def _forget(self, before: float) -> None:
        """Replays that ended, with their trails."""
        while await self.store.runs.forget(before, LINES) and await self._ours():
            pass

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
