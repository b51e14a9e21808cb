"""What the acceptance tests share: a site (a folder with configuration, store and testimony), and the daemon as a process.

A test waits for what can be seen from outside (testimony, journal, pages, queue attributes), by asking until a deadline.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from poller.config import load
from poller.failures.journal import Row, Selection
from poller.feed import Feed, Item
from poller.registry import Registry
from poller.settings import Context
from poller.stores.memory import MemoryStore
from poller.stores.sqlite import open_store
from tests.acceptance.daemon_program import Options
from tests.servers.process import halt

T = TypeVar("T")

FOLDER = Path(__file__).resolve().parent
FUNCTIONS = FOLDER / "functions"
PATIENCE = 30.0
"""Seconds within which something that needs no waiting must have happened, on a busy machine."""

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x"}
"""Every daemon has these: it must not find someone's own."""

_ASK_AGAIN = 0.02


def until(true: Callable[[], T], seconds: float = PATIENCE, what: str = "") -> T:
    """What `true` gives as soon as it is true. Fails the test at the deadline."""
    deadline = time.monotonic() + seconds
    while not (result := true()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:.0f} s: {what or getattr(true, '__name__', true)}")
        time.sleep(_ASK_AGAIN)
    return result


# --- configuration --------------------------------------------------------------------------------------------------------------------


def toml(value: object) -> str:
    """A value as TOML writes it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return json.dumps(value)


def table(path: str, **keys: object) -> str:
    """A table of the configuration."""
    return "\n".join([f"[{path}]", *(f"{key} = {toml(value)}" for key, value in keys.items()), ""])


# --- what functions testify -----------------------------------------------------------------------------------------------------------


class Testimony(msgspec.Struct):
    """One line of the witness (functions/witness/app.py). `receives`: each record's ApproximateReceiveCount; 0 for streams."""

    what: str
    request: str
    time: float
    pid: int
    daemon: int
    bodies: list[str]
    receives: list[int]
    children: list[int] = []


class Site:
    """A folder with configuration files, the store beside them, and the testimony of the functions."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.out = folder / "testimony"
        self.store = folder / "state" / "poller.db"
        self.out.touch()

    def function(self, name: str = "witness", handler: str = "app.py:handle", code: Path = FUNCTIONS / "witness", **keys: Any) -> str:
        """The table of a function; `environment` is added to what it needs."""
        environment = {"OUT": str(self.out), **keys.pop("environment", {})}
        return table(f"functions.{name}", handler=handler, code=str(code), environment=environment, **keys)

    def mapping(self, name: str, source: dict[str, object], function: str = "witness", **keys: object) -> str:
        return table(f"mappings.{name}", function=function, **keys) + table(f"mappings.{name}.source", **source)

    def write(self, *tables: str, file: str = "poller.toml", **daemon: object) -> None:
        """The configuration; `daemon` are keys of [poller]."""
        keys = {"store": f"sqlite:{self.store}", "listen": "127.0.0.1:0", **daemon}
        (self.folder / file).write_text("\n".join([table("poller", **keys), *tables]))

    def put(self, mapping: str, *bodies: str | Item, file: str = "poller.toml") -> None:
        """Into the local source of a mapping. A body without a key of its own has its text as key."""
        registry = Registry()
        config = load(self.folder / file, registry, os.environ)
        found = config.mappings[mapping]
        connector = registry.connector(found.type)
        assert isinstance(connector, Feed)
        items = [each if isinstance(each, Item) else Item(each.encode(), key="one") for each in bodies]
        assert asyncio.run(connector.put(found.options, _Place(config.base, config.state), items)) == len(items)

    def holds(self, mapping: str) -> str:
        """What its connector says of a local source."""
        registry = Registry()
        config = load(self.folder / "poller.toml", registry, os.environ)
        found = config.mappings[mapping]
        context = Context(found.settings, MemoryStore(), "test", time.time, config.base, config.state)
        return asyncio.run(registry.connector(found.type).probe(found.options, context, 0.0))[-1].text

    # --- what can be seen -------------------------------------------------------------------------------------------------------------

    def testimony(self, what: str) -> list[Testimony]:
        """The lines of this kind ("begun", "ended"), in the order they were written."""
        lines = self.out.read_bytes().rpartition(b"\n")[0].splitlines()  # the last one may be half written
        return [each for line in lines if (each := msgspec.json.decode(line, type=Testimony)).what == what]

    def bodies(self, what: str) -> Counter[str]:
        """How often each body is in lines of this kind."""
        return Counter(body for each in self.testimony(what) for body in each.bodies)

    def handled(self, *bodies: str) -> bool:
        """Whether an invocation with each of these has ended well."""
        return self.bodies("ended").keys() >= set(bodies)

    def journal(self) -> Sequence[Row]:
        """All rows of the store's journal. The store is made if it is not there yet."""
        return asyncio.run(_rows(self.store))

    # --- the daemon -------------------------------------------------------------------------------------------------------------------

    @contextmanager
    def daemon(self, file: str = "poller.toml", options: Options | None = None, **variables: str) -> Iterator[DaemonProcess]:
        """A daemon from here on; killed at the end if it still runs. `variables` are added to its environment."""
        daemon = DaemonProcess(self.folder, self.folder / file, options or Options(), variables)
        try:
            yield daemon
        finally:
            daemon.kill()


