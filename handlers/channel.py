"""Our side of the two pipes to a child: requests out, answers in, each a frame of its own form (child.py)."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Callable

PIPE_BYTES = 1024 * 1024
MAXIMUM_ANSWER_BYTES = 16 * 1024 * 1024
"""Above the largest result and the largest fault; anything longer is no answer."""

_SMALL_READ = 448
"""Most answers are shorter, and so small a buffer costs the allocator nothing; of a longer one the rest is read at once."""


def enlarge(pipe: int) -> None:
    """1 MiB where the system allows it: half as fast again with batches of 1,000 records. A refusal changes nothing else."""
    try:
        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except (AttributeError, OSError):
        pass


class Channel:
    """`on_answer` gets each complete frame, or None for what is no frame. The descriptors stay the caller's, to be closed after `close`."""

    def __init__(self, requests: int, answers: int, on_answer: Callable[[bytes | None], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._requests = requests
        self._answers = answers
        self._on_answer = on_answer
        self._unsent: memoryview | None = None
        self._sent = 0  # of the request under way
        self._received = bytearray()
        self._missing = 0
        self._closed = False
        for pipe in (requests, answers):
            os.set_blocking(pipe, False)
            enlarge(pipe)
        self._loop.add_reader(answers, self._readable)

    def send(self, frame: bytes) -> bool:
        """Whether the child took, or will take, at least a part of it: False says that nobody reads there any more.

        Only one request may be under way.
        """
        if self._closed:
            return False
        try:
            sent = os.write(self._requests, frame)
        except BlockingIOError:
            sent = 0
        except BrokenPipeError:
            return False
        self._sent = sent
        if sent < len(frame):
            self._unsent = memoryview(frame)[sent:]
            self._loop.add_writer(self._requests, self._writable)
        return True

    def untouched(self) -> bool:
        """Whether not one byte of the last request was read: all that was sent is still in the pipe."""
        unread = bytearray(struct.calcsize("i"))
        try:
            fcntl.ioctl(self._requests, termios.FIONREAD, unread)
        except OSError:  # this system does not say
            return False
        return struct.unpack("i", unread)[0] == self._sent > 0  # type: ignore[no-any-return]

    def drain(self) -> None:
        """Take what is there: at the end of the process, whose last answer may still be in the pipe."""
        while not self._closed and self._readable():
            pass

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._answers)
            self._loop.remove_writer(self._requests)
            self._unsent = None

    def _writable(self) -> None:
        assert self._unsent is not None
        try:
            sent = os.write(self._requests, self._unsent)
        except BlockingIOError:
            return
        except BrokenPipeError:  # it died: its end will say so
            sent = 0
            self._unsent = None
        else:
            self._sent += sent
            self._unsent = self._unsent[sent:]
        if not self._unsent:
            self._unsent = None
            self._loop.remove_writer(self._requests)

    def _readable(self) -> bool:
        try:
            data = os.read(self._answers, min(self._missing, PIPE_BYTES) if self._missing > _SMALL_READ else _SMALL_READ)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(self._answers)  # the end of the process says what became of it
            return False
        if not self._received and int.from_bytes(data[:4], "big") == len(data) - 4:
            self._on_answer(data[4:])  # the common case: one whole frame
            return True
        self._received += data
        self._cut()
        return True

    def _cut(self) -> None:
        while len(self._received) >= 4:
            length = int.from_bytes(self._received[:4], "big")
            if length > MAXIMUM_ANSWER_BYTES:
                self._loop.remove_reader(self._answers)
                self._received.clear()
                self._missing = 0
                self._on_answer(None)
                return
            self._missing = length + 4 - len(self._received)
            if self._missing > 0:
                return
            frame = bytes(memoryview(self._received)[4 : length + 4])
            del self._received[: length + 4]
            self._on_answer(frame)
        self._missing = 0
