"""A real server as a process of a test session: on loopback, on a free port, in a folder of its own, gone when the session is."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

JARS = Path(__file__).resolve().parents[2] / ".cache" / "servers"
START_SECONDS = 90.0
"""A cold JVM on a busy machine takes its time."""


def missing(what: str) -> NoReturn:
    """A desk may lack what a server needs; CI may not: a skipped test there would look like a passed one."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and CI=true", pytrace=False)
    pytest.skip(what)


def jars(name: str) -> str:
    """The class path of a server that `scripts/servers` fetches."""
    libs = JARS / name / "libs"
    if shutil.which("java") is None:
        missing(f"{name} needs java (apt-get install default-jre-headless)")
    if not (JARS / name / "pom.xml").exists():
        missing(f"{name} needs its jars (run scripts/servers {name})")
    return str(libs / "*")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def answers(url: str, *statuses: int) -> bool:
    """Whether a GET is answered, with 200 or one of these."""
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status in {200, *statuses})
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.code in statuses
    except (urllib.error.URLError, OSError):
        return False


@contextmanager
def running(command: Sequence[str], folder: Path, ready: Callable[[], bool]) -> Iterator[None]:
    """From when `ready` says so. What the server prints is in `folder`/output."""
    process = launch(command, folder)
    try:
        await_ready(process, folder, ready)
        yield
    finally:
        stop(process)


def launch(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    """What the server prints is added to `folder`/output."""
    return _LAUNCHER.submit(_launch, command, folder).result()


def await_ready(process: subprocess.Popen[bytes], folder: Path, ready: Callable[[], bool]) -> None:
    """Fails the test, with the end of the output, if the process ends or START_SECONDS pass before `ready` says so."""
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(f"the server did not start:\n{(folder / 'output').read_text()[-2000:]}", pytrace=False)
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


_LAUNCHER = ThreadPoolExecutor(1, "servers")
"""The kernel takes the end of the thread that started a process for the end of its parent, so all are started by one that lasts."""


def _launch(command: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "output").open("ab") as output:
        # Between fork and exec only one system call is made, so threads of the session do no harm.
        return subprocess.Popen(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, preexec_fn=_die_with_parent)  # noqa: PLW1509


_C = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


def _die_with_parent() -> None:
    """A session that is killed cannot stop its servers; the kernel does (Linux)."""
    if sys.platform == "linux":
        _C.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def halt(pid: int) -> None:
    """SIGSTOP, and it stands still when this returns: where others keep the cores busy, its threads may run on for a while."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 10.0
    # A process that is at its end has no state to wait for.
    while any(_state(task) not in "TtZX" for task in Path(f"/proc/{pid}/task").glob("*")):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(0.001)


def _state(task: Path) -> str:
    try:
        return (task / "stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"
