"""Where a store is, as a URL: its kind, and how it may be shown. Pure."""

from __future__ import annotations

import re

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PASSWORD = re.compile(r"(//[^/?#@:\s]*):[^/?#]*@")
_SECRET_OPTION = re.compile(r"([?&][^=&#]*(?:password|passwd|secret|token|key)[^=&#]*)=[^&#]*", re.IGNORECASE)


def scheme(url: str) -> str:
    """In small letters; "" for a path."""
    match = _SCHEME.match(url)
    return match[1].lower() if match else ""


def masked(url: str) -> str:
    """The URL with `***` for every password, for logs and error texts."""
    return _SECRET_OPTION.sub(r"\1=***", _PASSWORD.sub(r"\1:***@", url))
