"""What is hidden of a record's data wherever a person or another system sees it: `failures show` and `export`, and destinations. Pure.

What a function returned is hidden by paths that begin with `responsePayload`, which is its name in an invocation record.

The journal keeps the whole record all the same, for a replay must run what was sent; so does whoever may read the store's file. Error
messages are the function's, and are never redacted.

Of an object that has a key twice only the last value is shown or sent, for that is what was looked into.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from poller.errors import ConfigError
from poller.failures.journal import Delivery, Entry, KeptRecord
from poller.failures.payload import RAW, element, encoded
from poller.settings import Filterable, RedactionSettings

HIDDEN = "***"
"""What stands in the place of what is hidden."""

ANY = "*"
"""A key that means every key of an object."""

RESPONSE = "responsePayload"
"""The first key of a path into what the function returned."""

Path = tuple[str, ...]


@dataclass(slots=True)
class _Members:
    """Makes objects of their members. One that has a key twice is what most readers take it for, and some do not: `repeated`."""

    repeated: bool = False

    def __call__(self, members: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(members)
        self.repeated |= len(made) < len(members)
        return made


def path(text: str) -> Path:
    """The keys of `body.card.number`, or `$.body.card.number`. Raises ConfigError."""
    keys = tuple(text.removeprefix("$.").split("."))
    if not all(keys) or keys == ("$",):
        raise ConfigError(f"{text!r} is no path: write the keys that lead to a value in a record of the event, such as body.card.number")
    return keys


def redacted(entry: Entry, settings: RedactionSettings | None) -> Entry:
    """The entry, with HIDDEN at every place that a path leads to. Arrays are looked through.

    What cannot be looked into is hidden whole: a text, or bytes, where a path goes on; data that are nested too deep; a record that is
    no JSON. Of an object that has a key twice the last one is left, in which everything is hidden that is to be.
    """
    paths = [] if settings is None else [keys for keys in settings.paths if keys[0] != RESPONSE]
    if settings is None or not paths:
        return entry
    records = tuple(_record(record, paths, settings.over) for record in entry.records)
    return entry if all(new is old for new, old in zip(records, entry.records, strict=True)) else replace(entry, records=records)


def redacted_delivery(delivery: Delivery, settings: RedactionSettings | None) -> Delivery:
    """The delivery, with its entry as `redacted` has it, and the same done to what the function returned."""
    if settings is None:
        return delivery
    paths = [keys[1:] for keys in settings.paths if keys[0] == RESPONSE]
    result = delivery.result if delivery.result is None or not paths else _text(delivery.result, paths, None)
    return replace(delivery, entry=redacted(delivery.entry, settings), result=result)


def _record(record: KeptRecord, paths: Sequence[Path], over: Filterable | None) -> KeptRecord:
    text = _text(record.json, paths, over)
    return record if text is record.json else replace(record, json=text)


def _text(text: bytes, paths: Sequence[Path], over: Filterable | None) -> bytes:
    """The text itself where nothing is hidden in it, else another."""
    members = _Members()
    try:
        try:
            value = element(text, over, members)
            hidden = _hidden(value, paths)
        except RecursionError:  # who sends records chooses how deep they are nested: one must not hold up all others
            if over is None or over.encoding == "json":
                raise
            value = element(text, None, members)
            hidden = _hidden(_hide(value, over.inside or (over.data,)), paths)
        # What was looked into is all that anybody gets: a second value of a key, which was not, is in the text alone.
        return text if hidden is value and not members.repeated else encoded(hidden, over)
    except (ConfigError, RecursionError):
        return encoded(HIDDEN, None)


def _hidden(value: Any, paths: Sequence[Path]) -> Any:
    for keys in paths:
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
