"""Leases and checkpoints in DynamoDB, in the table of the Kinesis Client Library: a fleet can move from it to us, and back.

    [poller]
    leases = "dynamodb://orders-app?region=eu-west-1"

The table is KCL's, version 2 or 3 (`row.py`); beside it there is one of ours, its name and `-poller`. One mapping has one table: put
`{mapping}` into the name where there are several.

The checkpoint columns are KCL's, and say only what KCL may take for done (checkpoint.py): the last record before the checkpoint that a
save has named (`Landmarks`). All that we know is in the attribute `poller`, and counts while the columns are those it was written beside
(row.py). Expiry is judged as KCL does (watch.py). Every write presents owner and claim counter, a save also its number, so that one that
comes late is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from connectors.dynamodb.url import where
from poller.errors import ConfigError

if TYPE_CHECKING:
    from poller.permissions import Needed, Somewhere
    from poller.protocols import Ledger, Store


class DynamoDBStores:
    """`poller.settings.StoreKind`, by the scheme `dynamodb`."""

    shared = True

    def check(self, url: str, base: Path) -> None:  # noqa: ARG002 -- no path stands in it
        where(url)

    def permissions(self, url: str, mapping: str, place: Somewhere) -> Needed:
        """See `poller.permissions.LedgerPermissions`."""
        from connectors.dynamodb.permissions import permissions

        return permissions(url, mapping, place)

    async def ledger(self, url: str, base: Path) -> Ledger:  # noqa: ARG002
        from connectors.dynamodb.ledger import open_ledger

        return await open_ledger(where(url))

    async def store(self, url: str, base: Path) -> Store:
        self.check(url, base)
        raise ConfigError(f"{url}: DynamoDB keeps leases and progress, and no journal; write it as `leases`, and name another `store`")


kind = DynamoDBStores()
