"""AWS's Signature Version 4 in a URL, and the token that MSK takes for it. Pure: the time is an argument.

Sources: "Create a signed AWS API request" (AWS Identity and Access Management guide); AWS's own signers for MSK
(aws-msk-iam-sasl-signer-*): the token is a presigned GET of `kafka-cluster:Connect`, in URL-safe base64 without padding.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote

TOKEN_SECONDS = 900
"""How long a token is good for: the most that MSK takes."""

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
    moment = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
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
    canonical_query = "&".join(f"{name}={value}" for name, value in sorted((_quoted(name), _quoted(query[name])) for name in query))
    request = f"GET\n/\n{canonical_query}\nhost:{host}\n\nhost\n{_EMPTY}"
    to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret}".encode()
    for part in scope.split("/"):
        key = _mac(key, part)
    return f"https://{host}/?{canonical_query}&X-Amz-Signature={_mac(key, to_sign).hex()}"


def msk_token(region: str, credentials: Credentials, now: float, agent: str = "poller") -> str:
    """What MSK takes as a bearer token, for `TOKEN_SECONDS` from `now`."""
    host = f"kafka.{region}.amazonaws.com"
    url = presigned(host, "kafka-cluster", region, credentials, {"Action": "kafka-cluster:Connect"}, now, TOKEN_SECONDS)
    # Who asks is said outside the signature, as AWS's own signers do.
    return base64.urlsafe_b64encode(f"{url}&User-Agent={_quoted(agent)}".encode()).rstrip(b"=").decode()


def _quoted(text: str) -> str:
    return quote(text, safe="-_.~")


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
