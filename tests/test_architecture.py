"""The shape of the code, read from its syntax trees: who may import whom, what stays pure, how long things may get.

Each rule is a function from a module to its breaches; each has a counter-example here that it must reject.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

import pytest

from tests.syntax import parsed

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("poller", "connectors", "handlers")
VENDORS = {"aiobotocore", "aiokafka", "asyncpg", "boto3", "botocore", "confluent_kafka"}

PURE = {
    "connectors.aws.refusals",
    "connectors.dynamodb.checkpoint",
    "connectors.dynamodb.expressions",
    "connectors.dynamodb.row",
    "connectors.dynamodb.url",
    "connectors.dynamodb.watch",
    "connectors.dynamodb_streams.batch_info",
    "connectors.dynamodb_streams.client",
    "connectors.dynamodb_streams.format",
    "connectors.http.answers",
    "connectors.kafka.batch_info",
    "connectors.kafka.format",
    "connectors.kafka.messages",
    "connectors.kafka.metadata",
    "connectors.kafka.varints",
    "connectors.kinesis.aggregation",
    "connectors.kinesis.batch_info",
    "connectors.kinesis.client",
    "connectors.kinesis.event",
    "connectors.kinesis.format",
    "connectors.kinesis.pushes",
    "connectors.postgresql.address",
    "connectors.postgresql.appending",
    "connectors.postgresql.keys",
    "connectors.postgresql.texts",
    "connectors.sharded.batch_info",
    "connectors.sharded.pace",
    "connectors.sharded.sequence",
    "connectors.sharded.shards",
    "connectors.sharded.slices",
    "connectors.sqs.batch_info",
    "poller.batching",
    "poller.breaker",
    "poller.error_rules",
    "poller.errors",
    "poller.explain",
    "poller.failures.entry",
    "poller.filtering",
    "poller.filters",
    "poller.filters.addresses",
    "poller.filters.conditions",
    "poller.filters.explanation",
    "poller.filters.matching",
    "poller.filters.operators",
    "poller.filters.syntax",
    "poller.filters.texts",
    "poller.filters.written",
    "poller.failures.fingerprint",
    "poller.importing",
    "poller.importing.carried",
    "poller.importing.described",
    "poller.importing.documents",
    "poller.importing.functions",
    "poller.importing.intrinsics",
    "poller.importing.listings",
    "poller.importing.loops",
    "poller.importing.mappings",
    "poller.importing.plan",
    "poller.importing.templates",
    "poller.importing.writing",
    "poller.failures.invocation",
    "poller.failures.journal",
    "poller.failures.parking",
    "poller.lineage",
    "poller.model",
    "poller.outcome",
    "poller.parts",
    "poller.failures.payload",
    "poller.failures.protocols",
    "poller.permissions",
    "poller.policy",
    "poller.progress",
    "poller.protocols",
    "poller.quotas",
    "poller.failures.redaction",
    "poller.redrive.letters",
    "poller.replay.format",
    "poller.replay.matching",
    "poller.rewind",
    "poller.failures.runs",
    "poller.settings",
    "poller.sharing",
    "poller.stores.fencing",
    "poller.stores.ids",
    "poller.stores.kept",
    "poller.stores.posts",
    "poller.stores.urls",
    "poller.strands",
    "poller.units",
    "poller.windows",
}
"""No clock, no chance, no IO: they return what to do."""

IMPURE_LIBRARIES = {"asyncio", "datetime", "logging", "os", "random", "secrets", "socket", "sqlite3", "subprocess", "threading", "time"}

FOR_PLUGINS = PURE | {"poller", "poller.feed", "poller.ordered", "poller.ordered_source", "poller.shards", "poller.stores.writer"}
"""All that connectors and handlers see of `poller`: what someone else's plug-in may import, ours may, and nothing more."""

MODULE_LINES = 400
FUNCTION_LINES = 60
PROTOCOL_METHODS = 4


