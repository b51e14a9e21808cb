"""`on_failure` and `on_success` of a mapping: where what became of its batches is sent, checked without connecting to anything.

Each is a URL or an ARN, a table `{ to = "URL or ARN", ...options }`, or a list of these. An address may be `env:NAME`; then it is kept and
shown under that name, and never by its value. `file:` is a kind of destination here, and no reference.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from poller.config.lines import TomlPath
from poller.config.problems import Problems, shown
from poller.config.secrets import Secret, Secrets
from poller.config.tables import Tables
from poller.config.tree import DestinationConfig
from poller.errors import ConfigError, PluginError, PollerError
from poller.registry import DESTINATIONS, Registry
from poller.settings import DestinationKind, DestinationTraits, Surrounded, Surroundings
from poller.stores.urls import masked, scheme

TO = "to"

_ARN = re.compile(r"arn:[a-z0-9-]+:(?P<service>[a-z0-9-]+):")


def kind_of(to: str) -> str:
    """The name of an address's kind: the service of an ARN, else the scheme of a URL; "" where it has neither."""
    arn = _ARN.match(to)
    return arn["service"] if arn else scheme(to)


def destination(to: str, registry: Registry) -> DestinationConfig:
    """One that stands in no file, with its kind's default options. Raises ConfigError, PluginError."""
    kind = kind_of(to)
    if kind not in registry.names(DESTINATIONS):
        raise ConfigError(f"found the destination {shown(masked(to))}; allowed {_allowed(registry)}")
    part = registry.destination(kind)
    try:
        options = msgspec.convert({}, part.options)
    except msgspec.ValidationError as error:
        raise ConfigError(f"a destination of the kind {kind!r} takes options ({error}): name one of the configuration") from None
    return DestinationConfig(to, to, kind, options, part.traits(to, options))


def hidden(address: str, registry: Registry) -> str:
    """An address that stands in no file as it may be shown: without what its kind hides of it, or without passwords where none knows it."""
    try:
        return destination(address, registry).shown
    except PollerError:
        return masked(address)


def _allowed(registry: Registry) -> str:
    kinds = ", ".join(registry.names(DESTINATIONS)) or "none: no kind of destination is installed"
    return f"a URL or an ARN of one of these kinds: {kinds}"


@dataclass(slots=True)
class Destinations:
    """Reads those of one mapping, whose source is `identity` (`Traits.identity`). `found`: all that were read, each once."""

    tables: Tables
    problems: Problems
    registry: Registry
    secrets: Secrets
    identity: str
    around: Surroundings
    _found: dict[str, DestinationConfig] = field(default_factory=dict)

    @property
    def found(self) -> tuple[DestinationConfig, ...]:
        return tuple(self._found.values())

    def read(self, raw: Any, path: TomlPath) -> Sequence[DestinationConfig]:
        """What the key at `path` names, in order. Every problem that was seen is reported; what has one is left out."""
        if not isinstance(raw, list):
            one = self._read(raw, path)
            return [] if one is None else [one]
        read: dict[str, DestinationConfig] = {}
        for place, each in enumerate(raw):
            one = self._read(each, (*path, place))
            if one is not None and one.name in read:
                self.problems.add((*path, place), f"the destination {_shown(one)} again", "each destination once")
            elif one is not None:
                read[one.name] = one
        return list(read.values())

    def _read(self, raw: Any, path: TomlPath) -> DestinationConfig | None:
        if not isinstance(raw, str | dict):
            return None  # the type was reported with the mapping's table
        table: dict[str, Any] = {TO: raw} if isinstance(raw, str) else raw
        place = path if isinstance(raw, str) else (*path, TO)
        name = table.get(TO)
        if not isinstance(name, str):
            self.problems.add(place, f"no key '{TO}'" if name is None else shown(name), _allowed(self.registry))
            return None
        before = len(self.problems)
        to = self.tables.resolved(name, place) if scheme(name) == "env" else name
        part = None if len(self.problems) > before else self._part(to, place)
        if part is None:
            return None
        resolved = {key: self.tables.resolved(value, (*path, key)) for key, value in table.items() if key != TO}
        options = self.tables.read(resolved, part.options, path, ignore=frozenset({TO}))
        understood = None if options is None else self._understood(part, to, options, path, place)
        if understood is None:
            return None
        one = DestinationConfig(name, str(to), kind_of(to), *understood)
        if self._found.setdefault(name, one) != one:
            self.problems.add(path, f"the destination {_shown(one)} with other options", "the same options wherever a mapping names it")
        if one.traits.identity and one.traits.identity == self.identity:
            self.problems.add(place, f"the destination {_shown(one)}, which is the mapping's own source", "another: it would feed itself")
        return one

    def _part(self, to: str, place: TomlPath) -> DestinationKind | None:
        kind = kind_of(to)
        if kind not in self.registry.names(DESTINATIONS):
            self.problems.add(place, shown(to if isinstance(to, Secret) else masked(to)), _allowed(self.registry))
            return None
        try:
            return self.registry.destination(kind)
        except PluginError as error:
            self.problems.say(place, str(error))
            return None

    def _understood(
        self, part: DestinationKind, to: str, options: Any, path: TomlPath, place: TomlPath
    ) -> tuple[Any, DestinationTraits] | None:
        """The options, completed, and what the destination is with them."""
        try:
            whole = part.completed(str(to), options, self.around) if isinstance(part, Surrounded) else options
            return whole, part.traits(str(to), whole)
        except (ConfigError, ValueError) as error:
            for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
                # A sentence that begins with one of the kind's keys is about that key, else about the address.
                key = problem.partition(" ")[0].strip("`'\":,")
                at = (*path, key) if place != path and key in type(options).__struct_fields__ else place
                self.problems.say(at, self.secrets.redact(problem))
            return None


def _shown(one: DestinationConfig) -> str:
    return shown(one.shown)
