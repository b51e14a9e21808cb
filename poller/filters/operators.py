"""Reads what a pattern asks of one value: a literal, or an operator with its operand. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from poller.filters import addresses, texts
from poller.filters.conditions import (
    AnythingBut,
    Cidr,
    Condition,
    Constant,
    Exists,
    IgnoreCase,
    Number,
    Numeric,
    Operator,
    Prefix,
    Suffix,
    Text,
    Wildcard,
)
from poller.filters.written import NotComparable, is_list, is_object, items, shown


class Problem(Exception):
    """Why one condition cannot be; carries where, below the condition."""

    def __init__(self, reason: str, where: str = "") -> None:
        super().__init__(reason)
        self.reason, self.where = reason, where


def condition(value: Any) -> Condition:
    if isinstance(value, str):
        return Text(value)
    if value is None or isinstance(value, bool):
        return Constant(value)
    if isinstance(value, int | float | NotComparable):
        return Number(_number(value))
    if not is_object(value):
        raise Problem(f"a text, a number, true, false, null or an operator is needed here, not {shown(value)}")
    name, operand = _single(value)
    reader = _OPERATORS.get(name)
    if reader is None:
        raise Problem(f"unknown operator {shown(name)}; there are {', '.join(sorted(_OPERATORS))} (in lower case)")
    try:
        return reader(operand)
    except Problem as found:
        raise Problem(found.reason, f".{name}{found.where}") from None


def _single(value: Any) -> tuple[str, Any]:
    found = items(value)
    if len(found) != 1:
        raise Problem(f"exactly one operator is needed in an object here, not {len(found)}")
    return found[0]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Problem(f"a text is needed here, not {shown(value)}")
    return value


def _number(value: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float | NotComparable):
        raise Problem(f"a number is needed here, not {shown(value)}")
    if isinstance(value, NotComparable) or not _is_finite(value):
        raise Problem(f"{shown(value)} cannot be compared: it is beyond what JSON numbers can hold (a double)")
    return value


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _affix(kind: type[Prefix] | type[Suffix]) -> Callable[[Any], Condition]:
    def reader(value: Any) -> Condition:
        if not is_object(value):
            return kind(_text(value))
        name, text = _single(value)
        if name != "equals-ignore-case":
            raise Problem(f"allowed here is equals-ignore-case, not {shown(name)}")
        try:
            return kind(_text(text), any_case=True)
        except Problem as found:
            raise Problem(found.reason, ".equals-ignore-case") from None

    return reader


def _wildcard(value: Any) -> Wildcard:
    try:
        texts.pieces(_text(value))
    except ValueError as error:
        raise Problem(str(error)) from None
    return Wildcard(value)


def _cidr(value: Any) -> Cidr:
    try:
        addresses.block(_text(value))
    except ValueError as error:
        raise Problem(str(error)) from None
    return Cidr(value)


def _exists(value: Any) -> Exists:
    if not isinstance(value, bool):
        raise Problem(f"true or false is needed here, not {shown(value)}")
    return Exists(value)


_NUMERIC_FORMS = 'allowed are ["=", n], ["<", n], ["<=", n], [">", n], [">=", n], and a range such as [">", n, "<=", m]'


def _numeric(value: Any) -> Numeric:
    if not is_list(value):
        raise Problem(f"a list is needed here, not {shown(value)}; {_NUMERIC_FORMS}")
    operators = value[::2]
    if len(value) not in (2, 4) or not all(isinstance(operator, str) for operator in operators):
        raise Problem(f"{shown(value)} is no comparison; {_NUMERIC_FORMS}")
    one: tuple[Operator, ...] = ("=", "<", "<=", ">", ">=")
    if (len(value) == 2 and operators[0] not in one) or (
        len(value) == 4 and not (operators[0] in (">", ">=") and operators[1] in ("<", "<="))
    ):
        raise Problem(f"no such comparison: {' and '.join(map(str, operators))}; {_NUMERIC_FORMS}")
    numbers = []
    for place in range(1, len(value), 2):
        try:
            numbers.append(_number(value[place]))
        except Problem as found:
            raise Problem(found.reason, f"[{place}]") from None
    if len(numbers) == 2 and not numbers[0] < numbers[1]:
        raise Problem(f"the range is empty: {shown(numbers[0])} is not below {shown(numbers[1])}")
    return Numeric(tuple(zip(operators, numbers, strict=True)))


def _anything_but(value: Any) -> AnythingBut:
    if not is_object(value):
        found, listed = _each(value, _plain)
        if len({type(condition) for condition in found}) > 1:
            raise Problem("a list holds either texts or numbers, not both")
        return AnythingBut(found, listed)
    name, operand = _single(value)
    reader = _BUT.get(name)
    if reader is None:
        raise Problem(f"allowed in anything-but are {', '.join(sorted(_BUT))}, not {shown(name)}")
    try:
        return AnythingBut(*_each(operand, reader))
    except Problem as problem:
        raise Problem(problem.reason, f".{name}{problem.where}") from None


def _each(value: Any, reader: Callable[[Any], Any]) -> tuple[tuple[Any, ...], bool]:
    """What `reader` makes of a value, or of each value of a list; and whether it was a list."""
    if not is_list(value):
        return (reader(value),), False
    if not value:
        raise Problem("an empty list is not allowed")
    found = []
    for place, each in enumerate(value):
        try:
            found.append(reader(each))
        except Problem as problem:
            raise Problem(problem.reason, f"[{place}]{problem.where}") from None
    return tuple(found), True


def _plain(value: Any) -> Text | Number:
    if isinstance(value, str):
        return Text(value)
    if value is None or isinstance(value, bool) or not isinstance(value, int | float | NotComparable):
        raise Problem(f"a text or a number is needed here, not {shown(value)}")
    return Number(_number(value))


def _nonempty(kind: type[Prefix] | type[Suffix]) -> Callable[[Any], Condition]:
    def reader(value: Any) -> Condition:
        if not _text(value):
            raise Problem("an empty text is not allowed here; every text would be refused")
        return kind(value)

    return reader


_OPERATORS: dict[str, Callable[[Any], Condition]] = {
    "exactly": lambda value: Text(_text(value)),
    "prefix": _affix(Prefix),
    "suffix": _affix(Suffix),
    "equals-ignore-case": lambda value: IgnoreCase(_text(value)),
    "anything-but": _anything_but,
    "numeric": _numeric,
    "exists": _exists,
    "wildcard": _wildcard,
    "cidr": _cidr,
}

_BUT: dict[str, Callable[[Any], Condition]] = {
    "prefix": _nonempty(Prefix),
    "suffix": _nonempty(Suffix),
    "equals-ignore-case": lambda value: IgnoreCase(_text(value)),
    "wildcard": _wildcard,
}
