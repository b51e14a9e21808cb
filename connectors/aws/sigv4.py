"""AWS's Signature Version 4: in a URL, or in the headers of a POST. Pure: the time is an argument.

Source: "Create a signed AWS API request" (AWS Identity and Access Management guide).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

_EMPTY = hashlib.sha256(b"").hexdigest()


class Credentials(NamedTuple):
    """What signs. `token` is the session's, of temporary credentials. It does not show itself."""

    key: str
    secret: str
    token: str | None = None

    def __repr__(self) -> str:
        return f"<Credentials {self.key}>"


def presigned(
    host: str, service: str, region: str, credentials: Credentials, parameters: Mapping[str, str], now: float, expires: int
) -> str:
    """The URL of a GET of `https://host/` with these query parameters, signed at `now` (epoch seconds) for `expires` seconds."""
    moment = _moment(now)
    scope = f"{moment[:8]}/{region}/{service}/aws4_request"
    query = {
        **parameters,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{credentials.key}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(expires),
        "X-Amz-SignedHeaders": "host",
        **({} if credentials.token is None else {"X-Amz-Security-Token": credentials.token}),
    }
    canonical_query = "&".join(f"{name}={value}" for name, value in sorted((quoted(name), quoted(query[name])) for name in query))
    request = f"GET\n/\n{canonical_query}\nhost:{host}\n\nhost\n{_EMPTY}"
    return f"https://{host}/?{canonical_query}&X-Amz-Signature={_signature(_key(credentials.secret, scope), moment, scope, request)}"


class Signer:
    """Signs POSTs to `path` at `host`, of one service in one region. What is the same for a day is computed once a day."""

    def __init__(self, host: str, path: str, service: str, region: str) -> None:
        self._host = host
        self._path = quote(path)  # once more than it is sent, for all services but S3
        self._place = f"{region}/{service}/aws4_request"
        self._day: tuple[str, str, bytes] | None = None

    def __repr__(self) -> str:
        return f"<Signer {self._host}>"

    def headers(self, credentials: Credentials, headers: Mapping[str, str], body: bytes, now: float) -> dict[str, str]:
        """These headers (names in lower case, values without spaces around them) and those that sign them, and the body, at `now`."""
        moment = _moment(now)
        signed = {**headers, "host": self._host, "x-amz-date": moment}
        if credentials.token is not None:
            signed["x-amz-security-token"] = credentials.token
        names = sorted(signed)
        listed = ";".join(names)
        lines = "\n".join(f"{name}:{signed[name]}" for name in names)
        scope = f"{moment[:8]}/{self._place}"
        request = f"POST\n{self._path}\n\n{lines}\n\n{listed}\n{hashlib.sha256(body).hexdigest()}"
        signature = _signature(self._key(credentials.secret, scope), moment, scope, request)
        signed["authorization"] = f"AWS4-HMAC-SHA256 Credential={credentials.key}/{scope}, SignedHeaders={listed}, Signature={signature}"
        return signed

    def _key(self, secret: str, scope: str) -> bytes:
        if self._day is None or self._day[:2] != (secret, scope):
            self._day = secret, scope, _key(secret, scope)
        return self._day[2]


def quoted(text: str) -> str:
    """As it stands in a signed query."""
    return quote(text, safe="-_.~")


def _moment(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")


def _key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = _mac(key, part)
    return key


def _signature(key: bytes, moment: str, scope: str, request: str) -> str:
    return _mac(key, f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}").hex()


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
