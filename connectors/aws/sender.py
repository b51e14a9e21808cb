"""Calls that send something to a service of AWS, over aiobotocore: a failure is rare, and each service has a protocol of its own.

Imported only when a destination opens, or a source that takes records back: the vendor's library takes 300 ms to import. No exception
of botocore leaves this module.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager
from functools import cache
from typing import Any, Self

from aiobotocore.config import AioConfig
from aiohttp import ClientError
from botocore import exceptions, xform_name
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError

from connectors.aws.credentials import mapped, session_for
from connectors.aws.naming import Asked
from connectors.aws.refusals import Place
from connectors.aws.rejections import rejection
from poller.errors import NotConnected, SourceError


@cache
def _loader(path: str | None) -> Any:
    """What knows the services' models, which take 70 ms to read: once, not once a destination."""
    return create_loader(path)


class AwsSender:
    """One service, once `connect` has been awaited."""

    def __init__(self, place: Place, timeout: float) -> None:
        """`timeout`: seconds that the service may take to answer."""
        self._place = place
        self._timeout = timeout
        self._stack = AsyncExitStack()
        self._client: Any = None

    @classmethod
    async def opened(cls, place: Place, timeout: float, service: str, region: str | None, options: Asked) -> Self:
        """See `connect`."""
        sender = cls(place, timeout)
        try:
            await sender.connect(service, region, options)
        except BaseException:
            await sender.aclose()
            raise
        return sender

    def __repr__(self) -> str:
        return f"<AwsSender {self._place.name} [{'closed' if self._client is None else 'open'}]>"

    @property
    def endpoint(self) -> str:
        """The URL that is asked."""
        return str(self._client.meta.endpoint_url)

    async def connect(self, service: str, region: str | None, options: Asked) -> None:
        """`service` is botocore's name. Reads the credentials' settings; the service itself is not asked yet. Raises NotConnected."""
        with self._mapped():
            session = await session_for(options.profile, options.role_arn, region)
            session.register_component("data_loader", _loader(session.get_config_variable("data_path")))
            config = AioConfig(
                connect_timeout=min(5.0, self._timeout),
                read_timeout=self._timeout,
                # Trying again is the outbox's or the replay's to do, which know how long it has been tried.
                retries={"mode": "standard", "total_max_attempts": 1},
                # An S3 of one's own knows neither buckets as hosts nor the newer checksums.
                **({"s3": {"addressing_style": "path"}} if options.endpoint else {}),
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            )
            made = session.create_client(service, region_name=region, endpoint_url=options.endpoint, config=config)
            self._client = await self._stack.enter_async_context(made)

    async def call(self, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """`operation` by its own name. Raises NotConnected, and nothing else."""
        with self._mapped(operation):
            asked: Callable[..., Awaitable[Mapping[str, Any]]] = getattr(self._client, xform_name(operation))
            try:
                return await asked(**parameters)
            except exceptions.ConnectionClosedError:
                return await asked(**parameters)  # a kept connection that the service had closed: once more, on another one

    async def read(self, operation: str, parameters: Mapping[str, Any]) -> bytes:
        """The body of what `operation` gets. Raises NotConnected, and nothing else."""
        answer = await self.call(operation, parameters)
        with self._mapped(operation):
            async with answer["Body"] as body:
                return bytes(await body.read())

    @contextmanager
    def _mapped(self, operation: str = "") -> Iterator[None]:
        name = self._place.name
        try:
            with mapped(name):
                try:
                    yield
                except exceptions.ClientError as error:
                    raise self._rejected(operation, error) from error
                except (ClientError, ResponseParserError, LookupError, TypeError, AttributeError) as error:
                    # The last three: botocore takes for granted that an answer has the shape of the service's.
                    raise NotConnected(f"{name}: {operation}: {type(error).__name__}: {error}; check `endpoint`, and proxies") from error
        except SourceError as error:
            # botocore would not send it at all; a destination is tried again, slowly, when someone has seen why.
            raise NotConnected(str(error), permanent=True) from error

    def _rejected(self, operation: str, error: exceptions.ClientError) -> NotConnected:
        if error.operation_name != operation:
            # Asked for credentials on the way, for those of a role, say.
            return NotConnected(f"{self._place.name}: no credentials: {error}; check `role_arn`, and who may assume it", permanent=True)
        details: Mapping[str, Any] = error.response.get("Error", {})
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 400))
        return rejection(self._place, operation, str(details.get("Code", "")), str(details.get("Message", "")), status)

    async def aclose(self) -> None:
        """Tolerated twice."""
        await self._stack.aclose()
        self._client = None
