"""The kinds of stores that need no entry point. What opens them is imported only then: a configuration is checked without SQLite."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from poller.errors import ConfigError
from poller.settings import StoreKind

if TYPE_CHECKING:
    from poller.stores.memory import MemoryStore
    from poller.stores.sqlite import SqliteStore


class SqliteKind:
    """`poller.settings.StoreKind` for `sqlite:`. Workers of one host may share a file; on a network file system it would be damaged."""

    shared = False

    def check(self, url: str, base: Path) -> None:
        from poller.stores.sqlite import parse_url

        parse_url(url, base)

    async def ledger(self, url: str, base: Path) -> SqliteStore:
        """As `store`: all of it is in one file anyway."""
        return await self.store(url, base)

    async def store(self, url: str, base: Path) -> SqliteStore:
        from poller.stores.sqlite import open_store

        return await open_store(url, base)


class MemoryKind:
    """`poller.settings.StoreKind` for `memory:`. Each opening is a store of its own."""

    shared = False

    def check(self, url: str, base: Path) -> None:  # noqa: ARG002
        if url != "memory:":
            raise ConfigError(f"store {url!r} says more than a store in memory understands; write memory: alone")

    async def ledger(self, url: str, base: Path) -> MemoryStore:
        return await self.store(url, base)

    async def store(self, url: str, base: Path) -> MemoryStore:
        from poller.stores.memory import MemoryStore

        self.check(url, base)
        return MemoryStore()


BUILT_IN: dict[str, StoreKind] = {"sqlite": SqliteKind(), "memory": MemoryKind()}
"""By scheme."""
