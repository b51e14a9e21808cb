"""A TOML table read into a Struct, with every problem it has: unknown keys, wrong types, missing keys, bad units, dead references.

`msgspec.convert` stops at the first problem; so each key is converted alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeVar, get_args, get_origin

import msgspec
from msgspec.structs import FieldInfo, fields

from poller import units
from poller.config.hints import Hint
from poller.config.lines import TomlPath
from poller.config.problems import Problems, closest, is_private, shown
from poller.config.secrets import Secret, Secrets, Unresolved

S = TypeVar("S", bound=msgspec.Struct)

_BAD: Final = object()


@cache
def _fields(kind: type[msgspec.Struct]) -> Mapping[str, FieldInfo]:
    """By key. Once a kind: what annotations stand for costs a millisecond, and a file has many tables of one kind."""
    return {field.encode_name: field for field in fields(kind)}


class Tables:
    """Reads the tables of one file."""

    def __init__(self, problems: Problems, secrets: Secrets) -> None:
        self._problems = problems
        self._secrets = secrets

    def read(self, raw: Mapping[str, Any], kind: type[S], path: TomlPath, *, ignore: frozenset[str] = frozenset()) -> S | None:
        """A Struct of `kind`. A bad key that has a default gets it, so that what depends on other keys is checked too; None when a
        required key is missing or bad, or the Struct itself refuses the values."""
        before = len(self._problems)
        known = _fields(kind)
        values: dict[str, Any] = {}
        complete = True
        for key in raw:
            if key not in known and key not in ignore:
                self.unknown((*path, key), [*known, *ignore])
        for key, field in known.items():
            value = self.value(raw[key], Hint.of(field.type), (*path, key)) if key in raw else _BAD
            if value is not _BAD:
                values[field.name] = value
            elif field.required:
                complete = False
                if key not in raw:
                    meant = next((each for each in raw if each not in known and closest(each, [key])), None)
                    # A misspelt required key is one problem, not two.
                    if meant is None:
                        self._problems.add(path, f"no key {key!r}", Hint.of(field.type).allowed)
        if not complete:
            return None
        try:
            return kind(**values)
        except (TypeError, ValueError) as error:
            if len(self._problems) == before:
                self._problems.say(path, self._secrets.redact(str(error)))
            return None

    def unknown(self, path: TomlPath, known: Iterable[str]) -> None:
        """A key that does not exist."""
        names = sorted(known)
        self._problems.add(path, "an unknown key", ", ".join(names) or "none here", closest(str(path[-1]), names))

    def value(self, raw: Any, hint: Hint, path: TomlPath) -> Any:
        """The value, or the mark of a bad one after its problem was reported."""
        origin, arguments = get_origin(hint.bare), get_args(hint.bare)
        if isinstance(raw, dict) and (struct := hint.struct) is not None:
            value = self.read(raw, struct, path)
            return _BAD if value is None else value
        if origin is dict and isinstance(raw, dict):
            inner = Hint.of(arguments[1])
            raw = {key: self.value(each, inner, (*path, key)) for key, each in raw.items()}
            if any(each is _BAD for each in raw.values()):
                return _BAD
        elif (origin is list or (origin is tuple and arguments[1:] == (...,))) and isinstance(raw, list):
            inner = Hint.of(arguments[0])
            raw = [self.value(each, inner, (*path, index)) for index, each in enumerate(raw)]
            if any(each is _BAD for each in raw):
                return _BAD
        if hint.unit and not self._unit(raw, hint, path):
            return _BAD
        try:
            return msgspec.convert(raw, hint.type)
        except msgspec.ValidationError:
            self._problems.add(path, shown(raw, path), hint.allowed, self._meant(raw, hint, path))
            return _BAD

    def resolved(self, raw: Any, path: TomlPath) -> Any:
        """`raw` with its references resolved, however deep; one that leads nowhere is reported and stays as it is."""
        match raw:
            case str():
                try:
                    return self._secrets.resolve(raw)
                except Unresolved as error:
                    self._problems.say(path, str(error))
                    return raw
            case dict():
                return {key: self.resolved(each, (*path, key)) for key, each in raw.items()}
            case list():
                return [self.resolved(each, (*path, index)) for index, each in enumerate(raw)]
            case _:
                return raw

    def _unit(self, raw: Any, hint: Hint, path: TomlPath) -> bool:
        """Whether `raw` is a quantity with its unit, or no quantity at all (which the type check is about); a bad one is reported."""
        if isinstance(raw, str):
            try:
                amount = float(units.duration(raw) if hint.unit == "duration" else units.size(raw))
            except (ValueError, OverflowError):
                amount = math.inf
            if math.isfinite(amount):
                return True
            self._problems.add(path, shown(raw, path), hint.allowed, self._meant(raw, hint, path))
            return False
        if isinstance(raw, bool) or not isinstance(raw, int | float) or raw in hint.literals:
            return True
        self._problems.add(path, f"{shown(raw, path)}, a number without a unit", hint.allowed, self._meant(raw, hint, path))
        return False

    def _meant(self, raw: Any, hint: Hint, path: TomlPath) -> str | None:
        return None if isinstance(raw, Secret) or is_private(path) else hint.meant(raw)
