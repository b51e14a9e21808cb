"""What is hidden of a record's data wherever a person or another system sees it: `failures show` and `export`, and destinations. Pure.

The journal keeps the whole record all the same, for a replay must run what was sent; so does whoever may read the store's file. Error
messages are the function's, and are never redacted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from poller.errors import ConfigError
from poller.failures.journal import Entry, KeptRecord
from poller.failures.payload import RAW, element, encoded
from poller.settings import RedactionSettings

HIDDEN = "***"
"""What stands in the place of what is hidden."""

ANY = "*"
"""A key that means every key of an object."""


def path(text: str) -> tuple[str, ...]:
    """The keys of `body.card.number`, or `$.body.card.number`. Raises ConfigError."""
    keys = tuple(text.removeprefix("$.").split("."))
    if not all(keys) or keys == ("$",):
        raise ConfigError(f"{text!r} is no path: write the keys that lead to a value in a record of the event, such as body.card.number")
    return keys


def redacted(entry: Entry, settings: RedactionSettings | None) -> Entry:
    """The entry, with HIDDEN at every place that a path leads to. Arrays are looked through.

    What cannot be looked into is hidden whole: a text, or bytes, where a path goes on; data that are nested too deep; a record that is
    no JSON.
    """
    if settings is None:
        return entry
    records = tuple(_record(record, settings) for record in entry.records)
    return entry if all(new is old for new, old in zip(records, entry.records, strict=True)) else replace(entry, records=records)


def _record(record: KeptRecord, settings: RedactionSettings) -> KeptRecord:
    text, over = record.json, settings.over
    try:
        try:
            value = element(text, over)
            hidden = _hidden(value, settings)
        except RecursionError:  # who sends records chooses how deep they are nested: one must not hold up all others
            if over is None or over.encoding == "json":
                raise
            value = element(text, None)
            hidden = _hidden(_hide(value, over.inside or (over.data,)), settings)
        return record if hidden is value else replace(record, json=encoded(hidden, over))
    except (ConfigError, RecursionError):
        return replace(record, json=encoded(HIDDEN, None))


def _hidden(value: Any, settings: RedactionSettings) -> Any:
    for keys in settings.paths:
        value = _hide(value, keys)
    return value


def _hide(value: Any, keys: Sequence[str]) -> Any:
    """The value itself where nothing is hidden in it, else another."""
    if not keys:
        return HIDDEN
    if isinstance(value, dict):
        if [*value] == [RAW]:
            return HIDDEN  # bytes, which may hold anything
        names = [*value] if keys[0] == ANY else [keys[0]] if keys[0] in value else []
        changed = {name: new for name in names if (new := _hide(value[name], keys[1:])) is not value[name]}
        return {**value, **changed} if changed else value
    if isinstance(value, list):
        items = [_hide(item, keys) for item in value]
        return value if all(new is old for new, old in zip(items, value, strict=True)) else items
    return HIDDEN if isinstance(value, str) and value != HIDDEN else value
