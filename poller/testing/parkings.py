"""What parking of every store must keep, by property: its contract suite, and a plain model. See stores.py for how suites are used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from dataclasses import replace as changed
from random import Random
from typing import Any

from poller.failures.journal import OPEN, Entry, KeptRecord, RowState, Selection
from poller.failures.runs import Finished
from poller.model import Fault
from poller.protocols import Store
from poller.testing.journals import ANY, make_entry, row_of
from poller.testing.runs import make_run

MAPPING, SOURCE = "orders", "arn:aws:kinesis:eu-west-1:123456789012:stream/orders"
AGAIN = Fault("error", "KeyError", "'again'")


def failed(name: str, *keys: str | None, **fields: Any) -> Entry:
    """A failure that holds these keys: a record each, named for the row and its place in it."""
    records = tuple(KeptRecord(f"{name}-{place}", key, 1.0, b"{}") for place, key in enumerate(keys))
    entry = make_entry(name, source=SOURCE, lane="shard-1", holds=True, records=records, identifiers=())
    return changed(entry, **fields)


def parked(name: str, *keys: str | None, **fields: Any) -> Entry:
    """Records that are to be parked."""
    return failed(name, *keys, **{"reason": "Parked", "attempts": 0, "fault": None, **fields})


async def states(store: Store) -> dict[str, str]:
    return {row.entry.id: row.state for row in await store.journal.select(ANY)}


async def held(store: Store, keys: Sequence[str] | None = None) -> set[str]:
    return await store.parking.held(MAPPING, SOURCE, keys)


async def finish(store: Store, *done: Finished) -> dict[str, tuple[str, ...]]:
    """The rows are claimed and finished; what each released."""
    await store.journal.mark([one.row for one in done], "claimed", 10.0, "w1", 70.0)
    await store.runs.put(make_run())
    return {step.row: step.released for step in await store.runs.finish("r1", done, 20.0, "w1", "ada")}


class ParkingContract:
    """poller.failures.protocols.Parking: nothing is parked behind nothing, and what is parked is released in order."""

    async def test_keys_are_held_while_a_row_that_holds_them_is_open(self, store: Store) -> None:
        await store.journal.append([failed("f1", "a", "b", "a", None), changed(failed("f2", "c"), holds=False)])
        assert await held(store) == {"a", "b"} == await held(store, ["a", "b", "c", "d"])
        assert await held(store, []) == set()
        assert await store.parking.held("returns", SOURCE) == set() == await store.parking.held(MAPPING, SOURCE + "2", ["a"])
        assert (await row_of(store.journal, "f1")).entry.holds
        await store.journal.mark(["f1"], "claimed", 2.0, "w1", 9.0)
        assert await held(store) == {"a", "b"}
        await store.journal.mark(["f1"], "kept", 3.0, "w1", fault=AGAIN)
        assert await held(store) == {"a", "b"}
        await store.journal.mark(["f1"], "dropped", 3.0)
        assert await held(store) == set()

    async def test_what_comes_behind_is_parked_and_the_rest_refused(self, store: Store) -> None:
        await store.journal.append([failed("f1", "a")])
        behind = parked("p1", "a", "a", lane="shard-2")  # a key may come from another shard
        assert list(await store.parking.park([behind, parked("p2", "b"), parked("p3", "a")])) == ["p1", "", "p3"]
        assert await states(store) == {"f1": "kept", "p1": "parked", "p3": "parked"}
        row = await row_of(store.journal, "p1")
        assert (row.entry, row.failures) == (behind, 0)
        assert list(await store.parking.park([behind])) == ["p1"]  # the same once more
        grown = parked("p4", "a", "a", "a", lane="shard-2")
        grown = changed(grown, records=(*behind.records, *grown.records[2:]))
        assert list(await store.parking.park([grown])) == ["p1"]
        assert [record.id for record in (await row_of(store.journal, "p4")).entry.records] == ["p4-2"]
        assert list(await store.parking.park([])) == []

    async def test_a_parked_row_is_not_claimed(self, store: Store) -> None:
        await store.journal.append([failed("f1", "a")])
        await store.parking.park([parked("p1", "a")])
        assert list(await store.journal.mark(["p1"], "claimed", 2.0, "w1", 9.0)) == []
        assert list(await store.journal.mark(["p1"], "kept", 2.0, "w1")) == [] == list(await store.journal.mark(["p1"], "replayed", 2.0))
        assert await states(store) == {"f1": "kept", "p1": "parked"}

    async def test_rows_are_released_one_at_a_time_in_order(self, store: Store) -> None:
        await store.journal.append([failed("f1", "a", "b", time=5.0)])
        await store.parking.park(
            [parked(name, key, time=time) for name, key, time in (("p2", "a", 4.0), ("p1", "a", 3.0), ("q1", "b", 9.0))]
        )
        assert await finish(store, Finished("f1", "replayed")) == {"f1": ("p2", "q1")}
        assert await states(store) == {"f1": "replayed", "p2": "kept", "p1": "parked", "q1": "kept"}
        assert (await row_of(store.journal, "p2")).changed == 20.0
        assert list(await store.parking.park([parked("p3", "a")])) == ["p3"]
        assert await finish(store, Finished("p2", "failed_again", AGAIN)) == {"p2": ()}
        assert (await states(store))["p1"] == "parked"
        assert await finish(store, Finished("p2", "sent")) == {"p2": ("p1",)}
        assert await finish(store, Finished("p1", "replayed"), Finished("q1", "replayed")) == {"p1": ("p3",), "q1": ()}
        assert [step.released for step in await store.runs.trail("r1")] == [("p2", "q1"), (), ("p1",), ("p3",), ()]
        assert await finish(store, Finished("p3", "replayed")) == {"p3": ()}
        assert await held(store) == set()

    async def test_dropping_a_row_releases_what_is_behind_it(self, store: Store) -> None:
        await store.journal.append([failed("f1", "a")])
        await store.parking.park([parked("p1", "a"), parked("p2", "a"), parked("p3", "a")])
        assert list(await store.journal.mark(["p1"], "dropped", 2.0)) == ["p1"]
        assert await states(store) == {"f1": "kept", "p1": "dropped", "p2": "parked", "p3": "parked"}
        await store.journal.mark(["f1"], "dropped", 2.0)
        assert await states(store) == {"f1": "dropped", "p1": "dropped", "p2": "kept", "p3": "parked"}
        assert list(await store.journal.mark(["p2", "p3"], "dropped", 2.0)) == ["p2", "p3"]
        assert await held(store) == set()

    async def test_what_upkeep_removes_releases_too(self, store: Store) -> None:
        await store.journal.append([failed("f1", "a", time=1.0)])
        await store.parking.park([parked("p1", "a", time=2.0), parked("p2", "a", time=50.0)])
        assert [row.id for row in await store.upkeep.remove(("kept",), 10.0, 9)] == ["f1"]
        assert await states(store) == {"p1": "kept", "p2": "parked"}
        assert [row.id for row in await store.upkeep.remove(("kept",), 10.0, 9)] == ["p1"]
        assert await store.upkeep.remove(("kept",), 10.0, 9) == []
        assert (await states(store), await held(store)) == ({"p2": "kept"}, {"a"})

    async def test_what_failed_of_a_row_stays_before_what_is_behind_it(self, store: Store) -> None:
        await store.journal.append([failed("f1", "a", "b", "a", "b")])
        await store.parking.park([parked("p1", "a"), parked("q1", "b")])
        records = (await row_of(store.journal, "f1")).entry.records
        rests = (failed("r1", run="r1", records=(records[0],)), parked("r2", run="r1", records=(records[2],)))
        assert await finish(store, Finished("f1", "split", rests=rests)) == {"f1": ("q1",)}
        assert await states(store) == {"f1": "replayed", "r1": "kept", "r2": "parked", "p1": "parked", "q1": "kept"}
        assert await finish(store, Finished("r1", "replayed")) == {"r1": ("r2",)}
        assert await finish(store, Finished("r2", "replayed")) == {"r2": ("p1",)}

    async def test_it_stays_there_whatever_else_is_gone_by_then(self, store: Store) -> None:
        """A place is of a key: that of a row may be far above the number of the next one."""
        others = [failed(f"x{n}", f"x{n}") for n in range(6)]
        await store.journal.append([*others, failed("f1", "a", "a", "a")])
        await store.journal.mark([other.id for other in others], "dropped", 2.0)
        names = ("r1", "r2", "r3")
        makes = zip((failed, parked, parked), names, (await row_of(store.journal, "f1")).entry.records, strict=True)
        rests = tuple(make(name, run="r1", records=(record,)) for make, name, record in makes)
        assert await finish(store, Finished("f1", "split", rests=rests)) == {"f1": ()}
        assert list(await store.parking.park([parked("p1", "a")])) == ["p1"]
        following = (*names[1:], "p1", "")
        for row, behind in zip((*names, "p1"), following, strict=True):
            assert await finish(store, Finished(row, "replayed")) == {row: (behind,) if behind else ()}

    async def test_nothing_of_reason_parked_is_lost(self, store: Store) -> None:
        """What the journal is given it keeps, behind a failure or not; and so it does what failed for its own reason."""
        assert list(await store.journal.append([parked("p1", "a"), parked("p2", "a"), failed("f1", "a")])) == ["p1", "p2", "f1"]
        assert await states(store) == {"p1": "kept", "p2": "parked", "f1": "kept"}
        assert list(await store.journal.append([parked("p3", "a", holds=False)])) == ["p3"]
        assert (await states(store))["p3"] == "kept"  # who holds nothing would never be released
        assert await finish(store, Finished("p1", "replayed")) == {"p1": ()}  # another holds it still
        assert await finish(store, Finished("f1", "replayed")) == {"f1": ("p2",)}

    async def test_what_comes_once_more_is_behind_all_that_came_since(self, store: Store) -> None:
        """A rewind: the records of a row that was replayed are read again."""
        await store.journal.append([failed("f1", "a")])
        await store.parking.park([parked("p1", "a"), parked("p2", "a")])
        await finish(store, Finished("f1", "replayed"))
        await finish(store, Finished("p1", "replayed"))
        assert list(await store.parking.park([parked("p1", "a", time=2000.0)])) == ["p1"]
        assert await states(store) == {"f1": "replayed", "p1": "parked", "p2": "kept"}
        assert list(await store.journal.append([failed("f1", "a", time=3000.0)])) == ["f1"]
        assert await finish(store, Finished("p2", "replayed")) == {"p2": ()}
        assert await finish(store, Finished("f1", "replayed")) == {"f1": ("p1",)}

    async def test_an_open_row_holds_keys_from_when_it_is_asked_to(self, store: Store) -> None:
        """Its mapping parks since its configuration was changed, and has failed on the record once more."""
        await store.journal.append([changed(failed("f1", "a", "b"), holds=False)])
        assert list(await store.parking.park([parked("p1", "a")])) == [""]
        assert list(await store.journal.append([failed("f1", "a", "b")])) == ["f1"]
        assert await held(store) == {"a", "b"} and (await row_of(store.journal, "f1")).entry.holds
        assert list(await store.parking.park([parked("p1", "a")])) == ["p1"]
        assert await finish(store, Finished("f1", "replayed")) == {"f1": ("p1",)}

    async def test_parking_and_releasing_come_one_after_the_other(self, store: Store) -> None:
        await store.runs.put(make_run())
        for turn in range(6):
            await store.journal.append([failed(f"f{turn}", "a")])
            await store.journal.mark([f"f{turn}"], "claimed", 10.0, "w1", 70.0)
            parking = asyncio.ensure_future(store.parking.park([parked(f"p{turn}", "a")]))
            await asyncio.sleep(0)  # whoever is asked first
            await store.runs.finish("r1", [Finished(f"f{turn}", "replayed")], 20.0, "w1", "ada")
            ids = await parking
            # Either it came first, and was released; or it came later, and is not there.
            assert (await states(store)).get(f"p{turn}", "") == ("kept" if ids[0] else "")
            await finish(store, Finished(f"p{turn}", "replayed"))

    async def test_keys_of_any_kind(self, store: Store) -> None:
        keys = ["", "a\x00b", "\N{SNOWMAN}", "k" * 100_000, "k" * 99_999 + "j", "\ufffd"]
        await store.journal.append([failed("f1", *keys)])
        assert await held(store) == {*keys} == await held(store, keys)
        assert list(await store.parking.park([parked(f"p{n}", key) for n, key in enumerate(keys)])) == [f"p{n}" for n in range(len(keys))]
        assert await finish(store, Finished("f1", "replayed")) == {"f1": tuple(f"p{n}" for n in range(len(keys)))}

    async def test_a_plain_model_says_the_same(self, store: Store) -> None:
        for seed in range(4):
            await Play(store, Random(seed), f"s{seed}").run(30)


# --- the model ----------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Line:
    """Of one key the open rows that hold it, in order."""

    rows: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Play:
    """Does the same to a store and to a plain model of it, by chance; `prefix` tells its rows and keys from those of another play."""

    store: Store
    random: Random
    prefix: str
    entries: dict[str, Entry] = field(default_factory=dict)
    states: dict[str, RowState] = field(default_factory=dict)
    lines: dict[str, Line] = field(default_factory=dict)
    order: dict[str, list[str]] = field(default_factory=dict)
    """Of each key the records in the order in which they were put down. Those that are handled are taken out, from the front (law 25)."""

    async def run(self, turns: int) -> None:
        await self.store.runs.put(make_run(self.prefix))
        doings = (self._append, self._park, self._park, self._park, self._finish, self._finish, self._finish, self._drop, self._remove)
        for _ in range(turns):
            await self.random.choice(doings)()
            await self._compare()

    # --- what is done -------------------------------------------------------------------------------------------------------------

    async def _append(self) -> None:
        """A batch of a mapping fails: its records are of keys that nobody holds."""
        free = [key for key in self._keys() if not self._line(key).rows]
        if free:
            keys = [self.random.choice(free) for _ in range(self.random.randint(1, 4))]
            entry = self._entry(failed, *keys, *([None] if self.random.random() < 0.2 else []))
            assert list(await self.store.journal.append([entry])) == [entry.id]
            self._put(entry, "kept")

    async def _park(self) -> None:
        entries = [self._entry(parked, *[key] * self.random.randint(1, 2)) for key in self.random.choices(self._keys(), k=2)]
        ids = await self.store.parking.park(entries)
        for entry, id_ in zip(entries, ids, strict=True):
            (key,) = {record.key for record in entry.records if record.key is not None}
            assert id_ == (entry.id if self._line(key).rows else "")
            if id_:
                self._put(entry, "parked")

    async def _finish(self) -> None:
        kept = [row for row, state in self.states.items() if state == "kept"]
        rows = self.random.sample(kept, min(len(kept), self.random.randint(1, 2)))
        ours = await self.store.journal.mark(rows, "claimed", 10.0, self.prefix, 70.0)
        assert list(ours) == rows
        if self.random.random() < 0.2:  # the run is stopped, or was killed and its claims ran out
            await self.store.journal.mark(rows, "kept", 10.0, self.prefix)
            return
        done = [self._outcome(row) for row in rows]
        steps = await self.store.runs.finish(self.prefix, done, 20.0, self.prefix, "ada")
        assert [step.row for step in steps] == rows
        closing = [one for one in done if one.outcome != "failed_again"]
        keys = {one.row: self._close(one) for one in closing}
        released = {row: self._release(mine) for row, mine in keys.items()}
        assert {step.row: sorted(step.released) for step in steps} == {row: sorted(released.get(row, [])) for row in rows}

    async def _drop(self) -> None:
        rows = [row for row, state in self.states.items() if state in ("kept", "parked")]
        if rows and self.random.random() < 0.5:
            row = self.random.choice(rows)
            assert list(await self.store.journal.mark([row], "dropped", 20.0)) == [row]
            self._release(self._gone(row))

    async def _remove(self) -> None:
        """Upkeep gives up all that is kept and older than something."""
        if self.random.random() < 0.2:
            for row in await self.store.upkeep.remove(("kept",), 1e9, 1):
                if row.id in self.states:
                    self._release(self._gone(row.id))
                    del self.states[row.id]

    # --- the model ----------------------------------------------------------------------------------------------------------------

    def _keys(self) -> list[str]:
        return [f"{self.prefix}-{key}" for key in "abc"]

    def _line(self, key: str) -> Line:
        return self.lines.setdefault(key, Line())

    def _entry(self, make: Any, *keys: str | None, **fields: Any) -> Entry:
        entry: Entry = make(f"{self.prefix}-{len(self.entries)}", *keys, **fields)
        self.entries[entry.id] = entry
        return entry

    def _put(self, entry: Entry, state: RowState) -> None:
        self.states[entry.id] = state
        for record in entry.records:
            if record.key is not None:
                line = self._line(record.key).rows
                line += [] if entry.id in line else [entry.id]
                self.order.setdefault(record.key, []).append(record.id)

    def _outcome(self, row: str) -> Finished:
        entry = self.entries[row]
        if self.random.random() < 0.3:
            return Finished(row, "failed_again", AGAIN)
        keyed = [record for record in entry.records if record.key is not None]
        if len(keyed) > 1 and self.random.random() < 0.5:
            # One record failed, and with it all later ones of its key: rows of their own.
            first = self.random.choice(keyed)
            poison = [record for record in keyed[keyed.index(first) :] if record.key == first.key]
            makes = (failed, *(parked,) * (len(poison) - 1))
            rests = [self._entry(make, records=(record,), run=self.prefix) for make, record in zip(makes, poison, strict=True)]
            return Finished(row, "split", rests=tuple(rests))
        return Finished(row, "replayed")

    def _close(self, done: Finished) -> list[str]:
        """Its rests stand where it stood. The keys that it held."""
        entry = self.entries[done.row]
        places = {key: self._line(key).rows.index(done.row) for key in _keys_of(entry)}
        failing = {record.id for rest in done.rests for record in rest.records}
        for record in entry.records:
            if record.key is not None and record.id not in failing:
                mine = [each for each in self.order[record.key] if each not in failing]
                assert mine[0] == record.id, f"{record.id} was handled before {mine[0]} (law 25)"
                self.order[record.key].remove(record.id)
        for number, rest in enumerate(done.rests):
            self.states[rest.id] = "parked" if rest.reason == "Parked" else "kept"
            for key in _keys_of(rest):
                self._line(key).rows.insert(places[key] + 1 + number, rest.id)
        return self._gone(done.row, "replayed")

    def _gone(self, row: str, state: RowState = "dropped") -> list[str]:
        keys = _keys_of(self.entries[row])
        for key in keys:
            self._line(key).rows.remove(row)
            if state == "dropped":
                names = {record.id for record in self.entries[row].records}
                self.order[key] = [name for name in self.order[key] if name not in names]
        self.states[row] = state
        return keys

    def _release(self, keys: Sequence[str]) -> list[str]:
        released = list[str]()
        for key in keys:
            rows = self._line(key).rows
            if rows and all(self.states[row] == "parked" for row in rows):
                self.states[rows[0]] = "kept"
                released.append(rows[0])
        return released

    async def _compare(self) -> None:
        found = await self.store.journal.select(Selection(states=()))
        mine = {row.entry.id: row.state for row in found if row.entry.id in self.entries}
        assert mine == self.states
        assert await held(self.store, self._keys()) == {key for key in self._keys() if self._line(key).rows}
        for key, line in self.lines.items():
            heads = [place for place, row in enumerate(line.rows) if self.states[row] in OPEN and self.states[row] != "parked"]
            assert not line.rows or heads == [0], f"{key}: {line.rows} (law 26)"


def _keys_of(entry: Entry) -> list[str]:
    return list(dict.fromkeys(record.key for record in entry.records if record.key is not None))
