"""The parts that are found by entry point: connectors, handler kinds, kinds of stores and of destinations, ours like anyone else's.

A part is loaded by name, once, when it is first asked for: a configuration that polls SQS never imports a Kafka client. Everything that
can be wrong with an installation is a `PluginError` with a sentence that says what to run.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, cast

from poller import API
from poller.entry_points import EntryPoint, installed
from poller.errors import PluginError
from poller.settings import Connector, DestinationKind, HandlerKind, StoreKind

CONNECTORS = "poller.connectors"
HANDLERS = "poller.handlers"
STORES = "poller.stores"
DESTINATIONS = "poller.destinations"
PACKAGES = ("poller", "connectors", "handlers")
DISTRIBUTION = "esm-poller"

_WORDS = {CONNECTORS: "connector", HANDLERS: "handler", STORES: "store", DESTINATIONS: "destination"}
_NOT_INSTALLED = "the project is not installed: run `pip install -e .` in its folder, or `pip install esm-poller`"


class Listing(NamedTuple):
    """A line of `poller connectors`. `api` is None where the part declares none; `problem` says why it cannot be loaded, or is ""."""

    group: str
    name: str
    distribution: str
    version: str
    api: int | None
    problem: str = ""


class Registry:
    """Connectors, handler kinds, kinds of stores and of destinations by name.

    `entry_points_source` gives a group's entry points: by default, those of this environment."""

    def __init__(self, entry_points_source: Callable[[str], Iterable[EntryPoint]] | None = None) -> None:
        self._source = entry_points_source or installed()
        self._groups: dict[str, dict[str, list[EntryPoint]]] = {}
        self._parts: dict[tuple[str, str], Any] = {}

    def __repr__(self) -> str:
        loaded = ", ".join(f"{_WORDS[group]} {name}" for group, name in self._parts)
        return f"<Registry [{loaded or 'nothing loaded'}]>"

    def connector(self, name: str) -> Connector:
        """Raises PluginError: unknown, claimed twice, not importable, or of another version of the contract."""
        return cast("Connector", self._part(CONNECTORS, name))

    def handler(self, name: str) -> HandlerKind:
        """Raises PluginError as `connector` does."""
        return cast("HandlerKind", self._part(HANDLERS, name))

    def store(self, scheme: str) -> StoreKind:
        """By the scheme of its URL. Raises PluginError as `connector` does."""
        return cast("StoreKind", self._part(STORES, scheme))

    def destination(self, scheme: str) -> DestinationKind:
        """By the scheme of its address: that of a URL, or the service of an ARN. Raises PluginError as `connector` does."""
        return cast("DestinationKind", self._part(DESTINATIONS, scheme))

    def names(self, group: str) -> list[str]:
        """The names of a group, sorted; nothing is loaded."""
        return sorted(self._group(group))

    def listing(self) -> list[Listing]:
        """Every part of all groups, loaded to ask for its `api`; what cannot be loaded, or is claimed twice, says why."""
        return [
            self._describe(group, name, point)
            for group in (CONNECTORS, HANDLERS, STORES, DESTINATIONS)
            for name, points in sorted(self._group(group).items())
            for point in points
        ]

    def verify(self) -> None:
        """Raises PluginError unless poller, connectors and handlers are ours, from one place. For the start of the daemon."""
        check_installation(origin=_origin, folders=[Path(folder) for folder in sys.path if folder], recorded=_recorded())

    def _group(self, group: str) -> dict[str, list[EntryPoint]]:
        if group not in self._groups:
            found: dict[str, list[EntryPoint]] = {}
            for point in self._source(group):
                found.setdefault(point.name, []).append(point)
            self._groups[group] = found
        return self._groups[group]

    def _part(self, group: str, name: str) -> Any:
        if (group, name) not in self._parts:
            point = self._point(group, name)
            self._parts[group, name] = _load(_WORDS[group], point)
        return self._parts[group, name]

    def _point(self, group: str, name: str) -> EntryPoint:
        known = self._group(group)
        if not known:
            raise PluginError(f"no {_WORDS[group]} is registered under {group!r}; {_NOT_INSTALLED}")
        if name not in known:
            raise PluginError(unknown(f"{_WORDS[group]}", name, known))
        first, *others = known[name]
        # Never first-wins: which of two would win depends on the order of sys.path.
        if others:
            claims = " and ".join(sorted(f"{_from(point)} as {point.value}" for point in known[name]))
            raise PluginError(f'the {_WORDS[group]} "{name}" is claimed by {claims}; uninstall all but one')
        return first

    def _describe(self, group: str, name: str, point: EntryPoint) -> Listing:
        try:
            api, problem = getattr(self._part(group, name), "api", None), ""
        except PluginError as error:
            api, problem = None, str(error)
        dist = point.dist
        return Listing(group, name, dist.name if dist else "?", dist.version if dist else "?", api, problem)


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist: what is known, and what may have been meant."""
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    meant = f'; did you mean "{close[0]}"?' if close else ""
    return f'found the {what} "{name}", which does not exist; allowed {", ".join(names)}{meant}'


def _from(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unnamed distribution"


def _label(word: str, point: EntryPoint) -> str:
    """For errors alone: name and version are read from the distribution's metadata, and parsed as an e-mail is."""
    return f'{word} "{point.name}" ({_from(point)})'


