"""Progress for a person: one line that changes in place on a terminal, and nothing elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from poller.cli.text import clean

INTERVAL = 0.1
"""Seconds between two changes of the line."""


class Meter:
    """`with Meter() as meter: meter.show("12 of 90")`. The line goes with the block; it is on stderr, so that results can be piped."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._live = self._stream.isatty()
        self._next = 0.0
        self._drawn = False

    def show(self, text: str) -> None:
        now = time.monotonic()
        if self._live and now >= self._next:
            self._next, self._drawn = now + INTERVAL, True
            self._stream.write(f"\r\x1b[K{clean(text)}")
            self._stream.flush()

    def bar(self, done: int, total: int | None, text: str) -> None:
        """The same, with a bar where the whole is known."""
        if total:
            filled = min(30, 30 * done // total)
            text = f"[{'#' * filled}{'.' * (30 - filled)}] {min(100, 100 * done // total):3d}%  {text}"
        self.show(text)

    def __enter__(self) -> Meter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
