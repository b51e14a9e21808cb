"""Failures as text for a person to edit, and back: their records' event JSON, with the data decoded. Pure; the editor is the caller's.

{
  "9f2c...": [          a failure, and its records
    {"messageId": "...", "body": {"order": 7}, ...}
  ]
}
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn

from poller.errors import ConfigError
from poller.failures.journal import Entry
from poller.failures.payload import element, encoded
from poller.settings import Filterable

Over = Callable[[str], Filterable | None]
"""Of a mapping's id: where the data of its records stand."""


def written(entries: Sequence[Entry], over: Over) -> str:
    """The text."""
    shown = {entry.id: [element(record.json, over(entry.mapping)) for record in entry.records] for entry in entries}
    return json.dumps(shown, ensure_ascii=False, indent=2).encode("utf-8", "backslashreplace").decode() + "\n"


def read(text: str, entries: Sequence[Entry], over: Over) -> dict[str, tuple[str, ...]]:
    """Of each failure that was edited, the JSON of its records: as it was, byte for byte, for those that were not.

    Raises ConfigError: where the text is no JSON (line and column), or not of these failures and so many records each.
    """
    try:
        edited = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ConfigError(f"line {error.lineno}, column {error.colno}: {error.msg}") from error
    if not isinstance(edited, dict):
        raise ConfigError("the text must be one object: a failure's id, and the list of its records")
    strange = [name for name in edited if name not in {entry.id for entry in entries}]
    missing = [entry.id for entry in entries if entry.id not in edited]
    problems = [f"{name[:40]!r} is no failure that is edited" for name in strange] + [
        f"failure {name} is missing: to leave one out, select the others" for name in missing
    ]
    if problems:
        raise ConfigError(problems)
    found = {entry.id: _records(entry, edited[entry.id], over(entry.mapping)) for entry in entries}
    return {
        entry.id: tuple(record.decode() for record in found[entry.id])
        for entry in entries
        if found[entry.id] != [record.json for record in entry.records]
    }


def _records(entry: Entry, values: Any, over: Filterable | None) -> list[bytes]:
    if not isinstance(values, list) or len(values) != len(entry.records):
        count = len(values) if isinstance(values, list) else "no list of"
        raise ConfigError(f"failure {entry.id} has {len(entry.records)} records, and {count} now: none can be added or left out")
    return [
        record.json if _same(value, element(record.json, over)) else _encoded(entry, value, over)
        for record, value in zip(entry.records, values, strict=True)
    ]


def _encoded(entry: Entry, value: Any, over: Filterable | None) -> bytes:
    try:
        return encoded(value, over)
    except ConfigError as error:
        raise ConfigError(f"failure {entry.id}: {error}") from error


def _same(value: Any, was: Any) -> bool:
    """As JSON: 1 is not 1.0, nor true."""
    return json.dumps(value, sort_keys=True) == json.dumps(was, sort_keys=True)


def _once(pairs: Sequence[tuple[str, Any]]) -> Mapping[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
        raise ConfigError(f"the key {twice!r} stands twice in one object")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ConfigError(f"{name} is no JSON")
