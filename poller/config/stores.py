"""`[poller] store`, `leases` and `journal`: where lanes and failures are kept, checked without opening anything."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import msgspec

from poller.config.problems import Problems, shown
from poller.config.schema import DEFAULT_STORE, PollerTable
from poller.config.secrets import Secret
from poller.config.tables import Tables
from poller.errors import ConfigError, PluginError
from poller.registry import STORES, Registry
from poller.stores.kinds import BUILT_IN
from poller.stores.opening import Places, kind_of
from poller.stores.urls import masked, scheme


class Stores(msgspec.Struct, frozen=True):
    """Reads the three keys of one file."""

    tables: Tables
    problems: Problems
    registry: Registry
    base: Path

    def read(self, daemon: PollerTable) -> tuple[Places, Path]:
        """The places, files by their absolute path, and the folder of the local sources: that of the store, if it is a file."""
        default = self.base / DEFAULT_STORE
        store = f"sqlite://{default}" if daemon.store is None else self._url("store", daemon.store)
        leases = "" if daemon.leases is None else self._url("leases", daemon.leases)
        journal = "" if daemon.journal is None else self._url("journal", daemon.journal)
        state = Path(store.removeprefix("sqlite://")).parent if store.startswith("sqlite://") else default.parent
        return Places(store, leases, journal), state

    def warn(self, places: Places, local: Iterable[str], remembering: Iterable[str] = (), parking: Iterable[str] = ()) -> None:
        """About what is forgotten, and what is not where one may look for it. `local`: mappings whose source is on this host only;
        `remembering`: those with an idempotency window; `parking`: those whose failures hold their keys."""
        for key, url in (("store", places.store), ("leases", places.leases), ("journal", places.journal)):
            if url == "memory:":
                self.problems.warn(("poller", key), "memory: keeps checkpoints and failures only as long as the process runs")
        lanes, (key, failures) = places.lanes[1], places.failures
        if not self._shared(lanes):
            return
        if not self._shared(failures):
            self.problems.warn(
                ("poller", key),
                "the lanes are shared with other hosts, and the journal is not: each host lists and replays the failures of its own; "
                "name a shared journal to have them in one place",
            )
            for name in remembering:
                self.problems.warn(
                    ("mappings", name, "idempotency_window"),
                    "what was acknowledged is remembered beside the journal, so on each host for itself: a record that another host reads "
                    "again is handed to the function again; name a shared journal",
                )
            for name in parking:
                self.problems.warn(
                    ("mappings", name),
                    "what is parked is kept in the journal, so on each host for itself: another host that gets the lane runs the later "
                    "records of a key that is held here; name a shared journal",
                )
        for name in local:
            self.problems.warn(
                ("mappings", name, "source"),
                "the source keeps its data on this host, though lanes are shared with other hosts: give the mapping an `id` of its own on "
                "each host",
            )

    def _url(self, key: str, written: str) -> str:
        before = len(self.problems)
        url = self.tables.resolved(written, ("poller", key))
        if len(self.problems) > before:
            return f"sqlite://{self.base / DEFAULT_STORE}"
        name = scheme(url)
        if name == "memory" and url == "memory:":
            return "memory:"
        if name == "sqlite":
            return self._file(key, url)
        if name in self.registry.names(STORES) and name not in BUILT_IN:
            try:
                kind_of(url, self.registry).check(url, self.base)
            except ConfigError as error:
                for problem in error.problems:
                    self.problems.say(("poller", key), problem)
            except PluginError as error:
                self.problems.say(("poller", key), str(error))
            return str(url)
        plain_path = ":" not in url and url.endswith((".db", ".sqlite", ".sqlite3"))
        self._refuse(key, url, json.dumps(f"sqlite:{url}") if plain_path else None)
        return f"sqlite://{self.base / DEFAULT_STORE}"

    def _file(self, key: str, url: str) -> str:
        # sqlite:///absolute, sqlite:relative and sqlite://relative: two slashes more or less are easily forgotten.
        place = url.partition(":")[2]
        name = place[2:] if place.startswith("//") else place
        path = self.base / name
        if not name:
            self._refuse(key, url)
        elif path.is_dir() or name.endswith("/"):
            self.problems.add(
                ("poller", key),
                f"{shown(url)}, a folder",
                "a file; its folder is made when it is missing",
                json.dumps(f"{url.rstrip('/')}/poller.db"),
            )
        return f"sqlite://{path}"

    def _refuse(self, key: str, url: str, meant: str | None = None) -> None:
        others = [name for name in self.registry.names(STORES) if name not in BUILT_IN]
        urls = f", or a URL of {', '.join(others)}" if others else ""
        allowed = f'"sqlite:{DEFAULT_STORE}", "sqlite:///absolute/path", {"" if others else "or "}"memory:"{urls}'
        self.problems.add(("poller", key), shown(url if isinstance(url, Secret) else masked(url)), allowed, meant)

    def _shared(self, url: str) -> bool:
        try:
            return kind_of(url, self.registry).shared
        except PluginError:
            return False  # said already
