"""Calls of DynamoDB: what was done, what a condition forbade, or StoreUnavailable. Imported only when a ledger opens.

They are signed by hand (connectors/aws/json.py): a ledger's calls are many and small, and botocore takes seven times the CPU for one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson

from connectors.aws.connection import AwsConnection, Target
from connectors.aws.json import ErrorAnswer, Service
from connectors.aws.refusals import Place
from connectors.dynamodb.url import Where
from poller.errors import NotConnected, SourceError, StoreError, StoreUnavailable

DYNAMODB = Service("dynamodb", "dynamodb", "DynamoDB_20120810", "1.0")

ALLOWED = (
    "dynamodb:DescribeTable, CreateTable, GetItem, PutItem, UpdateItem, DeleteItem, ConditionCheckItem, Query and Scan on the table and on"
    " the one beside it (its name and -poller)"
)

CALL_SECONDS = 5.0
"""A call takes so long with all its tries: a lease of ten seconds must survive one that fails."""

CALLS_AT_ONCE = 32

_FORBIDDEN = {
    "AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "IncompleteSignature", "InvalidClientTokenId",
    "InvalidSignatureException", "MissingAuthenticationToken", "MissingAuthenticationTokenException", "NotAuthorizedException",
    "OptInRequired", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip
_BUSY = {
    "InternalServerError", "LimitExceededException", "ProvisionedThroughputExceededException", "RequestLimitExceeded", "ServiceUnavailable",
    "ThrottlingException", "TransactionConflictException", "TransactionInProgressException",
}  # fmt: skip
_REFUSED = "ConditionalCheckFailed"
_CANCELLED = "TransactionCanceledException"
_MISSING = "ResourceNotFoundException"


class DynamoDB:
    """One DynamoDB, asked as one person."""

    def __init__(self, where: Where, dice: Callable[[], float] = random.random, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep):
        self._where = where
        self._dice = dice
        self._sleep = sleep
        self._aws = AwsConnection(Place(str(where), ALLOWED), DYNAMODB)
        self._gate = asyncio.Semaphore(CALLS_AT_ONCE)

    def __repr__(self) -> str:
        return f"<DynamoDB {self._aws!r}>"

    async def connect(self) -> None:
        """The service itself is not asked yet. Raises StoreError, StoreUnavailable."""
        where = self._where
        try:
            await self._aws.connect(Target(where.region, where.profile, where.endpoint, where.role_arn, CALLS_AT_ONCE))
        except NotConnected as error:
            # What `connect` asks for is on this machine: credentials, a region.
            raise (StoreError if error.permanent else StoreUnavailable)(str(error)) from error
        except SourceError as error:
            raise StoreError(str(error)) from error

    async def call(self, operation: str, table: str, **parameters: Any) -> dict[str, Any] | None:
        """None: a condition did not hold, and nothing was done. Raises StoreUnavailable, StoreError.

        A call that is refused for the moment is made again, as is one whose answer was lost: it must do no harm done twice.
        """
        named = {} if operation == "TransactWriteItems" else {"TableName": table}
        try:
            async with asyncio.timeout(CALL_SECONDS), self._gate:
                answer = await self._tried(operation, {**named, **parameters})
        except TimeoutError as error:
            raise StoreUnavailable(f"{self._where}: {operation} on table {table} took more than {CALL_SECONDS:.0f} s") from error
        except NotConnected as error:
            raise StoreUnavailable(str(error)) from error
        except SourceError as error:
            raise StoreError(str(error)) from error
        if isinstance(answer, bytes):
            return self._parsed(operation, answer)
        if _REFUSED in answer.code or (answer.code == _CANCELLED and _REFUSED in answer.text):
            return None
        raise self._error(operation, table, answer)

    async def describe(self, table: str) -> Mapping[str, Any] | None:
        """None: there is no such table."""
        try:
            answer = await self.call("DescribeTable", table)
        except _Missing:
            return None
        assert answer is not None, "a description has no condition"
        found: Mapping[str, Any] = answer["Table"]
        return found

    async def create(self, table: str, **parameters: Any) -> None:
        """Ask for a table; one that is there already, or on its way, will do."""
        try:
            await self.call("CreateTable", table, BillingMode="PAY_PER_REQUEST", **parameters)
        except _There:
            pass

    async def _tried(self, operation: str, parameters: Mapping[str, Any]) -> bytes | ErrorAnswer:
        tries = 4
        while True:
            tries -= 1
            answer = await self._aws.call(operation, parameters)
            if isinstance(answer, bytes) or not tries or not _passing(answer):
                return answer
            await self._sleep(0.05 * 2 ** (3 - tries) * (1 + self._dice()))

    def _parsed(self, operation: str, answer: bytes) -> dict[str, Any]:
        try:
            told: dict[str, Any] = orjson.loads(answer)
        except orjson.JSONDecodeError as error:
            raise StoreUnavailable(str(self._aws.malformed(operation, error))) from error
        return told

    def _error(self, operation: str, table: str, answer: ErrorAnswer) -> StoreError:
        told = f"{self._where}: {operation} on table {table}: {answer.code}: {answer.text}"
        if answer.code in _FORBIDDEN:
            return StoreUnavailable(f"{told}; check the credentials, and that they allow {ALLOWED}")
        if answer.code == _MISSING:
            return _Missing(f"{told}; the table was deleted: restart to have it created anew")
        if answer.code == "ResourceInUseException":
            return _There(told)
        if answer.code in {"ValidationException", "SerializationException", "UnknownOperationException"}:
            return StoreError(told)
        return StoreUnavailable(told)

    async def aclose(self) -> None:
        """Tolerated twice."""
        await self._aws.aclose()


class _Missing(StoreUnavailable):
    """Raised when the table is not there."""


class _There(StoreUnavailable):
    """Raised when the table is there already, or is being changed."""


def _passing(answer: ErrorAnswer) -> bool:
    """Whether the same call may do better in a moment."""
    if answer.code == _CANCELLED:
        return _REFUSED not in answer.text and any(word in answer.text for word in ("TransactionConflict", "Throttl", "Exceeded"))
    return answer.code in _BUSY or answer.status >= 500
