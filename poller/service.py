"""The daemon as a process: its log, its loop, signals, and what the service manager wants to know.

SIGTERM, SIGINT   stop in order; another one of either ends at once
SIGHUP            reload; a bad file changes nothing, and the log says why
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from poller import logs
from poller.admin.face import socket_path
from poller.admin.tasks import tasks
from poller.collector import settle_down
from poller.config import Config
from poller.daemon import Daemon
from poller.errors import ConfigError, PollerError, StopError
from poller.notify import Notifier
from poller.registry import Registry
from poller.status import DaemonStatus
from poller.workers.supervisor import CLOSING_SECONDS, Supervisor

log = logging.getLogger("poller.service")

STATUS_SECONDS = 5.0
"""How often it is looked whether the service manager should be told something else."""


class Served(Protocol):
    """What is run as a process: a daemon, or the supervisor of several."""

    config: Config
    stopping: asyncio.Event

    @property
    def parts(self) -> str:
        """What it runs, for a person."""

    @property
    def away(self) -> list[str]:
        """What of it does not run, a sentence each."""

    async def run(self, started: Callable[[], None]) -> None:
        """Until stopped, or cancelled: then it ends at once. Raises PollerError; StopError if not all could be stopped in order."""

    def stop(self) -> None:
        """Stop in order. Tolerated twice."""

    async def reload(self) -> list[str]:
        """A line for each change. Raises PollerError."""

    async def status(self) -> DaemonStatus: ...


def serve(config: Config) -> int:
    """Run the daemon in this process until it is stopped; returns the exit code: 0 when all was stopped in order, 1 when some of it was
    not, or 128 + the signal that ended it at once.

    With several workers, this process is their supervisor. Raises what keeps it from starting, as PollerError.
    """
    logs.setup(config.log, config.log_level)
    notifier = Notifier.from_environment(os.environ)
    if config.workers > 1:
        # It can be asked at once: why workers do not come up, and a reload may be what lets them.
        service = Service(Supervisor(config, Registry(), os.environ, silence_limit=notifier.watchdog), notifier, early=True)
    else:
        daemon = Daemon(config, Registry(), os.environ)
        daemon.commands |= tasks(daemon)
        service = Service(daemon, notifier)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(service.run())


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """The fastest loop there is; None: asyncio's own."""
    try:
        import uvloop
    except ImportError:  # not built for this platform: asyncio's own loop does all that we need
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@dataclass(slots=True)
class Service:
    """Runs `served` under signals. One service a process. `started` is set once it has started.

    `early`: it can be asked, and told to reload, before it has started. `supervised`: it is a worker; its supervisor is asked and told.
    """

    served: Served
    notifier: Notifier
    early: bool = False
    supervised: bool = False
    started: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _hangup: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _forced: int = field(init=False, default=0)

    async def run(self) -> int:
        """See `serve`."""
        loop = asyncio.get_running_loop()
        running = loop.create_task(self.served.run(self._ready), name="daemon")
        beside = [
            loop.create_task(self.notifier.watch(lambda: True)),
            loop.create_task(self._reload_on_hangup()),
            loop.create_task(self._tell_status()),
        ]
        # Before anything can be started: the system's own answer to SIGHUP would be to end us.
        loop.add_signal_handler(signal.SIGHUP, self._hangup.set)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number, running)
        try:
            await running
        except asyncio.CancelledError:
            if not self._forced:
                raise
            log.warning("ended at once; what ran is tried again after the next start")
            return 128 + self._forced
        except StopError as error:
            log.error("stopped, but not in order: %s; what it ran comes again, as after a crash", error)
            return 1
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        log.info("stopped")
        return 0

    def _ready(self) -> None:
        served = self.served
        settle_down(sum(function.concurrency for function in served.config.functions.values()))
        how = f"started, but {', '.join(served.away)}" if served.away else "ready"
        where = "" if self.supervised else f", control at {socket_path(served.config)}"
        log.info("%s: %s%s", how, served.parts, where)
        # Even while a source is away: the service manager can do nothing about it but kill us. STATUS and /readyz say what is wrong.
        if not served.stopping.is_set():
            self.notifier.ready()
        self.started.set()

    async def _tell_status(self) -> None:
        """What `systemctl status` shows: whether all is well, and if not, what is not."""
        if not self.early:
            await self.started.wait()
        told = ""
        while self.notifier.heard and not self.served.stopping.is_set():
            line = _line(await self.served.status(), self.served.parts)
            if line != told:
                self.notifier.status(line)
                told = line
            await asyncio.sleep(STATUS_SECONDS)

    def _stop(self, number: int, running: asyncio.Task[None]) -> None:
        if not self.served.stopping.is_set():
            grace = self.served.config.shutdown_grace
            log.info("%s: stopping; running functions have %.0f s to finish", signal.Signals(number).name, grace)
            self.notifier.stopping()
            self.notifier.status(f"stopping: running functions have {grace:.0f} s to finish")
            self.notifier.extend(grace + CLOSING_SECONDS)
            self.served.stop()
            return
        self._forced = number
        running.cancel()

    async def _reload_on_hangup(self) -> None:
        if not self.early:
            await self.started.wait()
        while True:
            await self._hangup.wait()
            self._hangup.clear()  # before the file is read: a signal that comes now may be about a newer one
            if not self.served.stopping.is_set() and not self.supervised:
                await self._reload()

    async def _reload(self) -> None:
        if self.started.is_set():
            self.notifier.reloading()
        self.notifier.extend(self.served.config.shutdown_grace + CLOSING_SECONDS)
        try:
            changes = await self.served.reload()
        except ConfigError as error:
            for problem in error.problems:
                log.error("not reloaded, nothing has changed: %s", problem)
        except PollerError as error:
            log.error("not reloaded: %s", error)
        except Exception:  # a bug in there must not end what runs
            log.exception("the reload failed")
        else:
            log.info("reloaded: %s", ", ".join(changes) or "nothing has changed")
        finally:
            if self.started.is_set():
                self.notifier.ready()


def _line(status: DaemonStatus, parts: str) -> str:
    if status.ready:
        return f"ready: {parts}"
    more = f" (and {len(status.reasons) - 1} more)" if len(status.reasons) > 1 else ""
    return f"not ready: {status.reasons[0]}{more}; {parts}"
