"""What documents describe: functions and event source mappings, with AWS's own property names and plain values. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from poller.errors import ConfigError


class Remark(NamedTuple):
    """What a person must know: about what, and a sentence."""

    where: str
    text: str

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"


@dataclass(frozen=True, slots=True)
class Function:
    """A function. `properties` as of `AWS::Lambda::Function`, `code` the folder or archive of its code, as seen from our file.

    `lost`: property -> why its value is not known; `unset`: the same of environment variables.
    """

    name: str
    where: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    code: str = "."
    lost: Mapping[str, str] = field(default_factory=dict)
    unset: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Polled:
    """An event source mapping. `name`: what the document calls it, "" where it does not; `function`: the name of its function, or ARN.

    `listed`: it is what the API answered, and not what somebody asked for.
    """

    name: str
    where: str
    function: str
    properties: Mapping[str, Any]
    listed: bool = False


@dataclass(frozen=True, slots=True)
class Described:
    """What one document, or several, describe. `functions` by their names."""

    functions: Mapping[str, Function] = field(default_factory=dict)
    mappings: tuple[Polled, ...] = ()
    remarks: tuple[Remark, ...] = ()


def together(parts: Iterable[Described]) -> Described:
    """All of them as one. Raises ConfigError for a function that two of them describe."""
    functions: dict[str, Function] = {}
    mappings, remarks = list[Polled](), list[Remark]()
    for part in parts:
        for name, function in part.functions.items():
            if name in functions:
                raise ConfigError(f"the function {name!r} is described twice: {functions[name].where} and {function.where}")
            functions[name] = function
        mappings += part.mappings
        remarks += part.remarks
    return Described(functions, tuple(mappings), tuple(remarks))


_ARN = re.compile(r"(?:arn:[\w-]+:lambda:[\w-]*:\w*:)?(?:\d{12}:)?(?:function:)?([^:]+)(?::([^:]+))?")


def function_name(reference: str) -> tuple[str, str]:
    """A function's name and its version or alias, "" if none is named, of a name, an ARN or a part of one (CreateEventSourceMapping,
    FunctionName)."""
    match = _ARN.fullmatch(reference)
    return (match[1], match[2] or "") if match else (reference, "")
