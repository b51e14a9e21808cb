"""Parking in the simulator: a person who replays and drops what failed, and what must hold meanwhile (parking.py: laws 24 to 26).

The oracle keeps a plain record of what is in open rows, by what it sees kept, parked and closed; it asks nothing of the engine. Names of
records grow in the order in which they were put.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

from poller.failures.journal import Entry, Row, Selection
from poller.protocols import Store
from poller.testing.oracle import Broken

OPEN = Selection(states=("kept", "claimed", "parked"))


@dataclass(slots=True)
class ParkingOracle:
    """`keys` of every record by name; `order`: the mapping says on_failure_order = "park". `violated` raises; `clock`: epoch seconds."""

    random: Random
    order: bool
    keys: Mapping[str, bytes | None]
    store: Store
    clock: Callable[[], float]
    violated: Callable[[str], None]
    count: Callable[[str], None]
    held: dict[bytes, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Of each key the records that are in open rows which hold it."""
    closed: set[str] = field(default_factory=set)
    """Records of rows that were closed once: one that is read again after a crash has no place of its own in the order."""

    def hear(self, what: str, about: Any) -> None:
        """What the store did."""
        if what == "kept":
            for entry in about:
                if entry.kept == "failure" and (entry.reason == "ErrorParked" or (self.order and entry.reason != "ErrorDiscarded")):
                    self._hold(entry)
        elif what == "parked":
            for entry, row in zip(*about, strict=True):
                self.count("record parked" if row else "not held any more")
                if row:
                    self._park(entry)

    def _hold(self, entry: Entry) -> None:
        for record in entry.records:
            if (key := self.keys[record.id]) is not None:
                self.held[key].add(record.id)

    def _park(self, entry: Entry) -> None:
        keys = {self.keys[record.id] for record in entry.records}
        if len(keys) != 1 or None in keys:
            self.violated(f"a parked row has records of {len(keys)} keys")
        for key in keys:
            if key is not None and not self.held[key]:
                self.violated(f"law 26: {entry.first} of key {key!r} is parked, and nothing is before it")
        self._hold(entry)

    def begin(self, names: Sequence[str]) -> None:
        """Law 24, of the mapping's own invocations."""
        for name in names:
            key = self.keys[name]
            if key is not None and self.held.get(key):
                self.violated(f"law 24: {name} of key {key!r} begins, and {sorted(self.held[key])} of it are open")

    # --- a person -----------------------------------------------------------------------------------------------------------------

    async def attend(self) -> None:
        """Replays and drops rows, one at a time, until a law is broken: then whoever runs the world says so."""
        with suppress(Broken):
            while True:
                await asyncio.sleep(self.random.expovariate(0.5))
                rows = await self.store.journal.select(OPEN)
                self._look(rows)
                # Mostly what a replay would take; a parked row may be dropped, and no more.
                rows = [row for row in rows if row.state == "kept" or (row.state == "parked" and self.random.random() < 0.1)]
                if rows:
                    await self._close(self.random.choice(rows))

    async def _close(self, row: Row) -> None:
        journal, one = self.store.journal, row.entry.id
        if row.state == "parked" or self.random.random() < 0.3:
            if await journal.mark((one,), "dropped", self.clock()):
                self.count("row dropped")
                self._closed(row)
            return
        if not await journal.mark((one,), "claimed", self.clock(), "person", self.clock() + 3600):
            return
        self._replays(row)
        await asyncio.sleep(self.random.expovariate(0.5))
        if self.random.random() < 0.2:
            self.count("row failed again")
            await journal.mark((one,), "kept", self.clock(), "person")
            return
        # It may have got more records meanwhile.
        (row,) = await journal.select(Selection(ids=(one,), states=()))
        await journal.mark((one,), "replayed", self.clock(), "person")
        self.count("row replayed")
        self._closed(row)

    def _closed(self, row: Row) -> None:
        for record in row.entry.records:
            self.closed.add(record.id)
            if (key := self.keys[record.id]) is not None:
                self.held[key].discard(record.id)

    def _replays(self, row: Row) -> None:
        """Law 25, and law 24 of a replay: what it runs is the first that is open of its keys."""
        own = {record.id for record in row.entry.records}
        for name in own - self.closed:
            key = self.keys[name]
            earlier = {each for each in self.held[key] - own - self.closed if each < name} if key is not None else ()
            if earlier and row.entry.holds:
                self.violated(f"law 25: {name} of key {key!r} is replayed, and {sorted(earlier)} of it are open")

    def _look(self, rows: Sequence[Row]) -> None:
        """Law 26, of what the store has."""
        heads = {self.keys[record.id] for row in rows if row.state != "parked" and row.entry.holds for record in row.entry.records}
        for row in rows:
            keys = {self.keys[record.id] for record in row.entry.records}
            if row.state == "parked" and not keys <= heads:
                self.violated(f"law 26: {row.entry.first} is parked, and nothing of its key is open before it")
            unknown = [key for key in keys if key is not None and row.entry.holds and not self.held[key]]
            if unknown:
                self.violated(f"the row of {row.entry.first} holds {unknown}, and nothing was kept that does")
