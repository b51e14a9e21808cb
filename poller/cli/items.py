"""Records from files, line by line: what can be put, and what cannot with its line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson

from poller.feed import Item


@dataclass(frozen=True, slots=True)
class Line:
    """A record and where it came from. `size` is in bytes, with the line's end."""

    file: str
    number: int
    size: int
    item: Item

    @property
    def place(self) -> str:
        return f"{self.file}:{self.number}"


@dataclass(frozen=True, slots=True)
class Refused:
    """A line that was not put, and why."""

    place: str
    reason: str


def lines(stream: BinaryIO, file: str, *, key: str | None = None, raw: bool = False) -> Iterator[Line | Refused]:
    """One record a line: JSON as it stands there, or with `raw` whatever it is. Empty lines are no JSON, and are passed over.

    `key` is the field of the JSON object whose value becomes the record's key: a string as it is, anything else as JSON.
    """
    for number, line in enumerate(stream, 1):
        data = line.rstrip(b"\r\n")
        if not raw and not data.strip():
            continue
        found = Item(data) if raw else _item(data, key)
        yield Refused(f"{file}:{number}", found) if isinstance(found, str) else Line(file, number, len(line), found)


def whole(stream: BinaryIO, file: str) -> Line:
    """The file as one record."""
    data = stream.read()
    return Line(file, 1, len(data), Item(data))


def _item(data: bytes, key: str | None) -> Item | str:
    """The item, or why there is none."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        return f"no JSON: {error}"
    if key is None:
        return Item(data)
    if not isinstance(value, dict):
        return f"no JSON object, so it has no field {key!r}"
    if key not in value or value[key] is None:
        return f"no field {key!r}"
    return Item(data, _key(value[key]))


def _key(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
