"""The program as people and service managers use it: the console script, signals, sockets, exit codes, the quick start."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
POLLER = Path(sys.executable).parent / "poller"
PATIENCE = 30.0

FUNCTION = """
import json, pathlib, time

here = pathlib.Path(__file__).parent

def handle(event, context):
    for record in event["Records"]:
        body = json.loads(record["body"])
        if body.get("hang"):
            (here / "hangs").touch()
            time.sleep(3600)
        if body.get("poison") and not (here / "mended").exists():
            raise KeyError("discount")
        with open(here / "handled", "a") as file:
            file.write(f"{body['id']}\\n")
"""

CONFIG = """
[poller]
listen = "127.0.0.1:0"
shutdown_grace = "20s"

[functions.orders]
handler = "app.py:handle"
timeout = "20s"
concurrency = 2

[mappings.orders]
function = "orders"
batch_size = 1
maximum_receive_count = 2
circuit_breaker = false
retry_backoff = { initial = "10ms", maximum = "20ms" }

[mappings.orders.source]
type = "local-queue"
name = "orders"
"""


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("POLLER_", "NOTIFY_", "WATCHDOG_", "PYTHON"))}
    return {**kept, **more}


@dataclass
class Site:
    """A folder with a configuration, and the program in it."""

    folder: Path

    def poller(self, *arguments: str, input: str = "", code: int = 0) -> str:
        """What a command prints; with another exit code than 0, what it says on stderr."""
        result = self.run(str(POLLER), *arguments, input=input)
        assert result.returncode == code, (arguments, result.stdout, result.stderr)
        assert "Traceback" not in result.stderr
        return result.stdout if code == 0 else result.stderr

    def run(self, *command: str, input: str = "") -> subprocess.CompletedProcess[str]:
        variables = environment(POLLER=str(POLLER))
        return subprocess.run(command, cwd=self.folder, env=variables, input=input, capture_output=True, text=True, check=False, timeout=60)

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.poller("status", "--json"))
        return document

    def rows(self, *arguments: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.poller("failures", "list", "--json", *arguments).splitlines()]

    def handled(self) -> list[str]:
        path = self.folder / "handled"
        return path.read_text().split() if path.exists() else []

    def replace(self, old: str, new: str) -> None:
        text = (self.folder / "poller.toml").read_text()
        assert old in text
        (self.folder / "poller.toml").write_text(text.replace(old, new))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    (tmp_path / "app.py").write_text(FUNCTION)
    (tmp_path / "poller.toml").write_text(CONFIG)
    return Site(tmp_path)


def until(true: Any, what: str) -> Any:
    deadline = time.monotonic() + PATIENCE
    while not (result := true()):
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.02)
    return result


@dataclass
class Running:
    """A daemon under a service manager, which is us."""

    process: subprocess.Popen[str]
    manager: socket.socket
    log: Path
    heard: list[str] = field(default_factory=list)

    def hears(self, *texts: str) -> None:
        """Wait until it has told us these, in this order."""
        for text in texts:
            while text not in self.heard:
                self.heard += self.manager.recv(4096).decode().splitlines()  # its timeout is PATIENCE
            del self.heard[: self.heard.index(text) + 1]

    def hears_of(self, start: str) -> str:
        """Wait until it has told us something that begins so."""
        while not (found := [text for text in self.heard if text.startswith(start)]):
            self.heard += self.manager.recv(4096).decode().splitlines()
        return found[0]

    def logs(self, text: str) -> None:
        until(lambda: text in self.log.read_text(), text)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


@contextmanager
def running(site: Site, *arguments: str, **more: str) -> Iterator[Running]:
    """The daemon, once it says that it is ready."""
    log = site.folder / "log"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, log.open("a") as stream:
        name = f"poller-test-{os.getpid()}-{time.monotonic_ns()}"
        manager.bind(f"\0{name}")
        manager.settimeout(PATIENCE)
        command = [str(POLLER), "run", *arguments]
        process = subprocess.Popen(command, cwd=site.folder, env=environment(NOTIFY_SOCKET=f"@{name}", **more), stderr=stream, text=True)
        daemon = Running(process, manager, log)
        try:
            daemon.hears("READY=1")
            yield daemon
        finally:
            if process.poll() is None:
                process.kill()
                process.wait(PATIENCE)


# --- the whole way --------------------------------------------------------------------------------------------------------------------


def test_from_init_to_replay(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.poller("init")
    site.replace('# listen = "127.0.0.1:8780"', 'listen = "127.0.0.1:0"')
    site.replace('handler = "app.py:handle"', 'handler = "own.py:handle"')
    assert "no file" in site.poller("check", code=2)
    (tmp_path / "own.py").write_text(FUNCTION)
    site.replace('function_response_types = ["ReportBatchItemFailures"]', "")
    site.replace('initial = "1s"', 'initial = "10ms"')
    site.replace('maximum = "30s"', 'maximum = "20ms"')
    site.replace("batch_size = 10", "batch_size = 1")
    assert "nothing wrong" in site.poller("check")
    site.poller("put", "first", input='{"id": 1}\n{"id": 2, "poison": true}\n{"id": 3}\n')
    with running(site) as daemon:
        (row,) = until(site.rows, "the failure")
        assert (row["mapping"], row["attempts"], row["error"]["type"]) == ("first", 5, "KeyError")
        assert "own.py" in site.poller("failures", "show", row["id"][:8])
        assert sorted(until(lambda: site.handled()[1:] and site.handled(), "the others")) == ["1", "3"]
        (tmp_path / "mended").touch()
        assert site.poller("replay") == "1 failure replayed\n"
        assert site.rows() == []
        assert sorted(site.handled()) == ["1", "2", "3"]
        assert daemon.end() == 0
    assert "Traceback" not in daemon.log.read_text()


def test_a_replay_without_a_daemon(site: Site) -> None:
    site.poller("put", "orders", input="".join(f'{{"id": {n}, "poison": true}}\n' for n in range(10)))
    with running(site) as daemon:
        until(lambda: len(site.rows()) == 10, "ten failures")
        assert daemon.end() == 0
    assert "would run 10 failures with 10 records" in site.poller("replay", "--dry-run")
    again = site.run(str(POLLER), "replay", "--json")
    tally = json.loads(again.stdout)
    assert (again.returncode, tally["replayed"], tally["failed_again"]) == (1, 0, 10)
    assert {row["replays_failed"] for row in site.rows()} == {1}
    (site.folder / "mended").touch()
    first = site.rows()[0]["id"]
    assert site.poller("replay", first) == "1 failure replayed\n"
    assert site.poller("replay", "--mapping", "orders") == "9 failures replayed\n"
    assert site.rows() == []
    assert sorted(map(int, site.handled())) == [*range(10)]


def test_a_replay_that_is_stopped_loses_nothing(site: Site) -> None:
    """Of a function that hangs; by SIGTERM, as when the machine goes down, and by Ctrl-C."""
    site.replace('shutdown_grace = "20s"', 'shutdown_grace = "100ms"')
    site.poller("put", "orders", input='{"id": 1, "poison": true}\n')
    with running(site) as daemon:
        until(site.rows, "the failure")
        assert daemon.end() == 0
    (site.folder / "app.py").write_text(FUNCTION.replace('body.get("hang")', "True"))
    for number, code in ((signal.SIGTERM, 1), (signal.SIGINT, 130)):
        (site.folder / "hangs").unlink(missing_ok=True)
        process = subprocess.Popen([str(POLLER), "replay"], cwd=site.folder, env=environment(), stderr=subprocess.PIPE, text=True)
        until((site.folder / "hangs").exists, "the invocation")
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE)
        assert (process.returncode, "Traceback" in said) == (code, False), said
        assert [row["state"] for row in site.rows()] == ["kept"]


# --- signals --------------------------------------------------------------------------------------------------------------------------


def test_the_service_manager_hears_everything(site: Site) -> None:
    with running(site, WATCHDOG_USEC="200000") as daemon:
        daemon.hears("WATCHDOG=1", "WATCHDOG=1")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.hears("RELOADING=1", "READY=1")
        assert daemon.end(signal.SIGTERM) == 0
        daemon.hears("STOPPING=1", "EXTEND_TIMEOUT_USEC=35000000")


def test_a_source_that_is_away_keeps_nobody_from_starting_and_is_told(site: Site) -> None:
    away = '{ type = "sqs", queue = "q", region = "us-east-1", endpoint = "http://127.0.0.1:1" }'
    with (site.folder / "poller.toml").open("a") as file:
        file.write(f'\n[mappings.away]\nfunction = "orders"\nsource = {away}\n')
    with running(site, AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="x") as daemon:
        assert not site.status()["ready"]
        told = daemon.hears_of("STATUS=")
        assert told.startswith("STATUS=not ready: away: reconnecting; SQS queue q") and "2 mappings, health at http://" in told
        assert daemon.end() == 0
        daemon.hears("STOPPING=1", "STATUS=stopping: running functions have 20 s to finish")


def test_ctrl_c_stops_in_order_too(site: Site) -> None:
    with running(site) as daemon:
        assert daemon.end(signal.SIGINT) == 0


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_ends_at_once(site: Site, number: int, code: int) -> None:
    site.poller("put", "orders", input='{"id": 1, "hang": true}\n')
    with running(site) as daemon:
        until((site.folder / "hangs").exists, "the invocation")
        daemon.process.send_signal(number)
        daemon.hears("STOPPING=1")
        assert daemon.process.poll() is None  # it waits for the function
        assert daemon.end(number) == code
    assert "Traceback" not in daemon.log.read_text()


def test_sighup_reloads_and_refuses_a_bad_file_whole(site: Site) -> None:
    with running(site) as daemon:
        good = (site.folder / "poller.toml").read_text()
        site.replace("batch_size = 1", "batch_size = 0")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.hears("RELOADING=1", "READY=1")
        daemon.logs("not reloaded, nothing has changed: ")
        daemon.logs("batch_size")
        site.poller("put", "nosuch", input="", code=2)
        (site.folder / "poller.toml").write_text(good)
        site.poller("put", "orders", input='{"id": 1}\n')
        until(lambda: site.handled() == ["1"], "the record")
        more = (
            good.partition("[mappings.orders]")[2].replace("mappings.orders", "mappings.more").replace('name = "orders"', 'name = "more"')
        )
        (site.folder / "poller.toml").write_text(f"{good}\n[mappings.more]{more}")
        daemon.process.send_signal(signal.SIGHUP)
        daemon.hears("RELOADING=1", "READY=1")
        daemon.logs("reloaded: started more")
        site.poller("put", "more", input='{"id": 2}\n')
        until(lambda: site.handled() == ["1", "2"], "the record of the new mapping")
        assert daemon.end() == 0


# --- status, and who is alone ---------------------------------------------------------------------------------------------------------


def test_status_of_a_running_daemon(site: Site) -> None:
    site.poller("put", "orders", input='{"id": 1}\n{"id": 2, "poison": true}\n')
    with running(site) as daemon:
        until(lambda: site.rows() and len(site.handled()) == 1, "both")
        status = site.status()
        assert (status["pid"], status["ready"], status["journal"]["kept"]) == (daemon.process.pid, True, 1)
        shown = site.poller("status")
        assert re.search(r"^orders +running +orders ", shown, re.MULTILINE)
        assert "journal: 1 kept" in shown
        assert daemon.end() == 0
    assert "start one with `poller run" in site.poller("status", code=1)


def test_status_can_be_watched_and_ends_quietly(site: Site) -> None:
    with running(site):
        command = [str(POLLER), "status", "--watch", "--json", "--interval", "0.1"]
        watch = subprocess.Popen(command, cwd=site.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert watch.stdout is not None
        assert all(json.loads(watch.stdout.readline())["ready"] for _ in range(3))
        watch.send_signal(signal.SIGINT)
        assert watch.communicate(timeout=PATIENCE)[1] == ""
        assert watch.returncode == 130


def test_health_is_where_the_log_says(site: Site) -> None:
    with running(site) as daemon:
        found = re.search(r"http://([\d.]+):(\d+)/readyz", daemon.log.read_text())
        assert found is not None
        connection = http.client.HTTPConnection(found[1], int(found[2]), timeout=PATIENCE)

        def ready() -> bool:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            answer.read()
            return answer.status == 200

        until(ready, "readiness")
        connection.close()


def test_a_second_daemon_of_a_file_is_refused(site: Site) -> None:
    with running(site) as daemon:
        assert f"pid {daemon.process.pid}" in site.poller("run", code=1)
        assert site.status()["ready"]
        assert daemon.end() == 0


def test_a_port_that_is_taken_is_refused(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        site.replace('"127.0.0.1:0"', f'"{address}"')
        assert address in site.poller("run", code=2)


def test_a_bad_file_is_told_before_anything_starts(site: Site) -> None:
    site.replace("batch_size = 1", "batch_size = 0")
    site.replace('"20s"\nconcurrency', "20\nconcurrency")
    assert len(site.poller("run", code=2).splitlines()) == 2
    assert not (site.folder / ".poller").exists()


# --- pipes ----------------------------------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_is_no_error_to_shout_about(site: Site) -> None:
    process = subprocess.Popen(
        [str(POLLER), "config", "reference"], cwd=site.folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(PATIENCE) == 1


# --- the quick start ------------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.alone
def test_the_quick_start_and_what_it_tells_to_do(tmp_path: Path) -> None:
    """From another folder, without a terminal; then its own commands, pasted."""
    site, example = Site(tmp_path), tmp_path / "quickstart"
    shutil.copytree(ROOT / "examples" / "quickstart", example, ignore=shutil.ignore_patterns(".poller"))
    began = time.monotonic()
    shown = _done(site, str(example / "run"))
    assert time.monotonic() - began < 30
    assert "6,495 records done" in shown
    assert "5 records that fail every time" in shown
    assert "KeyError: 'discount'" in shown
    assert 'order["discount"]' in shown  # the line of the trace
    commands = [line.strip() for line in shown.rpartition("Mend the function")[2].splitlines() if line.startswith("    ")]
    assert len(commands) == 3
    _done(site, "sh", "-c", commands[0])
    assert re.fullmatch(r"\d failures replayed\n", _done(site, "sh", "-c", commands[1]))
    assert _done(site, "sh", "-c", commands[2]) == "no failures\n"
    assert (example / "app.py").read_text() == (ROOT / "examples" / "quickstart" / "app.py").read_text()


def _done(site: Site, *command: str) -> str:
    result = site.run(*command)
    assert result.returncode == 0, (shlex.join(command), result.stdout, result.stderr)
    return result.stdout
