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
        authorities: str | None = None,
    ) -> None:
        """`place` is for messages; `clock` gives epoch seconds; `authorities`: a file of certificates to trust instead of the system's."""
        self._place = place
        self._service = service
        self._url = endpoint.rstrip("/") + "/"
        self._signer = Signer(urlsplit(endpoint).netloc, service.signing, region)
        self._signing = signing
        self._clock = clock
        self._skew = 0.0
        self._fixed = {"content-type": f"application/x-amz-json-{service.version}"}
        trusted = True if authorities is None else ssl.create_default_context(cafile=authorities)
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, ssl=trusted),
            timeout=aiohttp.ClientTimeout(total=30, connect=10, sock_connect=5),
        )
        # Looked for once: aiohttp's own way (trust_env) takes two hops to a thread for each call, half of what a call costs.
        self._proxy = proxy(self._url)

    def __repr__(self) -> str:
        return f"<JsonCaller {self._url} [{'closed' if self._http.closed else 'open'}]>"

    async def call(self, operation: str, parameters: Mapping[str, Any]) -> bytes | ErrorAnswer:
        """The answer's JSON text. Raises NotConnected."""
        body = orjson.dumps(parameters)
        status, headers, answer = await self._post(operation, body)
        if status == 200:
            return answer
        error = _error(answer, status)
        if error.code in _SKEWED and self._skewed(headers):
            status, headers, answer = await self._post(operation, body)
            return answer if status == 200 else _error(answer, status)
        return error

    async def _post(self, operation: str, body: bytes) -> tuple[int, CIMultiDictProxy[str], bytes]:
        try:
            return await self._send(operation, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            pass  # a kept connection that the server had closed: once more, on a new one
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._failed(operation, error) from error
        try:
            return await self._send(operation, body)
        except (aiohttp.ClientError, OSError, ValueError) as error:
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
        return ErrorAnswer(f"HTTP {status}", "")
    return ErrorAnswer(str(code).rpartition("#")[2], str(text))
