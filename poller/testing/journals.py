"""What every journal must keep, by property: its contract suite. See stores.py for how suites are used."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from poller.errors import ConfigError
from poller.failures.journal import Entry, KeptRecord, Row, RowState, Selection
from poller.failures.protocols import Journal
from poller.model import Fault
from poller.protocols import Store
from poller.testing.stores import refused

ANY = Selection(states=())
FAULT = Fault("error", "ValueError", "no such order: \N{SNOWMAN} \x00 \"'", ("app.py:7 handle", "orders.py:9 find"), record_index=1)


def make_entry(name: str, *records: str, **fields: Any) -> Entry:
    """An entry with these record ids, one identifier each; everything else is the same for all unless it is given."""
    entry = Entry(
        id=name,
        mapping="orders",
        source="arn:aws:sqs:eu-west-1:123456789012:orders",
        lane="queue",
        function="orders",
        reason="RetryAttemptsExhausted",
        attempts=3,
        fault=FAULT,
        first=records[0] if records else "",
        last=records[-1] if records else "",
        time=1000.0,
        head=b'{"Records":[',
        tail=b"]}",
        records=tuple(KeptRecord(record, None, 990.5, b'{"messageId":"%s"}' % record.encode()) for record in records),
        identifiers=records,
    )
    return replace(entry, **fields)


async def held(journal: Journal, selection: Selection = ANY) -> dict[str, list[str]]:
    """Row id -> its record ids."""
    return {row.entry.id: [record.id for record in row.entry.records] for row in await journal.select(selection)}


async def row_of(journal: Journal, name: str) -> Row:
    (row,) = await journal.select(Selection(ids=(name,), states=()))
    return row


class AppendContract:
    """poller.failures.protocols.Journal.append: nothing is lost, and nothing is there twice."""

    async def test_an_entry_is_read_back_as_it_was(self, store: Store) -> None:
        entry = make_entry(
            "f1",
            records=(
                KeptRecord("m1", "customer \N{SNOWMAN}", 990.5, b'{"body":"\\ud83d"}'),
                KeptRecord("m2", None, 991.0, b"\x00\xff not even text"),
                KeptRecord("m3", "", 992.0, b""),
            ),
            identifiers=('{"partition":"t-0","offset":1}', "", '"m3"'),
            time=1763686800.125,
            head=b"",
            tail=b"\x00",
            first="t-0@1",
            last="t-0@3",
            kept="queue-dlq",
            run="replay-1",
            reason="RetentionExpiring",
            taken_from="arn:aws:sqs:eu-west-1:123456789012:orders-dlq",
        )
        assert list(await store.journal.append([entry])) == ["f1"]
        assert list(await store.journal.select(ANY)) == [Row(entry, "kept", 0, entry.time)]

    async def test_an_entry_without_fault_key_or_identifiers_is_read_back_too(self, store: Store) -> None:
        entry = make_entry("f1", "m1", fault=None, identifiers=())
        await store.journal.append([entry])
        assert (await row_of(store.journal, "f1")).entry == entry

    async def test_records_keep_their_order(self, store: Store) -> None:
        names = [f"m{n * 7919 % 1009}" for n in range(1009)]
        await store.journal.append([make_entry("f1", *names)])
        assert await held(store.journal) == {"f1": names}

    async def test_appending_nothing_is_nothing(self, store: Store) -> None:
        assert list(await store.journal.append([])) == []

    async def test_an_id_that_is_there_stays_as_it_is(self, store: Store) -> None:
        first = make_entry("f1", "m1", "m2")
        await store.journal.append([first])
        assert list(await store.journal.append([make_entry("f1", "m1", "m2", time=2000.0, attempts=9)])) == ["f1"]
        assert list(await store.journal.select(ANY)) == [Row(first, "kept", 0, 2000.0)]

    async def test_what_was_replayed_or_dropped_and_fails_once_more_is_kept_again(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m1"), make_entry("f2", "m2")])
        await store.journal.mark(["f1"], "claimed", 1.0, "a", 9.0)
        await store.journal.mark(["f1"], "replayed", 2.0, "a")
        await store.journal.mark(["f2"], "dropped", 2.0)
        again = [make_entry("f1", "m1", time=2000.0, attempts=4), make_entry("f2", "m2", time=2000.0)]
        assert list(await store.journal.append(again)) == ["f1", "f2"]
        assert [(row.entry, row.state) for row in await store.journal.select(ANY)] == [(again[0], "kept"), (again[1], "kept")]

    async def test_a_row_that_holds_a_part_gets_the_rest_when_nobody_holds_it_any_more(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m1"), make_entry("f2", "m1", "m2")])
        assert await held(store.journal) == {"f1": ["m1"], "f2": ["m2"]}
        await store.journal.mark(["f1"], "dropped", 1.0)
        await store.journal.append([make_entry("f2", "m1", "m2")])
        assert sorted((await held(store.journal))["f2"]) == ["m1", "m2"]

    async def test_a_copy_holds_nothing_against_a_failure(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m1", "m2", kept="queue-dlq"), make_entry("f2", "m3", kept="queue-dlq")])
        assert list(await store.journal.append([make_entry("f3", "m1", kept="queue-dlq")])) == ["f1"]
        assert list(await store.journal.append([make_entry("f4", "m2"), make_entry("f2", "m3")])) == ["f4", "f2"]
        assert [(row.entry.id, row.entry.kept) for row in await store.journal.select(ANY)] == [
            ("f1", "queue-dlq"),
            ("f2", "failure"),
            ("f4", "failure"),
        ]

    async def test_records_in_a_kept_row_are_not_added_again(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m1", "m2")])
        assert list(await store.journal.append([make_entry("f2", "m2", "m1")])) == ["f1"]
        assert await held(store.journal) == {"f1": ["m1", "m2"]}

    async def test_of_an_entry_only_what_is_new_is_added_with_its_identifiers(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m2")])
        assert list(await store.journal.append([make_entry("f2", "m1", "m2", "m3"), make_entry("f3", "m2", "m4")])) == ["f2", "f1"]
        assert await held(store.journal) == {"f1": ["m2"], "f2": ["m1", "m3"], "f3": ["m4"]}
        assert (await row_of(store.journal, "f2")).entry.identifiers == ("m1", "m3")

    async def test_entries_of_one_call_share_no_record(self, store: Store) -> None:
        entries = [make_entry("f1", "m1", "m2"), make_entry("f2", "m2", "m3"), make_entry("f3", "m3", "m1"), make_entry("f1", "m4")]
        assert list(await store.journal.append(entries)) == ["f1", "f1", "f2", "f1"]
        assert await held(store.journal) == {"f1": ["m1", "m2", "m4"], "f2": ["m3"]}

    async def test_appends_that_come_together_share_no_record(self, store: Store) -> None:
        batches = [[f"m{n}", f"m{n + 1}", f"m{n + 2}"] for n in range(40)]
        answers = await asyncio.gather(*(store.journal.append([make_entry(f"f{n}", *batch)]) for n, batch in enumerate(batches)))
        rows = await held(store.journal)
        names = [name for records in rows.values() for name in records]
        assert sorted(names) == sorted(f"m{n}" for n in range(42))
        assert all(batch[0] in rows[answer[0]] for batch, answer in zip(batches, answers, strict=True))

    async def test_a_record_of_another_lane_source_or_mapping_is_another_record(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m1")])
        others = [make_entry("f2", "m1", lane="b"), make_entry("f3", "m1", source="s"), make_entry("f4", "m1", mapping="returns")]
        assert list(await store.journal.append(others)) == ["f2", "f3", "f4"]

    async def test_a_claimed_row_holds_its_records_against_live_work(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m1", "m2")])
        await store.journal.mark(["f1"], "claimed", 1.0, "a", 9.0)
        assert list(await store.journal.append([make_entry("f2", "m2")])) == ["f1"]
        assert await held(store.journal) == {"f1": ["m1", "m2"]}

    async def test_a_replay_that_failed_again_is_kept_though_its_row_is_still_claimed(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m1", "m2")])
        await store.journal.mark(["f1"], "claimed", 1.0, "a", 9.0)
        again = make_entry("f2", "m2", run="replay-1")
        assert list(await store.journal.append([again])) == ["f2"]
        assert (await row_of(store.journal, "f2")).entry == again
        # ... once: the replay that crashed and was taken over fails with the same record.
        assert list(await store.journal.append([make_entry("f3", "m2", run="replay-2")])) == ["f2"]
        assert list(await held(store.journal)) == ["f1", "f2"]

    async def test_replayed_and_dropped_rows_hold_nothing(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m1"), make_entry("f2", "m2")])
        await store.journal.mark(["f1"], "claimed", 1.0, "a", 9.0)
        await store.journal.mark(["f1"], "replayed", 2.0, "a")
        await store.journal.mark(["f2"], "dropped", 2.0)
        assert list(await store.journal.append([make_entry("f3", "m1", "m2")])) == ["f3"]
        assert (await held(store.journal))["f3"] == ["m1", "m2"]

    async def test_the_answer_names_the_row_that_holds_the_record_though_the_id_is_there(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m1")])
        await store.journal.append([make_entry("f2", "m1", "m2")])
        assert list(await store.journal.append([make_entry("f2", "m1", "m2")])) == ["f1"]


class SelectContract:
    """poller.failures.protocols.Journal.select: exactly what is meant, oldest first."""

    async def test_an_empty_journal_has_no_rows(self, store: Store) -> None:
        assert list(await store.journal.select(ANY)) == []

    async def test_the_oldest_comes_first_and_of_one_time_what_was_appended_first(self, store: Store) -> None:
        times = {"f1": 3.0, "f2": 1.0, "f3": 2.0, "f4": 1.0}
        await store.journal.append([make_entry(name, name, time=time) for name, time in times.items()])
        await store.journal.mark(["f2"], "claimed", 5.0, "a", 9.0)
        assert list(await held(store.journal)) == ["f2", "f4", "f3", "f1"]
        assert list(await held(store.journal, Selection(states=(), limit=2))) == ["f2", "f4"]

    async def test_each_part_narrows(self, store: Store) -> None:
        entries = [
            make_entry("f1", "m1", time=1.0),
            make_entry("f2", "m2", time=2.0, kept="queue-dlq"),
            make_entry("f3", "m3", time=3.0, mapping="returns"),
            make_entry("f4", "m4", time=4.0),
        ]
        await store.journal.append(entries)
        await store.journal.mark(["f4"], "dropped", 5.0)
        table = {
            Selection(): ["f1", "f2", "f3"],
            Selection(mapping="orders"): ["f1", "f2"],
            Selection(mapping="nobody"): [],
            Selection(after=2.0): ["f2", "f3"],
            Selection(before=2.0): ["f1"],
            Selection(after=2.0, before=3.0): ["f2"],
            Selection(copies=False): ["f1", "f3"],
            Selection(states=("dropped",)): ["f4"],
            Selection(states=("dropped", "kept")): ["f1", "f2", "f3", "f4"],
            Selection(states=("claimed", "replayed")): [],
            ANY: ["f1", "f2", "f3", "f4"],
            Selection(ids=("f1", "f4")): ["f1"],
            Selection(ids=("f1", "f4"), states=()): ["f1", "f4"],
            Selection(limit=1): ["f1"],
            Selection(limit=0): [],
            Selection(mapping="orders", after=1.5, states=(), copies=False, limit=9): ["f4"],
        }
        assert {selection: list(await held(store.journal, selection)) for selection in table} == table

    async def test_an_id_may_be_its_first_letters(self, store: Store) -> None:
        await store.journal.append([make_entry(name, name) for name in ("abc1", "abd2", "b")])
        for prefix, names in {"abc": ["abc1"], "abd2": ["abd2"], "b": ["b"], "c": [], "abc12": []}.items():
            assert list(await held(store.journal, Selection(ids=(prefix,)))) == names
        assert list(await held(store.journal, Selection(ids=("abd", "abc")))) == ["abc1", "abd2"]
        assert list(await held(store.journal, Selection(ids=("abd", "abd2")))) == ["abd2"]

    async def test_first_letters_of_several_ids_are_refused_and_the_ids_named(self, store: Store) -> None:
        await store.journal.append([make_entry(name, name) for name in ("abc1", "abc2", "b")])
        await store.journal.mark(["abc2"], "dropped", 1.0)
        for prefix in ("abc", "a", ""):
            with refused(ConfigError) as caught:
                await store.journal.select(Selection(ids=("b", prefix)))
            assert "abc1" in str(caught[0]) and "abc2" in str(caught[0])

    async def test_a_whole_id_is_itself_though_another_begins_with_it(self, store: Store) -> None:
        await store.journal.append([make_entry(name, name) for name in ("abc", *(f"abc{n}" for n in range(20)))])
        assert list(await held(store.journal, Selection(ids=("abc",)))) == ["abc"]

    async def test_letters_with_a_meaning_elsewhere_have_none_here(self, store: Store) -> None:
        await store.journal.append([make_entry(name, name) for name in ("a_c", "abc", "a%")])
        assert list(await held(store.journal, Selection(ids=("a_",)))) == ["a_c"]
        assert list(await held(store.journal, Selection(ids=("a%",)))) == ["a%"]


class MarkContract:
    """poller.failures.protocols.Journal.mark: the allowed transitions, and no other."""

    async def _in_state(self, journal: Journal, state: RowState) -> None:
        """A row f1 that is in this state; claimed: by "a" until 10."""
        await journal.append([make_entry("f1", "m1")])
        if state in ("claimed", "replayed"):
            assert await journal.mark(["f1"], "claimed", 1.0, "a", 10.0) == ["f1"]
        if state in ("replayed", "dropped"):
            assert await journal.mark(["f1"], state, 2.0, "a") == ["f1"]

    async def _refuses(self, journal: Journal, state: RowState, now: float = 3.0, owner: str = "a") -> None:
        before = await row_of(journal, "f1")
        assert list(await journal.mark(["f1"], state, now, owner, now + 10.0, FAULT)) == [], f"{before.state} -> {state} was allowed"
        assert await row_of(journal, "f1") == before

    async def test_kept_may_be_claimed_or_dropped_only(self, store: Store) -> None:
        await self._in_state(store.journal, "kept")
        await self._refuses(store.journal, "kept")
        await self._refuses(store.journal, "replayed")
        assert list(await store.journal.mark(["f1"], "dropped", 3.0)) == ["f1"]

    async def test_claimed_is_not_dropped(self, store: Store) -> None:
        await self._in_state(store.journal, "claimed")
        await self._refuses(store.journal, "dropped")

    async def test_replayed_is_for_good(self, store: Store) -> None:
        await self._in_state(store.journal, "replayed")
        for state in ("kept", "claimed", "replayed", "dropped"):
            await self._refuses(store.journal, state, 1000.0)

    async def test_dropped_is_for_good(self, store: Store) -> None:
        await self._in_state(store.journal, "dropped")
        for state in ("kept", "claimed", "replayed", "dropped"):
            await self._refuses(store.journal, state, 1000.0)

    async def test_a_strangers_answer_about_a_claimed_row_is_refused(self, store: Store) -> None:
        await self._in_state(store.journal, "claimed")
        for owner in ("b", ""):
            await self._refuses(store.journal, "kept", 3.0, owner)
            await self._refuses(store.journal, "replayed", 3.0, owner)
            await self._refuses(store.journal, "claimed", 3.0, owner)

    async def test_of_two_claimers_one_has_the_row(self, store: Store) -> None:
        await self._in_state(store.journal, "kept")
        done = await asyncio.gather(*(store.journal.mark(["f1"], "claimed", 1.0, f"w{n}", 10.0) for n in range(10)))
        assert sorted(map(len, done)) == [0] * 9 + [1]

    async def test_a_claim_runs_out(self, store: Store) -> None:
        await self._in_state(store.journal, "claimed")
        assert list(await store.journal.mark(["f1"], "claimed", 9.99, "b", 20.0)) == []
        assert list(await store.journal.mark(["f1"], "claimed", 10.0, "b", 20.0)) == ["f1"]
        await self._refuses(store.journal, "replayed", 11.0, "a")
        assert list(await store.journal.mark(["f1"], "replayed", 11.0, "b")) == ["f1"]

    async def test_the_owners_own_claim_extends_it(self, store: Store) -> None:
        await self._in_state(store.journal, "claimed")
        assert list(await store.journal.mark(["f1"], "claimed", 9.0, "a", 30.0)) == ["f1"]
        await self._refuses(store.journal, "claimed", 29.0, "b")

    async def test_a_claim_that_ran_out_is_its_owners_until_another_takes_it(self, store: Store) -> None:
        await self._in_state(store.journal, "claimed")
        assert list(await store.journal.mark(["f1"], "replayed", 1000.0, "a")) == ["f1"]

    async def test_a_replay_that_failed_again_shows_the_new_fault_and_is_counted(self, store: Store) -> None:
        await self._in_state(store.journal, "claimed")
        timeout = Fault("timeout", "Sandbox.Timedout", "Task timed out after 3.00 seconds")
        assert list(await store.journal.mark(["f1"], "kept", 4.0, "a", fault=timeout)) == ["f1"]
        row = await row_of(store.journal, "f1")
        assert row == Row(make_entry("f1", "m1", fault=timeout), "kept", failures=1, changed=4.0)
        await store.journal.mark(["f1"], "claimed", 5.0, "b", 10.0)
        await store.journal.mark(["f1"], "kept", 6.0, "b", fault=FAULT)
        assert (await row_of(store.journal, "f1")).failures == 2

    async def test_a_row_given_back_is_as_before(self, store: Store) -> None:
        await self._in_state(store.journal, "claimed")
        assert list(await store.journal.mark(["f1"], "kept", 4.0, "a")) == ["f1"]
        assert await row_of(store.journal, "f1") == Row(make_entry("f1", "m1"), "kept", failures=0, changed=4.0)
        assert list(await store.journal.mark(["f1"], "claimed", 5.0, "b", 10.0)) == ["f1"]

    async def test_those_that_were_changed_are_named_in_the_order_they_were_asked_for(self, store: Store) -> None:
        names = [f"f{n}" for n in range(1200)]
        await store.journal.append([make_entry(name, name) for name in names])
        await store.journal.mark(["f7"], "dropped", 1.0)
        asked = ["nobody", *reversed(names), "f3"]
        assert list(await store.journal.mark(asked, "claimed", 2.0, "a", 10.0)) == [name for name in reversed(names) if name != "f7"]
        assert len(await store.journal.select(Selection(states=("claimed",)))) == 1199

    async def test_marking_nothing_is_nothing(self, store: Store) -> None:
        assert list(await store.journal.mark([], "dropped", 1.0)) == []


class JournalContract(AppendContract, SelectContract, MarkContract):
    """poller.failures.protocols.Journal, whole."""
