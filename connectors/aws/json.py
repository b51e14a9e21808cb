"""One kind of call, many times: AWS's JSON protocol, signed by hand. For calls that are made all the time: those that bring records, all of
a queue's, a ledger's.

botocore takes 0.65 to 0.85 ms of CPU for a call, and parses typed values of DynamoDB that the event wants as they are; this takes a
seventh. Endpoint, region and credentials are botocore's (connection.py), so that both ways always ask the same service as the
same person.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from multidict import CIMultiDictProxy

from connectors.aws.sigv4 import Credentials, Signer
from poller.errors import NotConnected

_SKEWED = {
    "InvalidSignatureException", "RequestExpired", "RequestInTheFuture", "RequestTimeTooSkewed", "SignatureDoesNotMatch",
}  # fmt: skip
_SHOWN = 200
"""Bytes of an answer that is none of the service's."""

_SKEW_SECONDS = 60.0
"""A signature is good for five minutes; a clock that is further off than this is what was wrong with it."""


@dataclass(frozen=True, slots=True)
class Service:
    """How a service is called: `name` is botocore's, `signing` the one in signatures, `target` the prefix of its operations."""

    name: str
    signing: str
    target: str
    version: str


@dataclass(frozen=True, slots=True)
class ErrorAnswer:
    """The service answered, with an error."""

    code: str
    text: str
    status: int


Signing: TypeAlias = Callable[[], Awaitable[Credentials]]
"""The credentials that are good now. Raises NotConnected."""


class JsonCaller:
    """Calls of one service at one endpoint."""

    def __init__(
        self,
        place: str,
        service: Service,
        endpoint: str,
        region: str,
        signing: Signing,
        clock: Callable[[], float],
        connections: int = 10,
        trusted: ssl.SSLContext | None = None,
    ) -> None:
        """`place` is for messages; `clock` gives epoch seconds; `trusted`: whose certificates are, if not the system's."""
        self._place = place
        self._service = service
        self._url = endpoint.rstrip("/") + "/"
        self._signer = Signer(*host_and_path(self._url), service.signing, region)
        self._signing = signing
        self._clock = clock
        self._skew = 0.0
        self._fixed = {"content-type": f"application/x-amz-json-{service.version}"}
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=trusted or True),
            # As botocore's: nothing bounds the whole, for an answer of megabytes may be long on its way, and a long poll before it.
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=30),
        )
        # Looked for once: aiohttp's own way (trust_env) takes two hops to a thread for each call, half of what a call costs.
        self._proxy = proxy(self._url)

    def __repr__(self) -> str:
        return f"<JsonCaller {self._url} [{'closed' if self._http.closed else 'open'}]>"

    async def call(self, operation: str, parameters: Mapping[str, Any]) -> bytes | ErrorAnswer:
        """The answer's JSON text. Raises NotConnected."""
        body, skew = orjson.dumps(parameters), self._skew
        status, headers, answer = await self._post(operation, body)
        if status == 200:
            return answer
        error = _error(answer, status)
        # Of several that were under way the first may have found it out already.
        if error.code in _SKEWED and (self._skew != skew or self._skewed(headers)):
            status, headers, answer = await self._post(operation, body)
            return answer if status == 200 else _error(answer, status)
        return error

    async def _post(self, operation: str, body: bytes) -> tuple[int, CIMultiDictProxy[str], bytes]:
        try:
            return await self._send(operation, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            pass  # a kept connection that the server had closed: once more, on a new one
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:
            raise self._failed(operation, error) from error
        try:
            return await self._send(operation, body)
        except (aiohttp.ClientError, OSError, ValueError, RuntimeError) as error:  # RuntimeError: closed meanwhile
            raise self._failed(operation, error) from error

    async def _send(self, operation: str, body: bytes) -> tuple[int, CIMultiDictProxy[str], bytes]:
        headers = {**self._fixed, "x-amz-target": f"{self._service.target}.{operation}"}
        signed = self._signer.headers(await self._signing(), headers, body, self._clock() + self._skew)
        # What may change on the way is not signed. Unpacking costs more than the network saves.
        signed["accept-encoding"] = "identity"
        async with self._http.post(self._url, data=body, headers=signed, allow_redirects=False, proxy=self._proxy) as answer:
            return answer.status, answer.headers, await answer.read()

    def _failed(self, operation: str, error: Exception) -> NotConnected:
        return NotConnected(f"{self._place}: {operation}: {type(error).__name__}: {error}")

    def _skewed(self, headers: Mapping[str, str]) -> bool:
        """Whether our clock is off; from now on the service's is used."""
        theirs = date(headers)
        if theirs is None:
            return False
        off = theirs - self._clock()
        if abs(off - self._skew) < _SKEW_SECONDS:
            return False
        self._skew = off
        return True

    async def aclose(self) -> None:
        """Tolerated twice."""
        await self._http.close()


def host_and_path(url: str) -> tuple[str, str]:
    """As they are sent."""
    parts = urlsplit(url)
    usual = parts.port is None or (parts.scheme, parts.port) in (("https", 443), ("http", 80))
    name = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    return name if usual else f"{name}:{parts.port}", parts.path or "/"


def proxy(url: str) -> str | None:
    """The one that the environment names for this URL, as botocore takes it."""
    parts = urlsplit(url)
    found = None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
    return found if found is None or "://" in found else f"http://{found}"


def date(headers: Mapping[str, str]) -> float | None:
    """When an answer was made, by the clock of who answered: epoch seconds, whole ones. `headers` by names in lower case, or in any."""
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError):
        return None


def _error(answer: bytes, status: int) -> ErrorAnswer:
    try:
        told = orjson.loads(answer)
        code, text = told["__type"], told.get("message") or told.get("Message") or ""
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return ErrorAnswer(f"HTTP {status}", answer[:_SHOWN].decode(errors="replace"), status)  # a proxy's page, say
    return ErrorAnswer(str(code).rpartition("#")[2].partition(":")[0], str(text), status)
