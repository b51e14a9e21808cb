"""What tests of one module and another ask for by name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.test_config_parts import Complain, Read, complainer, furnished, reader


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return furnished(tmp_path)


@pytest.fixture
def read(folder: Path) -> Read:
    return reader(folder)


@pytest.fixture
def complain(folder: Path) -> Complain:
    return complainer(folder)
