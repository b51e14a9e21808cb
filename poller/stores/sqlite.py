"""The store in one SQLite file on a local disk: checkpoints, states, leases and journal, for all workers of a host."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from poller.errors import ConfigError
from poller.stores.acknowledged import SqliteAcknowledged
from poller.stores.checkpoints import SqliteCheckpoints
from poller.stores.journal import SqliteJournal
from poller.stores.leases import SqliteLeases
from poller.stores.outbox import SqliteOutbox
from poller.stores.parking import SqliteParking
from poller.stores.runs import SqliteRuns
from poller.stores.schema import SCHEMA
from poller.stores.states import SqliteStates
from poller.stores.upkeep import SqliteUpkeep
from poller.stores.writer import Writer

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_FORMS = "write sqlite:///absolute/path.db, sqlite:relative/path.db, or a path"


def parse_url(url: str | Path, base: Path | None = None) -> Path:
    """The file that a store's URL, or a plain path, names; relative ones are below `base`. Raises ConfigError."""
    if isinstance(url, Path):
        path = url
    elif (scheme := _SCHEME.match(url)) is None:
        path = Path(url)
    else:
        path = _parse_sqlite(url, scheme[1].lower(), url[scheme.end() :])
    if not path.name or path.name == ".." or str(url).endswith("/"):
        raise ConfigError(f"store {str(url)!r} names no file: {_FORMS}")
    return path if base is None else base / path


def _parse_sqlite(url: str, scheme: str, rest: str) -> Path:
    if scheme != "sqlite":
        raise ConfigError(f"store {url!r} is of a kind that is not known: {_FORMS}")
    if "?" in rest or "#" in rest:
        raise ConfigError(f"store {url!r} takes no options behind '?' or '#': {_FORMS}")
    if rest.startswith("//") and not rest.startswith("///"):
        raise ConfigError(f"store {url!r} names a host ; an absolute path takes three slashes: {_FORMS}")
    if rest.startswith(":"):
        raise ConfigError(f"store {url!r} would be forgotten when the process ends: {_FORMS}")
    return Path(unquote(rest[2:] if rest.startswith("///") else rest))


class SqliteStore:
    """`poller.protocols.Store` in one SQLite file. All write through one thread: what comes together shares one fsync."""

    def __init__(self, writer: Writer) -> None:
        """Use `open_store`."""
        self._writer = writer
        self.checkpoints = SqliteCheckpoints(writer)
        self.states = SqliteStates(writer)
        self.leases = SqliteLeases(writer)
        self.journal = SqliteJournal(writer)
        self.parking = SqliteParking(writer)
        self.upkeep = SqliteUpkeep(writer)
        self.outbox = SqliteOutbox(writer)
        self.runs = SqliteRuns(writer)
        self.acknowledged = SqliteAcknowledged(writer)

    @property
    def path(self) -> Path:
        return self._writer.path

    async def aclose(self) -> None:
        """Everything asked for is written, the file stands alone without its log. Tolerated twice."""
        await self._writer.aclose()

    def __repr__(self) -> str:
        return f"<SqliteStore {self._writer!r}>"


async def open_store(url: str | Path, base: Path | None = None, *, busy_timeout: float = 5.0) -> SqliteStore:
    """Open, or make, the store at `url`: "sqlite:///absolute/path.db", "sqlite:relative.db", or a path.

    Raises ConfigError for another form, StoreError or StoreUnavailable as `Writer.open`.
    """
    return SqliteStore(await Writer.open(parse_url(url, base), SCHEMA, busy_timeout=busy_timeout))
