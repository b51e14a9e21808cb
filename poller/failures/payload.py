"""What a record of the journal holds, read and changed as its producer wrote it: decoded from its event's JSON, and encoded again. Pure.

Where the data stands in an event, and how it is encoded there, a connector says (`settings.Filterable`); without that a record is its
event's JSON and nothing else. A record that nothing was changed of stays as it is, byte for byte.
"""

from __future__ import annotations

import binascii
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from poller.errors import ConfigError
from poller.failures.journal import Entry
from poller.failures.runs import Plan
from poller.filtering import readable
from poller.model import Document
from poller.settings import Filterable

Made = Callable[[list[tuple[str, Any]]], Any]

RAW = "base64"
"""The key that data stand under, as base64, for a person to edit, if they are no text."""


@dataclass(frozen=True, slots=True)
class Change:
    """`path=value`: what stands at the path (of keys, and places in lists) becomes the value. A last key may be a new one."""

    path: tuple[str, ...]
    value: Any


def change(text: str) -> Change:
    """From `path=value`; a value that is no JSON is a text. Raises ConfigError."""
    path, equals, value = text.partition("=")
    keys = tuple(path.split("."))
    if not equals or not all(keys):
        raise ConfigError(f"{text!r} is no change of a record: write path=value, such as body.customer.id=7")
    try:
        return Change(keys, json.loads(value))
    except ValueError:
        return Change(keys, value)


def element(record: bytes, over: Filterable | None, made: Made | None = None) -> Any:
    """The record's event JSON, with its data decoded where they stand: JSON as such, text as text, else `{"base64": ...}`. `made` makes an
    object of its members, in order.

    Raises ConfigError for a record that is no JSON."""
    try:
        value = json.loads(record, object_pairs_hook=made)
    except ValueError as error:
        raise ConfigError(f"a record of the journal is no JSON ({error}): it can be replayed as it is, and not be edited") from error
    if over is None or over.encoding == "json":
        return value
    holder, key = _holder(value, over)
    if holder is not None:
        holder[key] = _decoded(holder[key], over, made)
    return value


def encoded(value: Any, over: Filterable | None) -> bytes:
    """The event JSON of what `element` gave. Raises ConfigError for data that cannot be encoded."""
    if over is not None and over.encoding != "json":
        holder, key = _holder(value, over)
        if holder is not None:
            holder[key] = _encoded(holder[key], over)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def changed(entry: Entry, changes: Sequence[Change], over: Filterable | None) -> Entry:
    """The entry with these changes made to every record. Its records keep their ids. Raises ConfigError, without anything of the data."""
    return with_records(entry, [_changed(place, record.json, changes, over) for place, record in enumerate(entry.records)])


def with_records(entry: Entry, records: Sequence[bytes]) -> Entry:
    """The entry with other JSON for its records; each keeps its id, key and arrival."""
    return replace(entry, records=tuple(replace(record, json=text) for record, text in zip(entry.records, records, strict=True)))


def edit_of(plan: Plan, over: Callable[[str], Filterable | None]) -> Callable[[Entry], Entry | None]:
    """What a plan runs instead of a row; None: the row itself. Raises ConfigError, at once for what is no change, later for a row that
    cannot be changed so. `over`: of a mapping's id."""
    changes = [change(text) for text in plan.changes]

    def edit(entry: Entry) -> Entry | None:
        edited: Entry | None = None
        if entry.id in plan.edits:
            if len(plan.edits[entry.id]) != len(entry.records):
                raise ConfigError("it has other records now than when it was edited: edit it once more")
            edited = with_records(entry, [text.encode() for text in plan.edits[entry.id]])
        return changed(edited or entry, changes, over(entry.mapping)) if changes else edited

    return edit


def loaded(record: bytes) -> Any:
    """What its event JSON says; nothing of what is no JSON."""
    try:
        return json.loads(record)
    except ValueError:
        return {}


def document(record: bytes, over: Filterable) -> Document:
    """As a filter of the mapping sees it."""
    value = loaded(record)
    holder, key = _holder(value, over)
    if holder is None:
        return value if isinstance(value, dict) else {}
    # What stands beside the data counts as the record's own keys.
    data = holder[key] if over.encoding == "json" else readable(_bytes(holder[key], over))
    return {**value, **holder, over.data: data}


def _holder(value: Any, over: Filterable) -> tuple[Any, str]:
    """The object that the data stand in, and under which key; None where a record has no data."""
    *path, key = over.inside or (over.data,)
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    return (value if isinstance(value, dict) and key in value else None), key


def _bytes(text: Any, over: Filterable) -> bytes | None:
    if not isinstance(text, str):
        return None
    if over.encoding == "text":
        return text.encode("utf-8", "surrogatepass")
    try:
        return b64decode(text, validate=True)
    except binascii.Error:
        return None


def _decoded(text: Any, over: Filterable, made: Made | None) -> Any:
    data = _bytes(text, over)
    if data is None:
        return text
    try:
        plain = text if over.encoding == "text" else data.decode()
        value = json.loads(plain, object_pairs_hook=made)
    except UnicodeDecodeError:
        return {RAW: text}
    except ValueError:
        return plain
    # A number or a quoted text alone is text, as for filters: else `"7"` and `7` could not be told apart afterwards.
    return value if isinstance(value, dict | list) else plain


def _encoded(value: Any, over: Filterable) -> Any:
    if value is None:
        return None
    if isinstance(value, dict) and value.keys() == {RAW} and over.encoding == "base64":
        if _bytes(value[RAW], over) is None:
            raise ConfigError(f"what stands under {RAW!r} in {over.data!r} is no base64")
        return value[RAW]
    plain = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return plain if over.encoding == "text" else b64encode(plain.encode("utf-8", "surrogatepass")).decode()


def _changed(place: int, record: bytes, changes: Sequence[Change], over: Filterable | None) -> bytes:
    value = element(record, over)
    for each in changes:
        path = each.path
        if over is not None and len(over.inside) > 1 and path[0] == over.data:
            path = (*over.inside, *path[1:])  # `data.x` is what filters call it too
        try:
            _set(value, path, each.value)
        except (KeyError, IndexError, ValueError, TypeError) as error:
            raise ConfigError(f"record {place} has nothing at {'.'.join(each.path)} that could be set") from error
    return encoded(value, over)


def _set(value: Any, path: Sequence[str], new: Any) -> None:
    *above, last = path
    for step in above:
        value = value[int(step)] if isinstance(value, list) else value[step]
    if isinstance(value, list):
        value[int(last)] = new
    elif isinstance(value, dict):
        value[last] = new
    else:
        raise TypeError
