"""A simulated world that drives the real engine: `simulate(seed)` runs one scenario on a virtual clock, or raises `Broken` or `Stuck`.

Everything is drawn from the seed: the settings, the records, which of them are poison, what the function does, and the faults. Workers
("lives") crash, stop, restart with another width or batch size, lose their line to the store until their leases run out, and are asked for
lanes back; shards split, merge and roll over; every call of store and source may be refused, answered late, twice or never, a save may
arrive after its sender's crash, and a lane may fail as nobody foresaw. Then the world calms down, and everything must be done: handled, or
in the journal. A crash first shuts the life's gate, then cancels its tasks, so that no `finally` can save anything.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from pathlib import Path
from random import Random
from typing import Any, ClassVar, cast

import orjson

from poller.functions import Function
from poller.guarding import guarding
from poller.lane_runner import LaneRunner
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters
from poller.model import Busy, Fault, LaneKey, Response, Returned
from poller.ordered_source import OrderedSource
from poller.policy import Redeliver
from poller.protocols import Guard, Lane, Source, Store
from poller.settings import Context, FunctionSettings
from poller.stores.memory import MemoryStore
from poller.testing.clock import VirtualLoop, run_virtually
from poller.testing.fakes import FORMAT, FakeQueue, FakeQueueSource, FakeRecord, FakeShards, FakeStream, Gate
from poller.testing.faults import Line, LineStore
from poller.testing.lives import ChanceTurn, Life, WatchedCircuit, WatchedHandler, WatchedSource
from poller.testing.oracle import Broken, Oracle
from poller.testing.parked import ParkingOracle
from poller.testing.remembering import RememberingOracle
from poller.testing.report import Report
from poller.testing.resharding import Reshard, drawn, shard_at
from poller.testing.scenario import Scenario
from poller.testing.windowing import WindowOracle
from poller.work import Work

STORM_SECONDS = 90.0
"""How long faults come; then the world is calm."""


def simulate(seed: int, store: Store | None = None, scenario: Scenario | None = None) -> Report:
    """Run one scenario to its end. Raises Broken with the seed when a law does not hold."""
    random = Random(seed)
    # Dice of their own: what has no windows, breaker or rules is drawn as if there were none.
    own = Scenario.draw(random).tumbling(Random(f"windows of {seed}")).breaking(Random(f"breaker of {seed}"), STORM_SECONDS)
    own = own.ruled(Random(f"rules of {seed}")).remembering(Random(f"idempotency of {seed}")).parking(Random(f"parking of {seed}"))
    try:
        return run_virtually(World(seed, random, scenario or own, store or MemoryStore()).run())
    except BaseException as error:
        error.add_note(f"simulator seed {seed}: replay with poller.testing.simulator.simulate({seed})\n{scenario or own}")
        raise


@dataclass(slots=True)
class World:
    """Everything that outlives a life. `patience`: so many seconds a calm world may take to finish; more is a loss."""

    patience: ClassVar[float] = 4000.0

    seed: int
    random: Random
    scenario: Scenario
    store: Store
    counts: Counter[str] = field(default_factory=Counter)
    oracle: Oracle = field(init=False)
    windows: WindowOracle | None = field(init=False, default=None)
    remembering: RememberingOracle | None = field(init=False, default=None)
    parking: ParkingOracle | None = field(init=False, default=None)
    stream: FakeStream = field(init=False)
    queue: FakeQueue = field(init=False)
    poison: set[str] = field(init=False)
    lives: list[Life] = field(default_factory=list)
    counters: list[MappingCounters] = field(default_factory=list)
    reshards: list[Reshard] = field(default_factory=list)
    calm: bool = False
    number: int = 0

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def happens(self, chance: float) -> bool:
        return chance > 0.0 and self.random.random() < chance

    # --- the function -----------------------------------------------------------------------------------------------------------

    def behave(self, names: Sequence[str]) -> tuple[Response, Sequence[str]]:
        """What the function answers, and which records it has handled by then."""
        scenario, random, now = self.scenario, self.random, asyncio.get_running_loop().time()
        if any(start <= now < end for start, end in scenario.outages):
            self.count("outage")
            return Fault("error", "Outage", "no route to the database"), ()
        if random.random() < scenario.throttled:
            self.count("busy")
            return Busy(random.uniform(0.1, 2.0)), ()
        bad = [name for name in names if name in self.poison]
        if not bad:
            if random.random() < scenario.transient and not self.calm:
                self.count("transient fault")
                return Fault("error", "Transient", "now and then"), ()
            return Returned(b"null"), names
        if scenario.answers == "full" or (scenario.answers == "mixed" and random.random() < 0.5):
            self.count("fault")
            index = None
            if self.happens(scenario.named):
                self.count("record named")
                index = names.index(bad[0]) if random.random() < 0.8 else random.randrange(-2, len(names) + 2)
            return Fault("error", "Poison", "a poison record", record_index=index), ()
        self.count("partial")
        answer = orjson.dumps({"batchItemFailures": [{"itemIdentifier": name} for name in bad]})
        first = names.index(bad[0])
        listed = isinstance(scenario.policy, Redeliver) or getattr(scenario.policy, "partial", "") == "listed"
        return Returned(answer), [name for i, name in enumerate(names) if name not in bad and (listed or i < first)]

    # --- records ----------------------------------------------------------------------------------------------------------------

    def _prepare(self) -> list[tuple[float, str, FakeRecord]]:
        """All records, with the lane each goes to and the time it comes."""
        random, scenario = self.random, self.scenario
        lanes = [f"shard-{n}" for n in range(scenario.lanes)] if scenario.kind == "stream" else ["queue"]
        self.stream = FakeStream({lane: [] for lane in lanes})
        loop = cast("VirtualLoop", asyncio.get_running_loop())
        self.queue = FakeQueue(loop.now, scenario.visibility, scenario.redrive, scenario.kind == "fifo")
        plan: list[tuple[float, str, FakeRecord]] = []
        self.reshards = drawn(random, lanes, scenario.reshards, STORM_SECONDS * 0.8)
        every = [*lanes, *(child for reshard in self.reshards for child in reshard.children)]
        token = dict.fromkeys(every, 0)
        keys = {f"{lane} {n}".encode(): lane for lane in lanes for n in range(scenario.keys)}
        times = sorted(random.uniform(0, STORM_SECONDS * 0.8) if random.random() < 0.5 else 0.0 for _ in range(scenario.records))
        for number, at in enumerate(times):
            key = random.choice(sorted(keys)) if scenario.kind == "fifo" or random.random() < 0.9 else None
            lane = shard_at(self.reshards, keys[key] if key is not None else random.choice(lanes), key, at, random)
            if scenario.kind == "queue":
                key = None
            token[lane] += random.choice((1, 1, 1, 7))
            wanted = not scenario.unwanted or random.random() >= scenario.unwanted
            plan.append((at, lane, FakeRecord(token[lane], f"{'r' if wanted else 'u'}{number:04d}", key, 0.0)))
        self.poison = {record.name for _, _, record in plan if random.random() < scenario.poison}
        self.oracle = Oracle(
            scenario.rules(),
            keys={record.name: record.key for _, _, record in plan},
            tokens={record.name: record.token for _, _, record in plan},
            lanes={lane: [record.name for _, where, record in plan if where == lane] for lane in every},
            unwanted=frozenset(record.name for _, _, record in plan if record.name.startswith("u")),
            parents={child: reshard.parents for reshard in self.reshards for child in reshard.children},
        )
        if scenario.settings.idempotency:
            self.remembering = RememberingOracle(self.oracle.violated, self.count, lambda: self.oracle.unwanted | self.oracle.journal)
        if scenario.settings.parks:
            dice, order = Random(f"person of {self.seed}"), scenario.settings.on_failure_order == "park"
            self.parking = ParkingOracle(dice, order, self.oracle.keys, self.store, loop.now, self.oracle.violated, self.count)
            self.oracle.also = self.parking.begin
        if scenario.settings.tumbling_window:
            self.windows = self._windowed({record.name: lane for _, lane, record in plan})
        return plan

    def _windowed(self, lanes: dict[str, str]) -> WindowOracle:
        scenario, random = self.scenario, Random(f"function of {self.seed}")
        attempts = self.oracle.rules.batch_begun
        width = scenario.settings.tumbling_window
        return WindowOracle(random, width, scenario.lateness, attempts, lanes, self.oracle.violated, self.count)

    async def _feed(self, plan: Sequence[tuple[float, str, FakeRecord]]) -> None:
        loop = cast("VirtualLoop", asyncio.get_running_loop())
        changes = [(reshard.at, "", reshard) for reshard in self.reshards]
        steps: list[tuple[float, str, FakeRecord | Reshard]] = sorted([*plan, *changes], key=itemgetter(0))
        for at, lane, what in steps:
            if at > loop.time():
                await asyncio.sleep(at - loop.time())
            if isinstance(what, Reshard):
                self.count(f"shard {what.kind}")
                self.stream.reshard(what.parents, what.children)
            elif self.scenario.kind == "stream":
                back = self.random.uniform(0.0, self.scenario.lateness) if self.happens(0.3 if self.scenario.lateness else 0.0) else 0.0
                if self.windows:
                    self.windows.arrivals[what.name] = loop.now() - back
                self._sent(what := what._replace(arrival=loop.now() - back))
                self.stream.put(lane, what)
            else:
                self._sent(what._replace(arrival=loop.now()))
                self.queue.send(what.name, what.key)

    def _sent(self, record: FakeRecord) -> None:
        if self.remembering:
            self.remembering.sent("fake" if self.scenario.kind == "stream" else "fake:queue", record)

    # --- lives ------------------------------------------------------------------------------------------------------------------

    def start(self) -> Life:
        """A new worker, perhaps with another width or batch size than the one before."""
        self.number += 1
        random, scenario = self.random, self.scenario
        loop = cast("VirtualLoop", asyncio.get_running_loop())
        settings = scenario.settings
        if scenario.kind == "stream" and random.random() < 0.2:
            self.count("width changed")
            settings = replace(settings, width=random.randrange(1, settings.width + 1))
        name = f"life-{self.number}"
        gate = Gate(name)
        line = Line(gate, random, self.counts, scenario.faults, scenario.late, watch=self._watch)
        if self.calm:
            line.calm()
        store = LineStore(self.store, line)
        context = Context(settings, store, name, loop.now, Path(), Path())
        life_handler = WatchedHandler(self, cast("Any", None))
        function = Function(FunctionSettings("function", "f", Path(), scenario.timeout, concurrency=scenario.concurrency), life_handler)
        counters = MappingCounters()
        circuit = self.circuit(settings.breaker, name, counters)
        circuit.watch(self)
        work = Work(settings, function, scenario.policy, "fake", store, counters, loop.now, random, ChanceTurn(self), circuit=circuit)
        work.guards = self.guarding(work, store)
        self.counters.append(counters)
        life: Life

        async def open_source() -> Source:
            await line.fault("open")
            return WatchedSource(self._source(context, gate, line), self, life)

        runner = MappingRunner(work, open_source, self.lane_runner)
        life = Life(name, gate, line, runner, loop.create_task(runner.run(), name=name), circuit)
        life_handler._life = life  # noqa: SLF001 (made of each other)
        self.lives.append(life)
        return life

    circuit: ClassVar[type[WatchedCircuit]] = WatchedCircuit

    def guarding(self, work: Work, store: Store) -> Callable[[Lane], Sequence[Guard]]:
        return guarding(work, store)

    def lane_runner(self, lane: Lane, work: Work) -> LaneRunner:
        return LaneRunner(lane, work)

    def _source(self, context: Context, gate: Gate, line: Line) -> Source:
        scenario = self.scenario
        if scenario.kind == "stream":
            shards = FakeShards(self.stream, gate, line.fault)
            return OrderedSource(context, identity="fake", format=FORMAT, policy=scenario.policy, shards=shards, origin="TRIM_HORIZON")
        assert isinstance(scenario.policy, Redeliver)
        return FakeQueueSource(self.queue, scenario.policy, scenario.settings.width, gate, line.fault)

    def _watch(self, what: str, about: Any) -> None:
        if self.parking:
            self.parking.hear(what, about)
        match what:
            case "loading":
                # A new owner starts: of what the last one had settled, only what was saved is safe.
                self.oracle.lose(about.lane)
            case "putting":
                self.oracle.putting(about)
            case "saving":
                self.oracle.saving(*about)
            case "saved":
                self.oracle.saved(*about)
            case _ if self.remembering and self.remembering.hear(what, about):
                pass
            case "parked":
                self.oracle.journal.update(record.id for entry, row in zip(*about, strict=True) if row for record in entry.records)
            case _:
                self.oracle.journal.update(record.id for entry in about for record in entry.records)
                if self.windows is not None:
                    for entry in about:
                        self.windows.kept(entry)

    # --- faults -----------------------------------------------------------------------------------------------------------------

    async def _storm(self) -> None:
        """Something happens to some life every few seconds."""
        random = self.random
        while asyncio.get_running_loop().time() < STORM_SECONDS:
            await asyncio.sleep(random.expovariate(0.25))
            self._lawful()
            # A group whose message is delivered early is another's too: no order is kept then.
            last = "trim" if self.scenario.kind == "stream" else "stop" if self.parking else "duplicate"
            await self._strike(random.choice(self.lives), random.choice(("crash", "crash", "stop", "cut off", "ask back", last)))

    async def _strike(self, life: Life, what: str) -> None:
        random, loop = self.random, asyncio.get_running_loop()
        self.count(f"fault: {what}")
        match what:
            case "crash":
                self.lives.remove(life)
                await life.crash()
                await asyncio.sleep(random.uniform(0, 5))
                self.start()
            case "stop":
                self.lives.remove(life)
                await life.stop(random.choice((0.0, 0.5, 30.0)))
                self.start()
            case "cut off":
                life.line.cut_until = loop.time() + random.uniform(1, 25)
            case "ask back":
                runners = list(life.runner.runners.values())
                if runners:
                    runner = random.choice(runners)
                    if not runner.lane.leaving.done():
                        runner.lane.leaving.set_result(loop.time() + random.choice((0.1, 5.0)))
            case "trim":
                self.stream.trimmed |= self.stream.closed & self.oracle.ended  # unread, a record that goes with the retention is lost
            case _:
                for message in self.queue.messages:
                    if random.random() < 0.05:
                        message.visible_at = 0.0  # at-least-once: a broker may deliver before its timeout

    # --- the run ----------------------------------------------------------------------------------------------------------------

    async def run(self) -> Report:
        plan = self._prepare()
        self.queue_hook()
        feeder = asyncio.create_task(self._feed(plan))
        person = asyncio.create_task(self.parking.attend()) if self.parking else feeder
        for _ in range(self.random.choice((1, 1, 2))):
            self.start()
        await self._storm()
        self.calm = True
        for life in self.lives:
            life.line.calm()
        await feeder
        await self._finish()
        self._lawful()
        for life in self.lives:
            await life.stop(60.0)
        await self._closed()
        if not person.cancel() and (error := person.exception()):
            raise error
        self._lawful()
        events = self.oracle.events + self.counts.total()
        for counters in self.counters:
            self.counts["batch split"] += counters.splits
            self.counts["store waited for"] += counters.save_errors
        self.counts["redriven"] = len(self.queue.dead)
        return Report(self.seed, self.scenario, events, self.counts)

    def queue_hook(self) -> None:
        """Tell the oracle of every delete."""
        delete = self.queue.delete

        def watched(receipt: int) -> None:
            before = len(self.queue.deleted)
            delete(receipt)
            for name in self.queue.deleted[before:]:
                self.oracle.deleted(name)

        self.queue.delete = watched  # type: ignore[method-assign]

    async def _finish(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.patience
        while (left := self._left()) and loop.time() < deadline:
            self._lawful()
            for life in self.lives:
                if life.task.done():
                    life.task.result()
                    raise Broken(f"{life.name} ended by itself")
            await asyncio.sleep(1.0)
        if left:
            raise Broken(f"not done after {self.patience} s of calm: {sorted(left)[:10]}")
        lost = [name for name in self.oracle.keys if not self.oracle.is_done(name) and name not in self.queue.dead]
        if lost:
            raise Broken(f"lost: {lost}")
        if self.windows:
            self.windows.finished(self.oracle.journal, self.oracle.unwanted)

    def _lawful(self) -> None:
        if self.oracle.broken is not None:
            raise self.oracle.broken

    def _left(self) -> set[str]:
        if self.scenario.kind == "stream":
            saved = self.oracle.checkpoints
            lanes = self.oracle.lanes.items()
            unread = {name for lane, names in lanes for name in names if saved.get(lane, -1) <= self.oracle.tokens[name]}
            return unread | (self.stream.closed - self.oracle.ended) | self.oracle.windows
        return {message.name for message in self.queue.messages}

    async def _closed(self) -> None:
        """After a clean stop, progress is at the end and owes nothing."""
        if self.scenario.kind != "stream":
            return
        for lane, names in self.oracle.lanes.items():
            progress = await self.store.checkpoints.load(LaneKey("sim", "fake", lane))
            last = max((self.oracle.tokens[name] for name in names), default=-1)
            if names and (progress is None or progress.checkpoint <= last or progress.spans):
                raise Broken(f"law 7: {lane} stopped at {progress}, its last record is {last}")
