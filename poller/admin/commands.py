"""A conversation with a daemon: one request a connection, then answers until the end, each a line of JSON.

    client -> daemon    {"command": "status", "arguments": {}}
    daemon -> client    {"answer": {...}}   any number of times
    daemon -> client    {"end": true}  or  {"error": "a sentence"}   exactly once, last

The client keeps its side open: closing it ends the command. A connection that ends without that last line was broken off.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping
from typing import Any, TypeAlias

import msgspec

from poller.admin.socket_file import ControlError, peer
from poller.errors import PollerError

Command: TypeAlias = Callable[..., AsyncIterator[dict[str, Any]]]

REQUEST_LIMIT = 1024 * 1024
ANSWER_LIMIT = 64 * 1024 * 1024
"""The longest lines, in bytes: a replay may name many rows, a status may have many thousand lanes."""

_log = logging.getLogger(__name__)


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    command: str
    arguments: dict[str, Any] = {}


class Commands:
    """The daemon's side: `commands` by name; what a command yields are the answers, a PollerError it raises is the error.

    `uids` may ask; by default the daemon's own user and root. A command is closed as soon as its client has gone.
    """

    def __init__(self, commands: Mapping[str, Command], uids: Collection[int] | None = None, timeout: float = 10.0) -> None:
        self._commands = dict(commands)
        self._uids = frozenset((0, os.geteuid()) if uids is None else uids)
        self._timeout = timeout

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, to its end."""
        # Nothing is buffered on our side, so that drain waits until all has left: what is buffered when the connection ends is lost.
        writer.transport.set_write_buffer_limits(high=0)
        if peer(writer.get_extra_info("socket"))[1] not in self._uids:
            await self._refuse(reader, writer, "only the daemon's own user and root may ask")
            return
        try:
            async with asyncio.timeout(self._timeout):
                line = await reader.readline()
        except ValueError:
            await self._refuse(reader, writer, f"the request is longer than {REQUEST_LIMIT} bytes")
            return
        if line:  # else somebody only looked whether we are here
            await self._converse(line, reader, writer)

    async def _refuse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, text: str) -> None:
        async with asyncio.timeout(self._timeout):
            await _send(writer, _line(error=text))
            writer.write_eof()
            await _end_of(reader)  # to close with a request unread would reset the connection, and could take the refusal from the client

    async def _converse(self, line: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A command may be silent for hours (`tail`), so that no write would ever tell that its client has gone: watch for that besides.
        answering = asyncio.create_task(self._answer(line, writer))
        gone = asyncio.create_task(_end_of(reader))
        try:
            await asyncio.wait({answering, gone}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (answering, gone):
                task.cancel()
            await asyncio.gather(answering, gone, return_exceptions=True)

    async def _answer(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        async with contextlib.aclosing(self._lines(line)) as lines:
            async for answer in lines:
                await _send(writer, answer)
        writer.write_eof()

    async def _lines(self, line: bytes) -> AsyncGenerator[bytes, None]:
        try:
            async with _closing(self._started(line)) as answers:
                async for answer in answers:
                    yield _line(answer=answer)
        except PollerError as error:
            yield _line(error=str(error))
        except Exception as error:  # the edge of the server: a command that breaks must say so to its client, and leave the daemon alone
            _log.exception("a control command failed")
            yield _line(error=f"the command failed ({type(error).__name__}); see the daemon's log")
        else:
            yield _line(end=True)

    def _started(self, line: bytes) -> AsyncIterator[dict[str, Any]]:
        try:
            request = msgspec.json.decode(line, type=_Request)
        except msgspec.MsgspecError as error:
            raise ControlError(f"this is no request: {error}") from error
        command = self._commands.get(request.command)
        if command is None:
            raise ControlError(f"there is no command {request.command!r}, only {', '.join(sorted(self._commands))}")
        try:
            inspect.signature(command).bind(**request.arguments)
        except TypeError as error:
            raise ControlError(f"{request.command}: {error}") from error
        return command(**request.arguments)


async def converse(connection: socket.socket, who: str, command: str, arguments: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
    """The client's side: the answers, as they come. Closes the connection. `who` answers, for the texts of errors.

    Raises ControlError: an error of the command, or it ended half-way.
    """
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=ANSWER_LIMIT)
    try:
        await _send(writer, msgspec.json.encode(_Request(command, dict(arguments))) + b"\n")
        while (line := await reader.readline()).endswith(b"\n"):
            match msgspec.json.decode(line):
                case {"answer": dict() as answer}:
                    yield answer
                case {"error": str() as text}:
                    raise ControlError(text)
                case {"end": True}:
                    return
                case _:
                    raise ControlError(f"{who} speaks another language: is it of another version?")
        raise ControlError(f"{who} ended before it had answered in full")
    except (OSError, ValueError) as error:  # MsgspecError is a ValueError; so is a line that is too long
        raise ControlError(f"{who} broke off its answer: {error}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@contextlib.asynccontextmanager
async def _closing(answers: AsyncIterator[dict[str, Any]]) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
    """Closes what was begun, here and now: a command must not run on until it happens to be collected."""
    try:
        yield answers
    finally:
        aclose = getattr(answers, "aclose", None)
        if aclose is not None:
            await aclose()


async def _end_of(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass


async def _send(writer: asyncio.StreamWriter, line: bytes) -> None:
    writer.write(line)
    await writer.drain()


def _line(**message: Any) -> bytes:
    return msgspec.json.encode(message) + b"\n"
