"""Our own look for entry points finds what the library finds, whatever lies in the folders."""

from __future__ import annotations

import importlib.metadata
import json.decoder
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from poller.entry_points import Found, in_folders, installed
from poller.registry import CONNECTORS, DESTINATIONS, HANDLERS, STORES

TEXT = """
# of one who writes by hand
[poller.connectors]
acme=acme.parts:connector
 spaced  =  acme.parts : the.connector  [extra]

[console_scripts]
acme = acme:main
"""


def distribution(folder: Path, name: str, text: str | None = TEXT, version: str = "2.0", kind: str = "dist-info") -> Path:
    made = folder / f"{name}-{version}.{kind}"
    made.mkdir(parents=True)
    (made / ("METADATA" if kind == "dist-info" else "PKG-INFO")).write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    if text is not None:
        (made / "entry_points.txt").write_text(text)
    return made


def library(*folders: Path) -> list[tuple[str, str, str, str]]:
    """What `importlib.metadata` finds in these."""
    found = importlib.metadata.MetadataPathFinder.find_distributions(
        importlib.metadata.DistributionFinder.Context(path=[*map(str, folders)])
    )
    first: dict[str, importlib.metadata.Distribution] = {}
    for each in found:
        first.setdefault(each.name.lower().replace("-", "_").replace(".", "_"), each)
    return sorted((point.group, point.name, point.value, each.name) for each in first.values() for point in each.entry_points)


def ours(*folders: Path) -> list[tuple[str, str, str, str]]:
    points = in_folders(map(str, folders))
    return sorted((point.group, point.name, point.value, point.dist.name) for point in points if point.dist)


@pytest.mark.parametrize("group", [CONNECTORS, HANDLERS, STORES, DESTINATIONS, "console_scripts"])
def test_it_finds_here_what_the_library_finds(group: str) -> None:
    points = installed()(group)
    assert points
    found = sorted((point.name, point.value, point.dist.name, point.dist.version) for point in points if point.dist)
    expected = importlib.metadata.entry_points(group=group)
    assert found == sorted((point.name, point.value, point.dist.name, point.dist.version) for point in expected if point.dist)


def test_it_loads_here_what_the_library_loads() -> None:
    for group in (CONNECTORS, HANDLERS, STORES, DESTINATIONS):
        theirs = {point.name: point for point in importlib.metadata.entry_points(group=group)}
        for point in installed()(group):
            assert point.load() is theirs[point.name].load()


def test_folders_with_all_that_may_lie_there(tmp_path: Path) -> None:
    first, second, none = tmp_path / "first", tmp_path / "second", tmp_path / "none"
    distribution(first, "acme_poller")
    distribution(first, "Other.Parts", kind="egg-info")
    distribution(first, "silent", text=None)
    distribution(second, "third", text="[poller.handlers]\nours = third:part\n")
    (second / "acme").mkdir()
    assert ours(first, none, second) == library(first, second)
    assert len(ours(first, none, second)) == 7


def test_two_that_claim_a_name_are_both_found(tmp_path: Path) -> None:
    distribution(tmp_path, "acme")
    distribution(tmp_path, "rival")
    claims = [point.dist.name for point in in_folders([str(tmp_path)]) if point.name == "acme" and point.group == CONNECTORS and point.dist]
    assert claims == ["acme", "rival"]


def test_of_one_that_is_there_twice_the_first_is_meant(tmp_path: Path) -> None:
    """It is the one that is imported, so the other's entry points would load its parts."""
    distribution(tmp_path / "first", "acme_poller", version="2.0")
    distribution(tmp_path / "second", "Acme.Poller", version="1.0", text=TEXT.replace("acme=", "older="))
    folders = tmp_path / "first", tmp_path / "second"
    assert ours(*folders) == library(*folders) == ours(folders[0])


def test_a_part_inside_a_class_and_one_that_wants_an_extra(tmp_path: Path) -> None:
    assert Found("g", "n", "json.decoder : JSONDecoder.decode [fast]", tmp_path).load() is json.decoder.JSONDecoder.decode
    assert Found("g", "n", "json.decoder", tmp_path).load() is json.decoder
    with pytest.raises(AttributeError):
        Found("g", "n", "json.decoder:Missing", tmp_path).load()


def test_a_path_with_a_zip_is_left_to_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "parts.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("zipped-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: zipped\nVersion: 1.0\n")
        archive.writestr("zipped-1.0.dist-info/entry_points.txt", "[poller.connectors]\nzipped = json:loads\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(file)])
    (point,) = [point for point in installed()(CONNECTORS) if point.name == "zipped"]
    assert point.load() is json.loads


def test_so_is_one_with_an_egg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    egg = tmp_path / "laid-1.0-py3.egg"
    (egg / "EGG-INFO").mkdir(parents=True)
    (egg / "EGG-INFO" / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: laid\nVersion: 1.0\n")
    (egg / "EGG-INFO" / "entry_points.txt").write_text("[poller.connectors]\nlaid = json:loads\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(egg)])
    assert "laid" in [point.name for point in installed()(CONNECTORS)]


def test_a_finder_that_knows_distributions_of_its_own_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = distribution(tmp_path, "hidden", text="[poller.connectors]\nhidden = json:loads\n")

    class Finder(importlib.metadata.DistributionFinder):
        def find_distributions(self, _: Any = None) -> list[importlib.metadata.Distribution]:
            return [importlib.metadata.Distribution.at(made)]

        def find_spec(self, *_: object) -> None:
            return None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder()])
    assert "hidden" in [point.name for point in installed()(CONNECTORS)]
