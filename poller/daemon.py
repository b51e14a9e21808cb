"""The daemon: from a configuration to running mappings, and back in order.

    start: store -> control socket -> health pages -> functions -> couriers -> mappings
    stop:  mappings leave their lanes, couriers end (what runs has `shutdown_grace`) -> functions -> pages, socket -> store

`reload` restarts only what changed; a file with errors is refused whole, and everything goes on as it was.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, get_args
from uuid import uuid4

import msgspec

from poller import __version__
from poller.admin.commands import Command
from poller.admin.face import Face, PublicFace
from poller.admin.overview import destination_statuses, function_statuses, mapping_status
from poller.circuit import Circuit
from poller.config import Config, MappingConfig, handler_kind, load
from poller.errors import ConfigError, PollerError, SourceError, StoreError
from poller.failures.couriers import Couriers
from poller.failures.delivery import Invoker, Opening
from poller.failures.journal import RowState, Selection
from poller.failures.upkeep import Upkeep
from poller.functions import Function, code_stamp
from poller.guarding import guarding
from poller.identity import Identities
from poller.logs import function_log
from poller.mapping import MappingRunner
from poller.metrics import MappingCounters, measure
from poller.pause import Pauses, watch
from poller.policy import Block
from poller.protocols import Source, Store
from poller.registry import Registry
from poller.settings import Backoff, Context, FunctionSettings, Tally
from poller.status import DaemonStatus, DestinationStatus, JournalStatus, MappingStatus, judged
from poller.stores.opening import Places, open_store
from poller.turn import Turn
from poller.unbroken import unbroken
from poller.work import Work

log = logging.getLogger("poller.daemon")

OPENING_SECONDS = 20.0
"""How long a start waits for every source to be opened, or not, for the first time."""

FIXED = ("store_url", "leases_url", "journal_url", "listen", "workers")
"""What a reload cannot change."""


async def open_configured_store(config: Config) -> Store:
    """The store the configuration names. Raises ConfigError, StoreError, StoreUnavailable."""
    return await open_store(Places(config.store_url, config.leases_url, config.journal_url), config.base, Registry())


async def reread(running: Config, registry: Registry, environ: Mapping[str, str]) -> Config:
    """What the file of a running configuration says now. Raises ConfigError, also for changes that take a restart."""
    config = await asyncio.to_thread(load, running.path, registry, environ)
    fixed = [key for key in FIXED if getattr(config, key) != getattr(running, key)]
    if fixed:
        raise ConfigError(f"{config.path}: {', '.join(fixed)} changed; that takes a restart of the daemon, and nothing was reloaded")
    return config


@dataclass(slots=True)
class Running:
    """A mapping that runs. `identity`: of its source, once that was open. `look`: set, it looks at once whether it is paused."""

    config: MappingConfig
    runner: MappingRunner
    task: asyncio.Task[None]
    look: asyncio.Event
    identity: str = ""


@dataclass(slots=True)
class Daemon:
    """Runs one configuration. `run` returns after `stop`. `worker`: its number among several, from 1; 0: it is the only one."""

    config: Config
    registry: Registry
    environ: Mapping[str, str]
    clock: Callable[[], float] = time.time
    random: Random = field(default_factory=Random)
    open_store: Callable[[Config], Any] = open_configured_store
    open_face: Callable[..., Face] = PublicFace
    commands: dict[str, Command] = field(default_factory=dict)
    worker: int = 0
    opening: float = OPENING_SECONDS
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}")
    store: Store = field(init=False)
    functions: dict[str, Function] = field(init=False, default_factory=dict)
    running: dict[str, Running] = field(init=False, default_factory=dict)
    address: str = field(init=False, default="")
    started: float = field(init=False, default=0.0)
    stopping: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _code: dict[str, object] = field(init=False, default_factory=dict)
    _turn: Turn = field(init=False)
    _couriers: Couriers = field(init=False)
    _keeping: tuple[asyncio.Task[None], ...] = field(init=False, default=())
    _reloading: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _store_error: str = field(init=False, default="")

    @property
    def pauses(self) -> Pauses:
        """Of the store's mappings."""
        return Pauses(self.store, self.owner, self.clock)

    @property
    def identities(self) -> Identities:
        """Of the store's mappings."""
        return Identities(self.store, self.clock)

    def __repr__(self) -> str:
        return f"<Daemon {self.config.path.name} [{len(self.running)} mappings, {'stopping' if self.stopping.is_set() else 'running'}]>"

    # --- life -------------------------------------------------------------------------------------------------------------------

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Until stopped. `started` is called once everything listens and every mapping has tried to open its source, or `opening` seconds
        have passed: a source that is away is no reason to call the daemon not started. Raises what keeps it from starting, as PollerError.
        """
        self.registry.verify()
        self._turn = Turn()
        self.started = self.clock()
        face = self.open_face(self.config, {"status": self._status, "reload": self._reload, **self.commands}, self.status, self.clock)
        self.store = await self.open_store(self.config)
        self._couriers = Couriers(self.store, self.delivering(), self.owner, self.random, self._counters)
        try:
            await face.start()
            self.address = face.address
            await self._start_all(self.config)
            await self._first_tries()
            started()
            await self.stopping.wait()
            deadline = asyncio.get_running_loop().time() + self.config.shutdown_grace
            await self._stop_mappings(dict(self.running))
            await self._couriers.aclose(deadline - asyncio.get_running_loop().time())
        finally:
            left = [*self._keeping, *(running.task for running in self.running.values())]
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)
            await self._couriers.aclose()
            await face.end_commands()  # first: a replay hands back what it runs, and needs functions and store for that
            await asyncio.gather(*(function.aclose() for function in self.functions.values()))
            await face.aclose()
            await self.store.aclose()

    def stop(self) -> None:
        """Stop in order. Tolerated twice."""
        self.stopping.set()

    @property
    def parts(self) -> str:
        """What it runs, for a person."""
        count = len(self.running)
        health = f", health at http://{self.address}/readyz" if self.address else ""
        return f"{count} mapping{'' if count == 1 else 's'}{health}"

    @property
    def away(self) -> list[str]:
        """What does not run, a sentence each."""
        return [f"{name} is {each.runner.state}" for name, each in self.running.items() if each.runner.state != "running"]

    async def _start_all(self, config: Config) -> None:
        for warning in config.warnings:
            log.warning("%s", warning)
        for settings in config.functions.values():
            self._add_function(settings)
        await self._deliver(config)
        for mapping in config.mappings.values():
            if mapping.enabled:
                self._start(mapping)
        # Last: what it gives up is counted with the mappings that run.
        self._keeping = (Upkeep(self.store, self.owner, self.clock, lambda: self.config, self._counters).start(self.worker),)

    def delivering(self) -> Opening:
        """What destinations are opened with here."""
        invoke = Invoker(self.functions, self.clock, lambda: self.random.getrandbits(128))
        return Opening(self.registry, self.config.base, self.config.state, self.clock, invoke)

    async def _deliver(self, config: Config) -> None:
        """Of several workers the first one delivers, for it has every function; what the others post it finds when it looks."""
        mappings = config.mappings.values() if self.worker <= 1 else ()
        await self._couriers.adopt(mappings, config.shutdown_grace)

    def _counters(self, mapping: str) -> MappingCounters:
        running = self.running.get(mapping)
        return MappingCounters() if running is None else running.runner.work.counters

    async def _first_tries(self) -> None:
        loop = asyncio.get_running_loop()
        waits = [loop.create_task(event.wait()) for event in (self.stopping, *(each.runner.tried for each in self.running.values()))]
        stop, tries = waits[0], asyncio.gather(*waits[1:])
        try:
            await asyncio.wait((stop, tries), timeout=self.opening, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
            tries.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _add_function(self, settings: FunctionSettings) -> None:
        self._code[settings.name] = code_stamp(settings)
        self.functions[settings.name] = Function(settings, self.registry.handler(handler_kind(settings))(settings, function_log))

    def _start(self, mapping: MappingConfig) -> None:
        settings = mapping.settings
        function = self.functions[settings.function]
        unset = Block(None, None, False, Backoff())  # until the source is open and brings its own
        counters = MappingCounters()
        circuit = Circuit(settings.breaker, settings.name, counters)
        work = Work(settings, function, unset, "", self.store.journal, counters, self.clock, self.random, self._turn, circuit=circuit)
        if mapping.destinations:
            work.outbox, work.posted = self.store.outbox, partial(self._couriers.posted, settings.id)
        pauses, look = self.pauses, asyncio.Event()
        work.pause = pauses.putter(settings.id, look.set)
        work.guards = guarding(work, self.store)
        runner = MappingRunner(work, lambda: self._open(mapping, counters.tally), pause_kept=lambda: pauses.load(settings.id))
        task = asyncio.get_running_loop().create_task(self._run(runner, look), name=f"mapping {settings.name}")
        self.running[settings.name] = Running(mapping, runner, task, look)

    async def _run(self, runner: MappingRunner, look: asyncio.Event) -> None:
        loop, name = asyncio.get_running_loop(), runner.work.settings.name
        kept = loop.create_task(self.identities.keep(runner.work), name=f"identity of {name}")
        pausing = loop.create_task(watch(runner, self.pauses, lambda: self.config.shutdown_grace, look), name=f"pauses of {name}")
        try:
            await runner.run()
        except PollerError as error:
            runner.state, runner.last_error = "failed", str(error)
            log.error("mapping stopped, and a person must act: %s", error, extra={"mapping": runner.work.settings.name})
        except Exception as error:  # a mapping that dies of a bug must show, and must not take the others along
            runner.state, runner.last_error = "failed", repr(error)
            log.exception("mapping failed", extra={"mapping": runner.work.settings.name})
        finally:
            for task in (kept, pausing):
                task.cancel()
            for ended in await asyncio.gather(kept, pausing, return_exceptions=True):
                if isinstance(ended, Exception):  # a bug; without either, the mapping ran on all the same
                    log.error("ended before the mapping: %r", ended, extra={"mapping": name})

    async def _stop_mappings(self, running: Mapping[str, Running]) -> None:
        deadline = asyncio.get_running_loop().time() + self.config.shutdown_grace
        for each in running.values():
            each.runner.stop(deadline)
        await asyncio.gather(*(each.task for each in running.values()))
        for name in running:
            self.running.pop(name, None)

    # --- sources ----------------------------------------------------------------------------------------------------------------

    async def _open(self, mapping: MappingConfig, tally: Tally) -> Source:
        config = self.config
        context = Context(mapping.settings, self.store, self.owner, self.clock, config.base, config.state, tally=tally, worker=self.worker)
        source = await self.registry.connector(mapping.type).open(mapping.options, context)
        try:
            # An open source may know more of itself than its options told: its ARN, say, which is the address of a destination.
            if own := next((each.shown for each in mapping.destinations if source.identity in (each.traits.identity, each.to)), ""):
                raise SourceError(f"the destination {own} is the mapping's own source, and would feed it: name another one")
            running = self.running.get(mapping.settings.name)
            before = "" if running is None or running.config is not mapping else running.runner.work.source
            await self.identities.claim(mapping.settings.id, source.identity, before)
            self._tell_rivals(mapping, source.identity)
        except BaseException:
            await source.aclose()
            raise
        return source

    def _tell_rivals(self, mapping: MappingConfig, identity: str) -> None:
        """The configuration refuses what its text shows to be one queue twice; some sources only tell their name once they are open.

        A warning, for nothing is lost by it: the mappings compete for the messages. And two services may give their queues one name.
        """
        if self.registry.connector(mapping.type).traits(mapping.options).kind != "queue":
            return  # of a stream every mapping gets all
        settings = mapping.settings
        for name, other in self.running.items():
            if other.config is mapping:
                other.identity = identity  # at once: the next one to open must not slip through before the runner has heard of it
            elif not other.task.done() and (other.identity, other.config.settings.function) == (identity, settings.function):
                text = "polls the same queue for the same function as mapping %s: %s; remove one, raise maximum_concurrency of the other"
                log.warning(text, name, identity, extra={"mapping": settings.name})

    # --- reload -----------------------------------------------------------------------------------------------------------------

    async def reload(self) -> list[str]:
        """Read the file again and restart what changed; returns a line for each change. Raises ConfigError, with nothing changed."""
        async with self._reloading:
            return await unbroken(self._change(await reread(self.config, self.registry, self.environ)))

    async def adopt(self, config: Config) -> list[str]:
        """As `reload`, with a configuration that was read and checked already."""
        async with self._reloading:
            return await unbroken(self._change(config))

    async def _change(self, config: Config) -> list[str]:
        # Never cancelled: what was stopped for it would not be started again.
        old, self.config = self.config, config
        functions = {
            name
            for name, settings in config.functions.items()
            if old.functions.get(name) != settings or self._code[name] != code_stamp(settings)
        }
        functions |= old.functions.keys() - config.functions.keys()
        wanted = {name: mapping for name, mapping in config.mappings.items() if mapping.enabled}
        changed = {
            name
            for name, each in self.running.items()
            if name not in wanted or wanted[name].digest != each.config.digest or each.config.settings.function in functions
        }
        await self._stop_mappings({name: self.running[name] for name in changed})
        for name in functions:
            gone = self.functions.pop(name, None)
            if gone is not None:
                await gone.aclose()
            if name in config.functions and not self.stopping.is_set():
                self._add_function(config.functions[name])
        # A stop that came meanwhile has seen the mappings that ran; none may start behind its back.
        started = [name for name in wanted if name not in self.running and not self.stopping.is_set()]
        for name in started:
            self._start(wanted[name])
        # Last: a courier whose destination hangs may take all of its grace to end, and no lane waits for that.
        await self._deliver(config)
        return [f"stopped {name}" for name in sorted(changed - wanted.keys())] + [f"started {name}" for name in sorted(started)]

    # --- what it tells ----------------------------------------------------------------------------------------------------------

    async def status(self) -> DaemonStatus:
        """Everything a person, a probe or a scraper asks for."""
        now = self.clock()
        running = dict(self.running)  # as it was: a reload may change it while lanes are asked
        mappings = list(await asyncio.gather(*(mapping_status(each.runner, each.config.type, now) for each in running.values())))
        for name, mapping in self.config.mappings.items():
            if name not in running:
                mappings.append(MappingStatus(name=name, type=mapping.type, enabled=mapping.enabled, state="stopped"))
        journal, destinations = await self._kept_status()
        status = DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            started=self.started,
            config=str(self.config.path),
            stopping=self.stopping.is_set(),
            store_error=self._store_error or next((text for each in self.running.values() if (text := each.runner.store_error)), ""),
            mappings=mappings,
            functions=function_statuses(self.functions.values()),
            destinations=destinations,
            journal=journal,
            process=measure(),
        )
        return judged(status, now)

    async def _kept_status(self) -> tuple[JournalStatus, list[DestinationStatus]]:
        try:
            waiting = await self.store.outbox.waiting()
            counts = {state: await self.store.journal.count(Selection(states=(state,))) for state in get_args(RowState)}
        except StoreError as error:
            self._store_error = str(error)
            return JournalStatus(), destination_statuses(self.config, (), self.registry)
        self._store_error = ""
        return JournalStatus(**counts), destination_statuses(self.config, waiting, self.registry)

    async def _status(self) -> AsyncIterator[dict[str, Any]]:
        yield msgspec.to_builtins(await self.status())

    async def _reload(self) -> AsyncIterator[dict[str, Any]]:
        for line in await self.reload():
            yield {"change": line}
