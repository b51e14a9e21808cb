"""A store in PostgreSQL, for fleets: checkpoints, states, leases and the journal, shared by workers on many hosts.

`store = "postgresql://user@host/database"`. Here is the kind of store; asyncpg is imported only when one is opened.

Time is the server's: a lease runs out by its clock, whatever the hosts' clocks say, so that clock skew in a fleet can neither keep a lane
from being read nor give it to two. (`changed` of a failure, which only people read, is the caller's.)

A lane is one row: lease and progress, so that "is it still held" and the save are one statement. What many lanes ask for together shares a
statement (groups.py), so a thousand lanes cost a round trip a second each for saves and renewals. All changes of a lane go through one
queue and are numbered (`serial`): a statement that we gave up waiting for, and that the server runs later, changes nothing once a later
one was made. Rows are locked in one order everywhere, so workers wait for one another and never deadlock. Every call is bounded (3 s; a
hung server is StoreUnavailable, and its connections are dropped, not closed in order), and after a refused connection nobody dials again
for 0.1 s, then up to 1 s.

Appends lock the *origin* (mapping, source, lane) of their failures, look up for the whole group what is there, decide in appending.py, and
write it in four statements. Who holds, parks or releases keys locks the origin of mapping and source without a lane too, together with all
others that he needs, in one statement and before any row; appends of what holds nothing do as many statements as without parking. Upkeep
passes over rows that are locked (SKIP LOCKED): who finishes a row has it before the origins that its rests come from, so waiting would be
a deadlock, and it changes the row anyway. `poller_version` holds the schema's version.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from connectors.postgresql.address import check
from poller.errors import ConfigError
from poller.protocols import Ledger, Store


class Kind:
    """`poller.settings.StoreKind` for `postgresql:` and `postgres:`."""

    shared = True

    def check(self, url: str, base: Path) -> None:  # noqa: ARG002
        """Raises ConfigError, which shows no password."""
        if find_spec("asyncpg") is None:
            raise ConfigError(
                "a store in PostgreSQL needs the module 'asyncpg', which is not installed; run `pip install 'esm-poller[postgresql]'`"
            )
        check(url)

    async def ledger(self, url: str, base: Path) -> Ledger:
        """As `store`: all of it is in one place anyway."""
        return await self.store(url, base)

    async def store(self, url: str, base: Path) -> Store:
        """Makes the tables if they are missing. Raises StoreError, StoreUnavailable."""
        self.check(url, base)
        from connectors.postgresql.store import open_store

        return await open_store(url)


kind = Kind()
