"""From a file to a `Config`: every problem of the file is found before any is raised."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poller import units
from poller.config import workers
from poller.config.functions import Functions
from poller.config.lines import Lines, TomlPath
from poller.config.mappings import Mappings
from poller.config.problems import Problems, closest, dotted, shown
from poller.config.schema import DEFAULT_LISTEN, PollerTable
from poller.config.secrets import Secrets
from poller.config.stores import Stores
from poller.config.tables import Tables
from poller.config.tree import Address, Config, MappingConfig
from poller.errors import ConfigError
from poller.registry import Registry
from poller.settings import FunctionSettings, Traits

TABLES = ("poller", "functions", "mappings")

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_LISTEN = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]/]+)):(?P<port>\d{1,5})")
_POSITION = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")


def load(path: Path, registry: Registry, environ: Mapping[str, str]) -> Config:
    """Read the file, check everything that can be checked without a network, resolve secrets. Raises ConfigError with all problems.

    `environ` is where `env:NAME` looks, and where PATH comes from; nothing else of it is used.
    """
    text = _text(path)
    raw = _parsed(path, text)
    base = path.absolute().parent
    problems = Problems(str(path), Lines(text))
    secrets = Secrets(environ, base)
    tables = Tables(problems, secrets)
    for key in raw:
        if key not in TABLES:
            tables.unknown((key,), TABLES)
    daemon = tables.read(_table(problems, raw, "poller"), PollerTable, ("poller",)) or PollerTable()
    stores = Stores(tables, problems, registry, base)
    places, state = stores.read(daemon)
    listen = _listen(problems, daemon.listen)
    functions = _functions(problems, raw, Functions(tables, problems, registry, base, environ.get("PATH", "")))
    mappings = _mappings(problems, raw, Mappings(tables, problems, registry, secrets, functions, daemon.defaults))
    if daemon.journal_retention is not None and not units.duration(daemon.journal_retention):
        problems.add(("poller", "journal_retention"), shown(daemon.journal_retention), 'more than nothing, such as "30d"')
    grace = units.duration(daemon.shutdown_grace)
    _warn(problems, functions, grace)
    local = [name for name, each in mappings.items() if registry.connector(each.type).traits(each.options).local]
    remembering = [name for name, each in mappings.items() if each.settings.idempotency is not None]
    stores.warn(places, local, remembering, [name for name, each in mappings.items() if each.settings.parks])
    count = workers.count(problems, daemon.workers, {"store": places.store, "leases": places.leases, "journal": places.journal})
    workers.warn(problems, count, functions, mappings)
    problems.check()
    return Config(
        path=base / path.name,
        store_url=places.store,
        leases_url=places.leases,
        journal_url=places.journal,
        state=state,
        listen=listen,
        shutdown_grace=grace,
        log=daemon.log,
        log_level=daemon.log_level,
        functions=functions,
        mappings=mappings,
        warnings=problems.warnings,
        workers=count,
        journal_retention=None if daemon.journal_retention is None else units.duration(daemon.journal_retention),
        journal_maximum_size=None if daemon.journal_maximum_size is None else units.size(daemon.journal_maximum_size),
    )


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name the configuration, or write a first one with `poller init`") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}:{line}: found a byte that is not UTF-8; allowed UTF-8 text, as TOML is") from None


def _parsed(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    # ValueError: TOMLDecodeError, and numbers too long for int(). RecursionError: arrays in arrays in arrays.
    except (ValueError, RecursionError) as error:
        message = str(error) if isinstance(error, ValueError) else "values are nested too deep"
        position = _POSITION.search(message)
        if position is None:
            raise ConfigError(f"{path}: not TOML: {message}") from None
        line = int(position["line"]) if position["line"] else text.count("\n") + (not text.endswith("\n"))
        where = f"column {position['column']}" if position["column"] else "end of the file"
        raise ConfigError(f"{path}:{line}: not TOML: {message[: position.start()]} ({where})") from None


def _table(problems: Problems, raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The table of that name, empty when it is absent or, with a problem, something else."""
    value = raw.get(key, {})
    if isinstance(value, dict):
        return value
    problems.add((key,), shown(value), f"a table: [{key}]" if key == "poller" else f"tables: [{key}.NAME]")
    return {}


def _entries(problems: Problems, raw: Mapping[str, Any], key: str) -> dict[str, dict[str, Any]]:
    """The named tables below `key`; what is none, or has a bad name, is a problem."""
    entries = {}
    for name, value in _table(problems, raw, key).items():
        if not _NAME.fullmatch(name):
            problems.add((key, name), f"the name {shown(name)}", "letters, digits, _ and -")
        if isinstance(value, dict):
            entries[name] = value
        else:
            problems.add((key, name), shown(value), f"a table: [{dotted((key, 'NAME'))}]")
    return entries


