"""The daemon as a process: its log, its loop, signals, and what the service manager wants to know.

SIGTERM, SIGINT   stop in order; another one of either ends at once
SIGHUP            reload; a bad file changes nothing, and the log says why
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field

from poller import logs
from poller.admin import replaying
from poller.config import Config
from poller.daemon import Daemon, socket_path
from poller.errors import ConfigError, PollerError
from poller.notify import Notifier
from poller.registry import Registry
from poller.status import DaemonStatus

log = logging.getLogger("poller.service")

STATUS_SECONDS = 5.0
"""How often it is looked whether the service manager should be told something else."""

CLOSING_SECONDS = 15.0
"""What a stop may take besides `shutdown_grace`: killing functions, saving progress, closing the store."""


def serve(config: Config) -> int:
    """Run the daemon in this process until it is stopped; returns the exit code: 0, or 128 + the signal that ended it at once.

    Raises what keeps it from starting, as PollerError.
    """
    logs.setup(config.log, config.log_level)
    daemon = Daemon(config, Registry(), os.environ)
    daemon.commands["replay"] = replaying.command(daemon)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(Service(daemon, Notifier.from_environment(os.environ)).run())


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not built for this platform: asyncio's own loop does all that we need
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


@dataclass(slots=True)
class Service:
    """Runs `daemon` under signals. One service a process."""

    daemon: Daemon
    notifier: Notifier
    _started: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _hangup: asyncio.Event = field(init=False, default_factory=asyncio.Event)
    _forced: int = field(init=False, default=0)

    async def run(self) -> int:
        """See `serve`."""
        loop = asyncio.get_running_loop()
        running = loop.create_task(self.daemon.run(self._ready), name="daemon")
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
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
        log.info("stopped")
        return 0

    def _ready(self) -> None:
        # What was made until now stays: the collector need not look at it again in every full run.
        gc.collect()
        gc.freeze()
        daemon = self.daemon
        away = [f"{name} is {each.runner.state}" for name, each in daemon.running.items() if each.runner.state != "running"]
        how = f"started, but {', '.join(away)}" if away else "ready"
        log.info("%s: %s, control at %s", how, _parts(daemon), socket_path(daemon.config))
        # Even while a source is away: the service manager can do nothing about it but kill us. STATUS and /readyz say what is wrong.
        if not daemon.stopping.is_set():
            self.notifier.ready()
        self._started.set()

    async def _tell_status(self) -> None:
        """What `systemctl status` shows: whether all is well, and if not, what is not."""
        await self._started.wait()
        told = ""
        while self.notifier.heard and not self.daemon.stopping.is_set():
            line = _line(await self.daemon.status(), _parts(self.daemon))
            if line != told:
                self.notifier.status(line)
                told = line
            await asyncio.sleep(STATUS_SECONDS)

    def _stop(self, number: int, running: asyncio.Task[None]) -> None:
        if not self.daemon.stopping.is_set():
            grace = self.daemon.config.shutdown_grace
            log.info("%s: stopping; running functions have %.0f s to finish", signal.Signals(number).name, grace)
            self.notifier.stopping()
            self.notifier.status(f"stopping: running functions have {grace:.0f} s to finish")
            self.notifier.extend(grace + CLOSING_SECONDS)
            self.daemon.stop()
            return
        self._forced = number
        running.cancel()

    async def _reload_on_hangup(self) -> None:
        await self._started.wait()
        while True:
            await self._hangup.wait()
            self._hangup.clear()  # before the file is read: a signal that comes now may be about a newer one
            if not self.daemon.stopping.is_set():
                await self._reload()

    async def _reload(self) -> None:
        self.notifier.reloading()
        self.notifier.extend(self.daemon.config.shutdown_grace + CLOSING_SECONDS)
        try:
            changes = await self.daemon.reload()
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
            self.notifier.ready()


def _parts(daemon: Daemon) -> str:
    count = len(daemon.running)
    return f"{count} mapping{'' if count == 1 else 's'}, health at http://{daemon.address}/readyz"


def _line(status: DaemonStatus, parts: str) -> str:
    if status.ready:
        return f"ready: {parts}"
    more = f" (and {len(status.reasons) - 1} more)" if len(status.reasons) > 1 else ""
    return f"not ready: {status.reasons[0]}{more}; {parts}"
