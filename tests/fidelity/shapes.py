"""Compares what AWS recorded with what functions get here. What was of that day alone is a placeholder in the recordings.

`<uuid:1>` stands for the same text wherever it comes, and for another one than `<uuid:2>`; a placeholder without a number for any text or
number. What is a tree in a recording and a text here was JSON text on AWS too: the recorder parsed it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

_PLACEHOLDER = re.compile(r"<([\w.:-]+?)(?::(\d+))?>|\b(1{12})\b")
_OF_THAT_DAY = {"SentTimestamp", "SenderId", "ApproximateFirstReceiveTimestamp", "MessageDeduplicationId"}
"""Keys whose values the recorder replaced, or that the sender chose."""


class Likeness:
    """What placeholders stand for in one case, as far as it was compared."""

    def __init__(self) -> None:
        self._bound: dict[tuple[str, str], str] = {}

    def differences(self, recorded: Any, ours: Any, path: str = "") -> list[str]:
        """Where ours is not like the recorded; empty if it is."""
        return list(self._compare(recorded, ours, path or "$"))

    def _compare(self, recorded: Any, ours: Any, path: str) -> Iterator[str]:
        if isinstance(recorded, dict) and isinstance(ours, str):
            ours = json.loads(ours)
        if isinstance(recorded, dict) and isinstance(ours, dict):
            # AWS recorded `md5OfMessageAttributes` as null, and not at all, for the same kind of message.
            given = {key for key, value in recorded.items() if value is not None or key in ours}
            if given != ours.keys():
                yield f"{path}: keys {sorted(given ^ ours.keys())}"
            for key in given & ours.keys():
                if key in _OF_THAT_DAY:
                    yield from () if isinstance(ours[key], str) else (f"{path}.{key}: {ours[key]!r} is no text",)
                else:
                    yield from self._compare(recorded[key], ours[key], f"{path}.{key}")
        elif isinstance(recorded, list) and isinstance(ours, list):
            if len(recorded) != len(ours):
                yield f"{path}: {len(ours)} elements for {len(recorded)}"
            for number, (one, other) in enumerate(zip(recorded, ours, strict=False)):
                yield from self._compare(one, other, f"{path}[{number}]")
        elif not (self._alike(recorded, ours) if isinstance(recorded, str) else type(recorded) is type(ours) and recorded == ours):
            yield f"{path}: {ours!r} for {recorded!r}"

    def _alike(self, recorded: str, ours: Any) -> bool:
        whole = _PLACEHOLDER.fullmatch(recorded)
        if whole is not None and whole[2] is None:
            return isinstance(ours, str | int | float) and ours != ""
        return isinstance(ours, str) and self._texts_alike(recorded, ours)

    def _texts_alike(self, recorded: str, ours: str) -> bool:
        places, pattern, at = list(_PLACEHOLDER.finditer(recorded)), "", 0
        for place in places:
            pattern += re.escape(recorded[at : place.start()]) + (r"(\d{12})" if place[3] else r"(.+)")
            at = place.end()
        found = re.fullmatch(pattern + re.escape(recorded[at:]), ours, re.DOTALL)
        return found is not None and all(
            self._bind(place[1], place[2], text) for place, text in zip(places, found.groups(), strict=True) if place[2] is not None
        )

    def _bind(self, kind: str, number: str, text: str) -> bool:
        if any(other == text for (a, b), other in self._bound.items() if a == kind and b != number):
            return False
        return self._bound.setdefault((kind, number), text) == text


def events_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every event in a recording, in order."""
    if isinstance(value, dict):
        if isinstance(value.get("Records"), list):
            yield value
        else:
            for each in value.values():
                yield from events_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from events_in(each)
