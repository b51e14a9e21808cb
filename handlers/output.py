"""What a function prints, line by line. stdout and stderr share one pipe, so that their lines keep their order."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

MAXIMUM_LINE_BYTES = 256 * 1024
_READ_BYTES = 32 * 1024  # a turn: a function that prints all the time shares the loop
_PIPE_BYTES = 64 * 1024  # the pipe keeps its default size: it is what one drain can find, and what bounds us


class Output:
    """Gives each line to `write`, without its newline. At most one unfinished line is held. The descriptor stays the caller's.

    A longer line is cut into several. Bytes that are no UTF-8 become U+FFFD.
    """

    def __init__(self, pipe: int, write: Callable[[str], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._pipe = pipe
        self._write = write
        self._rest = b""
        self._closed = False
        os.set_blocking(pipe, False)
        self._loop.add_reader(pipe, self._readable)

    def drain(self) -> None:
        """Everything printed before now is written, an unfinished line too: what comes later belongs to another invocation."""
        taken = 0
        while not self._closed and taken < _PIPE_BYTES and (size := self._readable()):
            taken += size
        self.finish()

    def finish(self) -> None:
        """The unfinished line is written: a drain, where it is known that nothing is left in the pipe."""
        if self._rest:
            rest, self._rest = self._rest, b""
            self._put(rest)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._pipe)

    def _readable(self) -> int:
        try:
            data = os.read(self._pipe, _READ_BYTES)
        except BlockingIOError:
            return 0
        if not data:
            self._loop.remove_reader(self._pipe)
            return 0
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._put(line)
        while len(self._rest) > MAXIMUM_LINE_BYTES:
            at = _boundary(self._rest)
            self._put(self._rest[:at])
            self._rest = self._rest[at:]
        return len(data)

    def _put(self, line: bytes) -> None:
        while len(line) > MAXIMUM_LINE_BYTES:
            at = _boundary(line)
            self._write(line[:at].decode("utf-8", "replace"))
            line = line[at:]
        self._write(line.removesuffix(b"\r").decode("utf-8", "replace"))


def _boundary(line: bytes) -> int:
    """Where to cut: not inside a character (UTF-8's continuation bytes are 10xxxxxx)."""
    at = MAXIMUM_LINE_BYTES
    while at > MAXIMUM_LINE_BYTES - 4 and line[at] & 0xC0 == 0x80:
        at -= 1
    return at
