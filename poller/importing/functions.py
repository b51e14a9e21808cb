"""A function, as AWS describes it -> its table. Pure.

Defaults are AWS's (CreateFunction: a timeout of 3 s, 128 MB), and stand in the file: ours may be others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from poller.importing.carried import table_of
from poller.importing.described import Function
from poller.importing.writing import Line
from poller.units import show_duration

DEFAULT_TIMEOUT = 3
DEFAULT_MEMORY = 128

DEFAULT = "AWS's default"

_READ = {"Code", "Environment", "Handler", "MemorySize", "PackageType", "ReservedConcurrentExecutions", "Runtime", "Timeout"}
_QUIET = {"Architectures", "AutoPublishAlias", "Description", "Policies", "Role", "Tags"}
"""What says nothing about how the code runs here."""

_PRIVATE = re.compile(r"password|passwd|secret|token|credential|private_key|access_key", re.IGNORECASE)
_REFERENCE = re.compile(r"(env|file|literal):")


class NotCarried(Exception):
    """Raised for what poller cannot do; its text is a sentence about why. Never leaves this package."""


@dataclass(frozen=True, slots=True)
class FunctionTable:
    """`lines` of `[functions.NAME]`; `variables` of its `environment`, None where it has none; sentences about the rest."""

    lines: tuple[Line, ...]
    variables: tuple[Line, ...] = ()
    remarks: tuple[str, ...] = field(default=())


UNDESCRIBED = FunctionTable(
    (
        Line("handler", "app.handler", "not in the document: its module and name"),
        Line("code", ".", "the folder of its code"),
        Line("timeout", "3s", "AWS's default; the function's own is not in the document"),
    ),
    (),
    ("its handler, code, timeout and environment are not in the documents: give what `aws lambda list-functions` answers as well",),
)
"""For a function that no document describes."""


def table(function: Function) -> FunctionTable:
    """Raises NotCarried for what is no Python function."""
    has, lost = function.properties, function.lost
    if has.get("PackageType") == "Image" or lost.get("Code") == "it is a container image":
        raise NotCarried("it is a container image, and poller runs code in folders")
    runtime = str(has.get("Runtime", ""))
    if runtime and not runtime.startswith("python"):
        raise NotCarried(f"its runtime is {runtime}, and poller runs Python")
    if "Handler" not in has:
        raise NotCarried(lost.get("Handler", "it has no Handler"))
    remarks = list[str]()
    lines = [
        Line("handler", str(has["Handler"]), runtime),
        _code(function, remarks),
        _timeout(has, lost, remarks),
        _memory(has, lost, remarks),
        _concurrency(has, lost, remarks),
    ]
    variables = tuple(_variables(function, remarks))
    if beside := sorted((has.keys() | lost.keys()) - _READ - _QUIET):
        remarks.append(f"not carried over: {', '.join(beside)}")
    return FunctionTable(tuple(lines), variables, tuple(remarks))


def _code(function: Function, remarks: list[str]) -> Line:
    if why := function.lost.get("Code"):
        remarks.append(f"its code is not beside the document ({why}): put it into a folder, and name that as code")
        return Line("code", function.code, "the folder of its code")
    folder, dot, ending = function.code.rpartition(".")
    if dot and ending in {"zip", "jar"}:
        remarks.append(f"its code is the archive {function.code}: unpack it there")
        return Line("code", folder, "the folder of its code")
    return Line("code", function.code)


def _timeout(has: Mapping[str, Any], lost: Mapping[str, str], remarks: list[str]) -> Line:
    seconds = _number(has, lost, "Timeout", remarks)
    return Line("timeout", show_duration(seconds or DEFAULT_TIMEOUT), "" if seconds else DEFAULT)


def _memory(has: Mapping[str, Any], lost: Mapping[str, str], remarks: list[str]) -> Line:
    megabytes = _number(has, lost, "MemorySize", remarks)
    return Line("memory", f"{megabytes or DEFAULT_MEMORY}MiB", "of each environment" if megabytes else f"of each environment; {DEFAULT}")


def _concurrency(has: Mapping[str, Any], lost: Mapping[str, str], remarks: list[str]) -> Line:
    reserved = _number(has, lost, "ReservedConcurrentExecutions", remarks)
    if reserved:
        return Line("concurrency", reserved, "ReservedConcurrentExecutions")
    if reserved == 0:
        remarks.append("ReservedConcurrentExecutions is 0: it never runs on AWS; here it does, unless its mappings have enabled = false")
    return Line("concurrency", 4, "the most invocations at once; AWS: what the account allows; here: 2 for each CPU", off=True)


def _number(has: Mapping[str, Any], lost: Mapping[str, str], key: str, remarks: list[str]) -> int | None:
    if key in lost:
        remarks.append(f"{key} is left out: {lost[key]}")
    text = str(has.get(key, ""))
    if key in has and not text.isdecimal():
        remarks.append(f"{key} is left out: it is no number")
    return int(text) if text.isdecimal() else None


def _variables(function: Function, remarks: list[str]) -> Iterator[Line]:
    for name, each in table_of(table_of(function.properties.get("Environment")).get("Variables")).items():
        text = ("true" if each else "false") if isinstance(each, bool) else str(each)
        if _PRIVATE.search(name):
            remarks.append(f"the variable {name} stands in the file as it is: if it is a secret, write env:{name} instead")
        # Our own references begin so; here it is plain text.
        yield Line(name, f"literal:{text}" if _REFERENCE.match(text) else text)
    for name, why in function.unset.items():
        remarks.append(f"the variable {name} is left out: {why}")
        yield Line(name, f"env:{name}", off=True)
