"""A store behind a bad line: one life's view of the `Store` that all lives share.

Every call may be refused, done and its answer lost, done twice, or answered late; a *partition* refuses everything for a while. What a
life asks after its crash is refused before it has any effect; but a save that is long on its way arrives even if its sender has crashed.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

from poller.errors import NotConnected, StoreUnavailable
from poller.failures.journal import Damaged, Delivery, Entry, Row, RowState, Selection, Waiting
from poller.failures.runs import Finished, Run, Step
from poller.model import Fault, Holding, LaneKey, Lease
from poller.progress import Progress
from poller.protocols import Store
from poller.testing.fakes import Gate

T = TypeVar("T")


@dataclass(slots=True)
class Line:
    """The line between one life and the world. `rate`: how many calls in one meet a fault; `late`: how many saves in one are long on
    their way; 0 once the world has calmed down."""

    gate: Gate
    random: Random
    counts: Counter[str]
    rate: float = 0.0
    late: float = 0.0
    cut_until: float = 0.0
    watch: Callable[[str, Any], None] = field(default=lambda _what, _about: None)

    async def call(self, what: str, operation: Callable[[], Awaitable[T]]) -> T:
        """`operation`, with a fate drawn for it."""
        self.gate.check()
        if what == "save" and self.late and self.random.random() < self.late:
            return await self._late(operation)
        fate = self._fate()
        self.counts[f"{what} {fate}"] += 1
        await asyncio.sleep(self.random.expovariate(200.0))
        self.gate.check()
        if fate == "refused":
            raise StoreUnavailable(f"{what} refused")
        result = await operation()
        if fate == "done twice":
            result = await operation()
        if fate == "answered late":
            await asyncio.sleep(self.random.uniform(0.5, 8.0))
        self.gate.check()
        if fate == "answer lost":
            raise StoreUnavailable(f"the answer to {what} was lost")
        return result

    async def _late(self, operation: Callable[[], Awaitable[T]]) -> T:
        self.counts["save arrived late"] += 1
        arriving = asyncio.ensure_future(self._arrive(operation))
        arriving.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be there to hear of it
        result = await asyncio.shield(arriving)
        self.gate.check()
        return result

    async def _arrive(self, operation: Callable[[], Awaitable[T]]) -> T:
        await asyncio.sleep(self.random.uniform(0.5, 20.0))
        return await operation()

    def calm(self) -> None:
        """No faults from now on."""
        self.rate = self.late = self.cut_until = 0.0

    async def fault(self, what: str) -> None:
        """The same for a source: raise NotConnected, or wait, before it answers."""
        self.gate.check()
        if asyncio.get_running_loop().time() < self.cut_until or self.random.random() < self.rate / 2:
            self.counts[f"{what} not connected"] += 1
            raise NotConnected(f"{what}: no connection")
        if self.random.random() < self.rate:
            self.counts[f"{what} late"] += 1
            await asyncio.sleep(self.random.uniform(0.1, 3.0))
        self.gate.check()

    def _fate(self) -> str:
        if asyncio.get_running_loop().time() < self.cut_until:
            return "refused"
        if self.random.random() >= self.rate:
            return "done"
        return self.random.choice(("refused", "answer lost", "done twice", "answered late"))


class LineStore:
    """`Store` over a `Line`: checkpoints, states, leases and journal in one, each call by its own fate."""

    def __init__(self, store: Store, line: Line) -> None:
        self._store, self._line = store, line
        self.checkpoints = self.states = self.leases = self.journal = self
        self.runs = LineRuns(store, line)
        self.outbox = LineOutbox(store, line)
        self.parking = LineParking(store, line)
        self.upkeep = store.upkeep  # no lane waits for it
        self.acknowledged = LineAcknowledged(store, line)

    async def load(self, key: LaneKey) -> Progress | None:
        self._line.watch("loading", key)
        return await self._line.call("load", lambda: self._store.checkpoints.load(key))

    async def save(self, lease: Lease, progress: Progress) -> None:
        self._line.watch("saving", (lease, progress))

        async def operation() -> None:
            await self._store.checkpoints.save(lease, progress)
            self._line.watch("saved", (lease, progress))

        await self._line.call("save", operation)

    async def forget(self, lease: Lease) -> None:
        await self._line.call("forget", lambda: self._store.checkpoints.forget(lease))

    async def put(self, lease: Lease, number: int, value: bytes) -> None:
        self._line.watch("putting", lease)
        await self._line.call("put", lambda: self._store.states.put(lease, number, value))

    async def get(self, key: LaneKey, number: int) -> bytes | None:
        return await self._line.call("get", lambda: self._store.states.get(key, number))

    async def prune(self, lease: Lease, keep: Collection[int]) -> None:
        await self._line.call("prune", lambda: self._store.states.prune(lease, keep))

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        return await self._line.call("claim", lambda: self._store.leases.claim(key, owner, now, duration, ask))

    async def renew(self, leases: Sequence[Lease], now: float, duration: float) -> Sequence[Lease]:
        return await self._line.call("renew", lambda: self._store.leases.renew(leases, now, duration))

    async def drop(self, lease: Lease) -> None:
        await self._line.call("drop", lambda: self._store.leases.drop(lease))

    async def held(self, mapping: str, source: str, now: float) -> Sequence[Holding]:
        return await self._line.call("held", lambda: self._store.leases.held(mapping, source, now))

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        async def operation() -> Sequence[str]:
            ids = await self._store.journal.append(entries)
            self._line.watch("kept", entries)
            return ids

        return await self._line.call("append", operation)

    async def select(self, selection: Selection) -> Sequence[Row]:
        return await self._line.call("select", lambda: self._store.journal.select(selection))

    async def count(self, selection: Selection) -> int:
        return await self._line.call("count", lambda: self._store.journal.count(selection))

    async def mark(
        self, ids: Sequence[str], state: RowState, now: float, owner: str = "", until: float = 0.0, fault: Fault | None = None
    ) -> Sequence[str]:
        return await self._line.call("mark", lambda: self._store.journal.mark(ids, state, now, owner, until, fault))

    async def aclose(self) -> None:
        return None


class LineRuns:
    """`Runs` over a `Line`."""

    def __init__(self, store: Store, line: Line) -> None:
        self._store, self._line = store, line

    async def put(self, run: Run) -> bool:
        return await self._line.call("put run", lambda: self._store.runs.put(run))

    async def select(self, names: Sequence[str] = (), limit: int | None = None) -> Sequence[Run]:
        return await self._line.call("select runs", lambda: self._store.runs.select(names, limit))

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[Step]:
        return await self._line.call("finish", lambda: self._store.runs.finish(run, done, now, owner, who))

    async def forget(self, before: float, limit: int) -> int:
        return await self._line.call("forget runs", lambda: self._store.runs.forget(before, limit))

    async def trail(self, run: str, rows: Sequence[str] = (), after: int = 0, limit: int | None = None) -> Sequence[Step]:
        return await self._line.call("trail", lambda: self._store.runs.trail(run, rows, after, limit))


class LineParking:
    """`Parking` over a `Line`."""

    def __init__(self, store: Store, line: Line) -> None:
        self._store, self._line = store, line

    async def held(self, mapping: str, source: str, keys: Collection[str] | None = None) -> set[str]:
        return await self._line.call("held keys", lambda: self._store.parking.held(mapping, source, keys))

    async def park(self, entries: Sequence[Entry]) -> Sequence[str]:
        async def operation() -> Sequence[str]:
            ids = await self._store.parking.park(entries)
            self._line.watch("parked", (entries, ids))
            return ids

        return await self._line.call("park", operation)


class LineOutbox:
    """`Outbox` over a `Line`."""

    def __init__(self, store: Store, line: Line) -> None:
        self._store, self._line = store, line

    async def put(self, deliveries: Sequence[Delivery]) -> None:
        await self._line.call("post", lambda: self._store.outbox.put(deliveries))

    async def due(self, mapping: str, destination: str, now: float, limit: int) -> Sequence[Delivery | Damaged]:
        return await self._line.call("due", lambda: self._store.outbox.due(mapping, destination, now, limit))

    async def settle(self, number: int, due: float | None, error: str = "", damaged: bool = False) -> None:
        await self._line.call("settle", lambda: self._store.outbox.settle(number, due, error, damaged))

    async def waiting(self) -> Sequence[Waiting]:
        return await self._line.call("waiting", self._store.outbox.waiting)

    async def drop(self, line: Waiting, limit: int, damaged: bool = False) -> int:
        return await self._line.call("drop", lambda: self._store.outbox.drop(line, limit, damaged))


class LineAcknowledged:
    """`Acknowledged` over a `Line`."""

    def __init__(self, store: Store, line: Line) -> None:
        self._store, self._line = store, line

    async def put(self, mapping: str, names: Sequence[bytes], now: float, until: float) -> None:
        async def operation() -> None:
            await self._store.acknowledged.put(mapping, names, now, until)
            self._line.watch("acknowledged", (names, until))

        await self._line.call("put names", operation)

    async def known(self, mapping: str, names: Sequence[bytes], now: float) -> Collection[bytes]:
        async def operation() -> Collection[bytes]:
            self._line.watch("looking", (self._line.gate.life, names, now))
            return await self._store.acknowledged.known(mapping, names, now)

        return await self._line.call("known names", operation)

    async def forget(self, mapping: str, now: float) -> None:
        await self._line.call("forget names", lambda: self._store.acknowledged.forget(mapping, now))

    async def trim(self, now: float, most: Mapping[str, int]) -> int:
        return await self._store.acknowledged.trim(now, most)
