"""The control socket: how the command line asks a running daemon. Only the daemon's own user and root are answered."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Collection, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any

from poller.admin.commands import REQUEST_LIMIT, Command, Commands, converse
from poller.admin.connections import Connections
from poller.admin.socket_file import ControlError, connect, listen, listener, remove

__all__ = ["Command", "Control", "ControlError", "ask", "is_running"]


class Control:
    """The daemon's side: the socket at `path`. See `Commands`."""

    def __init__(
        self,
        path: Path,
        commands: Mapping[str, Command],
        *,
        uids: Collection[int] | None = None,
        connections: int = 64,
        timeout: float = 10.0,
    ) -> None:
        self.path = path
        self._connections = Connections(Commands(commands, uids, timeout).serve, connections)
        self._server: asyncio.Server | None = None
        self._made: os.stat_result | None = None

    def __repr__(self) -> str:
        return f"<Control {self.path} [{'open' if self._server else 'closed'}, {len(self._connections)} connections]>"

    async def start(self) -> None:
        """Raises ControlError if a daemon listens there already, or the socket cannot be made. A dead daemon's socket is replaced."""
        made = listen(self.path)
        self._made = os.lstat(self.path)
        self._server = await asyncio.start_unix_server(self._connections, sock=made, limit=REQUEST_LIMIT)

    async def aclose(self) -> None:
        """Stop listening, end the commands that run, remove the socket. Tolerated twice, and before `start`."""
        server, self._server = self._server, None
        if server is None or self._made is None:
            return
        remove(self.path, self._made)  # while we still listen: afterwards a daemon that starts could have replaced the file
        server.close()
        await self._connections.aclose()
        await server.wait_closed()


async def ask(path: Path, command: str, /, **arguments: Any) -> AsyncGenerator[dict[str, Any]]:
    """The daemon's answers, as they come. Raises ControlError: no daemon, not allowed, its own error, or it ended half-way.

    No limit of time: a command may take as long as a replay. Closing the iterator ends the command.
    """
    async with aclosing(converse(connect(path), f"the daemon on {path}", command, arguments)) as answers:
        async for answer in answers:
            yield answer


def is_running(path: Path) -> bool:
    """Whether a daemon listens at `path`, at once and without asking it anything. Raises ControlError if that cannot be found out."""
    return listener(path) is not None
