"""A function's own modules in this process: found at home first, never on our path, forgotten in the end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.child import Broken
from handlers.loading import Namespace
from poller.testing.handlers import write


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Namespace]:
    namespace = Namespace("orders", str(tmp_path))
    yield namespace
    namespace.close()


def test_leaves_path_and_modules_as_they_were(tmp_path: Path) -> None:
    write(tmp_path, {"app.py": "import shared, deep.er\ndef handle(e, c): return shared", "shared.py": "", "deep/er.py": ""})
    before, path = set(sys.modules), list(sys.path)
    namespace = Namespace("orders", str(tmp_path))
    namespace.load("app.py:handle")
    assert sys.path == path
    assert {name for name in set(sys.modules) - before if not name.startswith("_poller_user")} == set()
    namespace.close()
    assert set(sys.modules) - before <= {"_poller_user"}


@pytest.mark.parametrize(
    "statement",
    [
        "import shared as got",
        "from shared import NAME as got",
        "import package.module as got",
        "from package import module as got",
        "from package.module import NAME as got",
        "import package.module; got = package.module",
        "got = __import__('shared')",
    ],
)
def test_every_form_of_import_finds_what_is_at_home(tmp_path: Path, home: Namespace, statement: str) -> None:
    files = {"shared.py": "NAME = 'home'", "package/module.py": "from .beside import NAME", "package/beside.py": "NAME = 'home'"}
    write(tmp_path, {**files, "app.py": f"{statement}\ndef handle(event, context): return getattr(got, 'NAME', got)"})
    assert home.load("app.py:handle")(None, None) == "home"


def test_a_late_import_is_at_home_too(tmp_path: Path, home: Namespace) -> None:
    write(tmp_path, {"app.py": "def handle(event, context):\n    import late\n    return late.NAME", "late.py": "NAME = 'home'"})
    assert home.load("app.py:handle")(None, None) == "home"


def test_a_loaded_standard_module_and_a_bare_folder_s_rival_stay_what_they_are(tmp_path: Path, home: Namespace) -> None:
    """As on Lambda, where the runtime has loaded logging, and where a folder without __init__ loses against any module."""
    write(tmp_path, {"app.py": "import logging, json, pytest\ndef handle(event, context): return logging, json, pytest", "logging.py": ""})
    (tmp_path / "json").mkdir()
    (tmp_path / "pytest").mkdir()
    import json
    import logging

    assert home.load("app.py:handle")(None, None) == (logging, json, pytest)


def test_module_state_is_new_after_a_failed_load(tmp_path: Path, home: Namespace) -> None:
    write(tmp_path, {"app.py": "import shared\nimport missing_here", "shared.py": "seen = []"})
    with pytest.raises(Broken, match="missing_here"):
        home.load("app.py:handle")
    write(tmp_path, {"app.py": "import shared\nshared.seen.append(1)\ndef handle(event, context): return shared.seen"})
    assert home.load("app.py:handle")(None, None) == [1]


def test_an_old_and_a_new_handler_of_one_function_live_side_by_side(tmp_path: Path, home: Namespace) -> None:
    write(tmp_path, {"app.py": "import shared\ndef handle(event, context): return shared.NAME", "shared.py": "NAME = 1"})
    old = home.load("app.py:handle")
    write(tmp_path, {"shared.py": "NAME = 22"})
    newer = Namespace("orders", str(tmp_path))
    new = newer.load("app.py:handle")
    assert (old(None, None), new(None, None)) == (1, 22)
    newer.close()
    assert old(None, None) == 1


def test_a_missing_module_at_home_is_named_as_its_author_knows_it(tmp_path: Path, home: Namespace) -> None:
    write(tmp_path, {"app.py": "import package.missing", "package/__init__.py": ""})
    with pytest.raises(Broken) as caught:
        home.load("app.py:handle")
    assert home.public(str(caught.value)) == "Unable to import module 'app.py': No module named 'package.missing'"
