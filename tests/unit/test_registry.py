"""The registry: found by name, loaded once, and a sentence for everything that can be wrong with an installation."""

from __future__ import annotations

import base64
import hashlib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from poller import API
from poller.entry_points import Distribution
from poller.errors import PluginError
from poller.registry import CONNECTORS, DESTINATIONS, HANDLERS, STORES, Listing, Registry, check_installation

PYPROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


@dataclass
class Point:
    """An entry point whose part is `part`; an exception is raised instead. `loads` counts."""

    name: str
    part: Any = None
    value: str = "acme:part"
    dist: Distribution | None = None
    loads: list[str] = field(default_factory=list)

    def load(self) -> Any:
        self.loads.append(self.name)
        if isinstance(self.part, Exception):
            raise self.part
        return self.part


OURS = SimpleNamespace(name="esm-poller", version="0.1.0")
ACME = SimpleNamespace(name="acme-poller", version="2.0")


def registry(connectors: Iterable[Point] = (), handlers: Iterable[Point] = (), stores: Iterable[Point] = ()) -> Registry:
    groups: Mapping[str, list[Point]] = {CONNECTORS: list(connectors), HANDLERS: list(handlers), STORES: list(stores), DESTINATIONS: []}
    return Registry(entry_points_source=lambda group: groups[group])


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(PluginError) as caught:
        call()
    return str(caught.value)


def test_a_part_is_loaded_when_it_is_asked_for_once_and_no_other() -> None:
    sqs, kafka = Point("sqs", object(), dist=OURS), Point("kafka", object(), dist=OURS)
    parts = registry([sqs, kafka])
    assert parts.names(CONNECTORS) == ["kafka", "sqs"]
    assert (sqs.loads, kafka.loads) == ([], [])
    assert parts.connector("sqs") is parts.connector("sqs") is sqs.part
    assert (sqs.loads, kafka.loads) == (["sqs"], [])
    assert repr(parts) == "<Registry [connector sqs]>"


def test_a_connector_and_a_handler_may_have_one_name() -> None:
    connector, handler = Point("x", object(), dist=OURS), Point("x", object(), dist=OURS)
    parts = registry([connector], [handler])
    assert (parts.connector("x"), parts.handler("x")) == (connector.part, handler.part)


def test_an_unknown_name_is_told_the_known_ones() -> None:
    parts = registry([Point("sqs", dist=OURS), Point("local-queue", dist=OURS)], [Point("python", dist=OURS)])
    assert refusal(lambda: parts.connector("sqss")) == (
        'found the connector "sqss", which does not exist; allowed local-queue, sqs; did you mean "sqs"?'
    )
    assert refusal(lambda: parts.handler("go")) == 'found the handler "go", which does not exist; allowed python'


def test_an_empty_group_is_a_checkout_that_is_not_installed() -> None:
    assert refusal(lambda: registry().connector("sqs")) == (
        "no connector is registered under 'poller.connectors'; the project is not installed: run `pip install -e .` in its folder, or "
        "`pip install esm-poller`"
    )


def test_two_distributions_that_claim_one_name_are_both_named_and_none_is_loaded() -> None:
    ours, theirs = Point("sqs", object(), "connectors.sqs:connector", OURS), Point("sqs", object(), "acme.sqs:sqs", ACME)
    for order in ([ours, theirs], [theirs, ours]):
        assert refusal(lambda order=order: registry(order).connector("sqs")) == (  # type: ignore[misc]
            'the connector "sqs" is claimed by acme-poller 2.0 as acme.sqs:sqs and esm-poller 0.1.0 as connectors.sqs:connector; '
            "uninstall all but one"
        )
    assert ours.loads == theirs.loads == []


@pytest.mark.parametrize(
    ("error", "value", "sentence"),
    [
        (
            ModuleNotFoundError("No module named 'aiokafka'", name="aiokafka"),
            "connectors.kafka:connector [kafka]",
            "needs the module 'aiokafka', which is not installed; run `pip install 'esm-poller[kafka]'`",
        ),
        (
            ModuleNotFoundError("No module named 'aiokafka'", name="aiokafka"),
            "connectors.kafka:connector",
            "needs the module 'aiokafka', which is not installed; run `pip install --force-reinstall esm-poller`",
        ),
        (
            ImportError("libssl.so.3: cannot open shared object file"),
            "connectors.kafka:connector",
            "cannot be imported: libssl.so.3: cannot open shared object file; run `pip install --force-reinstall esm-poller`",
        ),
        (
            AttributeError("module 'connectors.kafka' has no attribute 'connector'"),
            "connectors.kafka:connector",
            "is registered as connectors.kafka:connector, which cannot be loaded (module 'connectors.kafka' has no attribute "
            "'connector'); install it again",
        ),
    ],
)
def test_a_part_that_cannot_be_imported_is_a_sentence(error: Exception, value: str, sentence: str) -> None:
    parts = registry([Point("kafka", error, value, OURS)])
    assert refusal(lambda: parts.connector("kafka")) == f'the connector "kafka" (esm-poller 0.1.0) {sentence}'


def test_a_part_of_another_contract_is_refused() -> None:
    fits, declares_none = Point("a", SimpleNamespace(api=API)), Point("b", object())
    parts = registry([fits, declares_none, Point("c", SimpleNamespace(api=API + 1), dist=ACME)])
    assert (parts.connector("a"), parts.connector("b")) == (fits.part, declares_none.part)
    assert refusal(lambda: parts.connector("c")) == (
        'the connector "c" (acme-poller 2.0) was written for version 2 of the plug-in contract, and this poller has version 1; '
        "install a version of it that says `api = 1`"
    )


