"""How much memory the environments of a function hold, watched while they run. Needs no rights, only /proc.

A process of its own session is the tree: everything that the function starts stays in it unless it calls setsid.
"""

from __future__ import annotations

import asyncio
import os
from typing import Protocol

INTERVAL = 0.1
PROC = "/proc"
_PAGE = os.sysconf("SC_PAGE_SIZE")


def available() -> bool:
    return os.path.exists(f"{PROC}/self/statm")


class Weighed(Protocol):
    """What is watched. `pid` leads its session; `overweight` ends it."""

    @property
    def pid(self) -> int: ...
    def overweight(self) -> None: ...


class Watch:
    """Calls `overweight` of each one added whose session holds more than `limit` bytes. One look a tick serves all environments."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running: set[Weighed] = set()
        self._sessions: dict[int, int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Watch [{len(self._running)} running, {self._limit} bytes each]>"

    def add(self, environment: Weighed) -> None:
        self._running.add(environment)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._tick)

    def remove(self, environment: Weighed) -> None:
        """The timer is left to run out: short invocations would set one each."""
        self._running.discard(environment)

    def close(self) -> None:
        self._running.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _tick(self) -> None:
        self._timer = None
        if not self._running:
            self._sessions.clear()
            return
        weights = self._weights()
        for environment in [one for one in self._running if weights.get(one.pid, 0) > self._limit]:
            self._running.discard(environment)
            environment.overweight()
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._tick)

    def _weights(self) -> dict[int, int]:
        """Resident bytes by session. A process is asked for its session once, not every tick: the machine may run thousands."""
        pids = {int(name) for name in os.listdir(PROC) if name.isdigit()}
        self._sessions = {pid: session for pid, session in self._sessions.items() if pid in pids}
        for pid in pids - self._sessions.keys():
            self._sessions[pid] = _session(pid)
        watched = {environment.pid for environment in self._running}
        weights = dict.fromkeys(watched, 0)
        for pid, session in self._sessions.items():
            if session in watched:
                weights[session] += _resident(pid)
        return weights


def _session(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _resident(pid: int) -> int:
    try:
        with open(f"{PROC}/{pid}/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):  # it ended meanwhile
        return 0
