"""Idempotency windows: what records are known by, what the keys of a mapping may say, and what upkeep removes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.admin.rewinding import Preview
from poller.cli.rewinding import page
from poller.cli.template import write
from poller.config import load
from poller.failures.upkeep import Upkeep
from poller.idempotency import names
from poller.metrics import MappingCounters
from poller.protocols import Format
from poller.registry import Registry
from poller.settings import IdempotencySettings
from poller.stores.memory import MemoryStore
from poller.testing.acknowledged import known, put
from poller.testing.clock import run_virtually
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.strategies import counter_test, laws
from tests.unit.test_config_parts import STREAM, Complain, Read, mapping

Naming = Callable[[str, Format, Sequence[FakeRecord]], list[bytes]]

# Few letters and times, so that one is the beginning of another, and names repeat.
texts = st.text(st.sampled_from("ab:\udc80"), max_size=3)
arrivals = st.sampled_from((0.0, 0.001, 1.5, 1_763_686_800.123, -0.001))
identities = st.tuples(texts, texts, arrivals)


def record(name: str, arrival: float, token: int = 0, key: bytes | None = None, receives: int = 1) -> FakeRecord:
    return FakeRecord(token, name, key, arrival, 100, receives)


def law_of_names(naming: Naming) -> None:
    """Equal if source, name and time are, and only then; whatever else of the record differs, and whatever it comes with."""

    @laws(200)
    @given(st.lists(identities, min_size=1, max_size=8), st.integers(1, 9))
    def check(found: list[tuple[str, str, float]], number: int) -> None:
        made = {
            (source, name, arrival, place): naming(source, FORMAT, [record("other", 7.0), record(name, arrival, number, b"k", number)])[1]
            for place, (source, name, arrival) in enumerate(found)
        }
        for one, first in made.items():
            (alone,) = naming(one[0], FORMAT, [record(one[1], one[2])])
            require(first == alone and len(first) == 16, f"{one} is known by {first!r} and {alone!r}")
            for other, second in made.items():
                require((first == second) == (one[:3] == other[:3]), f"{one} and {other} are known by {first!r} and {second!r}")

    check()


def test_a_record_is_known_by_source_name_and_time() -> None:
    law_of_names(names)


def test_a_record_without_a_time_is_known_by_nothing() -> None:
    """A topic's timestamps may be missing, and its offsets begin anew: what was not handled must not pass for what was."""
    first, second = names("s", FORMAT, [record("topic-0-7", inf), record("topic-0-8", 1.5)])
    assert first == b"" and len(second) == 16


def without_source(source: str, format: Format, records: Sequence[FakeRecord]) -> list[bytes]:
    return names("", format, records)


def run_together(source: str, format: Format, records: Sequence[FakeRecord]) -> list[bytes]:
    return names("", format, [each._replace(name=source + each.name) for each in records])


def timeless(source: str, format: Format, records: Sequence[FakeRecord]) -> list[bytes]:
    return names(source, format, [each._replace(arrival=0.0) for each in records])


def by_receipt(source: str, format: Format, records: Sequence[FakeRecord]) -> list[bytes]:
    return names(source, format, [each._replace(name=f"{each.name} {each.token}") for each in records])


@pytest.mark.parametrize("naming", [without_source, run_together, timeless, by_receipt])
def test_other_names_break_the_law(naming: Naming) -> None:
    with counter_test(), pytest.raises(Broken):
        law_of_names(naming)


def test_times_are_compared_to_the_millisecond() -> None:
    """A client may make another float of what the source has in milliseconds."""
    assert names("s", FORMAT, [record("a", 1_763_686_800.123)]) == names("s", FORMAT, [record("a", 1_763_686_800.1230001)])


# --- configuration --------------------------------------------------------------------------------------------------------------------


def test_the_keys_of_a_mapping(read: Read) -> None:
    def found(*lines: str) -> IdempotencySettings | None:
        return read(mapping(*lines)).mappings["m"].settings.idempotency

    assert found() is None
    assert found('idempotency_window = "10m"') == IdempotencySettings(600.0, 1_000_000)
    assert found('idempotency_window = "1s"', "idempotency_maximum_records = 5") == IdempotencySettings(1.0, 5)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (['idempotency_window = "0s"'], '4: [mappings.m.idempotency_window] found "0s"; allowed more than nothing; leave it out for none'),
        (
            ["idempotency_maximum_records = 5"],
            "4: [mappings.m.idempotency_maximum_records] found 5 without an idempotency_window; "
            "allowed an idempotency_window beside it, or no limit",
        ),
        (
            ['idempotency_window = "1m"', 'tumbling_window = "10s"'],
            '4: [mappings.m.idempotency_window] found "1m" with a tumbling_window; '
            "allowed none with a tumbling_window: the state of a window lacks what is not invoked",
        ),
    ],
)
def test_what_the_keys_may_not_say(complain: Complain, lines: list[str], sentence: str) -> None:
    assert f"poller.toml:{sentence}" in complain(mapping(*lines, source=STREAM))


def test_a_window_of_the_host_alone_is_warned_about_where_lanes_are_shared(read: Read) -> None:
    lines = '[poller]\nleases = "fleet://db/x"\n' + mapping('idempotency_window = "10m"')
    (warning,) = [each for each in read(lines).warnings if "idempotency" in each]
    assert "is handed to the function again; name a shared journal" in warning
    assert not [each for each in read(mapping('idempotency_window = "10m"')).warnings if "idempotency" in each]


# --- what is shown, and what goes -----------------------------------------------------------------------------------------------------


def test_a_rewind_says_what_is_forgotten() -> None:
    assert page(Preview("orders", "s", [], forgets=True), done=False).endswith("remembers would be forgotten, of every lane")
    assert page(Preview("orders", "s", [], forgets=True), done=True).endswith("remembers is forgotten, of every lane")
    assert "idempotency" not in page(Preview("orders", "s", []), done=True)


def test_upkeep_removes_what_is_over_and_what_is_too_much(tmp_path: Path) -> None:
    write(tmp_path)
    config = load(tmp_path / "poller.toml", Registry(), {})
    (name,) = config.mappings
    own = config.mappings[name]
    mappings = {name: replace(own, settings=replace(own.settings, idempotency=IdempotencySettings(600.0, 3)))}

    async def scene() -> None:
        store = MemoryStore()
        await put(store, 1, 2, until=999.0, mapping=name)
        for number in range(3, 9):
            await put(store, number, until=5_000.0 + number, mapping=name)
        await put(store, 1, until=999.0, mapping="gone")
        await put(store, *range(9), mapping="another daemon's")
        await Upkeep(store, "a", lambda: 1_000.0, lambda: replace(config, mappings=mappings), lambda _: MappingCounters()).look()
        assert await known(store, range(9), now=0.0, mapping=name) == [6, 7, 8]
        assert await known(store, (1,), now=0.0, mapping="gone") == []
        assert await known(store, range(9), now=0.0, mapping="another daemon's") == [*range(9)]

    run_virtually(scene())
