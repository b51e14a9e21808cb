"""A few connections to one server: opened when needed, each call bounded in time, PostgreSQL's errors in our words.

run(work) -> a connection that is idle, or a new one -> [BEGIN] work [COMMIT] -> idle again
                                    |                        '- anything goes wrong -> it is terminated
                                    '- refused -> nobody dials again for a while (backoff)
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, TypeVar

import asyncpg
from asyncpg.exceptions import ClientConfigurationError, DataError, InterfaceError, InternalClientError

from connectors.postgresql.address import shown
from poller.errors import PollerError, StoreError, StoreUnavailable

T = TypeVar("T")
Connection: TypeAlias = Any
"""An asyncpg.Connection: it has no types."""

SECONDS = 3.0
"""What a call may take, connecting included: less than a third of a lease, so that a renewal can be tried again."""
MOST = 4
"""Connections a process: group commit needs no more."""
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds without dialling after the first failure to connect, and after many."""
SERVER_SECONDS = 30
"""When the server ends a statement by itself, should we be gone."""

# By class or code (PostgreSQL: "Error Codes"): trouble that may pass.
_PASSING = {
    "08": "the connection broke",
    "40": "the transaction met another one",
    "53": "it is short of something: look at its disk, its memory and max_connections",
    "57": "it is stopping, starting, or ended the statement",
    "58": "its system failed: look at its log",
    "55P03": "a lock was not to be had in time",
    "25006": "it is read-only, a standby: add target_session_attrs=read-write to the URL, or wait until it is promoted",
}
_LASTING = {
    "28": "it refuses the login: check user and password, and pg_hba.conf",
    "3D000": "there is no such database: create it",
    "3F000": "there is no such schema: create it, or change search_path in the URL",
    "42501": "the role may not do this: grant it CREATE on the schema, or let its owner run `poller` once",
    "42704": "it does not know an option of the URL",
}


def translated(error: BaseException, place: str, seconds: float) -> StoreError:
    """What, where, and what to do: StoreUnavailable if trying again may help, else StoreError."""
    if isinstance(error, TimeoutError):
        return StoreUnavailable(f"{place}: no answer within {seconds:g} s: see whether it is up, and not overloaded")
    if isinstance(error, asyncpg.PostgresError):
        code = str(error.sqlstate)
        for key in (code, code[:2]):
            if key in _PASSING:
                return StoreUnavailable(f"{place}: {_PASSING[key]} ({error})")
            if key in _LASTING:
                return StoreError(f"{place}: {_LASTING[key]} ({error})")
        return StoreError(f"{place}: it refused a statement, which is a mistake in this program ({type(error).__name__}: {error})")
    if isinstance(error, ClientConfigurationError):
        return StoreError(f"{place}: the URL cannot be used ({error})")
    if isinstance(error, DataError):
        return StoreError(f"{place}: a value cannot be kept, which is a mistake in this program ({error})")
    if isinstance(error, OSError | InterfaceError | InternalClientError):
        return StoreUnavailable(f"{place}: it cannot be reached ({error or type(error).__name__})")
    raise error


_FOREIGN = (TimeoutError, OSError, asyncpg.PostgresError, InterfaceError, InternalClientError)


class Connections:
    """Used from one event loop."""

    def __init__(self, url: str, seconds: float = SECONDS) -> None:
        self.place = shown(url)
        self.trips = 0
        """Calls of `run` that reached a connection."""
        self._url = url
        self._seconds = seconds
        self._idle: list[Connection] = []
        self._slots = asyncio.Semaphore(MOST)
        self._failures = 0
        self._not_before = 0.0
        self._last_failure = ""
        self._closed = False

    async def run(self, work: Callable[[Connection], Awaitable[T]], begin: str = "", seconds: float | None = None) -> T:
        """What `work` returns; with `begin`, a BEGIN statement, in one transaction that is committed then.

        Raises StoreError, or StoreUnavailable: it was not done, or the answer was lost. A PollerError that `work` raises arrives here, and
        its transaction is undone.
        """
        limit = self._seconds if seconds is None else seconds
        try:
            async with asyncio.timeout(limit), self._slots:
                connection = await self._taken()
                sound = False
                try:
                    result = await self._performed(connection, work, begin)
                    sound = True
                except PollerError:
                    sound = True
                    raise
                finally:
                    self._give_back(connection, sound)
                return result
        except TimeoutError as error:
            # One that does not answer: the others would be found out one by one, each at the cost of the whole wait.
            self._drop_idle()
            raise translated(error, self.place, limit) from error
        except _FOREIGN as error:
            raise translated(error, self.place, limit) from error

    async def aclose(self) -> None:
        """Tolerated twice."""
        self._closed = True
        idle, self._idle = self._idle, []
        for connection in idle:
            try:
                await connection.close(timeout=1.0)
            except _FOREIGN:
                connection.terminate()

    async def _performed(self, connection: Connection, work: Callable[[Connection], Awaitable[T]], begin: str) -> T:
        self.trips += 1
        if not begin:
            return await work(connection)
        await connection.execute(begin)
        try:
            result = await work(connection)
        except PollerError:
            await connection.execute("ROLLBACK")
            raise
        await connection.execute("COMMIT")
        return result

    async def _taken(self) -> Connection:
        if self._closed:
            raise StoreError(f"{self.place} is closed")
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            connection.terminate()
        now = asyncio.get_running_loop().time()
        if now < self._not_before:
            raise StoreUnavailable(self._last_failure)
        try:
            connection = await self._connected()
        except (*_FOREIGN, asyncio.CancelledError) as error:
            # Cancelled by the time limit, most likely: then, too, nobody else should wait for it in vain.
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0**self._failures)
            self._failures = min(self._failures + 1, 10)
            self._not_before = asyncio.get_running_loop().time() + pause
            cause = TimeoutError() if isinstance(error, asyncio.CancelledError) else error
            self._last_failure = str(translated(cause, self.place, self._seconds))
            raise
        self._failures = 0
        return connection

    async def _connected(self) -> Connection:
        settings = {
            "statement_timeout": f"{SERVER_SECONDS}s",
            "lock_timeout": f"{max(1, int(self._seconds * 1000))}ms",
            "idle_in_transaction_session_timeout": f"{SERVER_SECONDS}s",
            "default_transaction_isolation": "read committed",
        }
        if "application_name=" not in self._url:
            settings["application_name"] = "poller"
        connection = await asyncpg.connect(self._url, timeout=2 * self._seconds, server_settings=settings)
        try:
            # What was answered must be durable, also where the database says that commits need not wait for the disk.
            await connection.execute(
                "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
            )
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _give_back(self, connection: Connection, sound: bool) -> None:
        if sound and not self._closed and not connection.is_closed():
            self._idle.append(connection)
        else:
            # Not closed in order: that would wait for a server that may not answer.
            connection.terminate()

    def _drop_idle(self) -> None:
        idle, self._idle = self._idle, []
        for connection in idle:
            connection.terminate()

    def __repr__(self) -> str:
        return f"<Connections {self.place} [{'closed' if self._closed else 'open'}, idle={len(self._idle)}, trips={self.trips}]>"