@dataclass(frozen=True)
class Module:
    """A module of the source tree."""

    name: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return parsed(self.text)

    @property
    def package(self) -> str:
        return self.name.partition(".")[0]

    @cached_property
    def imports(self) -> tuple[str, ...]:
        """Absolute dotted names, wherever they stand; `from a import b` is a.b if that is a module."""
        return tuple(self._imports())

    def _imports(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = node.module or ""
                if node.level:
                    base = ".".join([*self.name.split(".")[: -node.level], *base.split(".")]).rstrip(".")
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    yield full if _is_module(full) else base


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


@cache
def _modules() -> tuple[Module, ...]:
    files = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return tuple(Module(".".join(path.relative_to(ROOT).with_suffix("").parts), path.read_text()) for path in files)


def _within(name: str, allowed: set[str]) -> bool:
    return any(name == other or name.startswith(other + ".") for other in allowed)


# --- the rules ------------------------------------------------------------------------------------------------------------------------


def engine_knows_no_plugin(module: Module) -> Iterator[str]:
    """Plug-ins arrive through entry points, ours too."""
    if module.package == "poller":
        yield from (name for name in module.imports if _within(name, {"connectors", "handlers"}))


def plugin_sees_the_contract_only(module: Module) -> Iterator[str]:
    """What is not in FOR_PLUGINS may change without asking anyone."""
    if module.package != "poller":
        others = {*PACKAGES} - {module.package, "poller"}
        yield from (name for name in module.imports if _within(name, others))
        yield from (name for name in module.imports if _within(name, {"poller"}) and name not in FOR_PLUGINS)


def pure_stays_pure(module: Module) -> Iterator[str]:
    """Pure modules import no clock, no chance, no IO, and no module of ours that does. (protocols.py names asyncio's types.)"""
    if module.name in PURE:
        impure = IMPURE_LIBRARIES - ({"asyncio"} if module.name == "poller.protocols" else set())
        yield from (name for name in module.imports if _within(name, impure))
        yield from (name for name in module.imports if _within(name, {*PACKAGES}) and name not in PURE)


def vendors_stay_in_connectors(module: Module) -> Iterator[str]:
    """And even there are not imported by a package as such."""
    if module.package != "connectors" or module.name.endswith(".__init__"):
        yield from (name for name in module.imports if _within(name, VENDORS))


def engine_names_no_system(module: Module) -> Iterator[str]:
    """Nothing branches on the kind of source: the engine's names and strings know of none. (Configuration and the CLI show examples.)"""
    if module.package != "poller" or _within(module.name, {"poller.config", "poller.cli", "poller.testing"}):
        return
    prose = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(module.tree):
        if id(node) not in prose:
            for word in _words(node):
                if re.search(r"sqs|kinesis|kafka|dynamodb", word, re.IGNORECASE):
                    yield f"line {getattr(node, 'lineno', '?')}: {word!r}"


def _words(node: ast.AST) -> Iterator[str]:
    """The identifiers and strings that a node itself holds."""
    for field in ("id", "attr", "name", "arg", "value"):
        word = getattr(node, field, None)
        if isinstance(word, str):
            yield word


def short_enough(module: Module) -> Iterator[str]:
    """A longer one has two responsibilities."""
    lines = module.text.count("\n")
    if lines > MODULE_LINES:
        yield f"{lines} lines, {MODULE_LINES} allowed"
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield f"{node.name}: {length} lines, {FUNCTION_LINES} allowed"


def narrow_protocols(module: Module) -> Iterator[str]:
    """A wider one is two protocols; properties apart. What a contract suite stands on is no seam, and as wide as the suite."""
    for node in ast.walk(module.tree) if not module.name.startswith("poller.testing.") else ():
        if isinstance(node, ast.ClassDef) and any(isinstance(base, ast.Name) and base.id == "Protocol" for base in node.bases):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef) and not item.decorator_list]
            if len(methods) > PROTOCOL_METHODS:
                yield f"{node.name}: {len(methods)} methods, {PROTOCOL_METHODS} allowed"


