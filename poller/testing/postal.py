"""A world of deliveries on the virtual clock: lives that crash between any two steps, receivers that refuse, are away, or lose the answer.

`deliver(seed)` plays one: all that came into the journal, and all that was put, must arrive at each of its destinations, and nothing else.
What was sent to a receiver it has, whether its answer arrived or not: so it may have a delivery more than once.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import msgspec

from poller.config import DestinationConfig, MappingConfig
from poller.errors import NotConnected, StoreUnavailable
from poller.failures.courier import Courier, Office, Route
from poller.failures.couriers import Couriers
from poller.failures.delivery import Opening
from poller.failures.entry import successes
from poller.failures.journal import Delivery
from poller.metrics import MappingCounters
from poller.model import Busy, Response
from poller.protocols import Store
from poller.registry import Registry
from poller.settings import Batching, DestinationContext, DestinationTraits, FailureSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.testing.clock import VirtualLoop, run_virtually
from poller.testing.fakes import Gate
from poller.testing.faults import Line, LineStore
from poller.testing.journals import make_entry

Make = Callable[[Route, Office], Courier]


class NoOptions(msgspec.Struct, frozen=True):
    """None."""


@dataclass(slots=True)
class Receiver:
    """What one destination has taken, in order. `down`: it refuses everything, and asks to be tried again `after` so many seconds;
    `refuses`: ids that it never takes, and says so; `chokes`: ids that it fails for; `held`: it answers once that is set; `rate`: how many
    sends in one meet a fault."""

    random: Random
    arrived: list[Delivery] = field(default_factory=list)
    tried: list[str] = field(default_factory=list)
    down: bool = False
    after: float | None = None
    refuses: frozenset[str] = frozenset()
    chokes: frozenset[str] = frozenset()
    held: asyncio.Event | None = None
    rate: float = 0.0

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.arrived]

    async def take(self, delivery: Delivery, gate: Gate) -> None:
        gate.check()
        self.tried.append(delivery.id)
        await (asyncio.sleep(self.random.expovariate(50.0)) if self.held is None else self.held.wait())
        gate.check()
        if self.down or delivery.id in self.chokes:
            raise NotConnected("it is away", retry_after=self.after)
        if delivery.id in self.refuses:
            raise NotConnected("it is refused", permanent=True)
        fate = (
            self.random.choice(("refused", "refused for good", "lost", "late", "silent", "bug")) if self.random.random() < self.rate else ""
        )
        if fate in ("refused", "refused for good"):
            raise NotConnected("not now", permanent=fate != "refused", retry_after=self.random.choice((None, None, 3.0)))
        if fate == "bug":
            raise KeyError("nobody foresaw it")
        if fate == "silent":
            await asyncio.sleep(10_000.0)
        self.arrived.append(delivery)
        await asyncio.sleep(self.random.uniform(0.0, 20.0) if fate == "late" else 0.0)
        gate.check()
        if fate == "lost":
            raise NotConnected("the answer is lost")


class Post:
    """A kind of destination whose receivers outlive the lives that send to them."""

    options = NoOptions

    def __init__(self, receivers: dict[str, Receiver], gate: Gate, fails: Callable[[], bool] = lambda: False) -> None:
        self._receivers, self._gate, self._fails = receivers, gate, fails
        self.open_now = 0

    def traits(self, to: str, options: NoOptions) -> DestinationTraits:  # noqa: ARG002
        return DestinationTraits(maximum_bytes=1000)

    async def open(self, to: str, options: NoOptions, context: DestinationContext) -> Any:  # noqa: ARG002
        self._gate.check()
        if self._fails():
            raise NotConnected("it cannot be opened")
        kind, receiver = self, self._receivers[to]
        kind.open_now += 1

        class Line:
            closed = False

            async def send(self, delivery: Delivery) -> None:
                assert not self.closed, "sent to a destination that was closed"
                await receiver.take(delivery, kind._gate)

            async def aclose(self) -> None:
                kind.open_now -= not self.closed
                self.closed = True

        return Line()

    async def probe(self, to: str, options: NoOptions, context: DestinationContext) -> list[Any]:  # noqa: ARG002
        return []


def registry(kind: Any) -> Registry:
    """One in which `post:` names destinations of this kind, and `fake` is a connector."""
    parts: dict[str, dict[str, Any]] = {"poller.destinations": {"post": kind}, "poller.connectors": {"fake": SimpleNamespace()}}

    def points(group: str) -> Iterable[Any]:
        dist = SimpleNamespace(name="x", version="0")
        return [
            SimpleNamespace(name=name, value="x", dist=dist, load=lambda part=part: part) for name, part in parts.get(group, {}).items()
        ]

    return Registry(points)


def mapping(*destinations: str, name: str = "orders") -> MappingConfig:
    """One whose failures and successes go to these."""
    settings = MappingSettings(name, name, name, Batching(10), FailureSettings(), 1, on_failure=destinations, on_success=destinations)
    traits = DestinationTraits(maximum_bytes=1000)
    return MappingConfig(
        settings, "fake", None, destinations=tuple(DestinationConfig(to, to, "post", NoOptions(), traits) for to in destinations)
    )


async def nobody(name: str, payload: bytes) -> Response:  # noqa: ARG001
    return Busy(1.0)


def now() -> float:
    """Epoch seconds of the virtual loop."""
    return cast("VirtualLoop", asyncio.get_running_loop()).now()


@dataclass(slots=True)
class Life:
    """A worker that delivers. Its gate, once shut, lets nothing it still runs reach the world."""

    name: str
    gate: Gate
    line: Line
    store: Store
    kind: Post
    couriers: Couriers

    async def crash(self) -> None:
        self.gate.shut = True
        await self.couriers.aclose()


class PostalWorld:
    """Receivers, a store, and lives one after the other or side by side."""

    def __init__(self, seed: int, destinations: int = 2, courier: Make = Courier) -> None:
        self.random = Random(seed)
        self.store = MemoryStore()
        self.receivers = {f"post:{n}": Receiver(self.random) for n in range(destinations)}
        self.mapping = mapping(*self.receivers)
        self.counts: Counter[str] = Counter()
        self.counters = MappingCounters()
        self.expected: set[str] = set()
        self._courier = courier
        self._lives = 0

    async def live(self, rate: float = 0.0, fails: Callable[[], bool] = lambda: False) -> Life:
        """A life begins."""
        self._lives += 1
        gate = Gate(f"life {self._lives}")
        line = Line(gate, self.random, self.counts, rate)
        store = LineStore(self.store, line)
        kind = Post(self.receivers, gate, fails)
        opening = Opening(registry(kind), Path(), Path(), now, nobody)
        couriers = Couriers(cast("Store", store), opening, gate.life, self.random, lambda _: self.counters, self._courier)
        await couriers.adopt([self.mapping], 0.0)
        return Life(gate.life, gate, line, cast("Store", store), kind, couriers)

    async def fail(self, name: str, lane: str = "a", life: Life | None = None) -> None:
        """A failure comes into the journal; with a life, by its line, as a strand insists on it."""
        entry = make_entry(name, name, lane=lane, time=now(), destinations=tuple(self.receivers))
        self.expected.add(name)
        await self._insist(life, lambda store: store.journal.append([entry]))

    async def succeed(self, name: str, life: Life | None = None) -> None:
        """A batch was handled."""
        deliveries = successes(make_entry(name, f"done {name}", time=now(), destinations=tuple(self.receivers)), b"null")
        self.expected.add(deliveries[0].id)
        await self._insist(life, lambda store: store.outbox.put(deliveries))

    async def _insist(self, life: Life | None, ask: Callable[[Store], Awaitable[Any]]) -> None:
        while True:
            try:
                await ask(self.store if life is None or life.gate.shut else life.store)
                break
            except StoreUnavailable:
                await asyncio.sleep(0.2)
        if life is not None:
            life.couriers.posted("orders")

    async def emptied(self, seconds: float) -> float:
        """Wait until nothing waits; returns how long that took."""
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(seconds):
            while await self.store.outbox.waiting():  # noqa: ASYNC110 (the clock is virtual)
                await asyncio.sleep(0.5)
        return asyncio.get_running_loop().time() - began

    def check(self) -> None:
        """Raises AssertionError unless exactly what was posted has arrived everywhere."""
        for name, receiver in self.receivers.items():
            assert set(receiver.ids) == self.expected, f"{name}: {sorted(self.expected - set(receiver.ids))} never arrived"


def deliver(seed: int, courier: Make = Courier) -> PostalWorld:
    """A run of this seed, checked."""
    world = PostalWorld(seed, courier=courier)
    run_virtually(_play(world))
    world.check()
    return world


async def _play(world: PostalWorld) -> None:
    random = world.random
    rate = random.choice((0.0, 0.05, 0.3))
    for receiver in world.receivers.values():
        receiver.rate = random.choice((0.0, 0.1, 0.4))
    lives = [await world.live(rate) for _ in range(random.choice((1, 2)))]
    for n in range(40):
        life = random.choice(lives)
        await (world.succeed(f"s{n}", life) if random.random() < 0.3 else world.fail(f"f{n}", random.choice("abc"), life))
        await asyncio.sleep(random.expovariate(1.0))
        if random.random() < 0.1:
            world.counts["crashes"] += 1
            lives.remove(life)
            await life.crash()
            lives.append(await world.live(rate))
        if random.random() < 0.1:
            receiver = random.choice(list(world.receivers.values()))
            receiver.down = not receiver.down
    for receiver in world.receivers.values():
        receiver.rate, receiver.down = 0.0, False
    for life in lives:
        life.line.calm()
    await world.emptied(3600.0)
    for life in lives:
        await life.couriers.aclose(10.0)
        assert not life.kind.open_now, "a destination was left open"
