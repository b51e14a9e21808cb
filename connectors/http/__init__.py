"""`https://...` and `http://...`: what became of a batch is POSTed as JSON, with its id as `Idempotency-Key`.

    2xx                                            it has arrived
    408, 425, 429, 5xx, no answer, no connection   again, when Retry-After says so
    413                                            once more without the event
    all others, redirects too                      a person is needed; tried again slowly

With a `secret` it is signed as Standard Webhooks says (https://www.standardwebhooks.com): `webhook-id`, `webhook-timestamp` and
`webhook-signature`, HMAC-SHA256, for which there are libraries in most languages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated
from urllib.parse import SplitResult, urlsplit

import msgspec
from msgspec import Meta

from connectors.http.answers import told_apart
from connectors.kafka.options import Tls
from poller.errors import ConfigError
from poller.settings import DestinationContext, DestinationTraits, Finding
from poller.units import duration, size

if TYPE_CHECKING:
    from connectors.http.posting import HttpDestination

LONGEST_TIMEOUT = 900.0

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_OURS = {"content-length", "transfer-encoding", "connection", "idempotency-key", "webhook-id", "webhook-timestamp", "webhook-signature"}


class HttpOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A POST of JSON to the address: how it is asked. Secrets are references; a file is read again for each delivery."""

    headers: Annotated[dict[str, str], Meta(description="Sent with each request; values may be references.")] = {}
    timeout: Annotated[str, Meta(description="How long an answer may take.", extra={"unit": "duration"})] = "30s"
    secret: Annotated[
        str | None,
        Meta(description="Signs each request: `whsec_` and the key in base64, or any text.", extra={"default": "not signed"}),
    ] = None
    maximum_bytes: Annotated[
        str | None,
        Meta(description="A larger body is sent without the event.", extra={"unit": "size", "default": "any size"}),
    ] = None
    tls: Annotated[
        Tls | None,
        Meta(
            description="`{ ca, certificate, key, key_password, verify_hostname }`, as a Kafka source's.",
            extra={"default": "the system's authorities"},
        ),
    ] = None


class HttpKind:
    """See `poller.settings.DestinationKind`."""

    options: type[msgspec.Struct] = HttpOptions

    def __repr__(self) -> str:
        return "<HttpKind>"

    def traits(self, to: str, options: HttpOptions) -> DestinationTraits:
        if found := [*_place(to), *_headers(options), *_sizes(options), *_tls(to, options)]:
            raise ConfigError(found)
        limit = None if options.maximum_bytes is None else size(options.maximum_bytes)
        # Twice, where the first try was too large; and time for its place.
        return DestinationTraits(maximum_bytes=limit, seconds=2 * duration(options.timeout) + 60, shown=told_apart(to))

    async def open(self, to: str, options: HttpOptions, context: DestinationContext) -> HttpDestination:
        from connectors.http.posting import open_destination

        return await open_destination(to, options, context)

    async def probe(self, to: str, options: HttpOptions, context: DestinationContext) -> list[Finding]:
        from connectors.http.posting import probe

        return await probe(to, options, context)


def _place(to: str) -> Iterator[str]:
    try:
        parts: SplitResult | None = urlsplit(to)
        right = parts is not None and bool(parts.hostname) and parts.port != 0 and not re.search(r"[\s\x00-\x1f]", to)
    except ValueError:
        right = False
    if not right:
        yield 'the address is no URL of a host; write "https://hooks.example.com/failures"'
    elif parts is not None and parts.fragment:
        yield "the address has a fragment (#...), which is never sent; leave it out"


def _headers(options: HttpOptions) -> Iterator[str]:
    for name, value in options.headers.items():
        if _NAME.fullmatch(name) is None:
            yield f"headers: {name!r} is no name of a header"
        elif name.lower() in _OURS:
            yield f"headers: {name!r} is set by us; leave it out"
        if _VALUE.fullmatch(value) is None:
            yield f"headers.{name}: its value has characters that no header may have (a line's end?)"
    if options.secret is not None and not options.secret:
        yield "secret is empty; leave it out for requests that are not signed"


def _sizes(options: HttpOptions) -> Iterator[str]:
    try:
        if not 0.001 <= duration(options.timeout) <= LONGEST_TIMEOUT:
            yield f"timeout = {options.timeout!r}: must be 1ms to 15m"
    except ValueError as error:
        yield f"timeout: {error}"
    try:
        if options.maximum_bytes is not None and size(options.maximum_bytes) < 4096:
            yield f"maximum_bytes = {options.maximum_bytes!r}: must be 4KiB or more"
    except ValueError as error:
        yield f"maximum_bytes: {error}"


def _tls(to: str, options: HttpOptions) -> Iterator[str]:
    if options.tls is not None:
        if not to.lower().startswith("https:"):
            yield "tls is for https addresses only; leave it out, or write https"
        if options.tls.certificate is None and (options.tls.key is not None or options.tls.key_password is not None):
            yield "tls.key belongs to a certificate of ours; give tls.certificate too"


kind = HttpKind()
