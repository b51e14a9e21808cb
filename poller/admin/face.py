"""What a daemon shows of itself: the control socket and the pages. A worker has a line to its supervisor instead (line.py)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

from poller.admin.commands import Command
from poller.admin.control import Control
from poller.admin.health import pages
from poller.admin.http import HttpServer
from poller.config import Config
from poller.status import DaemonStatus


def socket_path(config: Config) -> Path:
    """The control socket of the daemon that runs this file. Beside the store, named after the file: daemons may share a store."""
    return config.state / f"{config.path.stem}.sock"


class Face(Protocol):
    """Where a daemon can be asked."""

    @property
    def address(self) -> str:
        """Of the pages, as it came to be; "": there are none."""

    async def start(self) -> None:
        """Raises ControlError, ConfigError when it cannot be had."""

    async def end_commands(self) -> None:
        """End the commands that run and take no more; pages go on. Tolerated twice, and before `start`."""

    async def aclose(self) -> None:
        """All of it. Tolerated twice, and before `start`."""


class PublicFace:
    """The control socket of `config`, and its pages. `status` is what they show; `clock` is epoch seconds."""

    def __init__(
        self,
        config: Config,
        commands: Mapping[str, Command],
        status: Callable[[], Awaitable[DaemonStatus]],
        clock: Callable[[], float],
    ) -> None:
        self._control = Control(socket_path(config), commands)
        self._http = HttpServer(str(config.listen), pages(status, clock))

    @property
    def address(self) -> str:
        return self._http.address

    async def start(self) -> None:
        await self._control.start()
        await self._http.start()

    async def end_commands(self) -> None:
        await self._control.aclose()

    async def aclose(self) -> None:
        await self._control.aclose()
        await self._http.aclose()
