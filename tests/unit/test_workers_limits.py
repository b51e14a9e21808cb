"""How the limits of a daemon are split over its workers: the shares add up, and everything that is to run is run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.config import Config, MappingConfig, load
from poller.config.tree import Address
from poller.registry import Registry
from poller.settings import Batching, FailureSettings, FunctionSettings, MappingSettings
from poller.workers.limits import complete, share, shared

Split = Callable[[int, int, int], int]


@dataclass(frozen=True)
class Case:
    """A configuration, and its shares by worker."""

    config: Config

    @property
    def parts(self) -> list[Config]:
        return [shared(self.config, number) for number in range(1, self.config.workers + 1)]


def configuration(workers: int, limits: list[int], widths: list[tuple[int, bool]]) -> Config:
    functions = {f"f{n}": FunctionSettings(f"f{n}", "app.handle", Path(), concurrency=limit) for n, limit in enumerate(limits)}
    mappings = {}
    for n, (width, queue) in enumerate(widths):
        settings = MappingSettings(f"m{n}", f"m{n}", f"f{n % len(limits)}", Batching(1), FailureSettings(), width)
        mappings[f"m{n}"] = MappingConfig(settings, "any", None, True, queue)
    listen = Address("localhost", 0)
    return Config(Path("poller.toml"), "sqlite://x", Path(), listen, 25.0, "auto", "info", functions, mappings, ("a warning",), workers)


CASES = st.builds(
    configuration,
    st.integers(1, 9),
    st.lists(st.integers(1, 20), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=6),
).map(Case)


def adds_up(split: Split, limit: int, workers: int) -> bool:
    """The law of a split limit: the shares are it, and differ by one at most."""
    shares = [split(limit, number, workers) for number in range(1, workers + 1)]
    return sum(shares) == limit and max(shares) - min(shares) <= 1


@given(st.integers(0, 200), st.integers(1, 40), st.integers(1, 40))
def test_shares_add_up(limit: int, workers: int, first: int) -> None:
    assert adds_up(lambda limit, number, workers: share(limit, number, workers, first), limit, workers)


def test_the_law_rejects_a_share_of_at_least_one() -> None:
    """The tempting one: it lets eight workers run a function eight times that must run once."""
    assert not adds_up(lambda limit, _, workers: max(1, limit // workers), 1, 8)
    assert not adds_up(lambda limit, _, workers: limit // workers, 5, 2)


@given(CASES)
def test_the_limits_of_all_workers_are_the_daemons(case: Case) -> None:
    for name, function in case.config.functions.items():
        assert sum(part.functions[name].concurrency for part in case.parts if name in part.functions) == function.concurrency
    for name, mapping in case.config.mappings.items():
        there = [part.mappings[name] for part in case.parts if part.mappings[name].enabled]
        runners = min(case.config.workers, case.config.functions[mapping.settings.function].concurrency)
        if mapping.queue:
            assert sum(each.settings.width for each in there) == mapping.settings.width
        else:
            # A lane's order hangs on its width: it is the same wherever the lane goes.
            assert [each.settings for each in there] == [mapping.settings] * runners


@given(CASES)
def test_who_runs_a_mapping_has_its_function_and_the_first_workers_have_all(case: Case) -> None:
    for number, part in enumerate(case.parts, 1):
        assert all(mapping.settings.function in part.functions for mapping in part.mappings.values() if mapping.enabled)
        assert (part.functions.keys() == case.config.functions.keys()) == (number <= complete(case.config))
        assert part.mappings.keys() == case.config.mappings.keys()
        assert not part.warnings


@given(CASES, st.integers(1, 20))
def test_a_share_that_changes_is_a_change_of_the_mapping(case: Case, limit: int) -> None:
    """Also when the function's limit makes it change, and the mapping's own text does not."""
    functions = {name: replace(function, concurrency=limit) for name, function in case.config.functions.items()}
    for old, after in zip(case.parts, Case(replace(case.config, functions=functions)).parts, strict=True):
        for name, mapping in old.mappings.items():
            if mapping.enabled and after.mappings[name].enabled and after.mappings[name].settings != mapping.settings:
                assert after.mappings[name].digest != mapping.digest


def test_narrow_queues_do_not_all_fall_to_one_worker() -> None:
    parts = Case(configuration(2, [8], [(1, True)] * 20)).parts
    assert all(5 <= sum(mapping.enabled for mapping in part.mappings.values()) <= 15 for part in parts)


@pytest.mark.parametrize(
    ("concurrency", "maximum", "sentences"),
    [
        (1, "", ["[functions.f.concurrency] the concurrency 1 is lower than the number of workers, 3: one of them runs this function"]),
        (2, "", ["[functions.f.concurrency] the concurrency 2 is lower than the number of workers, 3: 2 of them run this function"]),
        (
            3,
            "maximum_concurrency = 2",
            ["[mappings.m.maximum_concurrency] the maximum_concurrency 2 is lower than the number of workers, 3"],
        ),
        (3, "", []),
    ],
)
def test_a_limit_that_leaves_workers_idle_is_a_warning(tmp_path: Path, concurrency: int, maximum: str, sentences: list[str]) -> None:
    (tmp_path / "app.py").touch()
    (tmp_path / "poller.toml").write_text(
        f'[poller]\nworkers = 3\n[functions.f]\nhandler = "app.py:handle"\nconcurrency = {concurrency}\n'
        f'[mappings.m]\nfunction = "f"\n{maximum}\nsource = {{ type = "local-queue", name = "q" }}\n'
    )
    warnings = load(tmp_path / "poller.toml", Registry(), {}).warnings
    assert len(warnings) == len(sentences)
    assert all(sentence in warning for sentence, warning in zip(sentences, warnings, strict=True)), warnings
