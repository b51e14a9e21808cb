"""The filters of a mapping: patterns as JSON text or as TOML tables -> `FilterSettings`, with everything that is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poller.config.lines import TomlPath
from poller.config.problems import Problems, closest
from poller.errors import ConfigError
from poller.filtering import wants
from poller.filters import Pattern, compile_pattern
from poller.filters.conditions import AnythingBut, Condition, Constant, Number, Numeric
from poller.settings import Filterable, FilterSettings


@dataclass(frozen=True, slots=True)
class Filters:
    """Reads the key `filters` of one mapping, at `path`."""

    problems: Problems
    path: TomlPath

    def read(
        self, raw: Sequence[str | Mapping[str, Any]], over: Filterable | None, source: str, logged: int | None
    ) -> FilterSettings | None:
        """None where there are none, or where they cannot be used. `over`: what the source lets filters see; `source`: its type, "" when
        it could not be read, and nothing can be said of its records."""
        if raw and over is None and source:
            self.problems.add(self.path, f'filters, and the source type "{source}" has no records that can be filtered')
        texts = []
        for index, each in enumerate(raw):
            text = self._text(each, index)
            pattern = None if text is None else self._compiled(text, index)
            if text is None or pattern is None:
                continue
            texts.append(text)
            for found, allowed, meant in _breaches(pattern, over) if over is not None else ():
                self.problems.add((*self.path, index), found, allowed, meant)
        return FilterSettings(tuple(texts), over, logged or 0) if texts and over is not None else None

    def _text(self, raw: str | Mapping[str, Any], index: int) -> str | None:
        if isinstance(raw, str):
            return raw
        try:
            return json.dumps(raw, ensure_ascii=False, allow_nan=False)
        except (TypeError, ValueError):  # TOML has dates, inf and nan
            self.problems.add(
                (*self.path, index), "a date, a time, inf or nan", "what JSON has: texts, numbers, true, false, lists, tables"
            )
            return None

    def _compiled(self, text: str, index: int) -> Pattern | None:
        try:
            return compile_pattern(text)
        except ConfigError as error:
            for problem in error.problems:
                self.problems.say((*self.path, index), problem)
            return None


def _breaches(pattern: Pattern, over: Filterable) -> Iterator[tuple[str, str, str | None]]:
    """What this pattern asks for and a record of the source can never have: found, allowed, meant."""
    for key in sorted(pattern.keys - set(over.keys)):
        yield f"the key {json.dumps(key, ensure_ascii=False)}, which no record has", ", ".join(over.keys), closest(key, over.keys)
    conditions = [
        each for terms in pattern.alternatives for term in terms if wants(term.path, over.data) == "text" for each in term.conditions
    ]
    if conditions and not over.text:
        yield (
            f"a pattern for plain text as {over.data}",
            f'a table of JSON\'s own keys, as in {{"{over.data}": {{"kind": ["order"]}}}}',
            None,
        )
    elif any(map(_is_about_values, conditions)):
        # It would match nothing, and on a queue what does not match is deleted.
        found = f"a number, true, false or null as {over.data}, which is compared as plain text here"
        yield found, f'texts, or a table of JSON\'s own keys, as in {{"{over.data}": {{"total": [300]}}}}', None


def _is_about_values(condition: Condition) -> bool:
    if isinstance(condition, AnythingBut):
        return any(map(_is_about_values, condition.conditions))
    return isinstance(condition, Number | Numeric | Constant)
