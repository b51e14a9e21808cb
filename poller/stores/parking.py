"""Parking in SQLite, in the journal's file: held.py has the rows that hold keys."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence

from poller.failures.journal import Entry
from poller.stores.entries import append, chunks, marks
from poller.stores.held import behind
from poller.stores.posts import text
from poller.stores.writer import Writer

_HELD = "SELECT DISTINCT key FROM held WHERE mapping = ? AND source = ?"
_LOOKED_UP = 500


class SqliteParking:
    """`poller.failures.protocols.Parking` over one SQLite file."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer

    async def held(self, mapping: str, source: str, keys: Collection[str] | None = None) -> set[str]:
        """See the protocol. Raises StoreUnavailable when the file cannot be read now."""
        place, known = (text(mapping), text(source)), {text(key): key for key in keys or ()}

        def work(connection: sqlite3.Connection) -> set[str]:
            if keys is None:
                return {key for (key,) in connection.execute(_HELD, place)}
            found = set[str]()
            for chunk in chunks(list(known), _LOOKED_UP):
                found.update(known[key] for (key,) in connection.execute(f"{_HELD} AND key IN ({marks(len(chunk))})", (*place, *chunk)))
            return found

        return await self._writer.read(work)

    async def park(self, entries: Sequence[Entry]) -> Sequence[str]:
        """All of them or, if this raises StoreUnavailable, none."""

        def work(connection: sqlite3.Connection) -> list[str]:
            return [append(connection, entry) if behind(connection, entry) else "" for entry in entries]

        return await self._writer.run(work) if entries else ()
