"""Leases, checkpoints and states in DynamoDB. Imported only when one is opened: the vendor's library takes 300 ms."""

from __future__ import annotations

from connectors.dynamodb.books import Books
from connectors.dynamodb.checkpoints import DynamoDBCheckpoints
from connectors.dynamodb.client import DynamoDB
from connectors.dynamodb.leases import DynamoDBLeases
from connectors.dynamodb.states import DynamoDBStates
from connectors.dynamodb.tables import Tables
from connectors.dynamodb.url import Where


class DynamoDBLedger:
    """`poller.protocols.Ledger`. Use `open_ledger`."""

    def __init__(self, client: DynamoDB, where: Where) -> None:
        self._client = client
        tables = Tables(client, where)
        books = Books(tables)
        self.leases = DynamoDBLeases(tables, books)
        self.checkpoints = DynamoDBCheckpoints(tables, books)
        self.states = DynamoDBStates(tables, books)

    def __repr__(self) -> str:
        return f"<DynamoDBLedger {self._client!r}>"

    async def aclose(self) -> None:
        """Tolerated twice."""
        await self._client.aclose()


async def open_ledger(where: Where) -> DynamoDBLedger:
    """Raises StoreError, StoreUnavailable. Tables are asked for when a lane of a mapping first is."""
    client = DynamoDB(where)
    try:
        await client.connect()
    except BaseException:
        await client.aclose()
        raise
    return DynamoDBLedger(client, where)
