"""A connection to one of AWS's services: calls over aiobotocore, those made all the time over `JsonCaller`, as the same person.

Imported only when a source opens: the vendor's library takes 300 ms to import. No exception of botocore leaves this module.
"""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from aiobotocore.config import AioConfig
from aiohttp import ClientError
from botocore import exceptions, xform_name
from botocore.eventstream import ParserError
from botocore.httpsession import get_cert_path
from botocore.parsers import ResponseParserError

from connectors.aws.credentials import mapped, session_for
from connectors.aws.json import ErrorAnswer, JsonCaller, Service, date
from connectors.aws.refusals import THROTTLED, Place, refusal
from connectors.aws.sigv4 import Credentials
from connectors.sharded.shards import Heard, Refused
from poller.errors import NotConnected

UNLIMITED = 0
"""Connections of a `Target`, as aiohttp has it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, as the options say it: `region`, `profile`, `endpoint` and `role` None are those of the environment, or AWS's."""

    region: str | None = None
    profile: str | None = None
    endpoint: str | None = None
    role: str | None = None
    connections: int = 10


class AwsConnection:
    """One service, once `connect` has been awaited."""

    def __init__(self, place: Place, service: Service, clock: Callable[[], float] = time.time) -> None:
        self._place = place
        self._service = service
        self._clock = clock
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._json: JsonCaller | None = None
        self.heard: Heard | None = None
        """In the last answer to `ask`."""

    def __repr__(self) -> str:
        return f"<AwsConnection {self._place.name} [{'closed' if self._client is None else 'open'}]>"

    async def connect(self, target: Target) -> None:
        """Read the credentials' settings; the service itself is not asked yet. Raises NotConnected, SourceError."""
        with self._mapped():
            session = await session_for(target.profile, target.role, target.region)
            config = AioConfig(
                max_pool_connections=target.connections,
                connect_timeout=5,
                read_timeout=30,
                # One retry hides a kept connection that the server had closed; more is the engine's, or the reader's, to do.
                retries={"mode": "standard", "total_max_attempts": 2},
            )
            made = session.create_client(self._service.name, region_name=target.region, endpoint_url=target.endpoint, config=config)
            client = await self._stack.enter_async_context(made)
            trusted = _trusted(session.get_config_variable("ca_bundle") or os.environ.get("REQUESTS_CA_BUNDLE"))
            # Of botocore's two ways to find an endpoint the older; they differ in the isolated partitions (us-iso...) with FIPS alone.
            region, endpoint = client.meta.region_name, client.meta.endpoint_url

            async def signing() -> Credentials:
                # Asked for each time: botocore renews those of a session well before they end.
                with self._mapped():
                    found = await session.get_credentials()
                    if found is None:
                        raise exceptions.NoCredentialsError
                    frozen = await found.get_frozen_credentials()
                return Credentials(frozen.access_key, frozen.secret_key, frozen.token)

            self._json = JsonCaller(self._place.name, self._service, endpoint, region, signing, self._clock, target.connections, trusted)
            self._stack.push_async_callback(self._json.aclose)
            self._client = client

    async def ask(self, operation: str, **parameters: Any) -> Mapping[str, Any] | Refused:
        """Over botocore: `operation` by its Python name, `parameters` without those that are None. Raises NotConnected, SourceError."""
        given = {name: value for name, value in parameters.items() if value is not None}
        sent = asyncio.get_running_loop().time()
        try:
            with self._mapped(operation):
                answer: Mapping[str, Any] = await getattr(self._client, operation)(**given)
        except exceptions.ClientError as error:
            self._hear(error.response, sent)
            return self._refusal(error)
        self._hear(answer, sent)
        return answer

    async def read(self, operation: str, parameters: Mapping[str, Any]) -> bytes | Refused:
        """Over `json`: `operation` by its own name; the answer's JSON text. Raises NotConnected, SourceError."""
        answer = await self.call(operation, parameters)
        if isinstance(answer, ErrorAnswer):
            return refusal(self._place, operation, answer.code, answer.text)
        return answer

    async def call(self, operation: str, parameters: Mapping[str, Any]) -> bytes | ErrorAnswer:
        """As `read`, for a caller who knows himself what an error code of this service means. Raises NotConnected, SourceError."""
        assert self._json is not None, "not connected"
        return await self._json.call(operation, parameters)

    def malformed(self, operation: str, error: Exception) -> NotConnected:
        """To raise where an answer is none of this service's."""
        return NotConnected(f"{self._place.name}: {operation} was answered with something else ({error}); check `endpoint`, and proxies")

    def refused(self, operation: str, error: Exception) -> Refused:
        """What an exception of botocore means that came out of an answer while it was read. Raises NotConnected, SourceError."""
        try:
            with self._mapped(operation):
                raise error
        except exceptions.ClientError as known:
            return self._refusal(known)

    def _hear(self, answer: Mapping[str, Any], sent: float) -> None:
        told = date(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}))
        if told is not None:
            self.heard = Heard(told, sent, asyncio.get_running_loop().time())

    def _refusal(self, error: exceptions.ClientError) -> Refused:
        details: Mapping[str, Any] = error.response.get("Error", {})
        return refusal(self._place, error.operation_name, str(details.get("Code", "")), str(details.get("Message", "")))

    @contextmanager
    def _mapped(self, operation: str = "") -> Iterator[None]:
        """Foreign exceptions become ours, but for answers to `operation` with an error code."""
        place = self._place.name
        with mapped(place):
            try:
                yield
            except exceptions.ClientError as error:
                if xform_name(error.operation_name) == operation:
                    raise
                # Asked for credentials on the way, for those of a role, say.
                if _passing(error):
                    raise NotConnected(f"{place}: no credentials now: {error}") from error
                raise NotConnected(f"{place}: no credentials: {error}; check `role_arn`, and who may assume it", permanent=True) from error
            except (ParserError, ResponseParserError) as error:
                raise NotConnected(
                    f"{place}: {operation} was answered with something else ({error}); check `endpoint`, and proxies"
                ) from error
            except ClientError as error:
                raise NotConnected(f"{place}: {type(error).__name__}: {error}") from error

    async def aclose(self) -> None:
        """Tolerated twice."""
        await self._stack.aclose()
        self._client = None


def _trusted(authorities: str | None) -> ssl.SSLContext:
    """This file's certificates, as botocore; else the system's, and those that botocore brings for systems that have none."""
    trusted = ssl.create_default_context(cafile=authorities)
    if authorities is None:
        trusted.load_verify_locations(get_cert_path(True))
    return trusted


def _passing(error: exceptions.ClientError) -> bool:
    """Whether it may go better in a moment: the service is busy, or has a fault."""
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return status >= 500 or error.response.get("Error", {}).get("Code") in THROTTLED


class Connecting(Protocol):
    """A client that is not connected yet."""

    async def connect(self, target: Target) -> None: ...

    async def aclose(self) -> None: ...


C = TypeVar("C", bound=Connecting)


async def connected(client: C, target: Target) -> C:
    """The client; closed if this fails. Raises NotConnected, SourceError."""
    try:
        await client.connect(target)
    except BaseException:
        await client.aclose()
        raise
    return client