def _load(word: str, point: EntryPoint) -> Any:
    try:
        part = point.load()
    except ModuleNotFoundError as error:
        raise PluginError(f"the {_label(word, point)} needs the module {error.name!r}, which is not installed; {_remedy(point)}") from error
    except ImportError as error:
        raise PluginError(f"the {_label(word, point)} cannot be imported: {error}; {_remedy(point)}") from error
    except AttributeError as error:
        raise PluginError(
            f"the {_label(word, point)} is registered as {point.value}, which cannot be loaded ({error}); install it again"
        ) from error
    api = getattr(part, "api", API)
    if api != API:
        raise PluginError(
            f"the {_label(word, point)} was written for version {api} of the plug-in contract, and this poller has version {API}; "
            f"install a version of it that says `api = {API}`"
        )
    return part


def _remedy(point: EntryPoint) -> str:
    name = point.dist.name if point.dist else DISTRIBUTION
    _, bracket, extras = point.value.partition("[")
    return f"run `pip install '{name}[{extras.rstrip('] ')}]'`" if bracket else f"run `pip install --force-reinstall {name}`"


# --- is this our installation? ----------------------------------------------------------------------------------------------------


def check_installation(
    origin: Callable[[str], Path | None], folders: Sequence[Path], recorded: Mapping[Path, str], packages: Sequence[str] = PACKAGES
) -> None:
    """Raises PluginError unless the three packages stand in one folder, no other copy of a name does in site-packages, and none was
    overwritten by another distribution (pip does that without a word).

    `origin`: the file that `import name` would run. `recorded`: files of our distribution with the SHA-256 they were installed with, in
    the form of a wheel's RECORD.
    """
    places = {name: path.parent.parent if path else None for name, path in ((name, origin(name)) for name in packages)}
    home = places[packages[0]]
    for name, place in places.items():
        if place is None:
            raise PluginError(f"the package {name!r} is missing beside {packages[0]!r} ({home}); {_NOT_INSTALLED}")
        if place != home:
            raise PluginError(f"the package {name!r} comes from {place}, not from {home} as {packages[0]!r} does; {_clash(name)}")
    for folder in folders:
        if folder.name not in {"site-packages", "dist-packages"} or folder == home:
            continue
        for name in packages:
            if (folder / name / "__init__.py").is_file() or (folder / f"{name}.py").is_file():
                raise PluginError(f"another package {name!r} is in {folder}, beside ours in {home}; {_clash(name)}")
    for file, digest in recorded.items():
        if not file.is_file() or _sha256(file) != digest:
            raise PluginError(f"{file} is not the file that {DISTRIBUTION} installed; {_clash(file.parent.name)}")


def _clash(name: str) -> str:
    return (
        f"another distribution brings a package of the name {name!r} too, or the program was started with a folder on its path that has "
        f"one: uninstall that, or give poller a virtual environment of its own (then `pip install --force-reinstall {DISTRIBUTION}`)"
    )


def _origin(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec and spec.origin else None


def _recorded() -> dict[Path, str]:
    """The `__init__.py` of our packages as installed; empty for an editable installation, which copies nothing."""
    from importlib import metadata  # dear, and only the start of the daemon needs it

    try:
        files = metadata.distribution(DISTRIBUTION).files or []
    except metadata.PackageNotFoundError:
        return {}
    wanted = {f"{name}/__init__.py" for name in PACKAGES}
    return {Path(str(file.locate())): file.hash.value for file in files if str(file) in wanted and file.hash}


def _sha256(file: Path) -> str:
    import base64
    import hashlib  # loads OpenSSL, which only the start of the daemon needs

    return base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()
