"""One database file for all local sources of a store, beside it: `local.db`, for its owner only.

Every process has one writer thread for it, whose transactions are BEGIN IMMEDIATE: two workers never receive the same message, wherever
they run. Within a process it is opened once, however many sources use it.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar
from uuid import uuid4

from connectors.local.bells import Bells
from poller.errors import NotConnected, PollerError, StoreError, StoreUnavailable
from poller.stores.writer import Schema, Writer

_T = TypeVar("_T")

FILE = "local.db"

_TABLES = (
    "CREATE TABLE identity (uuid TEXT NOT NULL) STRICT",
    """
    CREATE TABLE queues (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        fifo INTEGER NOT NULL,
        visibility REAL NOT NULL,
        retention REAL NOT NULL,
        dead_letter INTEGER REFERENCES queues (id),
        maximum_receives INTEGER
    ) STRICT
    """,
    # AUTOINCREMENT: an id is never used twice, so neither is a receipt.
    """
    CREATE TABLE messages (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue INTEGER NOT NULL,
        visible REAL NOT NULL,
        receives INTEGER NOT NULL DEFAULT 0,
        earlier INTEGER NOT NULL DEFAULT 0,
        sent REAL NOT NULL,
        first REAL,
        message_id TEXT NOT NULL,
        body TEXT NOT NULL,
        md5 TEXT NOT NULL,
        size INTEGER NOT NULL,
        attributes TEXT,
        attributes_md5 TEXT,
        group_id TEXT,
        deduplication TEXT,
        origin TEXT
    ) STRICT
    """,
    "CREATE INDEX messages_by_visible ON messages (queue, visible, id)",
    "CREATE INDEX messages_by_group ON messages (queue, group_id, id) WHERE group_id IS NOT NULL",
    """
    CREATE TABLE groups (
        queue INTEGER NOT NULL, name TEXT NOT NULL, ready REAL NOT NULL, PRIMARY KEY (queue, name)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX groups_by_ready ON groups (queue, ready, name)",
    """
    CREATE TABLE deduplications (
        queue INTEGER NOT NULL, id TEXT NOT NULL, until REAL NOT NULL, PRIMARY KEY (queue, id)
    ) STRICT, WITHOUT ROWID
    """,
    "CREATE INDEX deduplications_by_until ON deduplications (queue, until)",
    "CREATE TABLE streams (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, retention REAL NOT NULL) STRICT",
    """
    CREATE TABLE shards (
        id INTEGER PRIMARY KEY,
        stream INTEGER NOT NULL,
        number INTEGER NOT NULL,
        first INTEGER NOT NULL DEFAULT 1,
        next INTEGER NOT NULL DEFAULT 1,
        arrival REAL NOT NULL DEFAULT 0,
        UNIQUE (stream, number)
    ) STRICT
    """,
    # id: shard << 40 | sequence number (records.py).
    "CREATE TABLE records (id INTEGER PRIMARY KEY, arrival REAL NOT NULL, key TEXT NOT NULL, data BLOB NOT NULL) STRICT",
)

SCHEMA = Schema(name="a database of local sources", application=0x706C6F63, migrations=(_TABLES,))


class Database:
    """Use `acquire` and `release`, or `shared`. Every call raises NotConnected when the database does not answer now."""

    def __init__(self, path: Path, writer: Writer, identity: str) -> None:
        self.path = path
        self.identity = identity
        """What makes it this database, wherever it is moved."""
        self._writer = writer
        self._watch = sqlite3.connect(path, timeout=0, isolation_level=None)
        self.bells = Bells(self._version)

    # --- opening ----------------------------------------------------------------------------------------------------------------

    @staticmethod
    def exists(state: Path) -> bool:
        return (state / FILE).exists()

    @classmethod
    async def acquire(cls, state: Path) -> Database:
        """The database of this folder, opened (and made) if nobody in this event loop has it open. For each call one `release`."""
        key = (asyncio.get_running_loop(), (state / FILE).resolve())
        share = _shares.get(key)
        if share is None:
            share = _shares[key] = _Share(key[0].create_task(_open(key[1]), name=f"open {key[1].name}"))
        share.users += 1
        try:
            return await asyncio.shield(share.opening)
        except BaseException:
            await _leave(key, share)
            raise

    async def release(self) -> None:
        """The last one closes it."""
        key = (asyncio.get_running_loop(), self.path)
        await _leave(key, _shares[key])

    @classmethod
    @asynccontextmanager
    async def shared(cls, state: Path) -> AsyncIterator[Database]:
        database = await cls.acquire(state)
        try:
            yield database
        finally:
            await database.release()

    async def close(self) -> None:
        """For `release` alone."""
        await self.bells.aclose()
        self._watch.close()  # before the writer's: the last connection folds the log into the file
        await self._writer.aclose()

    # --- use --------------------------------------------------------------------------------------------------------------------

    async def write(self, work: Callable[[Connection], _T]) -> _T:
        """Run `work` in a transaction of the writer thread; durable when it returns."""
        try:
            return await self._writer.run(work)
        except StoreError as error:
            raise _not_connected(error) from error

    async def read(self, work: Callable[[Connection], _T]) -> _T:
        """Run `work` on a connection that only reads; on one snapshot."""
        try:
            return await self._writer.read(work)
        except StoreError as error:
            raise _not_connected(error) from error

    def _version(self) -> int | None:
        """Changes with every commit of another connection. A few microseconds: a look at shared memory. None: locked just now."""
        try:
            (version,) = self._watch.execute("PRAGMA data_version").fetchone()
        except sqlite3.OperationalError:
            return None
        return int(version)


class _Share:
    """A database and how many use it."""

    def __init__(self, opening: asyncio.Task[Database]) -> None:
        self.opening = opening
        self.users = 0


_Key = tuple[asyncio.AbstractEventLoop, Path]
_shares: dict[_Key, _Share] = {}


async def _leave(key: _Key, share: _Share) -> None:
    share.users -= 1
    if share.users:
        return
    # From here on the next one opens it anew; two at once do each other no harm.
    if _shares.get(key) is share:
        del _shares[key]
    try:
        database = await share.opening
    except PollerError:
        return
    await database.close()


async def _open(path: Path) -> Database:
    try:
        writer = await Writer.open(path, SCHEMA)
    except StoreError as error:
        raise _not_connected(error) from error
    try:
        return Database(path, writer, await writer.run(_identity))
    except BaseException as error:
        await writer.aclose()
        if isinstance(error, StoreError):
            raise _not_connected(error) from error
        raise


def _identity(connection: Connection) -> str:
    row = connection.execute("SELECT uuid FROM identity").fetchone()
    if row is None:
        row = (uuid4().hex,)
        connection.execute("INSERT INTO identity VALUES (?)", row)
    return str(row[0])


def _not_connected(error: StoreError) -> NotConnected:
    return NotConnected(f"local sources: {error}", permanent=not isinstance(error, StoreUnavailable))
