"""Tokens for OAUTHBEARER: from a file, from an OAuth 2.0 token endpoint, or whatever else is asked for one (msk.py).

A token is asked for at each login and kept between them: aiokafka logs in anew with every connection.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import quote_plus

import aiohttp
from aiokafka import errors as kafka
from aiokafka.abc import AbstractTokenProvider
from aiokafka.conn import AIOKafkaConnection, OAuthAuthenticator

from connectors.kafka.files import current
from connectors.kafka.options import Sasl
from connectors.kafka.refusals import TokenRefused
from poller.errors import NotConnected

log = logging.getLogger("poller.kafka")

FETCH_SECONDS = 10.0
"""How long a token may take; aiokafka itself would wait for ever."""

RENEW_AFTER = 0.8
"""The part of a token's life after which the next login fetches another, as Kafka's own client does."""


class _Heeding:
    """aiokafka 0.14 takes any answer to a token for a yes, a refusal ({"status": "invalid_token"}) too. It would then read the broker's
    next words, an error, as the answer to whatever it asks: topics that are empty, a commit that succeeded."""

    def __init__(self, inner: OAuthAuthenticator) -> None:
        self._inner = inner

    async def step(self, payload: bytes | None) -> Any:
        if payload:
            raise kafka.SaslAuthenticationFailed(f"the broker did not accept the token ({_status(payload)})")
        return await self._inner.step(payload)


def _status(payload: bytes) -> str:
    """RFC 7628, 3.2.2."""
    try:
        found = json.loads(payload)["status"]
    except (ValueError, LookupError, TypeError):
        return "it did not say why"
    return str(found)[:100]


_authenticator = AIOKafkaConnection.authenticator_oauth


def _heeding(connection: AIOKafkaConnection) -> _Heeding:
    return _Heeding(_authenticator(connection))


AIOKafkaConnection.authenticator_oauth = _heeding
# For every connection of the process: aiokafka makes its own, and offers no other place to listen to what the broker says to a token.


class Token(NamedTuple):
    """`until`: epoch seconds at which it expires; None: not known, so it is asked for anew each time."""

    value: str
    until: float | None = None

    def __repr__(self) -> str:
        return f"<Token until {self.until}>"


Fetch: TypeAlias = Callable[[], Awaitable[Token]]
"""Raises TokenRefused."""


class TokenProvider(AbstractTokenProvider):  # type: ignore[misc]
    """aiokafka's own protocol. Raises nothing but TokenRefused."""

    def __init__(self, fetch: Fetch, extensions: Mapping[str, str] | None = None, clock: Callable[[], float] = time.time) -> None:
        self._fetch = fetch
        self._extensions = dict(extensions or {})
        self._clock = clock
        self._token = Token("", 0.0)
        self._fresh_until = 0.0
        self._fetching = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<TokenProvider {self._token!r}>"

    def extensions(self) -> dict[str, str]:
        return self._extensions

    async def token(self) -> str:
        # One fetch for all connections that log in at once.
        async with self._fetching:
            if self._clock() >= self._fresh_until:
                await self._renew()
            return self._token.value

    async def _renew(self) -> None:
        asked = self._clock()
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                token = await self._fetch()
        except TimeoutError:
            self._keep(TokenRefused(f"no answer within {FETCH_SECONDS:.0f} s", permanent=False))
        except TokenRefused as error:
            self._keep(error)
        else:
            self._token = token
            self._fresh_until = asked if token.until is None else asked + RENEW_AFTER * (token.until - asked)

    def _keep(self, error: TokenRefused) -> None:
        """The token in hand will do while it is good: a token endpoint that is away for a minute stops nobody."""
        if self._token.until is None or self._clock() >= self._token.until:
            raise error
        log.warning("a token for Kafka could not be renewed, the one before is used: %s", error.text)


def from_option(token: str, base: Path) -> Fetch:
    """The token that the options name; a file is read at each login, for whoever put it there renews it."""

    async def fetch() -> Token:
        try:
            value = (await asyncio.to_thread(current, "sasl.token", token, base)).strip()
        except NotConnected as error:
            raise TokenRefused(str(error), permanent=True) from None
        if not value:
            raise TokenRefused("sasl.token is empty", permanent=True)
        return Token(value)

    return fetch


def from_endpoint(sasl: Sasl, base: Path, context: ssl.SSLContext, clock: Callable[[], float] = time.time) -> Fetch:
    """The client credentials grant (RFC 6749, 4.4), the client known by HTTP Basic (2.3.1: each part is form-encoded first)."""
    endpoint = sasl.token_endpoint or ""
    form = {"grant_type": "client_credentials", "scope": sasl.scope, "audience": sasl.audience}

    async def fetch() -> Token:
        try:
            secret = await asyncio.to_thread(current, "sasl.client_secret", sasl.client_secret or "", base)
        except NotConnected as error:
            raise TokenRefused(str(error), permanent=True) from None
        known = base64.b64encode(f"{quote_plus(sasl.client_id or '')}:{quote_plus(secret)}".encode()).decode()
        headers = {"Authorization": f"Basic {known}", "Accept": "application/json"}
        try:
            # A session of its own: a token is fetched once an hour, and nobody would close a longer one.
            async with (
                aiohttp.ClientSession(trust_env=True, timeout=aiohttp.ClientTimeout(total=FETCH_SECONDS)) as session,
                session.post(
                    endpoint,
                    data={key: value for key, value in form.items() if value is not None},
                    headers=headers,
                    ssl=context,
                    allow_redirects=False,
                ) as answer,
            ):
                return _granted(endpoint, answer.status, await answer.read(), secret, clock())
        except (aiohttp.ClientError, OSError, ValueError) as error:
            lasting = isinstance(error, aiohttp.ClientConnectorCertificateError | aiohttp.InvalidURL)
            raise TokenRefused(f"{endpoint}: {type(error).__name__}: {error}", permanent=lasting) from error

    return fetch


def _granted(endpoint: str, status: int, body: bytes, secret: str, now: float) -> Token:
    """The token in the answer (RFC 6749, 5.1), or why there is none (5.2)."""
    try:
        found: Any = json.loads(body)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        found = {}
    value = found.get("access_token")
    if status == 200 and isinstance(value, str) and value:
        return Token(value, _expiry(value, found.get("expires_in"), now))
    reason = ": ".join(str(found[key])[:200] for key in ("error", "error_description") if found.get(key))
    reason = reason.replace(secret, "<sasl.client_secret>") if secret else reason
    told = f"{endpoint} answered {status}" + (f" ({reason})" if reason else "" if status != 200 else " without an access_token")
    # 429 and 5xx pass; a refusal of the client does not.
    raise TokenRefused(f"{told}; check sasl.client_id, sasl.client_secret and sasl.scope", permanent=status < 500 and status != 429)


def _expiry(token: str, lifetime: object, now: float) -> float | None:
    """From `expires_in`, which is only recommended, else from the token itself, if it is a JWT."""
    try:
        return now + float(str(lifetime))
    except ValueError:
        pass
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return float(claims["exp"])
    except (ValueError, LookupError, TypeError):
        return None
