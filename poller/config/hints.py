"""What a key allows, taken from its annotation: the type, in code and in words, and what a wrong value probably meant. Pure."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec

from poller import units
from poller.config.problems import closest

_EXAMPLES = {"duration": "30s", "size": "512MiB"}


@dataclass(frozen=True, slots=True)
class Hint:
    """A type without its wrapping: what TOML may hold, the words and the unit that came with it."""

    type: Any
    description: str = ""
    unit: Literal["duration", "size"] | None = None
    default: str | None = None

    @classmethod
    def of(cls, annotation: Any) -> Hint:
        """None is left out of unions: TOML has no null, a key is absent."""
        if get_origin(annotation) is Annotated:
            hint = cls.of(get_args(annotation)[0])
            for meta in annotation.__metadata__:
                if isinstance(meta, msgspec.Meta):
                    extra = meta.extra or {}
                    hint = replace(
                        hint,
                        description=meta.description or hint.description,
                        unit=extra.get("unit", hint.unit),
                        default=extra.get("default", hint.default),
                    )
                    if bounds := _bounds(meta):
                        hint = replace(hint, type=Annotated[hint.type, bounds])
            return hint
        if get_origin(annotation) in {Union, types.UnionType}:
            some = [each for each in get_args(annotation) if each is not type(None)]
            return cls.of(some[0]) if len(some) == 1 else cls(reduce(or_, some))
        return cls(annotation)

    @property
    def bare(self) -> Any:
        return get_args(self.type)[0] if get_origin(self.type) is Annotated else self.type

    @property
    def struct(self) -> type[msgspec.Struct] | None:
        """What a table is read into, if one may stand here."""
        some = get_args(self.bare) if get_origin(self.bare) in {Union, types.UnionType} else (self.bare,)
        return next((each for each in some if isinstance(each, type) and issubclass(each, msgspec.Struct)), None)

    @property
    def allowed(self) -> str:
        """What may stand here, in words."""
        if self.unit:
            rest = [_words(each) for each in get_args(self.bare) if each is not str]
            quantity = f'a {self.unit} such as "{_EXAMPLES[self.unit]}"'
            return " or ".join([quantity, *rest])
        return _words(self.type)

    @property
    def literals(self) -> tuple[Any, ...]:
        """The values that are allowed besides a quantity, such as -1."""
        return tuple(value for each in get_args(self.bare) if get_origin(each) is Literal for value in get_args(each))

    def meant(self, raw: Any) -> str | None:
        """The TOML text that was probably meant by `raw`, where one can tell."""
        if isinstance(raw, str):
            return self._meant_by_text(raw)
        if isinstance(raw, bool) or not isinstance(raw, int | float) or not math.isfinite(raw):
            return None
        if self.unit and raw >= 0:
            return json.dumps(units.show_duration(raw) if self.unit == "duration" else f"{raw}MiB")
        return json.dumps(str(raw)) if self.bare is str else None

    def _meant_by_text(self, raw: str) -> str | None:
        if get_origin(self.bare) is Literal:
            return closest(raw, [each for each in get_args(self.bare) if isinstance(each, str)])
        if self.unit:
            number = raw.strip()
            if number in {str(each) for each in self.literals}:
                return number
            return json.dumps(number + {"duration": "s", "size": "MiB"}[self.unit]) if number.isdecimal() else None
        if self.bare is bool and raw.lower() in {"true", "false"}:
            return raw.lower()
        return raw if self.bare is int and raw.removeprefix("-").isdecimal() else None


def _bounds(meta: msgspec.Meta) -> msgspec.Meta | None:
    names = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length", "tz")
    bounds = {name: getattr(meta, name) for name in names if getattr(meta, name) is not None}
    return msgspec.Meta(**bounds) if bounds else None


def _words(annotation: Any) -> str:
    """A type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _words(arguments[0]) + _limits([meta for meta in annotation.__metadata__ if isinstance(meta, msgspec.Meta)])
    if origin is Literal:
        return " or ".join(json.dumps(each) for each in arguments)
    if origin in {Union, types.UnionType}:
        return " or ".join(_words(each) for each in arguments if each is not type(None))
    if origin in {list, tuple, set, frozenset}:
        return f"a list, each {_words(arguments[0])}" if arguments else "a list"
    if origin is dict or annotation is dict or (isinstance(annotation, type) and issubclass(annotation, msgspec.Struct)):
        return "a table"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


_NAMES: dict[Any, str] = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", list: "a list", Any: "anything"}


def _limits(metas: Iterable[msgspec.Meta]) -> str:
    parts = []
    for meta in metas:
        low, high = meta.ge, meta.le
        if low is not None and high is not None:
            parts.append(f" from {low} to {high}")
        elif low is not None:
            parts.append(f", at least {low}")
        elif high is not None:
            parts.append(f", at most {high}")
        parts += [f", {word} {bound}" for word, bound in (("above", meta.gt), ("below", meta.lt)) if bound is not None]
        parts += [f", at least {meta.min_length} long"] if meta.min_length else []
        parts += [f", at most {meta.max_length} long"] if meta.max_length else []
        parts += [f" that matches {meta.pattern}"] if meta.pattern else []
    return "".join(parts)
