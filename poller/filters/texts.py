"""How patterns compare texts other than exactly: without regard to case, and with wildcards. Pure, in time linear in the text."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TypeAlias

Holds: TypeAlias = Callable[[str], bool]

REPEATED = 5
"""EventBridge refuses patterns in which too many wildcards are followed by the same character, and names no number: this is the smallest
count that it is known to have refused (`*:*:*:*:*:event-bus/*`)."""


def ignoring_case(texts: Sequence[str]) -> Holds:
    """Whether a value is one of these, whatever the case. As in EventBridge, character by character of the pattern: its own, its lower and
    its upper form match (which may be two characters: the pattern `ß` matches `SS`), so the length of the value may differ."""
    found = re.compile("|".join(map(_any_case, texts))).fullmatch
    return lambda value: found(value) is not None


def prefix_ignoring_case(text: str) -> Holds:
    found = re.compile(_any_case(text)).match
    return lambda value: found(value) is not None


def suffix_ignoring_case(text: str) -> Holds:
    """Looks only where the suffix may begin, so that a long value costs no more than a short one."""
    found = re.compile(f"(?:{_any_case(text)})\\Z").search
    longest = sum(max(map(len, _forms(character))) for character in text)
    return lambda value: found(value, max(0, len(value) - longest)) is not None


def _forms(character: str) -> list[str]:
    return list(dict.fromkeys((character, character.lower(), character.upper())))


def _any_case(text: str) -> str:
    return "".join(f"(?:{'|'.join(map(re.escape, _forms(character)))})" for character in text)


def pieces(wildcard: str) -> list[str]:
    """What stands between the `*`, escapes resolved: `a\\*b*c` is ["a*b", "c"]. Raises ValueError that says why."""
    found = [""]
    position = 0
    while position < len(wildcard):
        character = wildcard[position]
        following = wildcard[position + 1 : position + 2]
        if character == "*":
            if following == "*":
                raise ValueError(f"two wildcards in a row, at character {position + 1}; one means the same")
            found.append("")
        elif character == "\\":
            if following not in ("*", "\\"):
                raise ValueError(f"a backslash stands before '*' or another backslash only; the one at character {position + 1} does not")
            found[-1] += following
            position += 1
        else:
            found[-1] += character
        position += 1
    firsts = [piece[0] for piece in found[1:] if piece]
    if any(firsts.count(first) >= REPEATED for first in set(firsts)):
        raise ValueError("too complex: EventBridge refuses so many wildcards that are followed by the same character; use fewer")
    return found


def wildcard(text: str) -> Holds:
    """Whether a value is this text, each `*` standing for any characters. The first place that fits each piece is the best one, so there
    is never a second try. Raises ValueError."""
    first, *middle = pieces(text)
    if not middle:
        return lambda value: value == first
    last = middle.pop()
    shortest = len(first) + len(last)

    def holds(value: str) -> bool:
        if len(value) < shortest or not value.startswith(first) or not value.endswith(last):
            return False
        position, end = len(first), len(value) - len(last)
        for piece in middle:
            position = value.find(piece, position, end)
            if position < 0:
                return False
            position += len(piece)
        return True

    return holds
