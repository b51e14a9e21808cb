"""The URL of a ledger in DynamoDB: `dynamodb://TABLE[?region=..&endpoint=..&profile=..&role_arn=..]`. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import sha256
from urllib.parse import parse_qsl, urlsplit

from poller.errors import ConfigError, StoreError

SCHEME = "dynamodb"
COMPANION = "-poller"
"""What is appended to a table's name for the table beside it."""

_PARAMETERS = ("region", "endpoint", "profile", "role_arn")
_NAME = re.compile(r"[A-Za-z0-9_.-]{3,255}")
_EXAMPLE = "write dynamodb://TABLE, or dynamodb://TABLE?region=eu-west-1"


@dataclass(frozen=True, slots=True)
class Where:
    """`table` may hold `{mapping}` and `{source}`; the rest is who is asked, None as the environment says."""

    table: str
    region: str | None = None
    endpoint: str | None = None
    profile: str | None = None
    role_arn: str | None = None

    def __str__(self) -> str:
        return f"DynamoDB (region {self.region or 'of the environment'}, {self.endpoint or 'AWS'})"

    def name(self, mapping: str, source: str) -> str:
        """The table of this mapping's lanes. A source stands there as twelve digits of its hash. Raises StoreError."""
        named = self.table.replace("{mapping}", mapping).replace("{source}", sha256(source.encode()).hexdigest()[:12])
        if _NAME.fullmatch(named + COMPANION) is None:
            raise StoreError(f"{named!r} cannot be the name of a DynamoDB table: it has 3 to 248 letters, digits, '_', '-' or '.'")
        return named


def where(url: str) -> Where:
    """Raises ConfigError."""
    scheme, table, path, query, fragment = urlsplit(url)
    found = []
    given = parse_qsl(query, keep_blank_values=True)
    if scheme != SCHEME or not table:
        found.append(f"{url!r} names no table of DynamoDB; {_EXAMPLE}")
    elif _NAME.fullmatch(re.sub(r"\{mapping\}|\{source\}", "xxx", table) + COMPANION) is None:
        found.append(
            f"{table!r} cannot be the name of a DynamoDB table: it has 3 to 248 letters, digits, '_', '-' or '.', and may hold {{mapping}} "
            "and {source}"
        )
    if path not in {"", "/"} or fragment:
        found.append(f"{url!r} has more than a table's name; {_EXAMPLE}")
    for name, value in given:
        if name not in _PARAMETERS:
            found.append(f"{name!r} is no parameter of a dynamodb:// URL; there are {', '.join(_PARAMETERS)}")
        elif not value or [each for each, _ in given].count(name) > 1:
            found.append(f"{name} needs one value")
    told = dict(given)
    if not told.get("endpoint", "http://").startswith(("http://", "https://")):
        found.append(f"endpoint is {told['endpoint']!r}; write a URL (http://127.0.0.1:8000)")
    if not told.get("role_arn", "arn:").startswith("arn:"):
        found.append(f"role_arn is {told['role_arn']!r}; write the role's ARN (arn:aws:iam::<account>:role/<name>)")
    if found:
        raise ConfigError(found)
    return Where(table, **told)
