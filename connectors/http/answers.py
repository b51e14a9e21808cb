"""What a receiver's answer means, and how a request is signed. Pure."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from poller.errors import NotConnected

_AGAIN = {408, 425, 429}
_TOLD = {
    401: "it does not accept our credentials; check the headers",
    403: "it forbids us to send; check the headers, and who may",
    404: "there is nothing at this address; correct it",
    405: "it takes no POST at this address; correct it",
    410: "what was at this address is gone for good; name another",
    413: "even without its event the record is too large for it",
    415: "it takes no JSON",
}
LONGEST_WAIT = 3600.0
"""A receiver that asks for more is tried all the same."""


def shown(to: str) -> str:
    """Where it goes, for logs: without user, path and query, which are secrets at many a receiver. "" for what is no URL of a host."""
    try:
        parts = urlsplit(to)
    except ValueError:
        return ""
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}" if parts.scheme and parts.netloc else ""


def told_apart(to: str) -> str:
    """`shown`, and where that leaves something out, six digits that tell it from other addresses of the same host."""
    place = shown(to)
    return place if to == place else f"{place}/***{hashlib.sha256(to.encode()).hexdigest()[:6]}"


def refusal(place: str, status: int, retry_after: str | None, location: str | None, now: float) -> NotConnected | None:
    """None: it has arrived. `retry_after` and `location` are headers, None without them; `now`: epoch seconds."""
    if 200 <= status < 300:
        return None
    if status in _AGAIN or status >= 500:
        return NotConnected(f"{place}: answered {status}", retry_after=waiting(retry_after, now))
    if 300 <= status < 400:
        # Followed, a POST would become a GET, or go to where nobody has allowed it to.
        where = f" to {shown(location)}" if location and shown(location) else ""
        text = f"{place}: answered {status}: it redirects{where}, which is not followed; name the address itself"
        return NotConnected(text, permanent=True)
    return NotConnected(f"{place}: answered {status}: {_TOLD.get(status, 'it does not take what we send')}", permanent=True)


def waiting(retry_after: str | None, now: float) -> float | None:
    """Seconds that a Retry-After asks for: a number of them, or a date (RFC 9110, 10.2.3). None where it says nothing that can be read."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdecimal():
        return min(float(text), LONGEST_WAIT)
    try:
        return min(max(0.0, parsedate_to_datetime(text).timestamp() - now), LONGEST_WAIT)
    except (ValueError, OverflowError):
        return None


def signed(secret: str, id: str, now: float, body: bytes) -> dict[str, str]:
    """The headers of Standard Webhooks: HMAC-SHA256 of `id.timestamp.body`."""
    timestamp = str(int(now))
    digest = hmac.new(_key(secret), f"{id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {"webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": f"v1,{base64.b64encode(digest).decode()}"}


def _key(secret: str) -> bytes:
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            pass  # a text that begins so
    return secret.encode()
