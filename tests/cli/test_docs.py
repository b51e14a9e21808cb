"""What the documents for people name is there: tests, commands and their options, keys, files; and the configurations of README load."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import click
import pytest

from poller.cli import program
from poller.cli.template import CONFIG, FUNCTION
from poller.config import load
from poller.config.reference import render
from poller.registry import CONNECTORS, DESTINATIONS, Registry
from tests.syntax import parsed

ROOT = Path(__file__).resolve().parents[2]
README, FIDELITY, PROMISES, CHANGELOG = (ROOT / name for name in ("README.md", "FIDELITY.md", "PROMISES.md", "CHANGELOG.md"))
DOCUMENTS = (README, FIDELITY, PROMISES, CHANGELOG)
DEPLOY = (ROOT / "deploy" / "README.md", ROOT / "deploy" / "FAILURES.md", ROOT / "deploy" / "FLEET.md")

EVIDENCE = {"recorded", "documented", "our choice"}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"`([^`\n]+)`")
_REFERENCE = re.compile(r"(tests/[\w/]+\.py)(?:::(\w+))?(?:::(\w+))?(?:\[([^\]`]+)\])?")
_METRIC = re.compile(r"poller_\w+")
_LINK = re.compile(r"\[[^\]]+\]\(([^)#\s]+)[^)]*\)")


def fences(document: Path, language: str) -> list[str]:
    return [text for kind, text in _FENCE.findall(document.read_text()) if kind == language]


def prose(document: Path) -> str:
    return _FENCE.sub("", document.read_text())


# --- tests ------------------------------------------------------------------------------------------------------------------------


@cache
def tree(file: Path) -> ast.Module:
    return parsed(file.read_text())


def missing(file: str, *names: str, row: str = "") -> str:
    """Why there is no such test, or ""; `names` are a test, or a class and a test that it has or inherits; `row` is one of its cases."""
    path = ROOT / file
    if not path.is_file():
        return f"there is no file {file}"
    if not names:
        return ""
    body: Sequence[ast.stmt] = tree(path).body
    if len(names) == 2:
        body = list(members(path, names[0]))
    if names[-1] not in {each.name for each in body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}:
        return f"{file} has no {'::'.join(names)}"
    texts = {each.value for each in ast.walk(tree(path)) if isinstance(each, ast.Constant)}
    return f"{file} has no case {row!r}" if row and row not in texts else ""


def members(path: Path, name: str) -> Iterator[ast.stmt]:
    """What a class has, also from bases that are in the same file or come from a module of poller.testing."""
    module = tree(path)
    found = {each.name: each for each in module.body if isinstance(each, ast.ClassDef)}
    if name in found:
        yield from found[name].body
        for base in found[name].bases:
            if isinstance(base, ast.Name):
                yield from members(path, base.id)
        return
    for statement in module.body:
        if isinstance(statement, ast.ImportFrom) and statement.module and name in {each.name for each in statement.names}:
            source = ROOT / f"{statement.module.replace('.', '/')}.py"
            if source.is_file():
                yield from members(source, name)


@pytest.mark.parametrize("document", [FIDELITY, PROMISES, README], ids=lambda path: path.name)
def test_every_test_that_is_named_is_there(document: Path) -> None:
    named = _REFERENCE.findall(document.read_text())
    assert named or document is README
    wrong = [why for file, first, second, row in named if (why := missing(file, *filter(None, (first, second)), row=row))]
    assert wrong == []


def test_a_test_that_is_not_there_is_noticed() -> None:
    policy, lanes = "tests/unit/test_policy.py", "tests/contract/test_lanes.py"
    assert missing(policy, "test_what_a_stream_does", row="no retries") == ""
    assert missing(lanes, "TestSqsFifo", "test_a_group_comes_in_order") == ""
    assert missing("tests/unit/test_nothing.py")
    assert missing(policy, "test_nothing")
    assert missing(policy, "test_what_a_stream_does", row="no such case")
    assert missing(lanes, "TestSqsFifo", "test_nothing")
    assert missing(lanes, "TestNothing", "test_a_group_comes_in_order")


def tables(document: Path) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Every table of a document: its head, and its rows."""
    for block in re.findall(r"(?:^\|.*\n)+", document.read_text(), re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in block.splitlines()]
        yield head, rows


def test_every_row_of_fidelity_has_its_evidence_and_its_test() -> None:
    rows = [row for head, lines in tables(FIDELITY) if "evidence" in head for row in lines]
    assert len(rows) > 50
    for aws, ours, evidence, shown in rows:
        assert aws and ours
        assert evidence in EVIDENCE, f"{ours}: {evidence}"
        assert _REFERENCE.search(shown) or shown == "none", f"{ours}: {shown}"


def test_every_promise_has_a_test() -> None:
    rows = [row for head, lines in tables(PROMISES) if "shown by" in head for row in lines]
    assert len(rows) > 10
    assert [row[0] for row in rows if not _REFERENCE.search(row[-1])] == []


# --- configuration ------------------------------------------------------------------------------------------------------------------


