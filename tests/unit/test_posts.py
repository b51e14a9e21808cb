"""What an outbox keeps of a batch, and which deliveries a failure makes."""

from __future__ import annotations

from dataclasses import fields, replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.errors import StoreError
from poller.failures.entry import successes
from poller.failures.journal import Entry, KeptRecord
from poller.model import Fault
from poller.stores.posts import decode, encode, posted, text
from poller.testing.journals import make_entry

TEXTS = st.text(st.characters(exclude_categories=()), max_size=8)  # half surrogates too
RECORDS = st.lists(st.builds(KeptRecord, TEXTS, st.none() | TEXTS, st.floats(0, 2e9), st.binary(max_size=20)), max_size=4)
FAULTS = st.none() | st.builds(Fault, st.just("error"), TEXTS, TEXTS, st.lists(TEXTS, max_size=3).map(tuple), st.booleans())
ENTRIES = st.builds(
    lambda records, fault, head, first, names: replace(
        make_entry("f1"), records=tuple(records), fault=fault, head=head, first=first, destinations=tuple(names)
    ),
    RECORDS,
    FAULTS,
    st.binary(max_size=20),
    TEXTS,
    st.lists(st.sampled_from(("post:a", "post:b", "post:c")), unique=True),
)


def clean(entry: Entry) -> Entry:
    """With half surrogates written out."""
    fault = entry.fault
    return replace(
        entry,
        first=text(entry.first),
        fault=fault and replace(fault, type=text(fault.type), message=text(fault.message), trace=tuple(map(text, fault.trace))),
        records=tuple(replace(each, id=text(each.id), key=None if each.key is None else text(each.key)) for each in entry.records),
    )


@given(ENTRIES)
def test_an_entry_is_read_back_as_it_was(entry: Entry) -> None:
    assert decode("f1", encode(entry)) == clean(entry)


def test_what_an_older_version_kept_is_read_and_what_a_newer_one_did_too() -> None:
    whole = msgspec.msgpack.decode(encode(make_entry("f1", "m1")))
    later = ("request_id", "group", "destinations", "taken_from", "holds")
    assert later == tuple(field.name for field in fields(Entry))[-5:]
    older = {name: value for name, value in whole.items() if name not in later}
    assert decode("f1", msgspec.msgpack.encode(older)) == make_entry("f1", "m1")
    assert decode("f1", msgspec.msgpack.encode({**whole, "yet_unknown": [1]})) == make_entry("f1", "m1")


@pytest.mark.parametrize("content", [b"", b"\xc1", msgspec.msgpack.encode({"id": 7}), msgspec.msgpack.encode([])])
def test_damage_is_an_error_that_names_the_delivery(content: bytes) -> None:
    with pytest.raises(StoreError, match="the delivery f1 in the outbox is damaged"):
        decode("f1", content)


@given(ENTRIES, st.data())
def test_each_destination_gets_exactly_the_records_that_failed(entry: Entry, data: st.DataObject) -> None:
    places = data.draw(st.lists(st.sampled_from(range(len(entry.records))), unique=True).map(sorted)) if entry.records else []
    deliveries = posted(entry, places)
    assert tuple(each.destination for each in deliveries) == entry.destinations
    for each in deliveries:
        assert each.entry.records == tuple(entry.records[place] for place in places)
        assert (each.id, each.outcome, each.due, each.entry.id) == (entry.id, "failure", 0.0, entry.id)


def test_one_failure_keeps_its_id_and_another_of_the_same_row_has_one_of_its_own() -> None:
    entry = make_entry("f1", "m1", "m2", destinations=("post:a",))
    (first,), (again,) = posted(entry, [0, 1]), posted(entry, [0, 1], again=True)
    (later,) = posted(replace(entry, time=entry.time + 1), [0, 1], again=True)
    (part,) = posted(entry, [1], again=True)
    assert first.id == "f1" and len({first.id, again.id, later.id, part.id}) == 4
    assert posted(entry, [0, 1], again=True) == [again]


def test_a_success_has_an_id_that_its_records_make() -> None:
    entry = make_entry("f1", "m1", "m2", destinations=("post:a", "post:b"))
    one, other = successes(entry, b"null")
    assert one.id == other.id == successes(replace(entry, time=9.0, attempts=4, lane=entry.lane), b"{}")[0].id
    different = (
        replace(entry, lane="x"),
        replace(entry, mapping="x"),
        replace(entry, source="x"),
        replace(entry, records=entry.records[:1]),
    )
    assert len({one.id, *(successes(each, b"null")[0].id for each in different)}) == 5
    assert (one.entry.id, one.result, one.outcome) == (one.id, b"null", "success")
