"""Documents -> the whole file. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from poller.errors import ConfigError
from poller.importing import documents, functions, listings, mappings, templates
from poller.importing.carried import Importer, Importing
from poller.importing.described import Described, Function, Polled, Remark, function_name, together
from poller.importing.functions import UNDESCRIBED, FunctionTable, NotCarried
from poller.importing.mappings import MappingTable
from poller.importing.writing import File, Line, Table, written
from poller.settings import Connector


class Document(NamedTuple):
    """A text with its name, for messages. `folder`: the way from our file to the one it is in."""

    name: str
    text: str
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Imported:
    """The file, and what a person must know of it, in the order of the documents."""

    toml: str
    functions: tuple[str, ...]
    mappings: tuple[str, ...]
    remarks: tuple[Remark, ...]


def imported(read: Sequence[Document], connectors: Mapping[str, Connector], given: Mapping[str, str]) -> Imported:
    """`connectors`: by type. `given`: what templates cannot know (`intrinsics.Resolver`). Raises ConfigError: a document cannot be read, or
    nothing of it can be carried over."""
    importers = [each.importer() for each in connectors.values() if isinstance(each, Importing)]
    try:
        asked = _Asked(given)
        found = together(_described(each, importers, asked) for each in read)
        unused = [Remark(f"--parameter {name}", "no template asks for it") for name in given if name not in asked.names]
        return _Plan(replace(found, remarks=(*unused, *found.remarks)), connectors).made([each.name for each in read])
    except RecursionError:
        raise ConfigError(f"{', '.join(each.name for each in read)}: values are nested too deep") from None


class _Asked(Mapping[str, str]):
    """What the caller gave; `names`: what was asked for, given or not."""

    def __init__(self, given: Mapping[str, str]) -> None:
        self._given = given
        self.names = set[str]()

    def __getitem__(self, name: str) -> str:
        self.names.add(name)
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


def _described(document: Document, importers: Sequence[Importer], given: Mapping[str, str]) -> Described:
    value = documents.read(document.text, document.name)
    if templates.is_template(value):
        return templates.described(value, document.name, document.folder, importers, given)
    return listings.described(value, document.name)


class _Plan:
    """The tables of one file, function by function as mappings need them."""

    def __init__(self, found: Described, connectors: Mapping[str, Connector]) -> None:
        self._found = found
        self._connectors = connectors
        self._remarks = list(found.remarks)
        self._loose = list(found.remarks)
        self._functions: dict[str, tuple[str, list[Table]] | None] = {}
        self._mappings: dict[str, list[Table]] = {}

    def made(self, sources: Sequence[str]) -> Imported:
        for polled in self._found.mappings:
            try:
                table = mappings.table(polled, self._connectors)
            except NotCarried as error:
                self._leave(polled.where, error)
                continue
            if (function := self._function(polled)) is not None:
                self._mapping(polled, function, table)
        if not self._mappings:
            raise ConfigError(
                [f"{', '.join(sources)}: no event source mapping could be carried over", *(str(each) for each in self._remarks)]
            )
        functions = dict(filter(None, self._functions.values()))
        head = (
            f"Made by `poller import` from {', '.join(sources)}: what AWS does, in poller's words. `poller check` says what is wrong "
            "with it, `poller config reference` what its keys mean.",
            "Disable an event source mapping on AWS before its mapping here begins: else both poll. AWS does not tell how far "
            "it has read a stream: starting_position says what is read again, or not at all.",
            *(f"Remark: {each}." for each in self._loose),
        )
        daemon = Table(("poller",), (Line("defaults", "aws", "what is not written here means what it means on AWS"),))
        tables = [daemon, *(each for part in (functions, self._mappings) for group in part.values() for each in group)]
        return Imported(written(File(tables, head)), tuple(functions), tuple(self._mappings), tuple(self._remarks))

    def _leave(self, where: str, why: object) -> None:
        """Not carried over: no table of the file can say so."""
        remark = Remark(where, f"not carried over: {why}")
        self._remarks.append(remark)
        self._loose.append(remark)

    def _say(self, where: str, texts: Sequence[str]) -> tuple[str, ...]:
        """The same sentences as comments."""
        self._remarks += [Remark(where, text) for text in texts]
        return tuple(f"Remark: {text}." for text in texts)

    def _function(self, polled: Polled) -> str | None:
        """The name of its function's table; None: it cannot be carried over."""
        own = function_name(polled.function)[0]
        if own not in self._functions:
            self._functions[own] = self._function_tables(own, self._found.functions.get(own))
        if (found := self._functions[own]) is None:
            self._leave(polled.where, f"its function {own} is not")
            return None
        return found[0]

    def _function_tables(self, own: str, function: Function | None) -> tuple[str, list[Table]] | None:
        name = _free(own, [each[0] for each in self._functions.values() if each])
        try:
            table: FunctionTable = UNDESCRIBED if function is None else functions.table(function)
        except NotCarried as error:
            self._leave(own if function is None else function.where, error)
            return None
        where = f"function {own}" if function is None else function.where
        above = (*((where,) if function else ()), *self._say(where, table.remarks))
        tables = [Table(("functions", name), table.lines, above)]
        if table.variables:
            tables.append(Table(("functions", name, "environment"), table.variables))
        return name, tables

    def _mapping(self, polled: Polled, function: str, table: MappingTable) -> None:
        name = _free(polled.name or f"{function}-{table.called}", self._mappings)
        own, version = function_name(polled.function)
        alias = [f"its function is the version or alias {version} of {own}: here a function is the code in its folder"] if version else []
        comments = (polled.where, *self._say(polled.where, [*alias, *table.remarks]))
        self._mappings[name] = [
            Table(("mappings", name), (Line("function", function), *table.lines), comments),
            Table(("mappings", name, "source"), table.source),
        ]


def _free(wanted: str, taken: Sequence[str] | Mapping[str, object]) -> str:
    """A name as our file takes it, and nobody has."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", wanted).strip("-") or "unnamed"
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}-{number}"
    return free