@dataclass(frozen=True)
class _Place:
    """Where `put` finds the local sources."""

    base: Path
    state: Path
    clock: Callable[[], float] = time.time


async def _rows(store: Path) -> Sequence[Row]:
    opened = await open_store(store)
    try:
        return await opened.journal.select(Selection(states=()))
    finally:
        await opened.aclose()


class DaemonProcess:
    """A daemon that was started. What it logs is in `log`."""

    _started = 0

    def __init__(self, folder: Path, config: Path, options: Options, variables: dict[str, str]) -> None:
        DaemonProcess._started += 1
        self._output = folder / f"output-{DaemonProcess._started}"
        self._log = folder / f"log-{DaemonProcess._started}"
        command = [sys.executable, str(FOLDER / "daemon_program.py"), str(config), msgspec.json.encode(options).decode()]
        with self._output.open("wb") as output, self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=log, env={**os.environ, **CREDENTIALS, **variables})

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def address(self) -> str:
        """Of its pages; waits until it runs."""
        return until(self._ready, what=f"the daemon runs:\n{self.log}").split()[1]

    def _ready(self) -> str:
        assert not self.ended, self.log
        text = self._output.read_text()
        return text if text.endswith("\n") else ""

    def until(self, true: Callable[[], T], seconds: float = PATIENCE, what: str = "") -> T:
        """As `until`, while it runs: it must not end meanwhile."""

        def alive() -> T:
            assert not self.ended, f"the daemon has ended ({self._process.returncode}):\n{self.log[-4000:]}"
            return true()

        try:
            return until(alive, seconds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-4000:]}") from None

    def readyz(self) -> tuple[bool, str]:
        """Whether it says that it is ready, and its reasons as one text."""
        status, text = self._page("/readyz")
        page = json.loads(text)
        assert (status == 200) == page["ready"]
        return page["ready"], " ".join(f"{each['mapping']}: {each['reason']}" for each in page["reasons"])

    def metric(self, name: str) -> float:
        """The sum of all its samples of this name."""
        _, text = self._page("/metrics")
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.partition("{")[0] == name)

    def _page(self, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.address, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def complaint(self, *texts: str, seconds: float = PATIENCE) -> str:
        """Its reasons for not being ready, as soon as all of these are among them."""

        def complains() -> str:
            ready, reasons = self.readyz()
            return "" if ready or not all(text in reasons for text in texts) else reasons

        return self.until(complains, seconds, f"it is not ready because of {texts}")

    def pause(self) -> None:
        """It stands still, its functions do not, and its connections stay."""
        halt(self.pid)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def terminate(self) -> None:
        """Ask it to stop, as a service manager does."""
        self._process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit status, negative for a signal."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the daemon has not ended within {seconds:.0f} s:\n{self.log[-4000:]}") from None

    def stop(self, seconds: float = PATIENCE) -> None:
        """Stop it in order."""
        self.terminate()
        assert self.wait(seconds) == 0, self.log[-4000:]

    def kill(self) -> None:
        """As `kill -9` does. Tolerated when it has ended."""
        self._process.kill()
        self._process.wait()
