"""What a mapping's filters mean for the records of its source: which of a fetch go on. Pure; the language itself is `poller.filters`.

The data of a record is JSON or plain text, and so is what a pattern says of it. Where the two differ, the source decides what becomes of
that part of the pattern (`Filterable.mismatch`; AWS Lambda guide, "Control which events Lambda sends to your function"):

| data | pattern about the data | "drop" (queues, streams) | "ignore" (topics) |
| --- | --- | --- | --- |
| JSON | JSON | compared | compared |
| plain text | plain text | compared, or no such pattern is allowed | compared |
| one of both | the other | no match | the rest of the pattern decides |
| neither: no data, or not UTF-8 | either | no match | the rest of the pattern decides |
| any | none | the rest of the pattern decides | the same |

So each pattern is compiled for each kind of data, once. JSON is an object or an array here: a number or a quoted text alone is plain text,
for the guide does not say, and a text that looks like a number must not go another way than its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from operator import not_
from typing import Any, Literal, TypeAlias

import orjson

from poller.filters import compile_filters
from poller.filters.matching import compiled
from poller.filters.syntax import Alternative, Term
from poller.model import Document, Record
from poller.protocols import DataFormat, Format
from poller.settings import Filterable, FilterSettings

Kind: TypeAlias = Literal["json", "text", "neither"]

Test: TypeAlias = Callable[[Any], bool]


def readable(data: bytes | str | None) -> Any:
    """What filters see of data: the object or array that its JSON is, else its text, None if it has none (or no UTF-8)."""
    if data is None:
        return None
    try:
        value = orjson.loads(data)
    except ValueError:  # no JSON, or half of a surrogate pair
        return _text(data)
    return value if type(value) is dict or type(value) is list else _text(data)


def _text(data: bytes | str) -> str | None:
    if isinstance(data, str):
        return data
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None


def wants(path: str, data: str) -> Kind | None:
    """What a term with this path takes the data for; None if it is not about the data. `data`: its key (`Filterable.data`)."""
    if path == data:
        return "text"
    return "json" if path.startswith(f"{data}.") else None


class Filtering:
    """The filters of one mapping. `keys`: what the documents must have."""

    def __init__(self, settings: FilterSettings) -> None:
        over = settings.over
        alternatives = [each for pattern in compile_filters(settings.patterns).patterns for each in pattern.alternatives]
        terms = [term for alternative in alternatives for term in alternative]
        self.keys = frozenset(term.path.partition(".")[0] for term in terms)
        self._data = over.data
        adapted = {kind: [left for each in alternatives if (left := _adapted(each, kind, over)) is not None] for kind in _KINDS}
        self._json, self._text, self._neither = (_any(adapted[kind]) for kind in _KINDS)
        self._inside = _any([_inside(each, over.data) for each in adapted["json"]])
        self._alone = self.keys == {over.data}
        self._wanted = self._by_kind if any(wants(term.path, over.data) for term in terms) else self._by_rest

    def __repr__(self) -> str:
        return f"<Filtering [{', '.join(sorted(self.keys))}]>"

    def split(self, format: Format, records: Sequence[Record]) -> tuple[Sequence[Record], Sequence[Record]]:
        """The records that some pattern matches, and the others; each in order."""
        if self._alone and isinstance(format, DataFormat):
            wanted = self._by_data(format.data(records))
        else:
            wanted = self._wanted(format.documents(records, self.keys))
        if False not in wanted:
            return records, ()
        return list(compress(records, wanted)), list(compress(records, map(not_, wanted)))

    # What runs for every record is in a comprehension, or in C.

    def _by_data(self, data: Sequence[bytes | str | None]) -> list[bool]:
        """Of JSON objects the patterns begin inside: no document is made of each."""
        try:
            values = list(map(orjson.loads, data))  # type: ignore[arg-type]  # None is a ValueError too
        except ValueError:
            pass
        else:
            if set(map(type, values)) == {dict}:  # nearly always
                return list(map(self._inside, values))
        inside, key = self._inside, self._data
        readables = list(map(readable, data))
        others = iter(self._by_kind([{key: value} for value in readables if type(value) is not dict]))
        return [inside(value) if type(value) is dict else next(others) for value in readables]

    def _by_kind(self, documents: Iterable[Document]) -> list[bool]:
        key, of_json, of_text, of_neither = self._data, self._json, self._text, self._neither
        return [
            of_json(document)
            if (kind := type(document.get(key))) is dict or kind is list
            else of_text(document)
            if kind is str
            else of_neither(document)
            for document in documents
        ]

    def _by_rest(self, documents: Iterable[Document]) -> list[bool]:
        matches = self._neither
        return [matches(document) for document in documents]


_KINDS: tuple[Kind, ...] = ("json", "text", "neither")


def _adapted(alternative: Alternative, kind: Kind, over: Filterable) -> Alternative | None:
    """What is left of it where the data is of this kind; None: it cannot match."""
    left = tuple(term for term in alternative if wants(term.path, over.data) in (None, kind))
    return left if len(left) == len(alternative) or over.mismatch == "ignore" else None


def _inside(alternative: Alternative, data: str) -> Alternative:
    """Its terms about what is inside the data, as terms of the data."""
    return tuple(Term(term.path.removeprefix(f"{data}."), term.conditions) for term in alternative if wants(term.path, data) == "json")


def _any(alternatives: Sequence[Alternative]) -> Test:
    if () in alternatives:
        return lambda _: True
    tests = [compiled(each) for each in alternatives]
    if len(tests) == 1:
        return tests[0]
    return lambda document: any(test(document) for test in tests)
