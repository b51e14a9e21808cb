"""Filters: which records a mapping wants, in the pattern language of EventBridge. Pure.

<https://docs.aws.amazon.com/eventbridge/latest/userguide/eb-event-patterns.html>. A pattern is compiled once and asked often:

    pattern = compile_pattern('{"value": {"kind": ["order", {"prefix": "refund-"}]}}')
    pattern.matches({"value": {"kind": "order"}})
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from poller.errors import ConfigError
from poller.filters.explanation import Explanation, explained
from poller.filters.matching import Match, compiled, is_object
from poller.filters.syntax import Alternative, read

__all__ = ["Explanation", "Filters", "Pattern", "compile_filters", "compile_pattern"]


@dataclass(frozen=True, slots=True)
class Pattern:
    """A compiled pattern. Equal to another one that asks the same in the same words."""

    alternatives: tuple[Alternative, ...]
    keys: frozenset[str] = field(compare=False)
    """The keys of an event that it reads; of a key with dots, what is before the first. The rest of an event need not be there."""
    _matches: tuple[Match, ...] = field(compare=False, repr=False)

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether the event meets it. The event is as a JSON parser gives it; whatever it holds, this does not raise."""
        if type(event) is not dict and not is_object(event):
            return False
        for match in self._matches:  # noqa: SIM110 (a generator would cost as much as the match)
            if match(event):
                return True
        return False

    def explain(self, event: Mapping[str, Any]) -> Explanation:
        """Match or not, and why, term by term. Slow."""
        met = [is_object(event) and match(event) for match in self._matches]
        return explained(self.alternatives, met, event)


@dataclass(frozen=True, slots=True)
class Filters:
    """Patterns of which one must match, as in AWS's FilterCriteria. Without any, nothing matches: who has no filters does not ask."""

    patterns: tuple[Pattern, ...]

    @property
    def keys(self) -> frozenset[str]:
        """The keys of an event that any of them reads."""
        return frozenset[str]().union(*(pattern.keys for pattern in self.patterns))

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Whether the event meets one of them. Does not raise."""
        for pattern in self.patterns:  # noqa: SIM110 (a generator would cost as much as the match)
            if pattern.matches(event):
                return True
        return False


def compile_pattern(pattern: Mapping[str, Any] | str) -> Pattern:
    """From JSON text, or what a parser made of it. Raises ConfigError: every problem, each with its path within the pattern.

    Text is better: only there can a key that stands twice, or a number that no double holds, be seen.
    """
    alternatives = read(pattern)
    keys = frozenset(term.path.partition(".")[0] for alternative in alternatives for term in alternative)
    return Pattern(alternatives, keys, tuple(map(compiled, alternatives)))


def compile_filters(patterns: Sequence[str | Mapping[str, Any]]) -> Filters:
    """All patterns of a mapping. Raises ConfigError: every problem of all of them, each with the number of its pattern, from 0."""
    found: list[Pattern] = []
    problems: list[str] = []
    for place, pattern in enumerate(patterns):
        try:
            found.append(compile_pattern(pattern))
        except ConfigError as error:
            problems.extend(f"[{place}] {problem}" for problem in error.problems)
    if problems:
        raise ConfigError(problems)
    return Filters(tuple(found))
