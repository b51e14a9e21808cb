"""One SQLite file: made private, checked to be ours, brought to our version; and SQLite's errors in our words.

Everything here blocks and belongs to the writer's threads (writer.py).
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from poller.errors import StoreError, StoreUnavailable

OLDEST_SQLITE = (3, 37, 0)
"""STRICT tables; RETURNING is older."""


@dataclass(frozen=True, slots=True)
class Schema:
    """What a database file holds.

    `name` is what error messages call it. `application` is its `PRAGMA application_id`: it tells our files from everyone else's.
    `migrations[n]` holds the statements that take version n to version n + 1; a released one never changes.
    """

    name: str
    application: int
    migrations: tuple[tuple[str, ...], ...]

    @property
    def version(self) -> int:
        return len(self.migrations)


# Trouble that may pass, by primary result code. Whatever else SQLite reports is for good.
_PASSING = {
    sqlite3.SQLITE_FULL: "its disk is full: free some space",
    sqlite3.SQLITE_BUSY: "another process kept it locked: see which one has it open",
    sqlite3.SQLITE_LOCKED: "another connection kept it locked: see which process has it open",
    sqlite3.SQLITE_PROTOCOL: "its locks could not be had: see which processes have it open",
    sqlite3.SQLITE_IOERR: "reading or writing it failed: look for a full disk, a quota, a file size limit or a broken disk",
    sqlite3.SQLITE_CANTOPEN: "it cannot be opened: check that its folder exists and may be written to",
    sqlite3.SQLITE_READONLY: "it may not be written: check owner and mode, and whether its file system is mounted read-only",
    sqlite3.SQLITE_PERM: "it may not be opened: check owner and mode",
    sqlite3.SQLITE_NOMEM: "there is no memory left to use it",
    sqlite3.SQLITE_INTERRUPT: "the statement was interrupted",
}
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def translated(error: sqlite3.Error, path: Path) -> StoreError:
    """What, where, and what to do: StoreUnavailable if trying again may help, else StoreError."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in _PASSING:
        return StoreUnavailable(f"{path}: {_PASSING[code]} ({error})")
    if code in _DAMAGE:
        return StoreError(f"{path} is damaged, or no database ({error}): move it away, then restore a backup or start with a new file")
    return StoreError(f"{path}: SQLite refused a statement, which is a mistake in this program ({type(error).__name__}: {error})")


@contextmanager
def translating(path: Path) -> Iterator[None]:
    """SQLite's errors leave as StoreError or StoreUnavailable."""
    try:
        yield
    except sqlite3.Error as error:
        raise translated(error, path) from error


def open_for_writing(path: Path, schema: Schema, busy_timeout: float) -> sqlite3.Connection:
    """A connection to a file that is ours, at our version, 0600, in WAL mode with synchronous=FULL. Makes file and folder if missing.

    Raises StoreError for a file that is damaged, newer or someone else's (it is left as it was), StoreUnavailable if trying may help.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        wanted = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(f"{path}: SQLite {sqlite3.sqlite_version} is too old, at least {wanted} is needed: use a newer Python build")
    _make_private(path)
    with translating(path):
        connection = _connect(path, busy_timeout)
        try:
            check(connection, path, schema)
            # Of a file that is made now: what is removed from it can be given back. Ignored, and no error, where it has a table already.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            _use_wal(connection, path, busy_timeout)
            # FULL: in WAL mode every commit is fsynced; NORMAL would lose the last commits with the power.
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA cache_size = -16000")
            _migrate(connection, path, schema)
        except BaseException:
            connection.close()
            raise
    return connection


def open_for_reading(path: Path, busy_timeout: float) -> sqlite3.Connection:
    """A connection that cannot write, to a file that `open_for_writing` has prepared. Raises sqlite3.Error."""
    connection = _connect(path, busy_timeout)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _connect(path: Path, busy_timeout: float) -> sqlite3.Connection:
    # isolation_level None: the sqlite3 module begins no transactions behind our back.
    connection = sqlite3.connect(path, timeout=busy_timeout, isolation_level=None, cached_statements=256)
    # No checkpoint may start by itself: the writer runs them, under the write lock (writer.py says why).
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    return connection


def _make_private(path: Path) -> None:
    """The file exists and is 0600; SQLite gives -wal and -shm the mode of the file."""
    try:
        _make_folder(path.parent)
        try:
            # O_EXCL, so that a file which is there is never opened here: closing it again would drop, by POSIX's rule, every lock that
            # this process holds on it through SQLite.
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
            _sync_folder(path.parent)
        except FileExistsError:
            for name in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
                with suppress(FileNotFoundError):  # the last of its other users removes the last two, perhaps just now
                    if name.stat().st_mode & 0o077:
                        name.chmod(0o600)
    except OSError as error:
        kind = StoreUnavailable if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO) else StoreError
        raise kind(f"{path} cannot be made or kept private ({error}): give a path in a folder that this user may write to") from error


def _make_folder(folder: Path) -> None:
    """Makes what is missing, each 0700, and durable: a file is not safer than the name of the folder it is in."""
    missing = [folder, *folder.parents]
    missing = missing[: next(n for n, parent in enumerate(missing) if parent.exists())]
    for parent in reversed(missing):
        parent.mkdir(mode=0o700, exist_ok=True)
        _sync_folder(parent.parent)


def _sync_folder(folder: Path) -> None:
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def check(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Raises StoreError unless the file is empty, or ours and no newer than we are. Changes nothing."""
    # One snapshot for the whole look: else another process, which makes this very file, comes between, and we see its tables after having
    # seen no application id.
    connection.execute("BEGIN")
    _check(connection, path, schema)
    connection.execute("ROLLBACK")


def _check(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """`check`, in a transaction that is the caller's."""
    application, version = _number(connection, "application_id"), _number(connection, "user_version")
    if application != schema.application:
        empty = application == 0 and version == 0 and connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if not empty:
            raise StoreError(
                f"{path} is not {schema.name}: it belongs to another program (application id {application}); give another path"
            )
    if version > schema.version:
        raise StoreError(
            f"{path} was written by a newer version of this program (schema {version}, known here: {schema.version}): "
            "upgrade this program, or give another path"
        )


def _use_wal(connection: sqlite3.Connection, path: Path, busy_timeout: float) -> None:
    deadline = time.monotonic() + busy_timeout
    while True:
        try:
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            break
        except sqlite3.OperationalError as error:
            # The change to WAL asks for a lock without the busy timeout: two processes that open a new file at once meet here.
            if getattr(error, "sqlite_errorcode", 0) & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    if mode != "wal":
        raise StoreError(f"{path} cannot use a write-ahead log (it is in {mode!r} mode): put it on a local disk")


def _migrate(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    if _number(connection, "user_version") == schema.version:
        return
    connection.execute("BEGIN IMMEDIATE")
    # Asked again under the write lock: another process may have been here between the check and the lock.
    _check(connection, path, schema)
    for statements in schema.migrations[_number(connection, "user_version") :]:
        for statement in statements:
            connection.execute(statement)
    # In the same transaction (both live in the file's header): a crash leaves the old version whole, or the new one.
    connection.execute(f"PRAGMA application_id = {schema.application}")
    connection.execute(f"PRAGMA user_version = {schema.version}")
    connection.execute("COMMIT")
