"""What every outbox must keep, by property: its contract suite. See stores.py for how suites are used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from poller.failures.entry import successes
from poller.failures.journal import Damaged, Delivery, Entry, KeptRecord, Waiting
from poller.model import Fault
from poller.protocols import Store
from poller.testing.journals import ANY, make_entry

DEAD, AUDIT = "arn:aws:sqs:eu-west-1:123456789012:dead", "https://audit.test/failures"
LATER = 10_000.0


def failed(name: str, *records: str, to: Sequence[str] = (DEAD,), **fields: Any) -> Entry:
    """An entry that is to be delivered."""
    return make_entry(name, *(records or (name,)), destinations=tuple(to), **fields)


async def due(store: Store, destination: str = DEAD, now: float = LATER, limit: int = 100, mapping: str = "orders") -> list[Delivery]:
    found = await store.outbox.due(mapping, destination, now, limit)
    readable = [each for each in found if isinstance(each, Delivery)]
    assert len(readable) == len(found)
    return readable


async def records(store: Store, destination: str = DEAD) -> list[list[str]]:
    """Of each delivery that is due."""
    return [[record.id for record in each.entry.records] for each in await due(store, destination)]


class OutboxContract:
    """poller.failures.protocols.Outbox: what came into the journal or was put goes to each of its destinations, until it has arrived.

    `damage` makes what the store keeps of the deliveries of this id unreadable, or, with `mend`, readable again."""

    async def damage(self, store: Store, id: str, mend: bool = False) -> None:
        raise NotImplementedError

    async def test_a_failure_is_in_the_outbox_with_its_row(self, store: Store) -> None:
        entry = failed("f1", "m1", "m2", to=(DEAD, AUDIT), request_id="r-1")
        await store.journal.append([entry])
        (one,), (other,) = await due(store), await due(store, AUDIT)
        assert one == Delivery(one.number, "f1", DEAD, "failure", entry, None, 0, 0.0, "")
        assert (other.id, other.destination, other.entry) == ("f1", AUDIT, entry)
        assert one.number != other.number
        (row,) = await store.journal.select(ANY)
        assert row.entry == replace(entry, destinations=())

    async def test_what_has_no_destination_is_not(self, store: Store) -> None:
        await store.journal.append([make_entry("f1", "m1")])
        assert list(await store.outbox.waiting()) == []

    async def test_an_entry_is_delivered_as_it_was(self, store: Store) -> None:
        entry = failed(
            "f1",
            head=b"\x00\xff",
            records=(KeptRecord("m1", "customer \N{SNOWMAN}", 990.5, b"\x00\xff not even text"), KeptRecord("m2", None, 991.0, b"")),
            identifiers=('{"partition":"t-0","offset":1}', ""),
            fault=Fault("error", "ValueError", "no such order: \N{SNOWMAN} \x00", ("app.py:7 handle",), record_index=1),
        )
        await store.journal.append([entry])
        assert [each.entry for each in await due(store)] == [entry]

    async def test_the_same_discard_twice_is_one_delivery(self, store: Store) -> None:
        await store.journal.append([failed("f1")])
        await store.journal.append([failed("f1", time=2000.0)])
        assert len(await due(store)) == 1
        (one,) = await due(store)
        await store.outbox.settle(one.number, None)
        await store.journal.append([failed("f1", time=2000.0)])
        assert await due(store) == []

    async def test_only_what_no_open_row_held_is_delivered(self, store: Store) -> None:
        await store.journal.append([failed("f1", "m1"), failed("f2", "m1", "m2")])
        assert await records(store) == [["m1"], ["m2"]]
        assert [each.entry.identifiers for each in await due(store)] == [("m1",), ("m2",)]

    async def test_what_fails_once_more_is_another_failure_to_a_receiver(self, store: Store) -> None:
        await store.journal.append([failed("f1", "m1")])
        await store.journal.mark(["f1"], "dropped", 1.0)
        for _ in range(2):
            await store.journal.append([failed("f1", "m1", time=2000.0, attempts=9)])
        first, second = await due(store)
        assert first.id == "f1" and first.entry.attempts == 3  # as it was, whatever became of its row
        assert second.id not in ("f1", "") and second.entry.attempts == 9 and second.entry.id == "f1"

    async def test_a_row_that_gets_the_rest_delivers_the_rest(self, store: Store) -> None:
        await store.journal.append([failed("f1", "m1"), failed("f2", "m1", "m2")])
        await store.journal.mark(["f1"], "dropped", 1.0)
        await store.journal.append([failed("f2", "m1", "m2")])
        assert await records(store) == [["m1"], ["m2"], ["m1"]]
        assert len({each.id for each in await due(store)}) == 3

    async def test_successes_are_put_once(self, store: Store) -> None:
        handled = successes(failed("", "m1", "m2", to=(DEAD, AUDIT)), b'{"ok":true}')
        for _ in range(2):
            await store.outbox.put(handled)
        await store.outbox.put([])
        (one,), (other,) = await due(store), await due(store, AUDIT)
        assert (one.outcome, one.result, one.entry) == ("success", b'{"ok":true}', handled[0].entry)
        assert one.id == other.id == handled[0].id

    async def test_a_success_and_a_failure_of_the_same_records_are_two(self, store: Store) -> None:
        entry = failed("f1")
        await store.journal.append([entry])
        await store.outbox.put(successes(entry, b"null"))
        one, other = await due(store)
        assert (one.outcome, other.outcome) == ("failure", "success") and one.id != other.id

    async def test_what_is_due_comes_oldest_first(self, store: Store) -> None:
        await store.journal.append([failed(f"f{n}", mapping="orders" if n % 3 else "returns") for n in range(9)])
        assert [each.id for each in await due(store)] == ["f1", "f2", "f4", "f5", "f7", "f8"]
        assert [each.id for each in await due(store, limit=2)] == ["f1", "f2"]
        assert [each.id for each in await due(store, mapping="returns")] == ["f0", "f3", "f6"]
        assert await due(store, AUDIT) == []
        assert len(await due(store, now=0.0)) == 6  # of one that has not been tried yet no clock is asked

    async def test_what_has_arrived_is_removed(self, store: Store) -> None:
        await store.journal.append([failed("f1", to=(DEAD, AUDIT)), failed("f2")])
        first, second = await due(store)
        await store.outbox.settle(first.number, None)
        await store.outbox.settle(first.number, None)
        assert await due(store) == [second]
        assert [each.id for each in await due(store, AUDIT)] == ["f1"]

    async def test_what_failed_is_due_later_and_says_why(self, store: Store) -> None:
        await store.journal.append([failed("f1"), failed("f2")])
        first, second = await due(store)
        await store.outbox.settle(first.number, 1500.0, "no route")
        await store.outbox.settle(first.number, 2000.0, "no answer")
        assert await due(store, now=1999.9) == [second]
        assert await due(store, now=2000.0) == [replace(first, attempts=2, due=2000.0, error="no answer"), second]

    async def test_what_was_settled_meanwhile_is_left_so(self, store: Store) -> None:
        await store.journal.append([failed("f1")])
        (first,) = await due(store)
        await store.outbox.settle(first.number, None)
        await store.journal.append([failed("f2")])
        (second,) = await due(store)
        # A sender that was away for long: what it sent has been settled by another, and its number is nobody's.
        await store.outbox.settle(first.number, None)
        await store.outbox.settle(first.number, 5000.0, "late")
        assert await due(store) == [second]

    async def test_what_waits_is_counted_by_mapping_and_destination(self, store: Store) -> None:
        assert list(await store.outbox.waiting()) == []
        await store.journal.append([failed(f"f{n}", to=(DEAD, AUDIT), time=1000.0 + n) for n in range(3)])
        await store.journal.append([failed("g", mapping="returns", time=5.0)])
        first, second, _ = await due(store)
        await store.outbox.settle(first.number, None)
        await store.outbox.settle(second.number, 1500.0, "no route")
        assert list(await store.outbox.waiting()) == [
            Waiting("orders", DEAD, 2, 1001.0, 1, "no route"),
            Waiting("orders", AUDIT, 3, 1000.0, 0, ""),
            Waiting("returns", DEAD, 1, 5.0, 0, ""),
        ]

    async def test_one_that_cannot_be_read_is_told_beside_the_others(self, store: Store) -> None:
        await store.journal.append([failed(f"f{n}", to=(DEAD, AUDIT) if n == 1 else (DEAD,), time=1000.0 + n) for n in range(3)])
        whole = await due(store)
        await self.damage(store, "f1")
        first, torn, last = await store.outbox.due("orders", DEAD, LATER, 9)
        assert [first, last] == [whole[0], whole[2]]
        assert isinstance(torn, Damaged)
        assert (torn.number, torn.id, torn.destination, torn.attempts, torn.due) == (whole[1].number, "f1", DEAD, 0, 0.0)
        assert "delivery f1" in torn.error
        assert {line.damaged for line in await store.outbox.waiting()} == {0}  # nobody has tried it yet

    async def test_one_that_is_set_aside_waits_and_is_counted_for_itself(self, store: Store) -> None:
        await store.journal.append([failed(f"f{n}", to=(DEAD, AUDIT), time=1000.0 + n) for n in range(2)])
        await self.damage(store, "f0")
        torn, other = await store.outbox.due("orders", DEAD, LATER, 9)
        await store.outbox.settle(torn.number, 5000.0, "it is torn", damaged=True)
        await store.outbox.settle(other.number, 2000.0, "no route")
        aside, left = await store.outbox.waiting()
        # Its error says nothing of the destination.
        assert aside == Waiting("orders", DEAD, 2, 1000.0, 1, "no route", 1)
        assert left == Waiting("orders", AUDIT, 2, 1000.0, 0, "", 0)
        assert [each.number for each in await store.outbox.due("orders", DEAD, 4999.0, 9)] == [other.number]
        again, _ = await store.outbox.due("orders", DEAD, 5000.0, 9)
        assert isinstance(again, Damaged) and (again.number, again.attempts) == (torn.number, 1)
        await self.damage(store, "f0", mend=True)
        mended, _ = await due(store)
        assert (mended.number, mended.attempts) == (torn.number, 1)
        await store.outbox.settle(mended.number, 6000.0, "no route")
        assert [line.damaged for line in await store.outbox.waiting()] == [0, 0]

    async def test_what_was_looked_at_is_dropped_and_nothing_else(self, store: Store) -> None:
        await store.journal.append([failed(f"f{n}", to=(DEAD, AUDIT)) for n in range(4)])
        await store.journal.append([failed("g", mapping="returns")])
        line = next(each for each in await store.outbox.waiting() if (each.mapping, each.destination) == ("orders", DEAD))
        # Meanwhile one has arrived, and others have come.
        await store.outbox.settle((await due(store))[0].number, None)
        await store.journal.append([failed("f4"), failed("f5")])
        assert [await store.outbox.drop(line, 2) for _ in range(3)] == [2, 1, 0]
        assert [each.id for each in await due(store)] == ["f4", "f5"]
        assert [len(await due(store, AUDIT)), len(await due(store, mapping="returns"))] == [4, 1]
        assert await store.journal.count(ANY) == 7

    async def test_of_what_is_set_aside_that_is_dropped_which_cannot_be_read(self, store: Store) -> None:
        await store.journal.append([failed(f"f{n}") for n in range(5)])
        for name in ("f1", "f2", "f3", "f4"):
            await self.damage(store, name)
        _, *torn = await store.outbox.due("orders", DEAD, LATER, 9)
        for each in torn[:3]:
            await store.outbox.settle(each.number, 5000.0, "it is torn", damaged=True)
        await self.damage(store, "f2", mend=True)
        (line,) = await store.outbox.waiting()
        assert [await store.outbox.drop(line, 1, damaged=True) for _ in range(3)] == [1, 1, 0]
        # f4 was not tried yet: nobody has been told of it.
        assert [each.id for each in await store.outbox.due("orders", DEAD, LATER, 9)] == ["f0", "f2", "f4"]
        assert await store.outbox.drop(line, 9) == 3
        assert list(await store.outbox.waiting()) == []


class TextOutboxContract(OutboxContract):
    """The same of a store whose texts are UTF-8."""

    async def test_half_a_surrogate_is_written_out(self, store: Store) -> None:
        await store.journal.append([failed("f1", fault=Fault("error", "E", "half \ud83d", ("\udc80",), record_index=2))])
        (one,) = await due(store)
        assert one.entry.fault == Fault("error", "E", "half \\ud83d", ("\\udc80",), record_index=2)
        await store.outbox.settle(one.number, 2000.0, "half \ud83d")
        assert [each.error for each in await due(store)] == ["half \\ud83d"]
