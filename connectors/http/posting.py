"""POSTs over aiohttp. Imported only when a destination opens. No exception of aiohttp leaves this module."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from urllib.parse import urlsplit

import aiohttp

from connectors.aws.json import proxy
from connectors.bodies import body
from connectors.http import HttpOptions
from connectors.http.answers import refusal, shown, signed
from connectors.kafka.files import current
from connectors.kafka.options import Tls
from connectors.kafka.tls import tls_context
from poller.errors import NotConnected
from poller.failures.invocation import record
from poller.failures.journal import Delivery
from poller.settings import DestinationContext, Finding
from poller.units import duration, size

CONNECT_SECONDS = 10.0
SMALL = 16 * 1024
"""What is tried where a receiver says that the whole is too large."""
_TOO_LARGE = 413
_ANSWER_BYTES = 64 * 1024
"""So much of an answer is read, and not looked at, for the sake of the connection."""
_FIXED = {"content-type": "application/json", "user-agent": "poller"}


class HttpDestination:
    """See `poller.failures.protocols.Destination`."""

    def __init__(self, to: str, options: HttpOptions, context: DestinationContext, trusted: ssl.SSLContext | bool) -> None:
        self._to = to
        self._place = shown(to)
        self._options = options
        self._context = context
        self._limit = None if options.maximum_bytes is None else size(options.maximum_bytes)
        self._timeout = duration(options.timeout)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=10, ssl=trusted),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=CONNECT_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        # Not aiohttp's trust_env: it would also take passwords from a .netrc.
        self._proxy = proxy(to)

    def __repr__(self) -> str:
        return f"<HttpDestination {self._place} [{'closed' if self._http.closed else 'open'}]>"

    async def send(self, delivery: Delivery) -> None:
        headers, secret = await asyncio.to_thread(self._secrets)
        text = await body(delivery, self._context, self._limit)
        answer = await self._post(delivery, text, headers, secret)
        if answer.status == _TOO_LARGE and len(text) > SMALL:
            place = None if self._context.spill is None or self._context.exact else await self._context.spill(delivery)
            answer = await self._post(delivery, record(delivery, self._context, SMALL, place=place), headers, secret)
        told = answer.headers
        problem = refusal(self._place, answer.status, told.get("retry-after"), told.get("location"), self._context.clock())
        if problem is not None:
            raise problem

    async def _post(self, delivery: Delivery, text: bytes, headers: Mapping[str, str], secret: str | None) -> aiohttp.ClientResponse:
        sent = {**_FIXED, **headers, "idempotency-key": delivery.id}
        if secret is not None:
            sent |= signed(secret, delivery.id, self._context.clock(), text)
        with _mapped(self._place, self._timeout):
            async with self._http.post(self._to, data=BytesIO(text), headers=sent, allow_redirects=False, proxy=self._proxy) as answer:
                try:
                    await answer.content.read(_ANSWER_BYTES)
                except (aiohttp.ClientError, OSError):
                    pass  # the status came, and says all
                return answer

    def _secrets(self) -> tuple[dict[str, str], str | None]:
        """As they are now. Raises NotConnected."""
        options, base = self._options, self._context.base
        headers = {name.lower(): current(f"headers.{name}", value, base) for name, value in options.headers.items()}
        return headers, None if options.secret is None else current("secret", options.secret, base)

    async def aclose(self) -> None:
        await self._http.close()


@contextmanager
def _mapped(place: str, seconds: float) -> Iterator[None]:
    """Foreign exceptions become ours; theirs may repeat the address, so their texts are not ours."""
    try:
        yield
    except TimeoutError as error:
        raise NotConnected(f"{place}: no answer within {seconds:g} s") from error
    except (aiohttp.InvalidURL, aiohttp.NonHttpUrlClientError) as error:
        raise NotConnected(f"{place}: the address cannot be used; correct it", permanent=True) from error
    except (aiohttp.ClientError, OSError) as error:
        raise _broken(place, error) from error


def _broken(place: str, error: Exception) -> NotConnected:
    """aiohttp keeps the system's own error as `os_error` or `certificate_error`."""
    cause = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    match cause:
        case ssl.SSLCertVerificationError():
            text = f"its certificate is not trusted ({cause.verify_message}); set tls.ca to the authority that signed it"
            return NotConnected(f"{place}: {text}", permanent=True)
        case ssl.SSLError():
            return NotConnected(f"{place}: TLS failed ({cause.reason or type(cause).__name__}); check the port, and tls", permanent=True)
        case ConnectionResetError() | BrokenPipeError() | aiohttp.ServerDisconnectedError():
            return NotConnected(f"{place}: it closed the connection without an answer")
        case ConnectionRefusedError():
            return NotConnected(f"{place}: nobody listens there (connection refused)")
        case OSError():
            return NotConnected(f"{place}: cannot be reached ({cause.strerror or type(cause).__name__})")
        case _:
            return NotConnected(f"{place}: what answers speaks no HTTP ({type(cause).__name__})")


async def _trusted(to: str, options: HttpOptions, context: DestinationContext) -> ssl.SSLContext | bool:
    if urlsplit(to).scheme.lower() != "https":
        return True
    try:
        return await asyncio.to_thread(tls_context, options.tls or Tls(), context.base)
    except NotConnected as error:
        raise NotConnected(f"{shown(to)}: {error}", permanent=True) from None


async def open_destination(to: str, options: HttpOptions, context: DestinationContext) -> HttpDestination:
    """See `poller.settings.DestinationKind.open`. Connects to nothing yet."""
    return HttpDestination(to, options, context, await _trusted(to, options, context))


async def probe(to: str, options: HttpOptions, context: DestinationContext) -> list[Finding]:
    """See `poller.settings.DestinationKind.probe`: a connection is made, and no request."""
    place, parts = shown(to), urlsplit(to)
    if proxy(to) is not None:
        return [Finding("warning", f"{place} is asked through a proxy, and was not looked at")]
    encrypted = parts.scheme.lower() == "https"
    try:
        trusted = await _trusted(to, options, context)
        with _mapped(place, CONNECT_SECONDS):
            async with asyncio.timeout(CONNECT_SECONDS):
                port = parts.port or (443 if encrypted else 80)
                _, writer = await asyncio.open_connection(parts.hostname, port, ssl=trusted if encrypted else None)
                writer.close()
                await writer.wait_closed()
    except NotConnected as error:
        return [Finding("error", str(error))]
    return [Finding("ok", f"{place} is there{', and its certificate is good' if encrypted else ''}; nothing was sent")]
