"""Reads a pattern: from JSON to terms, with everything that is wrong with it. Pure.

EventBridge's rules, as its open implementation has them: keys with dots are paths; a path that is named twice means the last one; `$or`
stands beside fields, and each choice of its branches is one alternative, in which the last conditions on a path count as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from poller.errors import ConfigError
from poller.filters.conditions import Condition
from poller.filters.operators import Problem, condition
from poller.filters.written import below, is_list, is_object, items, parsed, shown

DEEPEST = 100
"""Keys in a path, and `$or` in `$or`. Bounds the stack that matching needs."""

MOST_ALTERNATIVES = 1_000
"""What `$or`s multiply to."""

MOST_TERMS = 20_000
"""Fields over all alternatives."""

RESERVED = {
    *("exactly", "prefix", "suffix", "equals-ignore-case", "anything-but", "exists", "wildcard", "numeric", "cidr", "regex"),
    *("=", "<", "<=", ">", ">=", "not-wildcard", "not-equals-ignore-case", "ip-address-in-range", "ip-address-not-in-range"),
    *("date-after", "date-on-or-after", "date-before", "date-on-or-before", "in-date-range"),
}
"""Names that EventBridge allows no field in a branch of `$or` to have."""


class Term(NamedTuple):
    """A path, its keys joined by dots, and the conditions of which a value there must meet one."""

    path: str
    conditions: tuple[Condition, ...]


Alternative: TypeAlias = tuple[Term, ...]
"""Terms that must hold together, sorted by path."""


@dataclass(frozen=True, slots=True)
class _Or:
    branches: tuple[tuple[_Step, ...], ...]


_Step: TypeAlias = "Term | _Or"


def read(pattern: Mapping[str, Any] | str) -> tuple[Alternative, ...]:
    """The alternatives, of which one must hold. Raises ConfigError: every problem, each with its path within the pattern."""
    document = parsed(pattern) if isinstance(pattern, str) else pattern
    reader = _Reader()
    steps = reader.object("", (), document, 0)
    if not reader.problems:
        alternatives, terms = _count(steps)
        if alternatives > MOST_ALTERNATIVES:
            reader.problem("", f"its $or make {alternatives:,} combinations; at most {MOST_ALTERNATIVES:,} are allowed")
        elif terms > MOST_TERMS:
            reader.problem("", f"names {terms:,} fields over all combinations of its $or; at most {MOST_TERMS:,} are allowed")
    if reader.problems:
        raise ConfigError(reader.problems)
    return tuple(tuple(Term(path, found[path]) for path in sorted(found, key=order)) for found in _expanded(steps, [{}]))


def order(path: str) -> bytes:
    """The order of paths in EventBridge, which compares UTF-16: it decides what `exists: false` sees (matching.py)."""
    return path.encode("utf-16-be", "surrogatepass")


class _Reader:
    def __init__(self) -> None:
        self.problems: list[str] = []

    def problem(self, where: str, reason: str) -> None:
        self.problems.append(f"{where or 'pattern'}: {reason}")

    def object(self, where: str, keys: tuple[str, ...], value: Any, ors: int) -> tuple[_Step, ...]:
        """The fields of an object, and of the objects in it, in the order they are written. `ors`: how many `$or` are around it."""
        if not is_object(value):
            self.problem(where, f"an object is needed here, not {shown(value)}")
            return ()
        steps: list[_Step] = []
        for key, inner in items(value):
            here = below(where, key)
            if not isinstance(key, str):
                self.problem(here, "a key is a text")
            elif key == "$or":
                steps.extend(self._or(here, keys, inner, ors))
            elif ors and key in RESERVED:
                self.problem(here, "is the name of an operator, and no field of this name is allowed in $or")
            else:
                steps.extend(self._field(here, (*keys, *key.split(".")), inner, ors))
        if not items(value):
            self.problem(where, "an empty object is not allowed; a pattern names fields")
        return tuple(steps)

    def _field(self, where: str, keys: tuple[str, ...], value: Any, ors: int) -> tuple[_Step, ...]:
        if len(keys) > DEEPEST:
            self.problem(where, f"more than {DEEPEST} keys deep")
        elif is_object(value):
            return self.object(where, keys, value, ors)
        elif not is_list(value):
            self.problem(where, f"a list of what is allowed, or an object, is needed here; write [{shown(value)}]")
        elif not value:
            self.problem(where, "an empty list is not allowed; it would allow nothing")
        else:
            return (Term(".".join(keys), tuple(self._conditions(where, value))),)
        return ()

    def _or(self, where: str, keys: tuple[str, ...], value: Any, ors: int) -> tuple[_Step, ...]:
        if ors >= DEEPEST:
            self.problem(where, f"more than {DEEPEST} $or within each other")
            return ()
        if not is_list(value) or len(value) < 2:
            self.problem(where, f"$or needs a list of at least two objects, not {shown(value)}")
            return ()
        return (_Or(tuple(self.object(f"{where}[{place}]", keys, branch, ors + 1) for place, branch in enumerate(value))),)

    def _conditions(self, where: str, values: Sequence[Any]) -> Iterator[Condition]:
        for place, value in enumerate(values):
            try:
                yield condition(value)
            except Problem as found:
                self.problem(f"{where}[{place}]{found.where}", found.reason)


def _count(steps: Sequence[_Step]) -> tuple[int, int]:
    """How many alternatives these make, and how many terms at most."""
    alternatives, terms = 1, 0
    for step in steps:
        if isinstance(step, _Or):
            counts = [_count(branch) for branch in step.branches]
            ways, more = sum(count for count, _ in counts), sum(count for _, count in counts)
            terms = terms * ways + more * alternatives
            alternatives *= ways
        else:
            terms += alternatives
    return alternatives, terms


def _expanded(steps: Sequence[_Step], found: list[dict[str, tuple[Condition, ...]]]) -> list[dict[str, tuple[Condition, ...]]]:
    for step in steps:
        if isinstance(step, _Or):
            found = [whole for branch in step.branches for whole in _expanded(branch, [dict(each) for each in found])]
        else:
            for each in found:
                each[step.path] = step.conditions
    return found
