"""A simulated fleet: fifty workers share five hundred shards, on a virtual clock. `rally(seed)` plays one, or raises Broken.

Workers run the real engine (mapping, lanes, the ordered source) over one store in memory; the shards never end. What happens is drawn from
the seed: workers crash, stop, start, stand still (nothing of theirs runs, and the clock goes on), cannot reach the store for a while; the
store is out for all of them; their clocks differ. Then the world calms down, and after SETTLE_SECONDS nothing moves any more.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, ClassVar, cast

from poller.functions import Function
from poller.lineage import Shard
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.model import Call, Holding, LaneKey, Lease, Response, Returned
from poller.ordered import OrderedLane
from poller.ordered_source import OrderedSource
from poller.policy import Block
from poller.protocols import Event, Source
from poller.settings import Backoff, Batching, Context, FailureSettings, FunctionSettings, MappingSettings
from poller.stores.memory import MemoryLeases, MemoryStore
from poller.testing.clock import VirtualLoop
from poller.testing.fakes import FORMAT, FakeRecord, Gate
from poller.testing.faults import Line, LineStore
from poller.testing.fleet_oracle import SKEW, FleetOracle, Watched
from poller.testing.rows import InARow
from poller.testing.standstill import Standstill, run_with_standstills
from poller.turn import Turn
from poller.work import Work

PERIOD = 12.0
"""Seconds between two records of a shard."""

SETTLE_SECONDS = 20.0
"""So long after the last fault everything is shared evenly, if the store was there."""

QUIET_SECONDS = 5.0
"""And for so long nothing moves then."""

FAULTS = ("crash", "crash", "stop", "stand still", "stand still", "cut off", "start")

OUTAGES = 0.3
"""In so many runs in one the store is out for all of them too: then much is excused."""


@dataclass(slots=True)
class Report:
    """What one run reached. `slowest`: the longest time that a lane was read by nobody, by what it was left by."""

    seed: int
    counts: Counter[str]
    slowest: dict[str, float]


@dataclass(slots=True, eq=False)
class Member:
    """One worker. `skew`: its clock minus that of the world."""

    name: str
    gate: Gate
    line: Line
    standstill: Standstill
    skew: float
    runner: MappingRunner
    task: asyncio.Task[None] = field(init=False)
    stopping: bool = False


class ShownLeases(MemoryLeases):
    """Fifty workers look at five hundred rows all the time, and most of what they see is as it was."""

    def __init__(self, claimed: Callable[[str, str], None]) -> None:
        super().__init__()
        self._claimed = claimed
        self._shown: tuple[Sequence[Holding], float, float] = ((), 0.0, 0.0)

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        row = self._held.get(key)
        before = row and (row.owner, row.wanted)
        lease = await super().claim(key, owner, now, duration, ask)
        if lease is not None or before != (row and (row.owner, row.wanted)):
            self._shown = ((), 0.0, 0.0)
        if lease is not None:
            self._claimed(key.lane, owner)
        return lease

    async def drop(self, lease: Lease) -> None:
        self._shown = ((), 0.0, 0.0)
        await super().drop(lease)

    async def held(self, mapping: str, source: str, now: float) -> Sequence[Holding]:
        shown, since, until = self._shown
        if not since <= now < until:
            # True between the last moment when a row ran out, and the next; a renewal only makes that later.
            shown = await super().held(mapping, source, now)
            ends = [end for row in self._held.values() for end in (row.until, row.wanted_until)]
            since, until = max((end for end in ends if end <= now), default=0.0), min((end for end in ends if end > now), default=now)
            self._shown = shown, since, until
        return shown


class EndlessShards:
    """`Shards` (shards.py): the same for ever, a record each PERIOD in each."""

    def __init__(self, fleet: Fleet, member: str, gate: Gate) -> None:
        self._fleet, self._member, self._gate = fleet, member, gate

    async def shards(self) -> Sequence[Shard]:
        self._gate.check()
        return self._fleet.listing

    def reader(self, name: str) -> EndlessReader:
        return EndlessReader(self._fleet, self._member, name, self._gate)

    async def aclose(self) -> None:
        return None


class EndlessReader:
    """`Reader`: record n of a shard came at its first moment + n * PERIOD."""

    def __init__(self, fleet: Fleet, member: str, name: str, gate: Gate) -> None:
        self._fleet, self._member, self._name, self._gate = fleet, member, name, gate
        self._first = fleet.firsts[name]

    async def read(self, position: int, origin: str, limit: int) -> tuple[Sequence[FakeRecord], int]:  # noqa: ARG002
        self._gate.check()
        self._fleet.reads(self._name, self._member)
        position, loop = max(position, 0), asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._first + position * PERIOD - loop.time()))
        self._gate.check()
        last = min(int((loop.time() - self._first) // PERIOD), position + limit - 1)
        records = [self._record(token) for token in range(position, last + 1)]
        return records, last + 1

    def _record(self, token: int) -> FakeRecord:
        return FakeRecord(token, f"{self._name}:{token}", b"k", self._first + token * PERIOD)

    async def head(self) -> tuple[int, float] | None:
        return None

    async def aclose(self) -> None:
        return None


class FleetHandler(InARow):
    """The function of one worker: mostly short."""

    def __init__(self, fleet: Fleet, member: str, gate: Gate) -> None:
        self._fleet, self._member, self._gate = fleet, member, gate

    async def invoke(self, event: Event, call: Call) -> Response:
        self._gate.check()
        fleet = self._fleet
        fleet.oracle.began(fleet.watched[self._member, call.lane], [int(str(name).partition(":")[2]) for name in event.identifiers()])
        await asyncio.sleep(0.05 if fleet.random.random() < 0.9 else fleet.random.uniform(0.5, 5.0))
        self._gate.check()
        return Returned(b"null")

    async def aclose(self) -> None:
        return None


class FleetLane(OrderedLane):
    """A lane that tells the oracle of its life."""

    fleet: ClassVar[Fleet]

    def __init__(self, context: Context, *rest: Any) -> None:
        super().__init__(context, *rest)
        self.watched = Watched(self, context.owner)
        self.fleet.watched[context.owner, self.name] = self.watched
        self.fleet.oracle.opened(self.watched)

    def lose(self, why: str, planned: bool = False) -> None:
        if not self.lost:
            super().lose(why, planned)
            self.fleet.oracle.lost(self.watched)

    async def aclose(self, broken: bool = False) -> None:
        await super().aclose(broken)
        row = self.fleet.store.leases._held[self.lease.key]  # noqa: SLF001 (the oracle sees what is)
        wanted = row.wanted if row.wanted_until > self.fleet.now() - SKEW else ""
        self.fleet.oracle.closed(self.watched, not self.lost and not self.fleet.store.leases.holds(self.lease), wanted)


class Fleet:
    """The world of one run. A broken part is put in by a subclass, for the oracle to find out."""

    workers = 50
    shards = 500
    source: ClassVar[type[OrderedSource]] = OrderedSource
    lane: ClassVar[type[FleetLane]] = FleetLane

    def __init__(self, seed: int, storm: float = 16.0) -> None:
        self.seed, self.storm = seed, storm
        self.random = random = Random(seed)
        self.faults = (*FAULTS, "outage") if random.random() < OUTAGES else FAULTS
        names = [f"shard-{n:03}" for n in range(self.shards)]
        self.listing = tuple(map(Shard, names))
        self.firsts = {name: random.uniform(0.0, PERIOD) for name in names}
        self.oracle = FleetOracle(names, self.holder)
        self.store = self.make_store()
        self.watched: dict[tuple[str, str], Watched] = {}
        self.members: list[Member] = []
        self.number = 0
        self.settings = MappingSettings("fleet", "fleet", "f", Batching(10), FailureSettings(), 1)
        self.lane = type("Lane", (self.lane,), {"fleet": self})  # type: ignore[misc]

    def make_store(self) -> MemoryStore:
        store = MemoryStore()
        store.leases = ShownLeases(self.oracle.claimed)
        store.checkpoints._leases = store.leases  # noqa: SLF001 (made of each other)
        return store

    def now(self) -> float:
        return cast("VirtualLoop", asyncio.get_running_loop()).now()

    def holder(self, shard: str) -> str:
        row = self.store.leases._held.get(LaneKey("fleet", "fleet", shard))  # noqa: SLF001 (the oracle sees what is)
        return row.owner if row is not None else ""

    def reads(self, shard: str, member: str) -> None:
        self.oracle.reads(self.watched[member, shard])

    # --- workers ----------------------------------------------------------------------------------------------------------------

    def start(self) -> Member:
        self.number += 1
        name, random = f"worker-{self.number}", self.random
        gate, skew = Gate(name), random.uniform(-SKEW / 2, SKEW / 2)
        line = Line(gate, random, self.oracle.counts, watch=self._watch)
        store = LineStore(self.store, line)
        context = Context(self.settings, cast("Any", store), name, lambda: self.now() + skew, Path(), Path())
        policy = Block(2, None, False, Backoff(), "cut")
        function = Function(FunctionSettings("f", "f", Path(), 30.0, concurrency=1000), FleetHandler(self, name, gate))
        work = Work(self.settings, function, policy, "fleet", cast("Any", store), MappingCounters(), context.clock, random, Turn())

        async def open_source() -> Source:
            shards = EndlessShards(self, name, gate)
            return self.source(
                context, identity="fleet", format=FORMAT, policy=policy, shards=shards, origin="TRIM_HORIZON", lane=cast("Any", self.lane)
            )

        member = Member(name, gate, line, Standstill(), skew, MappingRunner(work, open_source))
        member.task = member.standstill.start(member.runner.run(), name)
        self.members.append(member)
        return member

    def _watch(self, what: str, about: Any) -> None:
        if what == "saved":
            self.oracle.saved(*about)

    # --- faults -----------------------------------------------------------------------------------------------------------------

    async def strike(self, what: str) -> None:
        random, loop = self.random, asyncio.get_running_loop()
        here = [member for member in self.members if not member.standstill.stands and not member.stopping]
        self.oracle.counts[f"fault: {what}"] += 1
        if what == "start" or len(here) < self.workers // 2:
            self.start()
            return
        member = random.choice(here)
        match what:
            case "crash":
                await self.crash(member)
                if random.random() < 0.7:
                    await asyncio.sleep(random.uniform(0.0, 2.0))
                    self.start()
            case "stop":
                member.stopping = True
                self.oracle.gone_away(member.name, "stop")
                member.runner.stop(loop.time() + 30.0)
                await member.task
                self.members.remove(member)
            case "stand still":
                member.standstill.stand()
                self.oracle.gone_away(member.name, "standstill")
                await asyncio.sleep(random.choice((1.0, 4.0, 8.0, 9.5, 12.0, 15.0)))
                self.oracle.back(member.name)
                member.standstill.go_on()
            case "cut off":
                seconds = random.choice((2.0, 5.0, 9.0, 12.0))
                member.line.cut_until = loop.time() + seconds
                self.oracle.gone_away(member.name, "cut off")
                await asyncio.sleep(2.5 * seconds)  # it may wait so long before it asks again
                self.oracle.back(member.name)
            case _:
                seconds = random.choice((0.5, 2.0, 4.0, 12.0))
                self.oracle.pardon(loop.time() + seconds)
                for each in self.members:
                    each.line.cut_until = loop.time() + seconds
                await asyncio.sleep(seconds)

    async def crash(self, *members: Member) -> None:
        """All at once. Their gates are shut first, so that no `finally` can save anything."""
        for member in members:
            self.members.remove(member)
            member.gate.shut = True
            self.oracle.gone_away(member.name, "crash", crashed=True)
            member.standstill.go_on()
        tasks = {member.task for member in members}
        while tasks:
            for task in tasks:
                task.cancel()  # again and again: some wait before they try what their gate refuses
            _, tasks = await asyncio.wait(tasks, timeout=0.01)

    # --- the run ----------------------------------------------------------------------------------------------------------------

    async def run(self) -> Report:
        try:
            await self._play()
        finally:
            await self.crash(*self.members)
        return Report(self.seed, self.oracle.counts, self.oracle.slowest)

    async def _play(self) -> None:
        random, loop = self.random, asyncio.get_running_loop()
        stagger = random.choice((0.0, 0.0, 3.0))
        starts = sorted(random.uniform(0.0, stagger) for _ in range(self.workers))
        for at in starts:
            await asyncio.sleep(max(0.0, at - loop.time()))
            self.start()
        await asyncio.sleep(4.0)
        faults: list[asyncio.Task[None]] = []
        until = loop.time() + self.storm
        while loop.time() < until:
            await asyncio.sleep(random.expovariate(0.8))
            self._lawful()
            faults.append(asyncio.create_task(self.strike(random.choice(self.faults))))
        for fault in faults:
            await fault
        calm = loop.time()
        await asyncio.sleep(max(calm, self.oracle.pardoned_until) - calm + SETTLE_SECONDS)
        settled = loop.time()
        await asyncio.sleep(QUIET_SECONDS)
        self._lawful()
        self.oracle.at_rest([len(member.runner.runners) for member in self.members], calm, settled)

    def _lawful(self) -> None:
        if self.oracle.broken is not None:
            raise self.oracle.broken
        for member in self.members:
            if member.task.done() and not member.stopping:
                member.task.result()


def rally(seed: int, fleet: type[Fleet] = Fleet) -> Report:
    """Play one fleet to its end. Raises Broken with the seed when something does not hold."""

    async def main() -> Report:
        return await fleet(seed).run()

    try:
        return run_with_standstills(main())
    except BaseException as error:
        error.add_note(f"fleet of seed {seed}: replay with poller.testing.fleet.rally({seed})")
        raise
