"""Putting many records: durable chunk by chunk, and none refused without a word."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from poller.cli.items import Line, Refused
from poller.config import Config, MappingConfig
from poller.errors import ConfigError, PollerError, SourceError
from poller.feed import Feed
from poller.registry import Registry

CHUNK = 1000
CHUNK_BYTES = 8 * 1024 * 1024

GIVEN_UP = 20
"""So many refused records before a single one was taken: it is not the records."""

_ITEM = re.compile(r"^item \d+\b")


@dataclass(frozen=True, slots=True)
class Beside:
    """`feed.Place`: the folders of the configuration and of the store."""

    base: Path
    state: Path
    clock: Callable[[], float] = time.time


@dataclass(slots=True)
class Feeding:
    """Puts lines into one source. `put`, `size` and `refused` say how far it has come, also after an error."""

    feed: Feed
    options: Any
    place: Beside
    put: int = 0
    size: int = 0
    refused: list[Refused] = field(default_factory=list)

    async def run(self, lines: Iterable[Line | Refused], told: Callable[[Feeding], None] = lambda _: None) -> None:
        """Put them all, in order; `told` is called after every chunk. What the source refuses is left out, and the rest goes on.

        Raises what the source raises for a reason that is no record's: then a beginning of the lines is put, and the error says which.
        """
        chunk: list[Line] = []
        size = 0
        for line in lines:
            if isinstance(line, Refused):
                self.refused.append(line)
                continue
            if chunk and (len(chunk) == CHUNK or size + line.size > CHUNK_BYTES):
                await self._whole(chunk, told)
                chunk, size = [], 0
            chunk.append(line)
            size += line.size
        if chunk:
            await self._whole(chunk, told)

    async def _whole(self, chunk: Sequence[Line], told: Callable[[Feeding], None]) -> None:
        try:
            await self._some(chunk)
        except PollerError as error:
            raise SourceError(
                f"{error}; stopped with {self.put} records put: all before {chunk[0].place} that were not refused, "
                f"and perhaps some from there to {chunk[-1].place}"
            ) from error
        self.size += sum(line.size for line in chunk)
        told(self)

    async def _some(self, chunk: Sequence[Line]) -> None:
        """A source looks at every item before it writes the first (feed.py): so a refused chunk can be halved until the bad ones show."""
        try:
            self.put += await self.feed.put(self.options, self.place, [line.item for line in chunk])
        except SourceError as error:
            if len(chunk) == 1:
                self.refused.append(Refused(chunk[0].place, _ITEM.sub("the record", str(error))))
                if not self.put and len(self.refused) >= GIVEN_UP:
                    raise
                return
            middle = len(chunk) // 2
            await self._some(chunk[:middle])
            await self._some(chunk[middle:])


def fed(config: Config, registry: Registry, name: str) -> tuple[Feed, MappingConfig]:
    """The connector and mapping that `name` means: a mapping, or the name of a source that can be fed. Raises ConfigError."""
    feeds = {
        each.settings.name: (connector, each)
        for each in config.mappings.values()
        if isinstance(connector := registry.connector(each.type), Feed)
    }
    if name in feeds:
        return feeds[name]
    if name in config.mappings:
        kind = config.mappings[name].type
        raise ConfigError(f"the source of mapping {name!r} is of type {kind!r}, which poller cannot put records into: use its own tools")
    named = [pair for pair in feeds.values() if getattr(pair[1].options, "name", None) == name]
    if not named:
        known = sorted({*feeds, *(str(getattr(each.options, "name", "")) for _, each in feeds.values())} - {""})
        raise ConfigError(f"no mapping and no local source is named {name!r}; allowed {', '.join(known) or 'none: no source can be fed'}")
    if len({each.type for _, each in named}) > 1:
        raise ConfigError(f"{name!r} is a queue and a stream: name the mapping instead")
    return named[0]
