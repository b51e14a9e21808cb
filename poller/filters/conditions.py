"""What a pattern may ask of one value. Pure.

A value is a leaf of an event, as a JSON parser gives it: text, number, true, false, null. Anything else that somebody puts into an event
(bytes, a date) is a value that exists and equals nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, assert_never

from poller.filters import addresses, texts

Holds: TypeAlias = Callable[[Any], bool]
"""Whether a condition holds of a value. Never raises."""


@dataclass(frozen=True, slots=True)
class Text:
    """This text; where it is an IP address, that address in any spelling."""

    text: str


@dataclass(frozen=True, slots=True)
class Number:
    """This number: 300, 300.0 and 3e2 are one; never the text "300". Compared exactly."""

    number: int | float


@dataclass(frozen=True, slots=True)
class Constant:
    """true, false or null."""

    value: bool | None


@dataclass(frozen=True, slots=True)
class Prefix:
    """A text that begins so."""

    text: str
    any_case: bool = False


@dataclass(frozen=True, slots=True)
class Suffix:
    """A text that ends so."""

    text: str
    any_case: bool = False


@dataclass(frozen=True, slots=True)
class IgnoreCase:
    """This text in upper or lower case."""

    text: str


@dataclass(frozen=True, slots=True)
class Wildcard:
    """A text of this form; `*` is any characters, also none."""

    text: str


@dataclass(frozen=True, slots=True)
class Cidr:
    """A text that is an IP address of this block."""

    text: str


Operator: TypeAlias = Literal["=", "<", "<=", ">", ">="]


@dataclass(frozen=True, slots=True)
class Numeric:
    """A number for which all these comparisons hold: one, or two that make a range."""

    comparisons: tuple[tuple[Operator, int | float], ...]


@dataclass(frozen=True, slots=True)
class AnythingBut:
    """Any value, of any type, of which none of these holds. `listed`: the pattern wrote them as a list."""

    conditions: tuple[Text | Number | Prefix | Suffix | IgnoreCase | Wildcard, ...]
    listed: bool


@dataclass(frozen=True, slots=True)
class Exists:
    """Any value at all (True), or none (False)."""

    present: bool


Condition: TypeAlias = Text | Number | Constant | Prefix | Suffix | IgnoreCase | Wildcard | Cidr | Numeric | AnythingBut | Exists


def allows_absence(conditions: Iterable[Condition]) -> bool:
    """Whether the conditions are met where there is no value."""
    return Exists(False) in conditions


def texts_alone(conditions: Sequence[Condition]) -> frozenset[str] | None:
    """The texts that are asked for, if nothing else is: a text meets `any_of` these if it is one of them. None: it takes more to tell."""
    if all(isinstance(condition, Text) and _address(condition) is None for condition in conditions):
        return frozenset(condition.text for condition in conditions if isinstance(condition, Text))
    return None


def any_of(conditions: Sequence[Condition]) -> Holds:
    """Whether at least one of these holds of a value."""
    return _joined(conditions, [addresses.same_address(found) for found in map(_address, conditions) if found is not None])


def _address(condition: Condition) -> addresses.Address | None:
    return addresses.address(condition.text) if isinstance(condition, Text) else None


def _joined(conditions: Sequence[Condition], more: Sequence[Callable[[str], bool]] = ()) -> Holds:
    """The texts, numbers and constants are looked up, however many they are. `more`: tests of a text."""
    if len(conditions) == 1 and isinstance(conditions[0], AnythingBut):
        return _but(conditions[0])
    if Exists(True) in conditions:
        return lambda value: True  # noqa: ARG005 (every value exists)
    exact = frozenset(condition.text for condition in conditions if isinstance(condition, Text))
    if all(isinstance(condition, Text) for condition in conditions) and not more:
        return lambda value: isinstance(value, str) and value in exact
    return _general(conditions, exact, more)


def _general(conditions: Sequence[Condition], exact: frozenset[str], more: Sequence[Callable[[str], bool]]) -> Holds:
    numbers = frozenset(condition.number for condition in conditions if isinstance(condition, Number))
    constants = tuple(condition.value for condition in conditions if isinstance(condition, Constant))
    of_any = tuple(_but(condition) for condition in conditions if isinstance(condition, AnythingBut))
    of_text = (*_text_tests(conditions), *more, *of_any)
    of_number = (*(_numeric(condition) for condition in conditions if isinstance(condition, Numeric)), *of_any)

    def holds(value: Any) -> bool:
        tests: tuple[Holds, ...] = of_any
        if isinstance(value, str):
            if value in exact:
                return True
            tests = of_text
        elif value is None or isinstance(value, bool):
            if any(value is constant for constant in constants):
                return True
        elif isinstance(value, int | float):
            if value in numbers:
                return True
            tests = of_number
        for test in tests:  # noqa: SIM110 (a generator would cost as much as the tests)
            if test(value):
                return True
        return False

    return holds


def _text_tests(conditions: Sequence[Condition]) -> list[Callable[[str], bool]]:
    tests: list[Callable[[str], bool]] = []
    if prefixes := tuple(found.text for found in conditions if isinstance(found, Prefix) and not found.any_case):
        tests.append(lambda value: value.startswith(prefixes))
    if suffixes := tuple(found.text for found in conditions if isinstance(found, Suffix) and not found.any_case):
        tests.append(lambda value: value.endswith(suffixes))
    if ignored := [found.text for found in conditions if isinstance(found, IgnoreCase)]:
        tests.append(texts.ignoring_case(ignored))
    for condition in conditions:
        match condition:
            case Prefix(text, any_case=True):
                tests.append(texts.prefix_ignoring_case(text))
            case Suffix(text, any_case=True):
                tests.append(texts.suffix_ignoring_case(text))
            case Wildcard(text):
                tests.append(texts.wildcard(text))
            case Cidr(text):
                tests.append(addresses.within(text))
    return tests


def _but(condition: AnythingBut) -> Holds:
    """An address that is spelt differently is a different text here, as in EventBridge."""
    holds = _joined(condition.conditions)
    return lambda value: not holds(value)


_COMPARISONS: dict[Operator, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def _numeric(condition: Numeric) -> Holds:
    (compare, limit), *rest = ((_COMPARISONS[sign], number) for sign, number in condition.comparisons)
    if not rest:
        return lambda value: compare(value, limit)
    ((other, end),) = rest
    return lambda value: compare(value, limit) and other(value, end)


def notation(condition: Condition) -> Any:
    """The condition as a pattern writes it, for JSON."""
    match condition:
        case Text(text):
            return text
        case Number(number):
            return number
        case Constant(value):
            return value
        case Prefix(text, any_case):
            return {"prefix": {"equals-ignore-case": text} if any_case else text}
        case Suffix(text, any_case):
            return {"suffix": {"equals-ignore-case": text} if any_case else text}
        case IgnoreCase(text):
            return {"equals-ignore-case": text}
        case Wildcard(text):
            return {"wildcard": text}
        case Cidr(text):
            return {"cidr": text}
        case Numeric(comparisons):
            return {"numeric": [part for comparison in comparisons for part in comparison]}
        case AnythingBut():
            return {"anything-but": _but_notation(condition)}
        case Exists(present):
            return {"exists": present}
        case _:
            assert_never(condition)


def _but_notation(condition: AnythingBut) -> Any:
    names, values = [], []
    for inner in (notation(part) for part in condition.conditions):
        name, value = next(iter(inner.items())) if isinstance(inner, dict) else ("", inner)
        names.append(name)
        values.append(value)
    wanted = values if condition.listed else values[0]
    return {names[0]: wanted} if names[0] else wanted
