"""The inside of an environment, as far as it can be called from here: loading, results, faults; and what it may be made of."""

from __future__ import annotations

import ast
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import handlers
from handlers import child
from tests.syntax import parsed

FOLDER = Path(handlers.__file__ or "").parent
SOURCE = (FOLDER / "child.py").read_text()

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_is_made_of_the_standard_library_alone() -> None:
    modules = set()
    for node in ast.walk(parsed(SOURCE)):
        if isinstance(node, ast.Import):
            modules |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add((node.module or "").partition(".")[0])
    assert modules <= sys.stdlib_module_names


def test_is_written_in_the_language_of_python_3_8() -> None:
    parsed(SOURCE, (3, 8))


def test_no_module_beside_it_is_called_like_a_standard_one() -> None:
    assert not {path.stem for path in FOLDER.glob("*.py")} & sys.stdlib_module_names


@given(json_values)
def test_both_encoders_give_the_same_document(value: Any) -> None:
    import json

    import orjson

    fast = child.marshal(value, child.orjson_dumps(orjson))
    assert json.loads(fast) == json.loads(child.marshal(value, None)) == value


@pytest.mark.parametrize("value", [float("nan"), Decimal("NaN"), Decimal("Infinity"), {1, 2}, b"".join, {"deep": [object()]}])
def test_refuses_what_is_no_json(value: Any) -> None:
    with pytest.raises(child.Broken, match="Unable to marshal response: ") as caught:
        child.marshal(value, None)
    assert caught.value.type == "Runtime.MarshalError"


def test_a_result_that_refers_to_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(child.Broken, match="Circular"):
        child.marshal(value, None)


def test_a_deep_recursion_is_described_in_few_lines() -> None:
    def again() -> None:
        again()

    with pytest.raises(RecursionError) as caught:
        again()
    type_, message, trace, _ = child.described(caught.value)
    assert type_ == "RecursionError"
    assert "maximum recursion depth" in message
    assert len(trace) < 10


def test_an_error_that_will_not_say_which_record_it_is_about_names_none() -> None:
    class Odd(Exception):
        @property
        def record_index(self) -> int:
            raise RuntimeError

    assert child.described(Odd())[3] is None


def test_a_trace_names_the_place_of_each_error(tmp_path: Path) -> None:
    """Also where the same line has failed before, and when the file was changed since."""
    file = tmp_path / "app.py"
    for version in ("first", "other"):
        file.write_text(f"# {version}\ndef handle(n):\n    if n:\n        raise ValueError({version!r})\n    raise KeyError\n")
        names: dict[str, Any] = {}
        exec(compile(file.read_text(), str(file), "exec"), names)
        for n, line, text in ((1, 4, f"raise ValueError({version!r})"), (0, 5, "raise KeyError"), (1, 4, f"raise ValueError({version!r})")):
            with pytest.raises((ValueError, KeyError)) as caught:
                names["handle"](n)
            assert child.described(caught.value)[2][-1] == f'  File "{file}", line {line}, in handle\n    {text}'


def test_a_long_message_is_cut() -> None:
    assert len(child.text_of(ValueError("x" * 10_000_000))) == child.MAXIMUM_TEXT


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is first on the path, and last an installation of ours."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "task"), str(tmp_path / "site")])
    for name in child.OURS:
        package = tmp_path / "site" / name
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
    (tmp_path / "task").mkdir()
    return tmp_path


@pytest.mark.parametrize("name", child.OURS)
class TestElsewhere:
    def test_does_not_find_ours(self, path: Path, name: str) -> None:
        with pytest.raises(ModuleNotFoundError, match=f"No module named '{name}'"):
            child.Elsewhere(str(path / "site")).find_spec(name)

    def test_finds_a_folder_without_init(self, path: Path, name: str) -> None:
        (path / "task" / name).mkdir()
        spec = child.Elsewhere(str(path / "site")).find_spec(name)
        assert spec is not None
        assert list(spec.submodule_search_locations or ()) == [str(path / "task" / name)]

    def test_finds_a_plain_module(self, path: Path, name: str) -> None:
        (path / "task" / f"{name}.py").touch()
        spec = child.Elsewhere(str(path / "site")).find_spec(name)
        assert spec is not None
        assert spec.origin == str(path / "task" / f"{name}.py")

    def test_knows_our_installation_by_any_name(self, path: Path, name: str) -> None:
        (path / "link").symlink_to(path / "site")
        sys.path.append(str(path / "link"))
        with pytest.raises(ModuleNotFoundError):
            child.Elsewhere(str(path / "site")).find_spec(name)

    def test_leaves_everything_else_to_others(self, path: Path, name: str) -> None:
        finder = child.Elsewhere(str(path / "site"))
        assert finder.find_spec("json") is None
        assert finder.find_spec(f"{name}.orders", [str(path / "task" / name)]) is None