def _functions(problems: Problems, raw: Mapping[str, Any], reader: Functions) -> dict[str, FunctionSettings]:
    read = {name: reader.read(name, table) for name, table in _entries(problems, raw, "functions").items()}
    return {name: settings for name, settings in read.items() if settings is not None}


def _mappings(problems: Problems, raw: Mapping[str, Any], reader: Mappings) -> dict[str, MappingConfig]:
    entries = _entries(problems, raw, "mappings")
    # A misspelt [mappings] was reported by its name already.
    if not entries and not any(closest(key, ["mappings"]) for key in raw):
        problems.add((), "no mapping", "at least one [mappings.NAME] table, with its function and its [mappings.NAME.source]")
    declared = raw.get("functions", {})
    read = {}
    for name, table in entries.items():
        _known_function(problems, ("mappings", name, "function"), table.get("function"), declared if isinstance(declared, dict) else {})
        if (result := reader.read(name, table)) is not None:
            read[name] = result
    _unique_ids(problems, entries)
    _unique_sources(problems, read)
    return {name: mapping for name, (mapping, _) in read.items()}


def _known_function(problems: Problems, path: TomlPath, function: Any, declared: Mapping[str, Any]) -> None:
    if isinstance(function, str) and function not in declared:
        known = ", ".join(sorted(declared)) or "none: there is no [functions.NAME] table"
        problems.add(path, f"the function {shown(function)}, which does not exist", known, closest(function, declared))


def _unique_ids(problems: Problems, entries: Mapping[str, Mapping[str, Any]]) -> None:
    owners: dict[str, str] = {}
    for name, table in entries.items():
        key = table.get("id", name)
        path: TomlPath = ("mappings", name, "id")
        if not isinstance(key, str):
            continue
        if "id" in table and not _NAME.fullmatch(key):
            problems.add(path, f"the id {shown(key)}", "letters, digits, _ and -")
        owner = owners.setdefault(key, name)
        if owner != name:
            line = problems.line(("mappings", owner, "id"))
            problems.add(
                path, f"the id {shown(key)}, which is that of [{dotted(('mappings', owner))}] (line {line}) too", "an id of its own"
            )


def _unique_sources(problems: Problems, read: Mapping[str, tuple[MappingConfig, Traits]]) -> None:
    """AWS answers ResourceConflictException: two mappings of one queue to one function only compete for its messages.

    Two of a stream have progress of their own, and its records are handled twice: somebody may want that, but AWS does not allow it.
    """
    seen: list[tuple[str, MappingConfig, Traits]] = []
    for name, (mapping, traits) in read.items():
        if traits.kind != "queue" and mapping.settings.safe:
            continue
        function = mapping.settings.function
        for other, first, known in seen:
            # Where the options do not tell what they name, the same options do.
            same = known.identity == traits.identity if traits.identity else first.options == mapping.options
            if same and (first.settings.function, first.type) == (function, mapping.type):
                line = problems.line(("mappings", other))
                problems.add(
                    ("mappings", name, "source"),
                    f"the {traits.kind} and the function {shown(function)} of [{dotted(('mappings', other))}] (line {line}) again",
                    "one mapping of a queue to a function: raise its maximum_concurrency instead"
                    if traits.kind == "queue"
                    else 'under defaults = "aws": one mapping of a stream to a function',
                )
                break
        seen.append((name, mapping, traits))


def _listen(problems: Problems, text: str) -> Address:
    match = _LISTEN.fullmatch(text)
    if match is None or int(match["port"]) > 65_535:
        meant = json.dumps(f"127.0.0.1:{text.lstrip(':')}") if text.lstrip(":").isdecimal() else None
        problems.add(("poller", "listen"), shown(text), f'host:port, such as "{DEFAULT_LISTEN}" or "[::1]:8780"', meant)
        return Address("127.0.0.1", 0)
    return Address(match["six"] or match["host"], int(match["port"]))


def _warn(problems: Problems, functions: Mapping[str, FunctionSettings], grace: float) -> None:
    for name, function in functions.items():
        if function.timeout > grace:
            problems.warn(
                ("functions", name, "timeout"),
                f"the timeout {units.show_duration(function.timeout)} is longer than [poller] shutdown_grace "
                f"{units.show_duration(grace)}: a stop may end an invocation that would have succeeded, which then runs again",
            )
