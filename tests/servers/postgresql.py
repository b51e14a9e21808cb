"""PostgreSQL as a process of a test session: on loopback, its data in a temporary folder, durable as in production."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from tests.servers.kafka.broker import quiet_port
from tests.servers.process import await_ready, halt, launch, missing, stop

# Small, and as durable as the default: fsync and synchronous_commit stay on.
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "autovacuum_naptime": "30s",
    "deadlock_timeout": "200ms",
    "logging_collector": "off",
    "log_min_messages": "warning",
}


def _tool(name: str) -> str:
    """Debian keeps all but the client out of the path."""
    found = shutil.which(name) or next(iter(sorted(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), reverse=True)), None)
    return found or missing(f"PostgreSQL needs {name} (apt-get install postgresql)")


def _as_user() -> list[str]:
    """PostgreSQL refuses to run as root; then it runs as the user that its package made."""
    if os.geteuid() != 0:
        return []
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        user = pwd.getpwnam("nobody")
    return [_tool("setpriv"), f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--pdeathsig=KILL"]


class PostgreSQL:
    """Blocks until it is done, as each method says; an async test calls the slow ones with `asyncio.to_thread`.

    `port` stays, as the data do, over `kill` and `start`.
    """

    def __init__(self, folder: Path) -> None:
        self.port = quiet_port()
        self.folder = folder
        self._databases = count(1)
        self._process: subprocess.Popen[bytes] | None = None
        user = _as_user()
        # Not in the tests' own folder, which is closed to other users, and closed again by each session that starts.
        self._data = Path(tempfile.mkdtemp(prefix="poller-postgresql-"))
        if user:
            shutil.chown(self._data, int(user[1].partition("=")[2]))
        self._run(
            [*user, _tool("initdb"), "-D", str(self._data), "-U", "poller", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync"]
        )
        settings = [f"--{name.replace('_', '-')}={value}" for name, value in {**_SETTINGS, "port": self.port}.items()]
        self._command = [*user, _tool("postgres"), "-D", str(self._data), *settings]

    def url(self, database: str = "postgres") -> str:
        return f"postgresql://poller@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"test_{next(self._databases)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def execute(self, statement: str, url: str | None = None) -> str:
        """What the client prints, a row a line."""
        return self._run([_tool("psql"), "-qAtX", "-v", "ON_ERROR_STOP=1", "-d", url or self.url(), "-c", statement])

    def start(self) -> None:
        """Until it takes statements."""
        self._process = launch(self._command, self.folder)
        await_ready(self._process, self.folder, self._answers)

    def kill(self) -> None:
        """As `kill -9` of all its processes does: nothing is said to anyone, and nothing is flushed."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """All its processes: they keep their connections and answer nothing, until `resume`."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self.resume()
            self._process.send_signal(signal.SIGINT)  # "fast": clients are sent away
            stop(self._process)
            self._process = None

    def heal(self) -> None:
        """It runs and answers, whatever was done to it."""
        if self._process is None:
            self.start()
        else:
            self.resume()
            await_ready(self._process, self.folder, self._answers)

    def remove(self) -> None:
        """For good, with its data."""
        self.kill()
        shutil.rmtree(self._data, ignore_errors=True)

    def _signal(self, number: int) -> None:
        assert self._process is not None, "it does not run"
        # Children first, and the postmaster before them when they are to live: it must not see one die.
        mains = [self._process.pid]
        children = _children(self._process.pid)
        for process in mains + children if number == signal.SIGSTOP else children + mains:
            try:
                if number == signal.SIGSTOP:
                    halt(process)
                else:
                    os.kill(process, number)
            except ProcessLookupError:
                pass

    def _answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return (
            subprocess.run([_tool("psql"), "-qAtX", "-d", self.url(), "-c", "SELECT 1"], capture_output=True, check=False).returncode == 0
        )

    def _run(self, command: Sequence[str]) -> str:
        done = subprocess.run(command, cwd="/", check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def _children(parent: int) -> list[int]:
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(number) for number in path.read_text().split()]
