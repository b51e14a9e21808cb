"""The reference of the file's keys as Markdown, made from the Structs that read it, so that it cannot disagree with them. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping

import msgspec

from poller.config.hints import Hint
from poller.config.schema import BackoffTable, BreakerTable, ErrorTable, FunctionTable, MappingTable, PollerTable

_TABLES: tuple[tuple[str, type[msgspec.Struct]], ...] = (
    ("[poller]", PollerTable),
    ("[functions.NAME]", FunctionTable),
    ("[mappings.NAME]", MappingTable),
    ("[mappings.NAME.retry_backoff]", BackoffTable),
    ("[mappings.NAME.circuit_breaker]", BreakerTable),
    ("[[mappings.NAME.errors]]", ErrorTable),
)


def render(
    sources: Mapping[str, type[msgspec.Struct]] | None = None, destinations: Mapping[str, type[msgspec.Struct]] | None = None
) -> str:
    """One table a TOML table. `sources`: the options of connectors, by type; `destinations`: of their kinds, by scheme; a section each."""
    sections = [_section(f"`{title}`", _sentence(kind), kind) for title, kind in _TABLES]
    for name, kind in sorted((sources or {}).items()):
        sections.append(_section(f'`[mappings.NAME.source]`, `type = "{name}"`', _sentence(kind), kind))
    for name, kind in sorted((destinations or {}).items()):
        sections.append(
            _section(f"`on_failure`, `on_success`: `{{ to = ... }}`, a destination of the kind `{name}`", _sentence(kind), kind)
        )
    return "\n\n".join(sections) + "\n"


def _section(title: str, sentence: str, kind: type[msgspec.Struct]) -> str:
    rows = ["| key | value | default | |", "| --- | --- | --- | --- |"]
    for field in msgspec.structs.fields(kind):
        hint = Hint.of(field.type)
        cells = (f"`{field.encode_name}`", hint.allowed, _default(field, hint), hint.description)
        rows.append("| " + " | ".join(_cell(each) for each in cells) + " |")
    return "\n".join([f"### {title}", "", *([sentence, ""] if sentence else []), *rows])


def _default(field: msgspec.structs.FieldInfo, hint: Hint) -> str:
    if field.required:
        return "required"
    if hint.default:
        return hint.default
    value = field.default if field.default is not msgspec.NODEFAULT else field.default_factory()
    return "" if value is None else f"`{json.dumps(value, default=str)}`"


def _sentence(kind: type[msgspec.Struct]) -> str:
    # A Struct without a docstring inherits its base's.
    return (kind.__dict__.get("__doc__") or "").strip().replace("\n    ", " ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
