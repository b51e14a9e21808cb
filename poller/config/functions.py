"""`[functions.NAME]` -> `FunctionSettings`: where the code is, and whether it is there."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from poller import units
from poller.config.lines import TomlPath
from poller.config.problems import Problems, closest, shown
from poller.config.schema import FunctionTable
from poller.config.tables import Tables
from poller.config.tree import KIND
from poller.errors import PluginError
from poller.registry import PACKAGES, Registry
from poller.settings import FunctionSettings

_FILE_FORM = re.compile(r"(?P<file>[^:]+\.py):(?P<name>[^\W\d]\w*)")
_MODULE_FORM = re.compile(r"(?P<module>[\w/-]+(?:\.[\w/-]+)*)\.(?P<name>[^\W\d]\w*)")
_HANDLER = '"file.py:name" or "module.name"'
_OWN = ("python", "inline")


class Functions(msgspec.Struct, frozen=True):
    """Reads the functions of one file. `base`: where relative paths start; `search`: PATH, for the suggestion of an interpreter."""

    tables: Tables
    problems: Problems
    registry: Registry
    base: Path
    search: str = ""

    def read(self, name: str, raw: Mapping[str, Any]) -> FunctionSettings | None:
        """None when the table cannot be used; every problem that was seen is reported."""
        path: TomlPath = ("functions", name)
        raw = dict(raw)
        if "environment" in raw:
            raw["environment"] = self.tables.resolved(raw["environment"], (*path, "environment"))
        table = self.tables.read(raw, FunctionTable, path)
        if table is None:
            return None
        code = self._code(table, path)
        python = self._python(table, path)
        kind = self._kind(table, path)
        options = self._options(table, kind, path)
        if kind in _OWN and code is not None:
            self._handler(table, code, path)
        self._variables(table, path)
        return FunctionSettings(
            name=name,
            handler=table.handler,
            code=code or self.base,
            timeout=self._positive(table.timeout, (*path, "timeout")),
            memory=self._memory(table.memory, (*path, "memory")),
            concurrency=table.concurrency or (64 if table.inline else 2 * len(os.sched_getaffinity(0))),
            environment=tuple(sorted(table.environment.items())),
            inline=table.inline,
            python=python,
            options=options,
        )

    def _positive(self, text: str, path: TomlPath) -> float:
        seconds = units.duration(text)
        if not seconds:
            self.problems.add(path, shown(text), "more than nothing")
        return seconds

    def _memory(self, text: str | None, path: TomlPath) -> int | None:
        if text is None:
            return None
        if not (size := units.size(text)):
            self.problems.add(path, shown(text), "more than nothing")
        return size

    def _code(self, table: FunctionTable, path: TomlPath) -> Path | None:
        code = self.base / (table.code or ".")
        if code.is_dir():
            return code
        what = "is no folder" if code.exists() else "does not exist"
        self.problems.add((*path, "code"), f"{shown(table.code)}, but {code} {what}", "a folder, relative to this file")
        return None

    def _python(self, table: FunctionTable, path: TomlPath) -> str | None:
        """An absolute path to an interpreter, whose links are kept: a virtual environment's python is a link, and knows it by that."""
        if table.python is None:
            return None
        where = (*path, "python")
        given = self.base / table.python
        interpreter = given / "bin" / "python" if given.is_dir() else given
        if interpreter.is_file() and os.access(interpreter, os.X_OK):
            return str(interpreter)
        import shutil  # for the suggestion alone: it brings every kind of compression

        meant = shutil.which(table.python, path=self.search) if os.sep not in table.python else None
        what = "is no program" if interpreter.exists() else "does not exist"
        self.problems.add(
            where,
            f"{shown(table.python)}, but {interpreter} {what}",
            "a path to an interpreter, or to a virtual environment, relative to this file",
            json.dumps(meant) if meant else None,
        )
        return None

    def _kind(self, table: FunctionTable, path: TomlPath) -> str:
        kind = table.type or ("inline" if table.inline else "python")
        where = (*path, "type") if table.type else path
        for key in ("environment", "memory", "python") if table.inline else ():
            if getattr(table, key):
                self.problems.add(
                    (*path, key), f"{key} beside inline = {shown(table.inline)}", f"{key} for a process of its own (no inline)"
                )
        if table.inline and kind != "inline":
            self.problems.add(where, f"type = {shown(kind)} beside inline = {shown(table.inline)}", "one of the two")
        elif kind == "inline" and not table.inline:
            self.problems.add(where, 'type = "inline"', 'inline = "loop" or inline = "thread" instead')
        try:
            self.registry.handler(kind)
        except PluginError as error:
            self.problems.say(where, str(error))
        return kind

    def _options(self, table: FunctionTable, kind: str, path: TomlPath) -> tuple[tuple[str, Any], ...]:
        where = (*path, "options")
        if kind in _OWN:
            if table.options is not None:
                self.problems.add(where, f"options for the kind {shown(kind)}, which has none", "options of another kind, with its type")
            return ()
        options = self.tables.resolved(table.options or {}, where)
        if KIND in options:
            self.problems.add((*where, KIND), "an option of the name of the kind itself", f"{KIND} beside options, not in it")
        try:
            shape = getattr(self.registry.handler(kind), "options", None)
        except PluginError:
            return ()
        if shape is not None:
            read: msgspec.Struct | None = self.tables.read(options, shape, where)
            options = {} if read is None else msgspec.structs.asdict(read)
        return ((KIND, kind), *((key, _frozen(options[key])) for key in sorted(options)))

    def _variables(self, table: FunctionTable, path: TomlPath) -> None:
        for name, value in table.environment.items():
            where = (*path, "environment", name)
            if not name or "=" in name or "\0" in name:
                self.problems.add(where, "a name that no environment variable can have", "a name without = and NUL")
            if "\0" in value:
                self.problems.add(where, "a value with a NUL character", "text without it")

    def _handler(self, table: FunctionTable, code: Path, path: TomlPath) -> None:
        where = (*path, "handler")
        if match := _FILE_FORM.fullmatch(table.handler):
            file = code / match["file"]
            if not os.path.normpath(file).startswith(f"{os.path.normpath(code)}{os.sep}"):
                self.problems.add(where, f"{shown(table.handler)}, which is outside {code}", f"{_HANDLER} inside code, the task root")
            elif not file.is_file():
                near = closest(match["file"], [each.name for each in code.glob("*.py")])
                meant = json.dumps(f"{json.loads(near)}:{match['name']}") if near else None
                self.problems.add(where, f"{shown(table.handler)}, but there is no file {file}", _HANDLER, meant)
        elif match := _MODULE_FORM.fullmatch(table.handler):
            self._module(table, match["module"].replace("/", "."), match["name"], code, where)
        else:
            file_name, _, name = table.handler.partition(":")
            meant = json.dumps(f"{file_name}.py:{name}") if name.isidentifier() and (code / f"{file_name}.py").is_file() else None
            self.problems.add(where, shown(table.handler), f"{_HANDLER}, found in {code}", meant)

    def _module(self, table: FunctionTable, module: str, name: str, code: Path, where: TomlPath) -> None:
        stem = code.joinpath(*module.split("."))
        first = module.partition(".")[0]
        if table.inline and first in PACKAGES:
            self.problems.add(
                where,
                f"the module {module!r}, whose name {first!r} is one of poller's own packages in this process",
                f'"{stem.relative_to(code)}.py:{name}", which is loaded by file, or a process of its own (no inline)',
            )
        elif not (stem.is_dir() or stem.with_name(f"{stem.name}.py").is_file() or any(stem.parent.glob(f"{stem.name}.*.so"))):
            near = closest(module, [each.stem for each in code.glob("*.py")])
            meant = json.dumps(f"{json.loads(near)}.{name}") if near else None
            self.problems.add(where, f"{shown(table.handler)}, but there is no module {module!r} in {code}", _HANDLER, meant)


def _frozen(value: Any) -> Any:
    if isinstance(value, dict):
        return tuple((key, _frozen(value[key])) for key in sorted(value))
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value
