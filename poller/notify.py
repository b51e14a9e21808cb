"""Telling systemd how the daemon is (sd_notify). Without NOTIFY_SOCKET every call does nothing."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Mapping


class Notifier:
    """Messages to the service manager. None of them raises, or holds up its caller for more than a second.

    `watchdog` is WatchdogSec in seconds, None if there is none.
    """

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        # "@name" is an abstract socket; anything else that is no path (vsock:...) is of a kind that we do not speak.
        known = address is not None and address.startswith(("/", "@"))
        self._address = address.replace("@", "\0", 1) if known and address and address[0] == "@" else address if known else None
        self.watchdog = watchdog if known else None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int | None = None) -> Notifier:
        """From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; a watchdog meant for another process is not ours to feed."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", "") in ("", str(os.getpid() if pid is None else pid))
        watchdog = int(microseconds) / 1e6 if ours and microseconds.isascii() and microseconds.isdigit() else 0.0
        return cls(environment.get("NOTIFY_SOCKET"), watchdog or None)

    @property
    def heard(self) -> bool:
        """Whether there is anyone to tell."""
        return self._address is not None

    def ready(self) -> bool:
        """Started, or reloaded."""
        return self._send("READY=1")

    def reloading(self) -> bool:
        """Reloading has begun; `ready` ends it. The time is what Type=notify-reload tells this reload from an earlier one by."""
        return self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> bool:
        return self._send("STOPPING=1")

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send("STATUS=" + " ".join(text.split()))  # a line break would begin another assignment

    def extend(self, seconds: float) -> bool:
        """Ask for so many more seconds, from now on, to start, reload or stop in."""
        return self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    async def watch(self, healthy: Callable[[], bool]) -> None:
        """Feed the watchdog twice in its time, while `healthy`. Runs until it is cancelled; returns at once if there is no watchdog.

        That this runs at all shows that the event loop does. `healthy` must say only what a restart would cure: a source that is away or
        a batch that fails is for readiness to tell, and a restart for it would only cost attempts.
        """
        while self.watchdog is not None:
            if healthy():
                self._send("WATCHDOG=1")
            await asyncio.sleep(self.watchdog / 2)

    def _send(self, message: str) -> bool:
        """Whether it was sent: a service manager that does not listen is no reason to stop working."""
        if self._address is None:
            return False
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.settimeout(1.0)
                sender.sendto(message.encode(), self._address)
        except OSError:
            return False
        return True
