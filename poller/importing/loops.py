"""`Fn::ForEach` among resources, written out. Pure.

Source: AWS CloudFormation Template Reference, "Fn::ForEach": `Fn::ForEach::NAME: [identifier, collection, {key: value}]`; `${identifier}`
is replaced in keys and texts (`&{identifier}` without what is neither letter nor digit), `{"Ref": identifier}` too. Loops may hold loops.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from poller.errors import ConfigError

LOOP = "Fn::ForEach::"

MOST_RESOURCES = 500
"""Of a template (AWS CloudFormation quotas)."""

MOST_TURNS = 5_000


def unrolled(resources: Mapping[str, Any], collection: Callable[[Any], Any], name: str) -> dict[str, Any]:
    """`collection` computes what a loop goes over. Raises ConfigError for a loop of another form, and for too many turns or resources."""
    # One budget for all loops: those within loops may make nothing, many times.
    return _unrolled(resources, collection, name, iter(range(MOST_TURNS)))


def _unrolled(resources: Mapping[str, Any], collection: Callable[[Any], Any], name: str, turns: Iterator[int]) -> dict[str, Any]:
    found = dict[str, Any]()
    for key, value in resources.items():
        found.update(_turns(key, value, collection, name, turns) if key.startswith(LOOP) else {key: value})
    return found


def _turns(key: str, loop: Any, collection: Callable[[Any], Any], name: str, turns: Iterator[int]) -> dict[str, Any]:
    if not (isinstance(loop, list) and len(loop) == 3 and isinstance(loop[0], str) and isinstance(loop[2], dict)):
        raise ConfigError(f"{name}: {key}: Fn::ForEach takes an identifier, a collection and a table")
    each = collection(loop[1])
    if not (isinstance(each, list) and all(isinstance(item, str | int) for item in each)):
        raise ConfigError(f"{name}: {key}: Fn::ForEach goes over a list of texts")
    found = dict[str, Any]()
    for item in map(str, each):
        if next(turns, None) is None or len(found) > MOST_RESOURCES:
            raise ConfigError(f"{name}: {key}: more than {MOST_TURNS:,} turns of loops, or {MOST_RESOURCES} resources")
        turn = {_text(inner, loop[0], item): _replaced(part, loop[0], item) for inner, part in loop[2].items()}
        found.update(_unrolled(turn, collection, name, turns))
    return found


def _replaced(value: Any, identifier: str, item: str) -> Any:
    if isinstance(value, dict):
        if value == {"Ref": identifier}:
            return item
        return {_text(key, identifier, item): _replaced(each, identifier, item) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, identifier, item) for each in value]
    return _text(value, identifier, item) if isinstance(value, str) else value


def _text(text: str, identifier: str, item: str) -> str:
    bare = re.sub(r"[^A-Za-z0-9]", "", item)
    return text.replace(f"${{{identifier}}}", item).replace(f"&{{{identifier}}}", bare)