def named_for_what_it_is(module: Module) -> Iterator[str]:
    """A module or class is a noun of the domain."""
    classes = [node.name for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    nouns = [*module.name.split("."), *classes]
    yield from (noun for noun in nouns if re.search(r"(?i)utils?$|helpers?$|managers?$|^(common|misc)$", noun))


def says_what_it_is(module: Module) -> Iterator[str]:
    if not ast.get_docstring(module.tree):
        yield "no module docstring"


RULES: list[tuple[Callable[[Module], Iterator[str]], Module]] = [
    (engine_knows_no_plugin, Module("poller.mapping", "def f():\n    from connectors import sqs")),
    (plugin_sees_the_contract_only, Module("connectors.sqs", "from poller.lane_runner import run")),
    (plugin_sees_the_contract_only, Module("connectors.sqs.lane", "from ...poller import registry")),
    (plugin_sees_the_contract_only, Module("handlers.inline", "import connectors.sqs")),
    (pure_stays_pure, Module("poller.policy", "if TYPE_CHECKING:\n    import os.path")),
    (pure_stays_pure, Module("poller.policy", "from poller.ordered import OrderedLane")),
    (vendors_stay_in_connectors, Module("poller.failures.delivery", "def f():\n    import aiobotocore.session")),
    (vendors_stay_in_connectors, Module("connectors.sqs.__init__", "from botocore.exceptions import ClientError")),
    (engine_names_no_system, Module("poller.mapping", "if source.kind == 'sqs':\n    pass")),
    (engine_names_no_system, Module("poller.mapping", "KAFKA_LIMIT = 1")),
    (short_enough, Module("poller.mapping", "\n" * (MODULE_LINES + 1))),
    (short_enough, Module("poller.mapping", "async def f():\n" + "    pass\n" * FUNCTION_LINES)),
    (narrow_protocols, Module("poller.x", "class P(Protocol):\n" + "".join(f"    def m{n}(self): ...\n" for n in range(5)))),
    (named_for_what_it_is, Module("poller.sql_utils", "")),
    (named_for_what_it_is, Module("poller.pool", "class PoolManager: ...")),
    (says_what_it_is, Module("poller.mapping", "import enum")),
]


@pytest.mark.parametrize("rule", dict.fromkeys(rule for rule, _ in RULES), ids=lambda rule: rule.__name__)
def test_the_code_keeps_the_rule(rule: Callable[[Module], Iterator[str]]) -> None:
    assert [f"{module.name}: {breach}" for module in _modules() for breach in rule(module)] == []


@pytest.mark.parametrize(("rule", "breach"), RULES, ids=lambda part: getattr(part, "__name__", ""))
def test_the_rule_rejects_its_counter_example(rule: Callable[[Module], Iterator[str]], breach: Module) -> None:
    assert list(rule(breach))


def test_there_is_code_to_look_at() -> None:
    assert {module.package for module in _modules()} == {*PACKAGES}


# --- what only running shows ----------------------------------------------------------------------------------------------------------

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRY_POINTS = [*PROJECT["scripts"].values(), *(target for group in PROJECT["entry-points"].values() for target in group.values())]


@pytest.mark.parametrize("target", sorted({target.partition(":")[0] for target in ENTRY_POINTS}))
def test_importing_an_entry_point_imports_no_vendor(target: str) -> None:
    """`check` reads every connector's options, and a local source needs no client of anyone's."""
    program = f"import sys, {target}; print(*sorted({VENDORS!r} & {{*sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []


# --- every file -----------------------------------------------------------------------------------------------------------------------

NOT_OURS = {"__pycache__", "build", "dist", "node_modules", "LICENSE"}
FORBIDDEN = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b|/(home|Users)/\w|/ro" + r"ot\b")


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name in NOT_OURS or (path.is_dir() and path.name.startswith(".") and path.name != ".ci"):
            continue
        if path.is_dir():
            yield from _files(path)
        elif path.suffix not in {".db", ".png", ".svg"}:
            yield path


def test_no_file_postpones_work_or_names_someones_home() -> None:
    breaches = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in _files(ROOT)
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if FORBIDDEN.search(line)
    ]
    assert breaches == []


def test_the_lock_pins_and_hashes_everything_and_names_no_index() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert [line for line in lines if not re.match(r"[\w.-]+==[\w.+]+ (; [^:/]+ )?\\$|    --hash=sha256:[0-9a-f]{64}( \\)?$", line)] == []


def test_the_lock_holds_what_the_project_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"], *project["build-system"]["requires"], "editables"]
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    assert {re.split(r"[<>=!~;\[ ]", requirement)[0] for requirement in wanted} - locked == set()


def test_tests_are_no_packages() -> None:
    """An `__init__.py` there would make `tests` importable beside the code."""
    assert list((ROOT / "tests").rglob("__init__.py")) == []
