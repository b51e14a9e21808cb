"""The supervisor of several workers: one daemon to the outside, processes that do the work inside.

                 signals, control socket, pages
                              |
                         supervisor --------- a keeper each -------- workers: daemons with their share of the limits
                              |                                        |
        reads and checks the file, sums what the workers tell        leases, store, sources, functions: each for itself

It does no work of its own and opens no store. A worker is killed and started again when it has not answered for `silence_limit` (the
service manager's WatchdogSec); so the supervisor feeds the watchdog for itself alone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

import msgspec

from poller import __version__
from poller.admin.commands import Command
from poller.admin.face import Face, PublicFace, socket_path
from poller.admin.socket_file import ControlError
from poller.admin.tasks import EVERYWHERE, TASKS
from poller.config import Config
from poller.daemon import reread
from poller.errors import PollerError, StopError
from poller.metrics import measure
from poller.registry import Registry
from poller.status import DaemonStatus, JournalStatus, MappingStatus
from poller.unbroken import unbroken
from poller.workers.keeper import PROGRAM, Keeper
from poller.workers.limits import complete
from poller.workers.totals import total

log = logging.getLogger("poller.supervisor")

LOOK_SECONDS = 5.0
"""How often workers are asked unasked: for the watchdog, and so that little is forgotten of what one counted that dies."""

CLOSING_SECONDS = 15.0
"""What a stop, or a reload, may take besides `shutdown_grace`: killing functions, saving progress, closing the store."""

FORCED_SECONDS = 5.0
"""What ending at once may take before the workers are killed."""


@dataclass(slots=True)
class Supervisor:
    """Runs one configuration in `config.workers` processes. `run` returns after `stop`.

    `closing`: see `CLOSING_SECONDS`. `silence_limit`: seconds after which a worker that does not answer is killed; None: never.
    """

    config: Config
    registry: Registry
    environ: Mapping[str, str]
    clock: Callable[[], float] = time.time
    silence_limit: float | None = None
    program: Sequence[str] = PROGRAM
    open_face: Callable[..., Face] = PublicFace
    closing: float = CLOSING_SECONDS
    owner: str = field(default_factory=lambda: f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}")
    address: str = field(init=False, default="")
    started: float = field(init=False, default=0.0)
    stopping: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _keepers: list[Keeper] = field(init=False, default_factory=list)
    _reloading: asyncio.Lock = field(init=False, default_factory=asyncio.Lock)
    _journal: JournalStatus = field(init=False, default_factory=JournalStatus)

    def __repr__(self) -> str:
        return f"<Supervisor {self.config.path.name} {self._keepers!r}>"

    async def run(self, started: Callable[[], None] = lambda: None) -> None:
        """Until stopped. `started` is called once every worker has come up. Cancelled, it ends the workers at once.

        Raises what keeps it from starting, as PollerError; a worker that cannot start is a reason not to be ready. Raises StopError once
        all has ended, if a worker had to be killed, or died, before it had stopped.
        """
        self.registry.verify()
        self.started = self.clock()
        for warning in self.config.warnings:
            log.warning("%s", warning)
        commands: dict[str, Command] = {"status": self._status, "reload": self._reload}
        commands |= {name: self._forwarded(name) for name in TASKS} | {name: self._everywhere(name) for name in EVERYWHERE}
        for number in range(1, self.config.workers + 1):
            self._keepers.append(Keeper(number, f"{self.owner}-{number}", lambda: self.config, self.environ, self.clock, self.program))
        face = self.open_face(self.config, commands, self.status, self.clock)
        try:
            await face.start()
            self.address = face.address
            log.info("starting %s, control at %s", self.parts, socket_path(self.config))  # they may never come up: so it is said first
            async with self._kept() as running:
                await self._until_stopped(started, running)
                await self._stop(running)
        finally:
            await face.aclose()

    def stop(self) -> None:
        """Stop in order. Tolerated twice."""
        self.stopping.set()

    @property
    def parts(self) -> str:
        """What it runs, for a person."""
        count = sum(mapping.enabled for mapping in self.config.mappings.values())
        health = f", health at http://{self.address}/readyz" if self.address else ""
        return f"{count} mapping{'' if count == 1 else 's'} in {self.config.workers} workers{health}"

    @property
    def away(self) -> list[str]:
        """What does not run, a sentence each."""
        return [f"{keeper.name} does not run" for keeper in self._keepers if not keeper.up]

    # --- its workers ----------------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _kept(self) -> AsyncIterator[set[asyncio.Task[str]]]:
        """The tasks of the keepers; none of their processes is left afterwards."""
        loop = asyncio.get_running_loop()
        tasks = {loop.create_task(keeper.run(), name=keeper.name) for keeper in self._keepers}
        try:
            yield tasks
        finally:
            # Asked to end at once, or in trouble: a worker that was asked to stop before ends at once now.
            left = {task for task in tasks if not task.done()}
            if left:
                for keeper in self._keepers:
                    keeper.stop()
                await asyncio.wait(left, timeout=FORCED_SECONDS)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _until_stopped(self, started: Callable[[], None], running: set[asyncio.Task[str]]) -> None:
        loop = asyncio.get_running_loop()
        up = asyncio.gather(*(keeper.came_up.wait() for keeper in self._keepers))
        stop = loop.create_task(self.stopping.wait())
        watching = loop.create_task(self._watch())
        ends: set[asyncio.Future[Any]] = {stop, watching, *running}
        try:
            await asyncio.wait({up, *ends}, return_when=asyncio.FIRST_COMPLETED)
            if up.done() and not self.stopping.is_set():
                started()
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in done:
                end.result()  # a keeper that has failed: nobody would start its worker again, and nobody would notice
        finally:
            for each in (up, stop, watching):
                each.cancel()
            await asyncio.gather(up, stop, watching, return_exceptions=True)

    async def _stop(self, running: set[asyncio.Task[str]]) -> None:
        for keeper in self._keepers:
            keeper.stop()
        _, late = await asyncio.wait(running, timeout=self.config.shutdown_grace + self.closing)
        if late:
            log.error("%s did not stop in time, and what is left is killed", ", ".join(sorted(task.get_name() for task in late)))
            for keeper in self._keepers:
                keeper.kill()
            await asyncio.wait(late)
        ends = sorted(f"{task.get_name()}: {how}" for task in running if (how := task.result()))
        if ends:
            raise StopError(", ".join(ends))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS if self.silence_limit is None else min(LOOK_SECONDS, self.silence_limit / 4))
            for keeper in self._keepers:
                keeper.inquire()
                if self.silence_limit is not None and keeper.silence > self.silence_limit:
                    log.error("%s has not answered for %.0f s: it is killed, and started again", keeper.name, keeper.silence)
                    keeper.kill()

    # --- what it is asked -----------------------------------------------------------------------------------------------------------

    async def reload(self) -> list[str]:
        """As `Daemon.reload`, in every worker. Raises ConfigError, with nothing changed; PollerError if a worker failed to follow."""
        async with self._reloading:
            self.config = config = await reread(self.config, self.registry, self.environ)
            for warning in config.warnings:
                log.warning("%s", warning)
            # Who dies, or is started, meanwhile begins with the configuration that is there.
            answers = await unbroken(self._adopted(config))
        failed = []
        changes = set()
        for keeper, answer in zip(self._keepers, answers, strict=True):
            match answer:
                case list():
                    changes |= {*answer}
                case PollerError():
                    failed.append(f"{keeper.name}: {answer}")
                case _:
                    raise answer
        if failed:
            raise ControlError(f"the file is good, and not every worker runs it: {'; '.join(failed)}")
        return sorted(changes)

    async def _adopted(self, config: Config) -> list[list[str] | BaseException]:
        limit = config.shutdown_grace + self.closing

        async def adopted(keeper: Keeper) -> list[str]:
            try:
                async with asyncio.timeout(limit):
                    return await keeper.adopt(config)
            except TimeoutError as error:
                raise ControlError(
                    f"it has not answered for {limit:.0f} s; if it does not follow later, kill it: it is started again"
                ) from error

        return await asyncio.gather(*map(adopted, self._keepers), return_exceptions=True)

    async def status(self) -> DaemonStatus:
        """Everything a person, a probe or a scraper asks for: of all workers together."""
        seen = await asyncio.gather(*(keeper.look() for keeper in self._keepers))
        own = DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            started=self.started,
            config=str(self.config.path),
            stopping=self.stopping.is_set(),
            mappings=[
                MappingStatus(
                    name=name,
                    id=mapping.settings.id,
                    type=mapping.type,
                    function=mapping.settings.function,
                    enabled=mapping.enabled,
                    state="starting" if mapping.enabled and not self.stopping.is_set() else "stopped",
                )
                for name, mapping in self.config.mappings.items()
            ],
            journal=self._journal,
            process=measure(),
        )
        status = total(own, seen)
        self._journal = status.journal
        return status

    async def _status(self) -> AsyncIterator[dict[str, Any]]:
        yield msgspec.to_builtins(await self.status())

    async def _reload(self) -> AsyncIterator[dict[str, Any]]:
        for line in await self.reload():
            yield {"change": line}

    def _forwarded(self, name: str) -> Command:
        """A task for one worker: it works on what all of them share."""

        async def forwarded(**arguments: Any) -> AsyncIterator[dict[str, Any]]:
            keeper = self._who_runs(arguments.get("mapping"))
            async with aclosing(keeper.ask(name, **arguments)) as answers:
                async for answer in answers:
                    yield answer

        return forwarded

    def _everywhere(self, name: str) -> Command:
        """For each worker that is up, one after the other."""

        async def everywhere(**arguments: Any) -> AsyncIterator[dict[str, Any]]:
            for keeper in self._keepers:
                if keeper.up:
                    async with aclosing(keeper.ask(name, **arguments)) as answers:
                        async for answer in answers:
                            yield answer

        return everywhere

    def _who_runs(self, mapping: object) -> Keeper:
        """The first worker that is up and runs the mapping (its name or id); without one, that has every function."""
        able = [keeper for keeper in self._keepers if _runs(keeper, mapping)] or self._keepers[: complete(self.config)]
        return next((keeper for keeper in able if keeper.up), able[0])


def _runs(keeper: Keeper, mapping: object) -> bool:
    known = keeper.given.mappings.values() if keeper.given is not None else ()
    return any(each.enabled and mapping in (each.settings.name, each.settings.id) for each in known)
