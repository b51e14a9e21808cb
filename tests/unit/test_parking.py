"""What a failure holds, what is parked behind it, and what is one row; the pure parts of laws 24 to 26, each with one that breaks it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.cli.explaining import explained
from poller.config import load
from poller.failures.parking import behind, full, holds, joined, keys_held, keys_of, texts
from poller.model import Ack, Batch, Discard, Failure, Fault, Reason, Record, Release
from poller.policy import Block, Redeliver
from poller.registry import Registry
from poller.settings import Backoff, Batching, ErrorRule, FailureSettings, MappingSettings
from poller.testing.fakes import FORMAT, FakeRecord
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.strategies import FAULT, NOW, batches, blocks, counter_test, decisions, dice, laws, redelivers
from tests.unit.test_config_parts import FIFO, QUEUE, STREAM, Complain, Read, mapping

PLAIN = MappingSettings("m", "m", "f", Batching(10), FailureSettings(), 1)
PARKS = replace(PLAIN, on_failure_order="park")
RULE = ErrorRule("Declined", "park")
BY_RULE = replace(PLAIN, failure=FailureSettings(errors=(ErrorRule("Other", "discard"), RULE)))

keys = st.sets(st.sampled_from("abcdef"))


def keyed(*names: str) -> list[FakeRecord]:
    """Their key is the first letter; "-" is none."""
    return [FakeRecord(n, name, None if name[0] == "-" else name[:1].encode(), NOW) for n, name in enumerate(names)]


def names(records: Sequence[Record]) -> str:
    return " ".join(record.name for record in records)


# --- laws ---------------------------------------------------------------------------------------------------------------------------


def law_what_is_behind_is_all_of_the_held_keys_in_order(part: Callable[[Batch, set[str]], dict[str, list[Record]]]) -> None:
    @laws(200)
    @given(batches(), keys)
    def held(batch: Batch, held: set[str]) -> None:
        found = part(batch, held)
        expected = [record for record in batch.records if record.key is not None and record.key.decode() in held]
        require(sorted(record for records in found.values() for record in records) == sorted(expected), f"{found} is behind {held}")
        for key, records in found.items():
            require(all(record.key == key.encode() for record in records), f"{records} are not of key {key}")
            require(records == sorted(records), f"{records} are out of order")

    held()


Join = Callable[[Batch, Sequence[Failure], MappingSettings], Sequence[Failure]]


def law_a_key_is_in_one_row_of_a_decision(join: Join) -> None:
    """Whatever the policies decide: else two rows of a key would be open, and nothing would say which is first."""

    @laws(300)
    @given(st.one_of(redelivers(finite=True), blocks(finite=True)), decisions(), dice, st.booleans(), st.sampled_from((PARKS, BY_RULE)))
    def holding(policy: Any, decision: tuple[Batch, Any], chance: float, screened: bool, settings: MappingSettings) -> None:
        policy = replace(policy, errors=(ErrorRule("ValueError", "park"),) if settings is BY_RULE else ())
        batch, outcome = decision
        actions = policy.screen(batch, NOW)[1] if screened else policy.decide(batch, outcome, NOW, chance)
        failures = [each.failure for each in actions if isinstance(each, Discard | Release) and each.failure is not None]
        rows = join(batch, failures, settings)
        before = sorted(record for failure in failures for record in failure.records)
        require(sorted(record for row in rows for record in row.records) == before, f"{rows} are not {failures}")
        for row in rows:
            require(list(row.records) == sorted(row.records), f"{row.records} are out of order")
        seen: set[str] = set()
        for row in rows:
            own = keys_held(batch, [Discard(row)], settings)
            require(not own & seen, f"law 25: {own & seen} are in two rows of {rows}")
            seen |= own if row.kept == "failure" else set()

    holding()


def law_a_key_that_is_held_never_waits_and_the_limit_holds(waits: Callable[[set[str], set[str], int], bool]) -> None:
    @laws(300)
    @given(keys, keys, st.integers(1, 6))
    def limit(held: set[str], keys: set[str], most: int) -> None:
        if waits(held, keys, most):
            require(not keys <= held, "what is held already waits for room")
            require(bool(held - keys), "what no replay could help waits")
        else:
            require(len(held | keys) <= most or keys <= held or not held - keys, f"{held | keys} are held, {most} allowed")

    limit()


def test_the_laws_hold() -> None:
    law_what_is_behind_is_all_of_the_held_keys_in_order(behind)
    law_a_key_is_in_one_row_of_a_decision(joined)
    law_a_key_that_is_held_never_waits_and_the_limit_holds(full)


def reversed_(batch: Batch, held: set[str]) -> dict[str, list[Record]]:
    return {key: records[::-1] for key, records in behind(batch, held).items()}


def raw(batch: Batch, held: set[str]) -> dict[str, list[Record]]:
    """A record without a key is taken for one whose key is the empty text."""
    found = behind(batch, held)
    without = [record for record in batch.records if record.key is None]
    return {**found, "": without} if without else found


def unjoined(_batch: Batch, failures: Sequence[Failure], _settings: MappingSettings) -> Sequence[Failure]:
    return failures


def shuffled(batch: Batch, failures: Sequence[Failure], settings: MappingSettings) -> Sequence[Failure]:
    return [replace(each, records=list(each.records)[::-1]) for each in joined(batch, failures, settings)]


@pytest.mark.parametrize(
    ("law", "broken"),
    [
        (law_what_is_behind_is_all_of_the_held_keys_in_order, reversed_),
        (law_what_is_behind_is_all_of_the_held_keys_in_order, raw),
        (law_a_key_is_in_one_row_of_a_decision, unjoined),
        (law_a_key_is_in_one_row_of_a_decision, shuffled),
        (law_a_key_that_is_held_never_waits_and_the_limit_holds, lambda held, keys, most: len(held | keys) > most),
        (law_a_key_that_is_held_never_waits_and_the_limit_holds, lambda *_: False),
    ],
)
@pytest.mark.counterpart
def test_a_broken_one_is_found_out(law: Callable[[Any], None], broken: Any) -> None:
    with pytest.raises(Broken), counter_test():
        law(broken)


# --- tables -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", get_args(Reason))
def test_which_failures_hold_their_keys(reason: Reason) -> None:
    assert holds(reason, PARKS) == (reason != "ErrorDiscarded")
    assert holds(reason, PLAIN) == holds(reason, BY_RULE) == (reason in ("ErrorParked", "Parked"))
    assert [settings.parks for settings in (PARKS, BY_RULE, PLAIN)] == [True, True, False]


def test_what_keys_hold_as_rows_have_them() -> None:
    batch = Batch([*keyed("a1", "-1", "b1"), FakeRecord(9, "x", b"\xff", NOW)], FORMAT)
    assert keys_of(batch) == {"a", "b", r"\xff"} and texts([None, b"\xff", b"\xfe"]) == [None, r"\xff", r"\xfe"]
    lost = Failure(batch.records[:2], "RetryAttemptsExhausted", 1, FAULT)
    copy = Release(batch.records[2:3], None, Failure(batch.records[2:3], "MaximumReceiveCountExceeded", 3, FAULT, kept="queue-dlq"))
    assert keys_held(batch, [Ack(batch.records[3:]), Discard(lost), copy], PARKS) == {"a"}
    assert keys_held(batch, [Discard(lost)], PLAIN) == set()


def test_failures_of_one_key_are_one_row_with_what_its_first_record_says() -> None:
    batch = Batch(records := keyed("a1", "b1", "a2", "c1"), FORMAT)
    first, second = Fault("error", "First", ""), Fault("error", "Second", "")
    failures = [
        Failure([records[2]], "MaximumReceiveCountExceeded", 2, second),
        Failure([records[0], records[1]], "MaximumReceiveCountExceeded", 3, first),
        Failure([records[3]], "MaximumReceiveCountExceeded", 1, second),
    ]
    rows = joined(batch, failures, PARKS)
    assert sorted((names(row.records), row.attempts, row.fault) for row in rows) == [("a1 b1 a2", 3, first), ("c1", 1, second)]
    assert joined(batch, failures, PLAIN) is failures


def test_a_fifo_queue_parks_what_came_before_the_named_record_of_its_group_with_it() -> None:
    policy = Redeliver(5, None, None, True, errors=(ErrorRule("ValueError", "park"),))
    batch = Batch(keyed("a1", "b1", "a2", "a3"), FORMAT)
    actions = policy.decide(batch, replace(FAULT, record_index=2), NOW, 0.5)
    gone = [(names(action.failure.records), action.failure.reason) for action in actions if isinstance(action, Discard)]
    assert gone == [("a1 a2", "ErrorParked")]
    assert [names(action.records) for action in actions if isinstance(action, Release)] == ["b1 a3"]


def test_a_stream_finds_the_record_first() -> None:
    policy = Block(5, None, True, Backoff(), errors=(ErrorRule("ValueError", "park"),))
    batch = Batch(keyed("a1", "b1"), FORMAT)
    assert not any(isinstance(action, Discard) for action in policy.decide(batch, FAULT, NOW, 0.5))
    (discard,) = policy.decide(batch.but(records=batch.records[:1]), FAULT, NOW, 0.5)
    assert discard == Discard(Failure(batch.records[:1], "ErrorParked", 1, FAULT))


# --- the configuration --------------------------------------------------------------------------------------------------------------


def test_what_a_mapping_says(read: Read) -> None:
    settings = read(mapping('on_failure_order = "park"', "maximum_parked_keys = 5", source=STREAM)).mappings["m"].settings
    assert (settings.on_failure_order, settings.maximum_parked_keys) == ("park", 5)
    assert read(mapping('on_failure_order = "park"', source=FIFO)).mappings["m"].settings.maximum_parked_keys == 10_000
    assert not read(mapping(source=STREAM)).mappings["m"].settings.parks
    assert read(mapping('on_failure_order = "park"', 'defaults = "aws"', source=STREAM)).mappings["m"].settings.parks


@pytest.mark.parametrize(
    ("source", "lines", "sentence"),
    [
        (QUEUE, ['on_failure_order = "park"'], 'on_failure_order] found "park" on a queue that keeps no order (source type "sqs"); '),
        (STREAM, ['on_failure_order = "stop"'], 'on_failure_order] found "stop"; allowed "park"'),
        (STREAM, ['on_failure_order = "park"', 'tumbling_window = "5s"'], 'on_failure_order] found "park" with a tumbling_window; '),
        (STREAM, ["maximum_parked_keys = 5"], "maximum_parked_keys] found a limit where nothing is parked; "),
        (STREAM, ['on_failure_order = "park"', "maximum_parked_keys = 0"], "maximum_parked_keys] found 0; "),
    ],
)
def test_what_is_refused(complain: Complain, source: str, lines: list[str], sentence: str) -> None:
    (problem,) = complain(mapping(*lines, source=source))
    assert f"[mappings.m.{sentence}" in problem


def test_what_a_person_is_warned_of(read: Read) -> None:
    warnings = read(mapping('on_failure_order = "park"', source=FIFO)).warnings
    assert any("set maximum_receive_count, to at most the queue's own" in each for each in warnings)
    assert read(mapping('on_failure_order = "park"', "maximum_receive_count = 3", source=FIFO)).warnings == ()
    rule = '[[mappings.m.errors]]\nmatch = "*"\naction = "park"\n'
    (warning,) = read(mapping("batch_size = 5", "bisect_batch_on_function_error = false", source=STREAM) + rule).warnings
    assert "gives up every record of its batch" in warning


def test_a_journal_of_the_host_alone_keeps_no_order_where_lanes_are_shared(read: Read) -> None:
    def warned(*lines: str) -> list[str]:
        stores = '[poller]\nstore = "fleet://db"\njournal = "sqlite:j.db"\n'
        return [each for each in read(stores + mapping(*lines, source=STREAM)).warnings if "what is parked is kept in the journal" in each]

    assert len(warned('on_failure_order = "park"')) == 1 and warned() == []


def test_explain_says_what_becomes_of_later_records(tmp_path: Path) -> None:
    def told(*lines: str, error: str | None = None) -> bool:
        rule = '[[mappings.m.errors]]\nmatch = "Declined"\naction = "discard"\n'
        source = '[mappings.m.source]\ntype = "local-stream"\nname = "s"\n'
        path = tmp_path / "poller.toml"
        (tmp_path / "app.py").touch()
        path.write_text("\n".join(('[functions.f]\nhandler = "app.py:f"\n[mappings.m]\nfunction = "f"', *lines, source, rule)))
        found = explained(load(path, Registry(), {}), Registry(), "m", 1, 2, None, error)
        said = [line for line in found.lines() if "later records of its key are parked behind it" in line]
        assert len(said) == found.parks
        return found.parks

    park = 'on_failure_order = "park"'
    assert told(park) and not told() and not told(park, error="Declined"), "what a rule discards holds nothing"
    assert not told(park, "maximum_retry_attempts = -1"), "it is never given up"
