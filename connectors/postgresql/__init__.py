"""A store in PostgreSQL, for fleets: checkpoints, states, leases and the journal, shared by workers on many hosts.

`store = "postgresql://user@host/database"`. Here is the kind of store; asyncpg is imported only when one is opened.

Time is the server's: a lease runs out by its clock, whatever the hosts' clocks say, so that clock skew in a fleet can neither keep a lane
from being read nor give it to two. (`changed` of a failure, which only people read, is the caller's.)
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
