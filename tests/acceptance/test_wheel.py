"""The wheel, not the tree: what is shipped is complete, no more than that, and runs on its declared dependencies alone.

An editable install puts the whole checkout on the path, so a module left out of the wheel, or one that needs a tool of ours, is not
noticed at a desk.
"""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGES = {"poller", "connectors", "handlers"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENTRY_POINTS = {"console_scripts": PROJECT["scripts"], **PROJECT["entry-points"]}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("dist")
    _run([sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(ROOT)], ROOT)
    (built,) = target.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    return set(zipfile.ZipFile(wheel).namelist())


@dataclass(frozen=True)
class Installed:
    """The wheel in an environment of its own, with its declared dependencies and nothing else, seen from a folder far from the checkout."""

    environment: Path
    elsewhere: Path

    def run(self, program: str, *arguments: str) -> str:
        return _run([str(self.environment / "bin" / program), *arguments], self.elsewhere)

    def lend(self, *requirements: str) -> None:
        """What these bring along is there too from now on."""
        (site,) = self.environment.glob("lib/python*/site-packages")
        for name in _closure([*requirements]):
            _link(name, site)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    environment, elsewhere = folder / "venv", folder / "elsewhere"
    elsewhere.mkdir()
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    _run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)], elsewhere)
    made = Installed(environment, elsewhere)
    made.lend(*PROJECT["dependencies"])
    return made


def _run(command: list[str], folder: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def _closure(requirements: list[str]) -> set[str]:
    """The distributions that these requirements bring along, as installed here: no index is asked."""
    found: set[str] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        if requirement.name not in found and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            found.add(requirement.name)
            waiting += [Requirement(text) for text in distribution(requirement.name).requires or []]
    return found


def _link(name: str, site: Path) -> None:
    """Lend an installed distribution to another environment: its packages and its metadata."""
    files = distribution(name).files or []
    for part in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        if not (site / part).exists():
            (site / part).symlink_to(Path(str(distribution(name).locate_file(part))))


def test_the_wheel_holds_our_three_packages_and_nothing_else(contents: set[str]) -> None:
    top = {name.partition("/")[0] for name in contents}
    assert {name for name in top if not name.endswith(".dist-info")} == PACKAGES
    assert len(top) == len(PACKAGES) + 1


def test_the_wheel_holds_every_module_with_its_types(contents: set[str]) -> None:
    ours = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert ours - contents == set()
    assert {f"{package}/py.typed" for package in PACKAGES} - contents == set()


def test_the_wheel_declares_its_entry_points_and_license(wheel: Path, contents: set[str]) -> None:
    (path,) = (name for name in contents if name.endswith(".dist-info/entry_points.txt"))
    declared = configparser.ConfigParser(delimiters=("=",))
    declared.read_string(zipfile.ZipFile(wheel).read(path).decode())
    assert {group: dict(declared[group]) for group in declared.sections()} == ENTRY_POINTS
    assert any(name.endswith("/licenses/LICENSE") for name in contents)


def test_the_program_runs_from_another_folder(installed: Installed) -> None:
    assert "Usage: poller" in installed.run("poller", "--help")


CONFIG = """
[poller]
store = "postgresql://127.0.0.1:1/poller"
[functions.f]
handler = "app.py:handle"
[mappings.m]
function = "f"
source = { type = "sqs", queue = "https://queue.test/orders" }
"""


def test_what_an_extra_brings_is_asked_for_only_where_it_is_used(installed: Installed) -> None:
    (installed.elsewhere / "app.py").write_text("def handle(event, context): ...\n")
    (installed.elsewhere / "poller.toml").write_text(CONFIG.replace("postgresql://127.0.0.1:1/poller", "memory:"))
    assert "nothing wrong with the file" in installed.run("poller", "check")
    (installed.elsewhere / "poller.toml").write_text(CONFIG)
    with pytest.raises(
        AssertionError, match=r"needs the module 'asyncpg', which is not installed; run `pip install 'esm-poller\[postgresql\]'`"
    ):
        installed.run("poller", "check")
    installed.lend(*PROJECT["optional-dependencies"]["postgresql"])
    assert "nothing wrong with the file" in installed.run("poller", "check")


def test_every_module_imports_from_the_wheel(installed: Installed, contents: set[str]) -> None:
    """With what extras bring. poller.testing apart: contract suites may ask for pytest and Hypothesis, which nobody needs to run it."""
    installed.lend(*(requirement for extra in PROJECT["optional-dependencies"].values() for requirement in extra))
    modules = [re.sub(r"(/__init__)?\.py$", "", name).replace("/", ".") for name in contents if name.endswith(".py")]
    wanted = sorted(name for name in modules if not name.startswith("poller.testing") and not name.endswith("__main__"))
    program = "import importlib, sys\nfor name in sys.argv[1:]:\n    print(importlib.import_module(name).__file__)"
    origins = installed.run("python", "-W", "error", "-c", program, *wanted).split()
    assert len(origins) == len(wanted)
    assert [origin for origin in origins if not Path(origin).is_relative_to(installed.environment)] == []


def test_every_entry_point_loads_from_the_wheel(installed: Installed) -> None:
    program = (
        "from importlib.metadata import distribution\n"
        f"for point in distribution({PROJECT['name']!r}).entry_points:\n"
        "    point.load()\n"
        "    print(point.name)"
    )
    loaded = installed.run("python", "-c", program).split()
    assert sorted(loaded) == sorted(name for group in ENTRY_POINTS.values() for name in group)
