"""Law 13: a failure's id depends on mapping, source, lane and record names, and on nothing else. And: an entry holds the whole event."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.failures.entry import entry, identity
from poller.failures.journal import Entry
from poller.model import Failure, Fault, Identifier, Reason
from poller.testing.fakes import FORMAT, FakeEvent, FakeFormat, FakeRecord
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.strategies import FAULT, batches, counter_test, laws

# Few letters, so that parts run together wherever they can.
parts = st.text("ab", max_size=3)
Origin = tuple[str, str, str, list[str]]
origins = st.tuples(parts, parts, parts, st.lists(parts, min_size=1, max_size=4))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Origin, Origin]:
    """Two that may be the same: unrelated ones, the names in another order, or a letter moved over the border of two parts."""
    mapping, source, lane, names = draw(origins)
    one = mapping, source, lane, names
    match draw(st.sampled_from(("unrelated", "shuffled", "moved"))):
        case "unrelated":
            return one, draw(origins)
        case "shuffled":
            return one, (mapping, source, lane, draw(st.permutations(names)))
        case _:
            flat = [mapping, source, lane, *names]
            place = draw(st.integers(0, len(flat) - 2))
            flat[place : place + 2] = flat[place] + flat[place + 1][:1], flat[place + 1][1:]
            return one, (flat[0], flat[1], flat[2], flat[3:])


def law_13(identity: Any) -> None:
    """Two failures have one id exactly if mapping, source, lane and names are the same."""

    @laws(500)
    @given(pairs())
    def holds(pair: tuple[Origin, Origin]) -> None:
        one, other = pair
        same = identity(*one) == identity(*other)
        require(same == (one == other), f"law 13: {one} and {other} have {'one id' if same else 'two ids'}")

    holds()


def test_law_13() -> None:
    law_13(identity)


def joined(mapping: str, source: str, lane: str, names: Sequence[str]) -> str:
    """Lets parts run together."""
    return identity("".join((mapping, source, lane, *names)), "", "", ())


def separated(mapping: str, source: str, lane: str, names: Sequence[str]) -> str:
    """Puts a letter between them that may be in them."""
    return identity("a".join((mapping, source, lane, *names)), "", "", ())


def placeless(mapping: str, source: str, lane: str, names: Sequence[str]) -> str:
    """Leaves the source out: `shardId-000000000000` is in every stream."""
    return identity(mapping, "", lane, names)


def shuffled(mapping: str, source: str, lane: str, names: Sequence[str]) -> str:
    """Forgets the order of the records."""
    return identity(mapping, source, lane, sorted(names))


@pytest.mark.parametrize("broken", [joined, separated, placeless, shuffled])
@pytest.mark.counterpart
def test_law_13_finds_out(broken: Any) -> None:
    with pytest.raises(Broken), counter_test():
        law_13(broken)


def test_an_id_is_the_same_in_every_process() -> None:
    """Written down: what one version kept, the next must find again."""
    assert identity("orders", "arn:aws:sqs:eu-central-1:1:q", "q", ["m1", "m2"]) == "ce8a666299f4ce453e40aba9fe9c884e"


def test_names_need_not_be_ascii() -> None:
    assert identity("ä", "", "", []) != identity("a", "", "", [])


# --- entries ----------------------------------------------------------------------------------------------------------------------------

RECORDS = [FakeRecord(3, "r3", b"k", 1000.5), FakeRecord(7, "r7", None, 1001.0), FakeRecord(9, "r9", b"\xff", 1002.0)]


def made(failure: Failure, format: FakeFormat = FORMAT, **origin: Any) -> Entry:
    where: dict[str, Any] = {"mapping": "orders", "source": "stream:s", "lane": "shard-0", "function": "app", "now": 2000.0} | origin
    return entry(failure, format, **where)


def test_an_entry_says_what_happened() -> None:
    kept = made(Failure(RECORDS, "RetryAttemptsExhausted", 4, FAULT))
    assert (kept.mapping, kept.source, kept.lane, kept.function) == ("orders", "stream:s", "shard-0", "app")
    assert (kept.reason, kept.attempts, kept.fault, kept.time, kept.kept, kept.run) == (
        "RetryAttemptsExhausted", 4, FAULT, 2000.0, "failure", ""
    )  # fmt: skip
    assert (kept.first, kept.last, kept.id) == ("r3", "r9", identity("orders", "stream:s", "shard-0", ["r3", "r7", "r9"]))
    assert [(record.id, record.key, record.arrival) for record in kept.records] == [
        ("r3", "k", 1000.5), ("r7", None, 1001.0), ("r9", r"\xff", 1002.0)
    ]  # fmt: skip
    assert kept.identifiers == ('"r3"', '"r7"', '"r9"')


@given(batches())
@laws(100)
def test_an_entry_holds_the_event(batch: Any) -> None:
    kept = made(Failure(batch.records, "RecordAgeExceeded", 0))
    event = kept.head + b",".join(record.json for record in kept.records) + kept.tail
    assert event == FORMAT.event(batch.records).json()
    assert json.loads(event) == FORMAT.event(batch.records).mapping()


@pytest.mark.parametrize(
    "change",
    [
        {"reason": "RecordAgeExceeded"},
        {"attempts": 9},
        {"fault": None},
        {"fault": Fault("timeout", "Sandbox.Timedout", "after 3 s")},
        {"kept": "queue-dlq"},
        {"records": [record._replace(arrival=0.0, receives=7, size=1, token=record.token + 100) for record in RECORDS]},
    ],
    ids=["reason", "attempts", "no fault", "another fault", "a copy", "other receipts"],
)
def test_the_same_discard_twice_has_one_id(change: dict[str, Any]) -> None:
    failure = Failure(RECORDS, "RetryAttemptsExhausted", 4, FAULT)
    assert made(replace(failure, **change)).id == made(failure).id
    assert made(failure, function="other", now=1.0, run="run-1").id == made(failure).id


def test_a_copy_and_a_replay_say_so() -> None:
    reason: Reason = "MaximumReceiveCountExceeded"
    kept = made(Failure(RECORDS[:1], reason, 3, FAULT, kept="queue-dlq"), run="run-1")
    assert (kept.kept, kept.run, kept.reason) == ("queue-dlq", "run-1", reason)


class ObjectEvent(FakeEvent):
    def identifiers(self) -> Sequence[Identifier]:
        return [(("offset", record.token), ("partition", "orders-0")) for record in self.records]


class ObjectFormat(FakeFormat):
    def event(self, records: Sequence[FakeRecord]) -> FakeEvent:
        return ObjectEvent(records)


def test_objects_that_name_records_stay_objects() -> None:
    """A replay hands out the same names, and compares what comes back."""
    kept = made(Failure(RECORDS[:1], "RecordAgeExceeded", 0), ObjectFormat())
    assert [json.loads(text) for text in kept.identifiers] == [{"offset": 3, "partition": "orders-0"}]