def test_the_listing_shows_what_works_and_why_something_does_not() -> None:
    parts = registry(
        [Point("sqs", SimpleNamespace(api=1), dist=OURS), Point("b", object(), dist=OURS), Point("b", object(), dist=ACME)],
        [Point("go", ImportError("no go"), dist=ACME), Point("python", object())],
    )
    claimed = 'the connector "b" is claimed by acme-poller 2.0 as acme:part and esm-poller 0.1.0 as acme:part; uninstall all but one'
    broken = 'the handler "go" (acme-poller 2.0) cannot be imported: no go; run `pip install --force-reinstall acme-poller`'
    assert parts.listing() == [
        Listing(CONNECTORS, "b", "esm-poller", "0.1.0", None, claimed),
        Listing(CONNECTORS, "b", "acme-poller", "2.0", None, claimed),
        Listing(CONNECTORS, "sqs", "esm-poller", "0.1.0", 1),
        Listing(HANDLERS, "go", "acme-poller", "2.0", None, broken),
        Listing(HANDLERS, "python", "?", "?", None),
    ]


# --- the parts of this distribution ------------------------------------------------------------------------------------------------


def declared(group: str) -> list[EntryPoint]:
    """Entry points as pyproject.toml has them, so that a checkout that is not installed is tested too."""
    points = tomllib.loads(PYPROJECT.read_text("utf-8"))["project"]["entry-points"][group]
    return [EntryPoint(name, value, group) for name, value in points.items()]


def test_every_part_of_this_distribution_is_there() -> None:
    parts = Registry(declared)
    assert [line.problem for line in parts.listing()] == [""] * len(parts.listing())
    for name in parts.names(CONNECTORS):
        connector = parts.connector(name)
        assert issubclass(connector.options, msgspec.Struct)
        assert callable(connector.traits) and callable(connector.open) and callable(connector.probe)
    assert all(callable(parts.handler(name)) for name in parts.names(HANDLERS))
    for name in parts.names(STORES):
        kind = parts.store(name)
        assert kind.shared and callable(kind.check) and callable(kind.ledger) and callable(kind.store)
    for name in parts.names(DESTINATIONS):
        destination = parts.destination(name)
        assert issubclass(destination.options, msgspec.Struct)
        assert callable(destination.traits) and callable(destination.open) and callable(destination.probe)


# --- is this our installation? -----------------------------------------------------------------------------------------------------

NAMES = ("poller", "connectors", "handlers")


def packages(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "__init__.py").write_text(f"# {name} of {folder.name}\n")
    return folder


def origins(**homes: Path) -> Callable[[str], Path | None]:
    return lambda name: homes[name] / name / "__init__.py" if name in homes else None


def test_three_packages_of_one_folder_are_ours(tmp_path: Path) -> None:
    home = packages(tmp_path / "site-packages", *NAMES)
    other = packages(tmp_path / "project", "handlers")
    check_installation(origins(poller=home, connectors=home, handlers=home), [other, home, tmp_path / "gone"], {})


def test_this_very_installation_is_ours() -> None:
    Registry().verify()


def test_a_foreign_package_that_is_imported_instead_of_ours(tmp_path: Path) -> None:
    home, foreign = packages(tmp_path / "repository", *NAMES), packages(tmp_path / "site-packages", "handlers")
    sentence = refusal(lambda: check_installation(origins(poller=home, connectors=home, handlers=foreign), [], {}))
    assert sentence.replace(str(tmp_path), "") == (
        "the package 'handlers' comes from /site-packages, not from /repository as 'poller' does; another distribution brings a package of "
        "the name 'handlers' too, or the program was started with a folder on its path that has one: uninstall that, or give poller a "
        "virtual environment of its own (then `pip install --force-reinstall esm-poller`)"
    )


@pytest.mark.parametrize("form", ["package", "module"])
def test_a_foreign_package_that_hides_behind_ours(tmp_path: Path, form: str) -> None:
    home, foreign = packages(tmp_path / "repository", *NAMES), tmp_path / "site-packages"
    if form == "package":
        packages(foreign, "connectors")
    else:
        foreign.mkdir()
        (foreign / "connectors.py").touch()
    sentence = refusal(lambda: check_installation(origins(poller=home, connectors=home, handlers=home), [home, foreign], {}))
    assert sentence.replace(str(tmp_path), "").startswith("another package 'connectors' is in /site-packages, beside ours in /repository; ")


def test_a_package_that_is_missing(tmp_path: Path) -> None:
    home = packages(tmp_path / "site-packages", "poller", "connectors")
    sentence = refusal(lambda: check_installation(origins(poller=home, connectors=home), [home], {}))
    assert sentence.replace(str(tmp_path), "").startswith(
        "the package 'handlers' is missing beside 'poller' (/site-packages); the project is"
    )


def test_a_package_that_another_distribution_overwrote(tmp_path: Path) -> None:
    home = packages(tmp_path / "site-packages", *NAMES)
    file = home / "handlers" / "__init__.py"
    recorded = {file: base64.urlsafe_b64encode(hashlib.sha256(file.read_bytes()).digest()).rstrip(b"=").decode()}
    origin = origins(poller=home, connectors=home, handlers=home)
    check_installation(origin, [home], recorded)
    file.write_text("# theirs\n")
    sentence = refusal(lambda: check_installation(origin, [home], recorded))
    assert sentence.replace(str(tmp_path), "").startswith(
        "/site-packages/handlers/__init__.py is not the file that esm-poller installed; another distribution brings a package of the name "
        "'handlers' too"
    )
