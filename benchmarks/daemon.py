"""`poller run` as a process of a measurement, asked over its pages."""

from __future__ import annotations

import asyncio
import re
import socket
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.comparison import ROOT

PROGRAM = (sys.executable, "-m", "poller")
READY_SECONDS = 30.0


def free_port() -> int:
    """To be named in a configuration."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


class Daemon:
    """One that runs, and is ready."""

    def __init__(self, pid: int, port: int) -> None:
        self.pid = pid
        self._port = port

    async def metrics(self) -> str:
        """Raises SystemExit if there are none."""
        return await asyncio.to_thread(_page, f"http://127.0.0.1:{self._port}/metrics") or _gone("has no metrics")


@asynccontextmanager
async def daemon(file: Path, port: int) -> AsyncIterator[Daemon]:
    """A daemon with this configuration, whose pages are on `port`. Raises SystemExit with its log if it does not become ready."""
    with tempfile.TemporaryFile() as log:
        process = await asyncio.create_subprocess_exec(*PROGRAM, "run", "-c", str(file), cwd=ROOT, stdout=log, stderr=log)
        try:
            until = time.monotonic() + READY_SECONDS
            while not await asyncio.to_thread(_page, f"http://127.0.0.1:{port}/readyz"):
                if process.returncode is not None or time.monotonic() > until:
                    log.seek(0)
                    _gone(f"is not ready ({process.returncode}):\n{log.read(10_000).decode()}")
                await asyncio.sleep(0.1)
            yield Daemon(process.pid, port)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


def total(metrics: str, name: str) -> float:
    """The sum of the samples of this name."""
    return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", metrics, re.MULTILINE))


def _gone(text: str) -> str:
    raise SystemExit(f"the daemon {text}")


def _page(url: str) -> str:
    """Its text; none: it is not there, or says that all is not well."""
    try:
        with urllib.request.urlopen(url, timeout=5.0) as answer:
            return str(answer.read().decode()) if answer.status == 200 else ""
    except (urllib.error.URLError, OSError):
        return ""
