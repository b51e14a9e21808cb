"""JSON as somebody wrote it: with keys that stand twice, and numbers that no double holds. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from poller.errors import ConfigError


class Pairs(list[tuple[str, Any]]):
    """A JSON object as written: a key may be there twice."""


@dataclass(frozen=True, slots=True)
class NotComparable:
    """A number of the text that no double can hold."""

    text: str


def parsed(text: str) -> Any:
    def refused(constant: str) -> Any:
        raise ValueError(f"{constant} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=Pairs, parse_float=_float, parse_int=_int, parse_constant=refused)
    except RecursionError:
        raise ConfigError("pattern: nested too deeply to be read") from None
    except ValueError as error:
        raise ConfigError(f"pattern: not valid JSON: {error}") from None


def _float(text: str) -> float | NotComparable:
    number = float(text)
    vanished = not number and re.search("[1-9]", re.split("[eE]", text)[0])
    return NotComparable(text) if vanished or math.isinf(number) else number


def _int(text: str) -> int | NotComparable:
    return NotComparable(text) if math.isinf(float(text)) else int(text)


def is_object(value: Any) -> bool:
    return isinstance(value, Pairs | Mapping)


def is_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and not isinstance(value, Pairs)


def items(value: Any) -> list[tuple[Any, Any]]:
    return value if isinstance(value, Pairs) else list(value.items())


def below(where: str, key: Any) -> str:
    name = key if isinstance(key, str) and re.fullmatch(r"[\w$-]+", key) else json.dumps(str(key))
    return f"{where}.{name}" if where else name


def shown(value: Any) -> str:
    """A short form of what was found, for a message."""
    if is_object(value):
        return "an object"
    if is_list(value) and any(is_object(each) or is_list(each) for each in value):
        return "a list"
    if isinstance(value, NotComparable):
        return value.text if len(value.text) <= 40 else f"{value.text[:37]}..."
    try:
        text = json.dumps(value, default=lambda other: type(other).__name__)
    except (TypeError, ValueError):
        return type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
