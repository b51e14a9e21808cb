"""The admin servers over real sockets, with well-behaved clients and with others."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from poller.admin.commands import REQUEST_LIMIT
from poller.admin.control import Control, ControlError, ask, is_running
from poller.admin.health import pages
from poller.admin.http import HEAD_LIMIT, Answer, HttpServer, parse_listen
from poller.admin.socket_file import connect, listen, listener
from poller.errors import ConfigError
from poller.status import DaemonStatus, LaneStatus, MappingStatus

NOW = 1_000_000.0


class Daemon:
    """The status that the pages show, for the test to change."""

    def __init__(self) -> None:
        self.lane = LaneStatus(name="shard-1", state="running", read_at=NOW, lag_records=5)
        self.hang = asyncio.Event()
        self.hang.set()
        self.broken = False

    async def status(self) -> DaemonStatus:
        await self.hang.wait()
        if self.broken:
            raise RuntimeError("a bug")
        return DaemonStatus(version="1", mappings=[MappingStatus(name="orders", state="running", lanes=[self.lane])])


@contextlib.asynccontextmanager
async def serving(daemon: Daemon, **options: Any) -> AsyncIterator[HttpServer]:
    server = HttpServer("127.0.0.1:0", pages(daemon.status, lambda: NOW), **options)
    await server.start()
    try:
        yield server
    finally:
        await server.aclose()


async def connected(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = parse_listen(server.address)
    return await asyncio.open_connection(host, port)


async def exchange(server: HttpServer, request: bytes) -> bytes:
    """All the server says, to the end of its side. Fails rather than wait for ever."""
    reader, writer = await connected(server)
    try:
        async with asyncio.timeout(10):
            writer.write(request)
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def get(server: HttpServer, path: str) -> tuple[int, dict[str, str], bytes]:
    head, _, body = (await exchange(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())).partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in rest)}
    assert int(headers["content-length"]) == len(body)
    return int(first.split()[1]), headers, body


# --- pages --------------------------------------------------------------------------------------------------------------------------


async def test_pages() -> None:
    daemon = Daemon()
    async with serving(daemon) as server:
        assert (await get(server, "/livez"))[0] == 200
        code, headers, body = await get(server, "/readyz?verbose")
        assert (code, headers["content-type"], json.loads(body)) == (200, "application/json", {"ready": True, "reasons": []})
        code, headers, body = await get(server, "/metrics")
        assert code == 200 and headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b'poller_lane_lag_records{mapping="orders",lane="shard-1"} 5\n' in body


async def test_readyz_names_the_lane_and_the_reason() -> None:
    daemon = Daemon()
    daemon.lane.read_at = NOW - 90
    async with serving(daemon) as server:
        code, _, body = await get(server, "/readyz")
        assert code == 503
        assert json.loads(body)["reasons"] == [{"mapping": "orders", "lane": "shard-1", "reason": "has not been read for 90 s"}]
        assert b'poller_lane_ready{mapping="orders",lane="shard-1"} 0\n' in (await get(server, "/metrics"))[2]


async def test_livez_asks_nobody_and_a_page_that_hangs_or_breaks_says_so(caplog: pytest.LogCaptureFixture) -> None:
    daemon = Daemon()
    daemon.hang.clear()
    async with serving(daemon, timeout=1.0) as server:
        assert (await get(server, "/readyz"))[0] == 503
        assert (await get(server, "/livez"))[0] == 200
        daemon.hang.set()
        daemon.broken = True
        code, _, body = await get(server, "/metrics")
        assert code == 500 and b"a bug" not in body
        assert "a bug" in caplog.text


# --- other clients ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (b"POST /readyz HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello", 405),
        (b"HEAD /livez HTTP/1.1\r\n\r\n", 405),
        (b"GET /secret HTTP/1.1\r\n\r\n", 404),
        (b"GET /../livez HTTP/1.1\r\n\r\n", 404),
        (b"GET livez HTTP/1.1\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1 \r\n\r\n", 400),
        (b"GET /livez HTTP/2.0\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\xff\xfe\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nA: " + b"x" * HEAD_LIMIT + b"\r\n\r\n", 431),
        (b"x" * 1_000_000, 431),
    ],
)
async def test_garbage_is_answered_and_survived(request_: bytes, code: int) -> None:
    async with serving(Daemon()) as server:
        assert (await exchange(server, request_)).startswith(f"HTTP/1.1 {code} ".encode())
        assert (await get(server, "/livez"))[0] == 200


async def test_a_slow_request_is_ended() -> None:
    async with serving(Daemon(), timeout=0.05) as server:
        assert (await exchange(server, b"GET /livez HT")).startswith(b"HTTP/1.1 408 ")


async def test_a_client_that_never_reads_is_dropped() -> None:
    async def large() -> Answer:
        return Answer(b"x" * 50_000_000)

    server = HttpServer("127.0.0.1:0", {"/": large}, timeout=0.05)
    await server.start()
    client = socket.create_connection(parse_listen(server.address))
    try:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        async with asyncio.timeout(10):
            await _until(lambda: len(server._connections) == 1)
            await _until(lambda: len(server._connections) == 0)
    finally:
        client.close()
        await server.aclose()


async def test_a_large_answer_arrives_whole() -> None:
    async def large() -> Answer:
        return Answer(b"x" * 20_000_000)

    server = HttpServer("127.0.0.1:0", {"/": large})
    await server.start()
    try:
        assert len((await get(server, "/"))[2]) == 20_000_000
    finally:
        await server.aclose()


@pytest.mark.parametrize("size", range(20_000, 200_000, 10_000))  # around what the system buffers here, and a little more
async def test_a_client_that_reads_late_gets_everything(size: int) -> None:
    async def some() -> Answer:
        return Answer(b"#" * size)

    server = HttpServer("127.0.0.1:0", {"/": some})
    await server.start()
    assert server._server
    server._server.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    try:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            client.connect(parse_listen(server.address))
            client.setblocking(False)
            client.send(b"GET / HTTP/1.1\r\n\r\nmore than was asked for")
            for _ in range(20):
                await asyncio.sleep(0)
            got = 0
            async with asyncio.timeout(10):
                while data := await asyncio.get_running_loop().sock_recv(client, 100_000):
                    got += data.count(b"#")
        assert got == size
    finally:
        await server.aclose()


async def test_idle_connections_lock_nobody_out() -> None:
    async with serving(Daemon(), connections=3, timeout=30) as server:
        idle = [await connected(server) for _ in range(5)]
        assert (await get(server, "/livez"))[0] == 200
        assert len(server._connections) <= 3
        async with asyncio.timeout(10):
            for reader, _ in idle[:2]:
                with contextlib.suppress(ConnectionError):
                    assert await reader.read() == b""
        for _, writer in idle:
            writer.close()


async def test_closing_drops_what_is_open() -> None:
    async with serving(Daemon(), timeout=30) as server:
        reader, writer = await connected(server)
        await _until(lambda: len(server._connections) == 1)
        async with asyncio.timeout(10):
            await server.aclose()
            await server.aclose()
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()
        assert repr(server).endswith("[closed, 0 connections]>")


async def test_an_address_that_cannot_be_had_is_a_sentence() -> None:
    async with serving(Daemon()) as server:
        second = HttpServer(server.address, {})
        with pytest.raises(ConfigError, match=f'listen = "{server.address}": another program listens there already'):
            await second.start()
        await second.aclose()
    with pytest.raises(ConfigError, match="no such address"):
        await HttpServer("192.0.2.1:0", {}).start()


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("127.0.0.1:8780", ("127.0.0.1", 8780)), ("[::1]:0", ("::1", 0)), ("localhost:65535", ("localhost", 65535))],
)
def test_listen(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize("text", ["", "8780", ":8780", "host:", "host:65536", "host:-1", "::1:80", "a b:80", "http://x:80", "[x:80"])
def test_a_bad_listen_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1:8780"):
        parse_listen(text)


# --- the control socket -------------------------------------------------------------------------------------------------------------


class Commands:
    def __init__(self) -> None:
        self.tailing = asyncio.Event()
        self.closed = asyncio.Event()

    async def count(self, to: int = 3) -> AsyncIterator[dict[str, Any]]:
        for number in range(to):
            yield {"number": number}

    async def refuse(self) -> AsyncIterator[dict[str, Any]]:
        yield {"number": 0}
        raise ConfigError("line 3 is wrong")

    async def breaks(self) -> AsyncIterator[dict[str, Any]]:
        yield {"number": 1 // 0}

    async def strange(self) -> AsyncIterator[dict[str, Any]]:
        yield {"value": object()}

    async def large(self, size: int) -> AsyncIterator[dict[str, Any]]:
        yield {"text": "#" * size}

    async def tail(self) -> AsyncIterator[dict[str, Any]]:
        try:
            yield {"line": 1}
            self.tailing.set()
            await asyncio.Event().wait()
        finally:
            self.closed.set()

    def all(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("count", "refuse", "breaks", "strange", "large", "tail")}


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    server = Control(tmp_path / "state" / "control.sock", Commands().all())
    await server.start()
    yield server
    await server.aclose()


async def answers(path: Path, command: str, /, **arguments: Any) -> list[dict[str, Any]]:
    async with asyncio.timeout(10):
        return [answer async for answer in ask(path, command, **arguments)]


async def test_answers_stream(control: Control) -> None:
    assert await answers(control.path, "count", to=2) == [{"number": 0}, {"number": 1}]
    assert await answers(control.path, "count", to=0) == []


@pytest.mark.parametrize(
    ("command", "arguments", "text"),
    [
        ("refuse", {}, "line 3 is wrong"),
        ("nonsense", {}, "no command 'nonsense', only breaks, count, large, refuse, strange, tail"),
        ("count", {"upto": 3}, "count: got an unexpected keyword argument 'upto'"),
        ("breaks", {}, r"the command failed \(ZeroDivisionError\)"),
        ("strange", {}, "the command failed"),
    ],
)
async def test_errors_travel_as_text(control: Control, command: str, arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ControlError, match=text) as caught:
        await answers(control.path, command, **arguments)
    assert "modulo" not in str(caught.value)
    assert await answers(control.path, "count")


@pytest.mark.parametrize("size", range(100_000, 500_000, 20_000))  # around what the system buffers for a socket, and a little more
async def test_a_slow_reader_gets_everything(control: Control, size: int) -> None:
    with connect(control.path) as client:
        client.sendall(b'{"command": "large", "arguments": {"size": %d}}\n' % size)
        for _ in range(20):  # the daemon sends what it can, and must wait for us now
            await asyncio.sleep(0)
        got = b""
        async with asyncio.timeout(10):
            while not got.endswith(b'{"end":true}\n'):
                got += await asyncio.get_running_loop().sock_recv(client, 100_000) or pytest.fail("cut short")
    assert got.count(b"#") == size


async def test_modes(control: Control) -> None:
    assert stat.S_IMODE(control.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(control.path.parent.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "line", [b"garbage\n", b'{"command": 3}\n', b"[]\n", b"\xff\n", b'{"command": "count"', b"x" * (REQUEST_LIMIT + 10)]
)
async def test_a_bad_request_is_an_error(control: Control, line: bytes) -> None:
    reader, writer = await asyncio.open_unix_connection(str(control.path))
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(line)
            writer.write_eof()
            async with asyncio.timeout(10):
                answer = await reader.read()
            assert answer == b"" or json.loads(answer)["error"]
    finally:
        writer.close()
    assert await answers(control.path, "count")


async def test_a_command_ends_when_its_client_has_gone(tmp_path: Path) -> None:
    commands = Commands()
    server = Control(tmp_path / "control.sock", commands.all())
    await server.start()
    try:
        async with asyncio.timeout(10):
            stream = ask(server.path, "tail")
            assert await anext(stream) == {"line": 1}
            await commands.tailing.wait()
            await stream.aclose()
            await commands.closed.wait()
    finally:
        await server.aclose()


async def test_an_answer_that_is_cut_short_is_an_error(tmp_path: Path) -> None:
    commands = Commands()
    server = Control(tmp_path / "control.sock", commands.all())
    await server.start()
    stream = ask(server.path, "tail")
    async with asyncio.timeout(10):
        await anext(stream)
        await commands.tailing.wait()
        await server.aclose()
        assert commands.closed.is_set()
        with pytest.raises(ControlError, match=r"ended before|broke off"):
            await anext(stream)


async def test_one_daemon_a_socket(control: Control) -> None:
    assert is_running(control.path)
    assert listener(control.path) == os.getpid()
    second = Control(control.path, {})
    with pytest.raises(ControlError, match=f"already running on .*: pid {os.getpid()}"):
        await second.start()
    await second.aclose()  # must not take the first one's socket away
    assert await answers(control.path, "count")


async def test_closing_removes_the_socket(control: Control) -> None:
    await control.aclose()
    await control.aclose()
    assert not control.path.exists()
    assert not is_running(control.path)
    with pytest.raises(ControlError, match="no daemon is running"):
        await answers(control.path, "count")


async def test_a_socket_of_another_daemon_is_not_removed(control: Control) -> None:
    control.path.unlink()
    other = Control(control.path, Commands().all())
    await other.start()
    await control.aclose()
    assert await answers(other.path, "count")
    await other.aclose()


async def test_a_killed_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with _another_daemon(path) as process:
        assert listener(path) == process.pid
        with pytest.raises(ControlError, match=f"pid {process.pid}"):
            await Control(path, {}).start()
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    assert path.exists() and not is_running(path)
    server = Control(path, Commands().all())
    await server.start()
    assert await answers(path, "count")
    await server.aclose()


def test_of_many_that_start_at_once_on_a_dead_socket_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with ThreadPoolExecutor(6) as pool:
        for _ in range(30):
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(path))
            start = Barrier(6)

            def race(start: Barrier = start) -> socket.socket | None:
                start.wait(10)
                try:
                    return listen(path)
                except ControlError:
                    return None

            winners = [won for won in [future.result(10) for future in [pool.submit(race) for _ in range(6)]] if won is not None]
            assert len(winners) == 1
            assert is_running(path)
            winners[0].close()
            path.unlink()


def test_daemons_of_one_folder_start_at_once(tmp_path: Path) -> None:
    """Each with a socket of its own: that they all lock the folder for a moment is no reason to refuse any."""
    count = 8
    barrier = Barrier(count)

    def start(number: int) -> socket.socket:
        barrier.wait()
        return listen(tmp_path / f"{number}.sock")

    with ThreadPoolExecutor(count) as pool, contextlib.ExitStack() as stack:
        for made in list(pool.map(start, range(count))):
            stack.enter_context(made)
        assert len(list(tmp_path.glob("*.sock"))) == count


async def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    path.write_text("data")
    with pytest.raises(ControlError, match="not a socket"):
        await Control(path, {}).start()
    assert path.read_text() == "data"


@pytest.mark.parametrize("length", [100, 107, 108, 109, 250])
async def test_long_paths(tmp_path: Path, length: int) -> None:
    missing = length - len(str(tmp_path)) - len("//control.sock")
    path = tmp_path / ("d" * max(1, missing)) / "control.sock"
    server = Control(path, Commands().all())
    await server.start()
    assert is_running(path)
    assert await answers(path, "count", to=1) == [{"number": 0}]
    await server.aclose()
    assert not path.exists()


async def test_a_name_that_is_too_long_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="shorter path"):
        await Control(tmp_path / ("x" * 200), {}).start()


async def test_other_users_are_refused(tmp_path: Path) -> None:
    server = Control(tmp_path / "control.sock", Commands().all(), uids=())
    await server.start()
    with pytest.raises(ControlError, match="only the daemon's own user and root"):
        await answers(server.path, "count")
    await server.aclose()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
async def test_another_user_is_refused_even_where_the_modes_let_him_in() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o711)  # others cannot walk down to tmp_path
        server = Control(Path(folder) / "control.sock", Commands().all())
        await server.start()
        server.path.chmod(0o666)
        client = (
            "import os,socket,sys; os.setuid(65534); s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); print(s.recv(999).decode())"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", client, str(server.path), stdout=subprocess.PIPE)
        out, _ = await asyncio.wait_for(process.communicate(), 10)
        await server.aclose()
        assert b"only the daemon's own user and root" in out


def test_both_servers_run_on_uvloop(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def scenario() -> None:
        async with serving(Daemon()) as server:
            assert (await get(server, "/readyz"))[0] == 200
        control = Control(tmp_path / "control.sock", Commands().all())
        await control.start()
        assert await answers(control.path, "count", to=1) == [{"number": 0}]
        await control.aclose()

    uvloop.run(scenario())


# --- tools --------------------------------------------------------------------------------------------------------------------------

DAEMON = """
import asyncio, pathlib, sys
from poller.admin.control import Control, ControlError
async def main():
    control = Control(pathlib.Path(sys.argv[1]), {})
    try:
        await control.start()
    except ControlError:
        print("refused", flush=True)
        return
    print("started", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@contextlib.contextmanager
def _another_daemon(path: Path) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-c", DAEMON, str(path)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2])
    try:
        assert process.stdout and process.stdout.readline() == "started\n"
        yield process
    finally:
        process.kill()
        process.wait(10)
        if process.stdout:
            process.stdout.close()


async def _until(condition: Callable[[], bool]) -> None:
    """Turns of the loop until it holds; the caller bounds the time."""
    while not condition():
        await asyncio.sleep(0)
