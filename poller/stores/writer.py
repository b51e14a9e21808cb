"""The group-committing SQLite thread: one connection that writes, one that reads, each in a thread of its own.

A job is a function of the connection. Jobs that wait together share one transaction, so thousands of them cost one fsync, and a job that
comes alone costs one fsync and no delay:

    run(job) -> queue -> BEGIN IMMEDIATE -> job -> SAVEPOINT, job, RELEASE ... -> COMMIT, fsynced -> all are answered

The first job needs no savepoint: if it fails, nobody else's work is undone with the transaction, and the next one begins a new group.
A group closes when the queue is empty or the group is large. Nobody is answered before the commit: an answer means durable.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from poller.errors import StoreError
from poller.stores.database import Schema, open_for_reading, open_for_writing, translated

__all__ = ["Schema", "Writer"]

T = TypeVar("T")

GROUP_ROWS = 10_000
"""A group that has changed so many rows takes no further job ..."""
GROUP_SECONDS = 0.05
"""... nor does one that has run so long: its waiters, and other processes, want the commit."""
CHECKPOINT_BYTES = 16 * 1024 * 1024
"""The size of the write-ahead log from which it is copied into the file ..."""
LOOKED_AT = 4
"""... as far as is seen: it is looked at after so many groups, for each look lets go of the interpreter and has to wait for it again."""


class _Job:
    """Work on its way through a thread, and what became of it. Made on the loop, filled in by the thread, answered on the loop."""

    __slots__ = ("error", "future", "loop", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Any] = self.loop.create_future()
        self.result: Any = None
        self.error: BaseException | None = None


def _settle(jobs: Sequence[_Job]) -> None:
    for job in jobs:
        if job.future.done():  # its waiter was cancelled; what the job wrote stays written
            continue
        if job.error is None:
            job.future.set_result(job.result)
        else:
            job.future.set_exception(job.error)


def _answer(jobs: Sequence[_Job]) -> None:
    """One wake-up of the loop for the whole group: a wake-up is a system call, and a group may be thousands."""
    for loop in {job.loop for job in jobs}:
        with suppress(RuntimeError):  # that loop is closed, its waiters are gone
            loop.call_soon_threadsafe(_settle, [job for job in jobs if job.loop is loop])


class Writer:
    """One SQLite file, written in groups. Several processes may each have a Writer on the same file.

    Used from an event loop; it may outlive one and go on with the next. It must not be carried over a fork.
    """

    def __init__(self, path: Path, schema: Schema, busy_timeout: float) -> None:
        """Use `Writer.open`."""
        # Resolved: a symbolic link's target is what must be private, and -wal lies beside the target.
        self.path = path.resolve()
        self._log = f"{self.path}-wal"
        self.groups = 0
        """Groups committed since it was opened: the fsyncs of all that was run."""
        self._schema = schema
        self._busy_timeout = busy_timeout
        self._writes: SimpleQueue[_Job | None] = SimpleQueue()
        self._reads: SimpleQueue[_Job | None] = SimpleQueue()
        self._gate = threading.Lock()
        self._closed = False
        self._log_limit = CHECKPOINT_BYTES
        self._reader: threading.Thread | None = None
        self._writer: threading.Thread | None = None

    @classmethod
    async def open(cls, path: Path, schema: Schema, *, busy_timeout: float = 5.0) -> Writer:
        """Open, or make, the file at `path` (0600, its folder 0700) and bring it to the schema's version.

        `busy_timeout`: seconds to wait for another process's transaction. Raises StoreError for a damaged, newer or foreign file, which
        is left untouched; StoreUnavailable if trying again may help.
        """
        writer = cls(path, schema, busy_timeout)
        opened = _Job(lambda _: None)
        # Daemons: a process that forgets to close must be able to end, and whatever was answered is durable anyway.
        writer._writer = threading.Thread(target=writer._write, args=(opened,), name=f"write {path.name}", daemon=True)
        writer._writer.start()
        try:
            await opened.future
        except BaseException:
            writer._shut()  # cancelled while the thread opens: it closes again by itself
            raise
        writer._reader = threading.Thread(target=writer._read, name=f"read {path.name}", daemon=True)
        writer._reader.start()
        return writer

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, once it is durable. It runs in the writer's thread, in a savepoint of the group's transaction.

        If `work` raises, what it wrote is undone, nobody else's is, and the exception arrives here. StoreUnavailable: it was not done.
        A caller that is cancelled does not know whether it was done. `work` must not commit, roll back, use `executescript`, or return
        cursors.
        """
        return await self._ask(self._writes, work)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns, on one snapshot of what is committed: all that was answered before, maybe more. Never waits for an fsync."""
        return await self._ask(self._reads, work)

    async def aclose(self) -> None:
        """Finish what was queued, fold the log into the file, end the threads. Tolerated twice."""
        self._shut()
        await asyncio.to_thread(self._join)

    def __repr__(self) -> str:
        return f"<Writer {self.path.name} [{'closed' if self._closed else 'open'}, queued={self._writes.qsize()}, groups={self.groups}]>"

    async def _ask(self, queue: SimpleQueue[_Job | None], work: Callable[[sqlite3.Connection], T]) -> T:
        job = _Job(work)
        with self._gate:  # never a job behind the None that ends the thread: it would wait for ever
            if self._closed:
                raise StoreError(f"{self.path} is closed")
            queue.put(job)
        result: T = await job.future
        return result

    def _shut(self) -> None:
        with self._gate:
            if not self._closed:
                self._closed = True
                self._reads.put(None)
                self._writes.put(None)

    def _join(self) -> None:
        for thread in (self._reader, self._writer):
            if thread is not None:
                thread.join()

    # --- the writer's thread ----------------------------------------------------------------------------------------------------------

    def _write(self, opened: _Job) -> None:
        try:
            connection = open_for_writing(self.path, self._schema, self._busy_timeout)
        except BaseException as error:
            opened.error = error
            return
        finally:
            _answer([opened])
        job = self._writes.get()
        while job is not None:
            group = [job]
            ended = self._commit(connection, group)
            _answer(group)
            del job, group  # while the thread waits, it must not hold what the last group wrote
            if self.groups % LOOKED_AT == 0:
                self._shorten_log(connection)
            job = None if ended else self._writes.get()
        # The last connection to close folds the log into the file; of this process's two it is to be this one.
        if self._reader is not None:
            self._reader.join()
        with suppress(sqlite3.Error):
            connection.close()

    def _commit(self, connection: sqlite3.Connection, group: list[_Job]) -> bool:
        """Run the group, which grows meanwhile, in one transaction; every job then has its result or error. True: it was the last."""
        ended = False
        try:
            # IMMEDIATE: the write lock before the first read. A transaction that has read cannot wait for the lock, only fail.
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            # All that wait fail together: each trying for itself would make the last wait busy_timeout times their number.
            ended = self._take_all(group)
            self._fail(group, error)
            return ended
        try:
            started, rows = time.monotonic(), connection.total_changes
            if not self._first(connection, group[0]):
                return False
            ended = self._fill(connection, group, started, rows)
            connection.execute("COMMIT")
            self.groups += 1
        except sqlite3.Error as error:
            if connection.in_transaction:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            self._fail(group, error)
        return ended

    def _first(self, connection: sqlite3.Connection, job: _Job) -> bool:
        """Returns whether there is something to commit."""
        try:
            job.result = job.work(connection)
        except BaseException as error:  # as in `_perform`
            job.error = translated(error, self.path) if isinstance(error, sqlite3.Error) else error
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            return False
        return True

    def _fill(self, connection: sqlite3.Connection, group: list[_Job], started: float, rows: int) -> bool:
        while connection.total_changes - rows < GROUP_ROWS and time.monotonic() - started < GROUP_SECONDS:
            try:
                job = self._writes.get_nowait()
            except Empty:
                return False
            if job is None:
                return True
            group.append(job)
            self._perform(connection, job)
        return False

    def _perform(self, connection: sqlite3.Connection, job: _Job) -> None:
        connection.execute("SAVEPOINT job")
        try:
            job.result = job.work(connection)
        except BaseException as error:  # the thread outlives whatever a job raises, else every later caller would wait for ever
            if isinstance(error, sqlite3.Error):
                if not connection.in_transaction:
                    raise  # SQLite has rolled the whole group back (a full disk may do that): nobody's work is left
                job.error = translated(error, self.path)
            else:
                job.error = error
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")

    def _fail(self, group: list[_Job], error: sqlite3.Error) -> None:
        # Those with an error of their own too: it may be about another job's writes, which are now undone ("the lease is lost").
        for job in group:
            job.result, job.error = None, translated(error, self.path)

    def _take_all(self, group: list[_Job]) -> bool:
        with suppress(Empty):
            while (job := self._writes.get_nowait()) is not None:
                group.append(job)
            return True
        return False

    def _shorten_log(self, connection: sqlite3.Connection) -> None:
        """Fold the log into the file when it is long.

        By TRUNCATE, which holds the write lock throughout (if it can have it within the busy timeout). SQLite's own, passive checkpoints do
        not: up to 3.51.2, a commit of another process that restarts the log just then is skipped by the next checkpoint, and so is lost
        (the "WAL-reset bug").
        """
        with suppress(sqlite3.Error, OSError):  # a log that stays long is no less durable
            if os.stat(self._log).st_size < self._log_limit:
                return
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        with suppress(OSError):
            # A long read, or a full disk, may have kept the log as it is: try again only when it has grown, not after every group.
            self._log_limit = os.stat(self._log).st_size + CHECKPOINT_BYTES

    # --- the reader's thread ----------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        connection: sqlite3.Connection | None = None
        while (job := self._reads.get()) is not None:
            try:
                if connection is None:
                    connection = open_for_reading(self.path, self._busy_timeout)
                connection.execute("BEGIN")
                try:
                    job.result = job.work(connection)
                finally:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
            except sqlite3.Error as error:
                job.error = translated(error, self.path)
            except BaseException as error:  # as in `_perform`
                job.error = error
            _answer([job])
            del job
        if connection is not None:
            connection.close()
