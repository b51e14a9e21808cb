"""`file:PATH`: a line of JSON for each delivery, in a file that is rotated by size. Any number of workers may write to one.

    file:failures.jsonl --full--> failures.jsonl.1 --> ... --> failures.jsonl.<keep> --> gone (the journal has its failures all the same)

A relative path starts at the configuration's folder.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from connectors.file.lines import append, foreign, refused, wrong_with
from poller.errors import ConfigError, NotConnected
from poller.failures.invocation import record
from poller.failures.journal import Delivery
from poller.settings import DestinationContext, DestinationTraits, Finding
from poller.units import size

if TYPE_CHECKING:
    from connectors.file.letters import FileLetters
    from poller.redrive.letters import RedriveContext

MOST_KEPT = 1000

_ADDRESS = re.compile(r"file:(?://(?:localhost)?(?=/))?(?!//)(.+)", re.DOTALL)


class FileOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of JSON lines, `file:PATH`: when it is rotated, and how many of the old ones stay."""

    maximum_bytes: Annotated[str, Meta(description="A line that would make the file larger begins a new one.", extra={"unit": "size"})] = (
        "100MiB"
    )
    keep: Annotated[int, Meta(description="So many full files stay, `PATH.1` the newest.")] = 10


class FileDestination:
    """See `protocols.Destination`. An append that has begun is done to its end, in a thread, whoever is cancelled meanwhile."""

    def __init__(self, path: Path, options: FileOptions, context: DestinationContext) -> None:
        self._path = path
        self._maximum_bytes = size(options.maximum_bytes)
        self._keep = options.keep
        self._context = context
        self._running: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"<FileDestination {self._path}>"

    async def send(self, delivery: Delivery) -> None:
        # As AWS does where it puts records to be kept (S3): with the event, and of any size.
        line = record(delivery, self._context, carried=True) + b"\n"
        running = asyncio.get_running_loop().run_in_executor(None, append, self._path, line, self._maximum_bytes, self._keep)
        self._running.add(running)
        running.add_done_callback(self._done)
        try:
            await asyncio.shield(running)
        except OSError as error:
            raise refused(self._path, error) from error

    def _done(self, running: asyncio.Future[None]) -> None:
        self._running.discard(running)
        running.cancelled() or running.exception()  # else it would be told as one that nobody looked at

    async def aclose(self) -> None:
        if self._running:
            await asyncio.wait(self._running)


class FileKind:
    """See `poller.settings.DestinationKind`."""

    options: type[msgspec.Struct] = FileOptions

    def __repr__(self) -> str:
        return "<FileKind>"

    def traits(self, to: str, options: FileOptions) -> DestinationTraits:
        problems = []
        if _ADDRESS.fullmatch(to) is None or "\0" in to or to.endswith("/"):
            problems.append(f'{to!r} names no file; write "file:failures.jsonl", or "file:///var/lib/poller/failures.jsonl"')
        try:
            if size(options.maximum_bytes) < 1:
                problems.append(f"maximum_bytes = {options.maximum_bytes!r}: must be more than nothing")
        except ValueError as error:
            problems.append(f"maximum_bytes: {error}")
        if not 1 <= options.keep <= MOST_KEPT:
            problems.append(f"keep = {options.keep}: must be 1 to {MOST_KEPT}")
        if problems:
            raise ConfigError(problems)
        return DestinationTraits()

    async def open(self, to: str, options: FileOptions, context: DestinationContext) -> FileDestination:
        path = _path(to, context)
        if problem := await asyncio.to_thread(foreign, path):
            raise NotConnected(problem, permanent=True)
        return FileDestination(path, options, context)

    async def letters(self, to: str, options: FileOptions, context: RedriveContext) -> FileLetters:
        """See `poller.redrive.letters.Readable`: the oldest file first."""
        from connectors.file.letters import FileLetters

        self.traits(to, options)
        return FileLetters(_path(to, context))

    async def probe(self, to: str, options: FileOptions, context: DestinationContext) -> list[Finding]:  # noqa: ARG002 (the protocol's)
        path = _path(to, context)
        problem = await asyncio.to_thread(wrong_with, path)
        return [Finding("ok", f"file {path} can be written") if problem is None else Finding("error", problem)]


def _path(to: str, context: DestinationContext | RedriveContext) -> Path:
    found = _ADDRESS.fullmatch(to)
    assert found is not None, "see `traits`"
    return context.base / found[1]


kind = FileKind()
