"""The program as it is run, with several workers: `poller run` as a process of the tests, and the processes below it."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from poller.admin.control import ask
from poller.status import DaemonStatus
from tests.acceptance.harness import CREDENTIALS, DaemonProcess, Site, until

_HEALTH = re.compile(r"health at http://([0-9.:]+)/readyz")


class Supervised(DaemonProcess):
    """A supervisor that was started."""

    def __init__(self, folder: Path, config: Path, variables: dict[str, str]) -> None:
        DaemonProcess._started += 1
        self._config = config
        self._log = folder / f"log-{DaemonProcess._started}"
        command = [sys.executable, "-m", "poller", "run", "-c", str(config)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **CREDENTIALS, **variables})

    def _ready(self) -> str:
        assert not self.ended, self.log
        match = _HEALTH.search(self.log)
        return f"ready {match[1]}" if match else ""

    def hang_up(self) -> None:
        self._process.send_signal(signal.SIGHUP)

    # --- asked --------------------------------------------------------------------------------------------------------------------

    def ask(self, command: str, **arguments: Any) -> list[dict[str, Any]]:
        """All answers of a control command; waits until it can be asked."""
        assert self.address
        return asyncio.run(_all(self._config.parent / "state" / f"{self._config.stem}.sock", command, arguments))

    def status(self) -> DaemonStatus:
        return msgspec.convert(self.ask("status")[0], DaemonStatus)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another command of the program, with this configuration."""
        command = [sys.executable, "-m", "poller", *arguments, "-c", str(self._config)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30, env={**os.environ, **CREDENTIALS})

    # --- the processes below ------------------------------------------------------------------------------------------------------

    def workers(self) -> list[int]:
        """Process ids, by number; waits until all run."""

        def all_run() -> list[int]:
            workers = self.status().workers
            return [each.pid for each in workers] if all(each.state == "running" for each in workers) else []

        return self.until(all_run, what="all workers run")


async def _all(path: Path, command: str, arguments: dict[str, Any]) -> list[dict[str, Any]]:
    return [answer async for answer in ask(path, command, **arguments)]


@contextmanager
def supervised(site: Site, file: str = "poller.toml", **variables: str) -> Iterator[Supervised]:
    """A supervisor from here on; killed at the end if it still runs."""
    daemon = Supervised(site.folder, site.folder / file, variables)
    try:
        yield daemon
    finally:
        daemon.kill()


def below(pid: int) -> set[int]:
    """The processes that descend from this one."""
    children = _children(pid)
    return children.union(*map(below, children))


def _children(pid: int) -> set[int]:
    try:
        return {int(child) for task in os.listdir(f"/proc/{pid}/task") for child in _text(f"/proc/{pid}/task/{task}/children").split()}
    except OSError:
        return set()


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def gone(pids: set[int]) -> bool:
    """Whether none of these is left, but for those that nobody has reaped."""
    return all(_state(pid) in ("", "Z") for pid in pids)


def _state(pid: int) -> str:
    return _text(f"/proc/{pid}/stat").rpartition(")")[2][1:2]


def all_gone(pids: set[int]) -> None:
    """Waits for it."""
    until(lambda: gone(pids), 10.0, f"none of {pids} is left")


def lines(log: str) -> list[dict[str, Any]]:
    """The log's lines, as the program writes them elsewhere than at a terminal."""
    return [json.loads(line) for line in log.splitlines()]
