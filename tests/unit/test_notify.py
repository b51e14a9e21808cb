from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from poller.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, socket.socket]]:
    """What a service manager is to us: an address, and a socket that gets the messages."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@poller-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(5)
        receiver.bind(address.replace("@", "\0", 1))
        yield address, receiver


def test_messages(manager: tuple[str, socket.socket]) -> None:
    address, receiver = manager
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address})
    for call, message in (
        (notifier.ready, b"READY=1"),
        (notifier.stopping, b"STOPPING=1"),
        (lambda: notifier.status("3 of 4 lanes\nREADY=1"), b"STATUS=3 of 4 lanes READY=1"),
        (lambda: notifier.extend(30.5), b"EXTEND_TIMEOUT_USEC=30500000"),
    ):
        assert call()
        assert receiver.recv(1000) == message


def test_a_reload_says_when_it_began(manager: tuple[str, socket.socket]) -> None:
    address, receiver = manager
    assert Notifier(address).reloading()
    state, time = receiver.recv(1000).decode().split("\n")
    assert state == "RELOADING=1"
    assert time.startswith("MONOTONIC_USEC=") and int(time.partition("=")[2]) > 0


async def test_the_watchdog_is_fed_while_healthy_only(manager: tuple[str, socket.socket]) -> None:
    address, receiver = manager
    receiver.setblocking(False)
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000"})
    assert notifier.watchdog == 0.002
    asked: list[bool] = []
    ill = asyncio.Event()

    def healthy() -> bool:
        asked.append(len(asked) < 3)
        if len(asked) == 6:
            ill.set()
        return asked[-1]

    task = asyncio.create_task(notifier.watch(healthy))
    await asyncio.wait_for(ill.wait(), 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert [receiver.recv(100) for _ in range(3)] == [b"WATCHDOG=1"] * 3
    with pytest.raises(BlockingIOError):
        receiver.recv(100)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000"},
        {"WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/n", "WATCHDOG_USEC": "0"},
    ],
)
async def test_no_manager_or_no_watchdog_is_no_trouble(environment: dict[str, str]) -> None:
    notifier = Notifier.from_environment(environment, pid=4711)
    assert notifier.watchdog is None
    await asyncio.wait_for(notifier.watch(lambda: True), 5)  # returns at once
    assert not notifier.ready()


def test_a_manager_that_has_gone_is_no_trouble(tmp_path: Path) -> None:
    assert not Notifier(str(tmp_path / "nobody")).ready()
