"""Dead letters of a file: its lines, and those of the files it was rotated to, the oldest first. They are read, and left as they are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from connectors.file.lines import refused
from poller.errors import NotConnected
from poller.redrive.letters import Letter


class FileLetters:
    """See `poller.redrive.letters.DeadLetters`."""

    stays = "lines are left in the file, and recognised next time"
    behind = ""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._letters: Iterator[Letter] | None = None
        self._open: list[tuple[Path, BinaryIO, float]] = []

    def __repr__(self) -> str:
        return f"<FileLetters {self._path}>"

    async def fetch(self, limit: int) -> Sequence[Letter]:
        return await asyncio.to_thread(self._fetch, limit)

    async def remove(self, letters: Sequence[Letter]) -> int:  # noqa: ARG002 -- the protocol's
        return 0

    async def aclose(self) -> None:
        while self._open:
            self._open.pop()[1].close()

    def _fetch(self, limit: int) -> list[Letter]:
        try:
            if self._letters is None:
                self._letters = self._lines()
            return list(islice(self._letters, limit))
        except FileNotFoundError as error:
            raise NotConnected(f"file {self._path}: there is no such file; check its name", permanent=True) from error
        except OSError as error:
            raise refused(self._path, error) from error

    def _lines(self) -> Iterator[Letter]:
        # All are opened at once: a rotation meanwhile changes their names, and not what is read.
        for path in self._paths():
            self._open.append((path, path.open("rb"), path.stat().st_mtime))
        for path, file, written in self._open:
            for number, line in enumerate(file, 1):
                # A line without an end is being written, or its writer died: it is sent again.
                if line.endswith(b"\n"):
                    yield Letter(f"{path}:{number}", line, written)

    def _paths(self) -> list[Path]:
        older = []
        for each in self._path.parent.iterdir() if self._path.parent.is_dir() else ():
            number = each.name.removeprefix(f"{self._path.name}.")
            if number.isdecimal() and number != each.name:
                older.append((int(number), each))
        return [*(path for _, path in sorted(older, reverse=True)), self._path]
