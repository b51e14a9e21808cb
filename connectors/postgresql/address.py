"""The URL of a PostgreSQL store: what it may say, and how it is shown. Pure."""

from __future__ import annotations

from difflib import get_close_matches
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from poller.errors import ConfigError

SCHEMES = ("postgresql", "postgres")

_OPTIONS = {
    *("application_name", "database", "dbname", "gsslib", "host", "krbsrvname", "passfile", "password", "port", "search_path", "service"),
    *("servicefile", "ssl_max_protocol_version", "ssl_min_protocol_version", "sslcert", "sslcrl", "sslkey", "sslmode", "sslnegotiation"),
    *("sslpassword", "sslrootcert", "target_session_attrs", "user"),
}
_FORM = "write postgresql://user:password@host:port/database, with options such as ?sslmode=verify-full or ?search_path=poller behind it"


def check(url: str) -> None:
    """Raises ConfigError, without a password in it, for a URL that cannot be meant."""
    try:
        parts = urlsplit(url)
        named = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=True)) if parts.query else {}
        hosts = _hosts(parts)
    except ValueError as error:
        raise ConfigError(f"a PostgreSQL URL that cannot be read ({_reason(error)}): {_FORM}") from None
    if parts.scheme.lower() not in SCHEMES or not url[len(parts.scheme) :].startswith("://"):
        raise ConfigError(f"no PostgreSQL URL: {_FORM}")
    if parts.fragment:
        raise ConfigError(f"a PostgreSQL URL with a '#', which must be written %23 in a password: {_FORM}")
    for host in hosts:
        _, colon, port = host.rpartition(":") if not host.endswith("]") else ("", "", "")
        if colon and port and not (port.isdecimal() and 0 < int(port) < 65536):
            raise ConfigError(f"a PostgreSQL URL whose port is no number from 1 to 65535: {_FORM}")
    for name in named:
        if name not in _OPTIONS:
            meant = get_close_matches(name, _OPTIONS, 1)
            hint = f"; did you mean {meant[0]!r}?" if meant else ""
            raise ConfigError(f"a PostgreSQL URL with the unknown option {name!r}; allowed {', '.join(sorted(_OPTIONS))}{hint}")


def shown(url: str) -> str:
    """Where it leads, for error texts: host, port and database, and neither user nor password."""
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    host = ",".join(_hosts(parts)) or options.get("host", "")
    database = unquote(parts.path.lstrip("/")) or options.get("dbname", options.get("database", ""))
    return f"PostgreSQL {host}/{database}".rstrip("/")


def _hosts(parts: SplitResult) -> list[str]:
    place = parts.netloc.rpartition("@")[2]
    return [unquote(host) for host in place.split(",")] if place else []


def _reason(error: ValueError) -> str:
    # The texts of urllib may quote what they could not read, a password too.
    return "its options are not name=value" if "query" in str(error) or "field" in str(error) else "its form is wrong"
