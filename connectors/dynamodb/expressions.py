"""DynamoDB's typed values, and the parameters of its conditional updates. Pure.

Every name stands behind a `#`: DynamoDB reserves hundreds of words, `counter` and `source` among them.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Value: TypeAlias = "str | int | float | bytes | Mapping[str, Value]"
Item: TypeAlias = Mapping[str, Any]
"""Attributes by name, typed: {"leaseKey": {"S": "shardId-000000000000"}}."""


def typed(value: Value) -> dict[str, Any]:
    match value:
        case str():
            return {"S": value}
        case bytes():
            return {"B": b64encode(value).decode("ascii")}
        case int() | float():
            return {"N": repr(value)}
    return {"M": item(value)}


def item(values: Mapping[str, Value]) -> dict[str, Any]:
    return {name: typed(value) for name, value in values.items()}


def text(attributes: Item, name: str, otherwise: str = "") -> str:
    """`otherwise` where it is not there, or no text."""
    found = attributes.get(name, {}).get("S", otherwise)
    return str(found)


def number(attributes: Item, name: str) -> int:
    """0 where it is not there."""
    return int(attributes.get(name, {}).get("N", "0"))


def seconds(attributes: Item, name: str) -> float:
    """0 where it is not there."""
    return float(attributes.get(name, {}).get("N", "0"))


def octets(attributes: Item, name: str) -> bytes:
    """Empty where it is not there."""
    return b64decode(attributes.get(name, {}).get("B", ""))


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on one attribute: `Where("a.b", "=", 1)`, `Where("a")`: it is not there."""

    path: str
    sign: str = ""
    value: Value = ""


def condition(where: Iterable[Where]) -> dict[str, Any]:
    """All of them hold."""
    names: dict[str, str] = {}
    values: dict[str, Value] = {}
    parts = []
    for number, each in enumerate(where):
        if each.sign:
            values[f":c{number}"] = each.value
        path = _path(each.path, names)
        parts.append(f"{path} {each.sign} :c{number}" if each.sign else f"attribute_not_exists({path})")
    given: dict[str, Any] = {"ConditionExpression": " AND ".join(parts), "ExpressionAttributeNames": names}
    return given | ({"ExpressionAttributeValues": item(values)} if values else {})


def update(
    where: Iterable[Where], put: Mapping[str, Value] | None = None, add: Mapping[str, int] | None = None, remove: Iterable[str] = ()
) -> dict[str, Any]:
    """Of one item, if all of `where` hold: attributes to put, to add to (0 where it is not there), and to take away."""
    given = condition(where)
    names: dict[str, str] = given["ExpressionAttributeNames"]
    puts, adds = dict(put or {}), dict(add or {})
    values = {f":p{n}": value for n, value in enumerate(puts.values())} | {f":a{n}": value for n, value in enumerate(adds.values())}
    clauses = {
        "SET": [f"{_path(path, names)} = :p{n}" for n, path in enumerate(puts)],
        "ADD": [f"{_path(path, names)} :a{n}" for n, path in enumerate(adds)],
        "REMOVE": [_path(path, names) for path in remove],
    }
    return given | {
        "UpdateExpression": " ".join(f"{verb} {', '.join(parts)}" for verb, parts in clauses.items() if parts),
        "ExpressionAttributeValues": given.get("ExpressionAttributeValues", {}) | item(values),
    }


def _path(path: str, names: dict[str, str]) -> str:
    parts = path.split(".")
    names.update({f"#{part}": part for part in parts})
    return ".".join(f"#{part}" for part in parts)
