"""The line between a supervisor and one of its workers: a pair of sockets, over which connections are handed to the worker.

Each question has a connection of its own, as at the control socket, and so needs no number; the worker answers as a daemon does. The line
ends when either process does: that is how a worker without a parent-death signal knows that it has none any more.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress
from typing import Any

from poller.admin.commands import ANSWER_LIMIT, Command, Commands, converse
from poller.admin.connections import Connections
from poller.admin.socket_file import ControlError

_CONNECTIONS = 256
_LAST_WORDS = 8192


class Line:
    """The supervisor's end. `theirs` is for the worker: it inherits it, and here it is to be closed then. `who` is the worker's name."""

    def __init__(self, who: str) -> None:
        self.who = who
        # Whole messages: one for a connection, and one for what the worker says in the end.
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)

    async def ask(self, command: str, /, **arguments: Any) -> AsyncGenerator[dict[str, Any]]:
        """The worker's answers, as they come; asked before it runs, it answers later. Raises ControlError. Closing it ends the command."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        ours.setblocking(False)
        try:
            with theirs:
                socket.send_fds(self._ours, [b"\0"], [theirs.fileno()])
        except OSError as error:  # it has gone, or takes nothing any more
            ours.close()
            raise ControlError(f"{self.who} does not answer: {error.strerror}") from error
        async with aclosing(converse(ours, self.who, command, arguments)) as answers:
            async for answer in answers:
                yield answer

    def last_words(self) -> str:
        """What the worker said when it ended, or ""."""
        with suppress(BlockingIOError):
            try:
                return self._ours.recv(_LAST_WORDS).decode(errors="replace")
            except ConnectionResetError:  # it ended with questions unread: that is told first, and once
                return self._ours.recv(_LAST_WORDS).decode(errors="replace")
        return ""

    def close(self) -> None:
        """Tolerated twice."""
        self._ours.close()
        self.theirs.close()


class WorkerEnd:
    """The worker's end: `commands` are asked over it. `gone` is called when the supervisor has."""

    address = ""
    """It has no pages."""

    def __init__(self, end: socket.socket, commands: Mapping[str, Command], gone: Callable[[], None]) -> None:
        self._end = end
        self._gone = gone
        self._connections = Connections(Commands(commands).serve, _CONNECTIONS)
        self._arriving: set[asyncio.Task[None]] = set()
        end.setblocking(False)

    async def start(self) -> None:
        """Answer from now on, what was asked before too."""
        asyncio.get_running_loop().add_reader(self._end.fileno(), self._arrived)

    async def end_commands(self) -> None:
        """End the commands that run, and take no more. Tolerated twice."""
        asyncio.get_running_loop().remove_reader(self._end.fileno())
        for task in self._arriving:
            task.cancel()
        await asyncio.gather(*self._arriving, return_exceptions=True)
        await self._connections.aclose()

    async def aclose(self) -> None:
        await self.end_commands()

    def _arrived(self) -> None:
        try:
            message, handed, _, _ = socket.recv_fds(self._end, 1, 1, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError:
            message, handed = b"", []
        if not message:
            asyncio.get_running_loop().remove_reader(self._end.fileno())
            self._gone()
        for number in handed:
            task = asyncio.get_running_loop().create_task(self._answer(socket.socket(fileno=number)))
            self._arriving.add(task)
            task.add_done_callback(self._arriving.discard)

    async def _answer(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._connections(*await asyncio.open_unix_connection(sock=connection, limit=ANSWER_LIMIT))