@cache
def keys() -> set[str]:
    """Every key of the file, those of installed sources and destinations included."""
    registry = Registry()
    destinations = {name: registry.destination(name).options for name in registry.names(DESTINATIONS)}
    reference = render({name: registry.connector(name).options for name in registry.names(CONNECTORS)}, destinations)
    of_all_destinations = {"to"}
    return set(re.findall(r"^\| `(\w+)` \|", reference, re.MULTILINE)) | of_all_destinations


@pytest.mark.parametrize("text", fences(README, "toml"))
def test_every_configuration_of_readme_loads(text: str, tmp_path: Path) -> None:
    for file in re.findall(r'handler = "([\w/]+\.py):', text):
        (tmp_path / file).touch()
    (tmp_path / "poller.toml").write_text(text)
    config = load(tmp_path / "poller.toml", Registry(), {})
    assert config.mappings
    assert config.warnings == ()


def test_readme_begins_with_what_init_writes() -> None:
    first, *others = fences(README, "toml")
    assert tomllib.loads(first) == tomllib.loads(CONFIG)
    assert others
    (function,) = fences(README, "python")
    assert function in FUNCTION


FAILURES = DEPLOY[1]
ORDERS = """
[functions.orders]
handler = "app.py:handle"
[mappings.orders.source]
type = "local-queue"
name = "orders"
"""


@pytest.mark.parametrize("text", fences(FAILURES, "toml"))
def test_every_part_of_a_configuration_about_failures_loads(text: str, tmp_path: Path) -> None:
    (tmp_path / "app.py").touch()
    (tmp_path / "hook.key").write_text("a secret of some length")
    mapping = 'function = "orders"' if "[mappings.orders]" in text else '[mappings.orders]\nfunction = "orders"'
    source = ORDERS.replace("local-queue", "local-stream") if "bisect_batch_on_function_error" in text else ORDERS
    (tmp_path / "poller.toml").write_text(f"{text}\n{mapping}\n{source}")
    config = load(tmp_path / "poller.toml", Registry(), {"HOOK": "Bearer t"})
    assert config.mappings
    assert config.warnings == ()


@pytest.mark.parametrize("document", [*DOCUMENTS, FAILURES], ids=lambda path: path.name)
def test_every_key_that_is_named_is_one(document: Path) -> None:
    """Names in code that look like keys: `two_words`, or `key = value`."""
    named = set[str]()
    for code in _INLINE.findall(prose(document)):
        if match := re.fullmatch(r"([a-z]+(?:_[a-z]+)+)(?: = .*)?|([a-z]+) = [\d\"{\[tf].*", code):
            named.add(match[1] or match[2])
    assert {name for name in named if not _METRIC.match(name)} - keys() == set()


# --- the command line ---------------------------------------------------------------------------------------------------------------


def commands(document: Path) -> Iterator[str]:
    """Every call of poller that stands as code: what follows its name."""
    lines = [line.removeprefix("$ ") for kind in ("sh", "console") for text in fences(document, kind) for line in text.splitlines()]
    for code in (*lines, *_INLINE.findall(prose(document))):
        if match := re.match(r"(?:.*\| *)?poller ([a-z].*)", code):
            yield re.split(r" [|>&#]", match[1])[0]


def wrong(call: str) -> str:
    """What in this call of poller is not there, or ""."""
    words, command = shlex.split(call), click.Context(program).command
    while isinstance(command, click.Group) and words:
        found = None if words[0].startswith("-") else command.get_command(click.Context(command), words[0])
        if found is None and (default := getattr(command, "default", None)) is not None:
            command = default
            break
        if words[0].startswith("-"):
            break
        if found is None:
            return f"poller {call}: there is no {words[0]}"
        command, words = found, words[1:]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help", "-h"}
    unknown = [word for word in words if word.startswith("-") and word.partition("=")[0] not in known]
    return f"poller {call}: there is no {unknown[0]}" if unknown else ""


@pytest.mark.parametrize("document", [*DOCUMENTS, *DEPLOY], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_is_named_is_one(document: Path) -> None:
    assert [why for call in commands(document) if (why := wrong(call))] == []


def test_readme_names_every_command() -> None:
    named = {call.split()[0] for call in commands(README)}
    assert program.list_commands(click.Context(program)) and set(program.list_commands(click.Context(program))) - named == set()


def test_a_command_that_is_not_there_is_noticed() -> None:
    assert wrong("check --live") == ""
    assert wrong("chekc") and wrong("check --alive") and wrong("failures lost")


# --- the documents themselves -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [*DOCUMENTS, *DEPLOY], ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    links = [link for link in _LINK.findall(prose(document)) if "://" not in link]
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_metrics_that_are_named_are_there() -> None:
    named = {code for document in (README, *DEPLOY) for code in _INLINE.findall(prose(document)) if _METRIC.fullmatch(code)}
    told = (ROOT / "poller" / "metrics.py").read_text()
    assert named
    bare = {name: name.removeprefix("poller_").removesuffix("_total") for name in named}
    assert [name for name, word in bare.items() if not re.search(rf'"(poller_)?{word}"', told)] == []


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= 400
