"""Where a replay sends rows instead of invoking: back into their source, or to a destination."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from poller.config import MappingConfig
from poller.config.destinations import destination
from poller.errors import ConfigError
from poller.failures.delivery import Opening, opened
from poller.failures.journal import Delivery, Entry
from poller.failures.runs import SOURCE
from poller.feed import Returning
from poller.functions import Function
from poller.replay.sending import sending

Fits = Callable[[Entry], None]
"""Raises SourceError for an entry that cannot be sent there at all."""


@dataclass(frozen=True, slots=True)
class Resending:
    """`to` is SOURCE, the address of a destination, or the name of one of the mapping's."""

    opening: Opening
    to: str

    def look(self, mapping: MappingConfig) -> None:
        """Raises ConfigError where nothing of this mapping can be sent there, PluginError."""
        if self.to == SOURCE:
            self._returning(mapping)

    async def open(self, mapping: MappingConfig, at_once: int, stack: AsyncExitStack) -> tuple[Function, Fits]:
        """What the rows of this mapping run with, and which of them can; what it opens is closed by the stack.

        Raises ConfigError as `look` does, NotConnected, PluginError."""
        open_to = self._source if self.to == SOURCE else self._destination
        return await open_to(mapping, at_once, stack)

    def _returning(self, mapping: MappingConfig) -> Returning:
        connector: Any = self.opening.registry.connector(mapping.type) if mapping.type else None
        if isinstance(connector, Returning):
            return connector
        what = f"its source, of type {mapping.type!r}," if connector is not None else "its source, which is not configured any more,"
        raise ConfigError(f"mapping {mapping.settings.name}: {what} cannot be written to; name the address of a destination")

    async def _source(self, mapping: MappingConfig, at_once: int, stack: AsyncExitStack) -> tuple[Function, Fits]:
        returner = await self._returning(mapping).returner(mapping.options, self.opening)
        stack.push_async_callback(returner.aclose)
        there = dict[str, int]()
        """How many of a row's records are there: where one of them is refused for now, those before it are not put again."""

        async def put(entry: Entry) -> None:
            done = there.get(entry.id, 0)
            while done < len(entry.records):
                done = there[entry.id] = done + await returner.put(entry.records[done:])
            there.pop(entry.id, None)

        return sending(put, f"the source of {mapping.settings.name}", at_once), lambda entry: returner.check(entry.records)

    async def _destination(self, mapping: MappingConfig, at_once: int, stack: AsyncExitStack) -> tuple[Function, Fits]:
        own = [each for each in mapping.destinations if each.name == self.to]
        config = own[0] if own else destination(self.to, self.opening.registry)
        whole = await stack.enter_async_context(opened(self.opening, mapping, config))
        clock = self.opening.clock

        async def send(entry: Entry) -> None:
            await whole.send(Delivery(0, entry.id, config.name, "failure", entry, due=clock()))

        return sending(send, config.shown, at_once), lambda _: None
