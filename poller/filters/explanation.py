"""Why an event meets a pattern, or does not: term by term. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from poller.filters.conditions import allows_absence, any_of, notation
from poller.filters.matching import is_object, place, values_at
from poller.filters.syntax import Alternative, Term

SHOWN_VALUES = 5
"""More values at one path are not shown."""

SHOWN_LENGTH = 200
"""A longer value, or condition, is cut."""

_SURROGATES = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class TermExplanation:
    """One term by itself. `wanted` and `found` are JSON; `found` may be cut short (`more`). `holds`: some value there, or its absence,
    meets it."""

    path: str
    wanted: tuple[str, ...]
    found: tuple[str, ...]
    more: bool
    holds: bool
    reason: str


@dataclass(frozen=True, slots=True)
class AlternativeExplanation:
    """One combination of the branches of `$or`; the only one if there is no `$or`. `together` is what keeps terms from holding at once
    though each holds by itself, or ""."""

    matches: bool
    terms: tuple[TermExplanation, ...]
    together: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """The event matches if one alternative does."""

    matches: bool
    alternatives: tuple[AlternativeExplanation, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For a person."""
        lines = ["match" if self.matches else "no match"]
        several = len(self.alternatives) > 1
        for number, alternative in enumerate(self.alternatives, 1):
            if several:
                lines.append(f"  combination {number} of {len(self.alternatives)}: {'match' if alternative.matches else 'no match'}")
            indent = "    " if several else "  "
            lines.extend(f"{indent}{'yes' if term.holds else 'no ':3}  {term.path}: {term.reason}" for term in alternative.terms)
            if alternative.together:
                lines.append(f"{indent}no   {alternative.together}")
        return lines


def explained(alternatives: Sequence[Alternative], met: Sequence[bool], event: Any) -> Explanation:
    """`met`: what the compiled alternatives said of the event."""
    found = tuple(_alternative(alternative, matches, event) for alternative, matches in zip(alternatives, met, strict=True))
    return Explanation(any(met), found)


def _alternative(alternative: Alternative, matches: bool, event: Any) -> AlternativeExplanation:
    fields = event if is_object(event) else {}
    terms = tuple(_term(term, list(values_at(fields, place(term)))) for term in alternative)
    together = ""
    if not matches and all(term.holds for term in terms):
        together = "each holds, but not all in the same element of an array" if is_object(event) else "the event is no object"
    return AlternativeExplanation(matches, terms, together)


def _term(term: Term, values: Sequence[Any]) -> TermExplanation:
    wanted = tuple(shown(notation(condition)) for condition in term.conditions)
    found = tuple(map(shown, values[:SHOWN_VALUES]))
    met = next(((value, condition) for value in values for condition in term.conditions if any_of([condition])(value)), None)
    if met is not None:
        reason = f"{shown(met[0])} meets {shown(notation(met[1]))}"
    elif values:
        hidden = f"{len(values) - len(found):,} more" if len(values) > len(found) else ""
        *most, last = (", ".join(found), hidden) if hidden else found
        there = f"{', '.join(most)} and {last}" if most else last
        reason = f"{there} {'do' if len(values) > 1 else 'does'} not meet {' or '.join(wanted)}"
    elif allows_absence(term.conditions):
        reason = "there is no value, as wanted"
    else:
        reason = f"there is no value; wanted {' or '.join(wanted)}"
    holds = met is not None or (not values and allows_absence(term.conditions))
    return TermExplanation(_printable(term.path), wanted, found, len(values) > len(found), holds, reason)


def shown(value: Any) -> str:
    """A value as JSON on one line, cut if it is long."""
    try:
        text = _printable(json.dumps(value, ensure_ascii=False))
    except (TypeError, ValueError):
        text = type(value).__name__
    return text if len(text) <= SHOWN_LENGTH else f"{text[: SHOWN_LENGTH - 3]}..."


def _printable(text: str) -> str:
    """Half a character, which JSON can hold, can be encoded nowhere."""
    return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text)
