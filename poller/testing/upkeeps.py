"""What every journal must keep of error groups, keys and upkeep: their contract suite. See stores.py for how suites are used."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha256

from poller.errors import ConfigError
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import Entry, ErrorGroup, KeptRecord, RowState, Selection
from poller.model import Fault
from poller.protocols import Store
from poller.testing.journals import ANY, held, make_entry, row_of
from poller.testing.stores import refused

TYPO = Fault("error", "KeyError", "'discuont'", ('File "app.py", line 7, in handle',))
SLOW = Fault("timeout", "Sandbox.Timedout", "Task timed out after 3.00 seconds")


def failed(name: str, fault: Fault | None, time: float, *records: str, mapping: str = "orders") -> Entry:
    """A failure as the engine puts it down, with these records."""
    group = fingerprint(fault, "RetryAttemptsExhausted")
    return make_entry(name, *(records or (name,)), fault=fault, time=time, mapping=mapping, group=group)


def ids(groups: Sequence[ErrorGroup]) -> list[str]:
    return [group.id for group in groups]


class GroupsContract:
    """poller.failures.protocols.Upkeep.groups, and `Selection.group`, `Selection.key`."""

    async def test_failures_are_counted_by_their_fingerprint(self, store: Store) -> None:
        entries = [
            failed("f1", TYPO, 5.0, "m1", "m2"),
            failed("f2", SLOW, 2.0, "m3"),
            failed("f3", TYPO, 3.0, "m4", mapping="returns"),
            failed("f4", None, 4.0, "m5"),
            failed("f5", TYPO, 4.0, "m6", "m7", "m8"),
        ]
        await store.journal.append(entries)
        groups = list(await store.upkeep.groups(ANY))
        assert groups[0] == ErrorGroup(entries[0].group, 3, 6, 3.0, 5.0, ("orders", "returns"), "f5", "RetryAttemptsExhausted", TYPO)
        assert sorted(groups[1:], key=lambda group: group.first) == [
            ErrorGroup(entries[1].group, 1, 1, 2.0, 2.0, ("orders",), "f2", "RetryAttemptsExhausted", SLOW),
            ErrorGroup(entries[3].group, 1, 1, 4.0, 4.0, ("orders",), "f4", "RetryAttemptsExhausted", None),
        ]

    async def test_groups_are_narrowed_as_rows_are(self, store: Store) -> None:
        keyed = make_entry("f4", time=4.0, records=(KeptRecord("m4", "k", 1.0, b"{}"),), identifiers=(), kept="queue-dlq", group="g-1")
        entries = [failed("f1", TYPO, 1.0), failed("f2", SLOW, 2.0), failed("f3", TYPO, 3.0, mapping="returns"), keyed]
        await store.journal.append(entries)
        await store.journal.mark(["f2"], "dropped", 5.0)
        typo, slow = entries[0].group, entries[1].group
        table = {
            Selection(): {typo: 2, "g-1": 1},
            Selection(mapping="returns"): {typo: 1},
            Selection(mapping="nobody", states=()): {},
            Selection(states=("dropped",)): {slow: 1},
            Selection(after=2.0, states=()): {slow: 1, typo: 1, "g-1": 1},
            Selection(before=2.0): {typo: 1},
            Selection(ids=("f1", "f2"), states=()): {typo: 1, slow: 1},
            Selection(copies=False): {typo: 2},
            Selection(group=typo): {typo: 2},
            Selection(group="g"): {"g-1": 1},
            Selection(key="k"): {"g-1": 1},
            Selection(limit=1): {typo: 2, "g-1": 1},
        }
        found = {selection: {group.id: group.rows for group in await store.upkeep.groups(selection)} for selection in table}
        assert found == table

    async def test_an_empty_journal_has_no_groups(self, store: Store) -> None:
        assert list(await store.upkeep.groups(ANY)) == []

    async def test_a_row_grows_in_its_group(self, store: Store) -> None:
        await store.journal.append([failed("f1", TYPO, 1.0, "m1")])
        await store.journal.append([failed("f1", TYPO, 2.0, "m1", "m2", "m3")])
        assert [(group.rows, group.records) for group in await store.upkeep.groups(ANY)] == [(1, 3)]

    async def test_what_fails_with_another_error_changes_its_group(self, store: Store) -> None:
        await store.journal.append([failed("f1", TYPO, 1.0), failed("f2", TYPO, 1.0)])
        await store.journal.mark(["f1"], "claimed", 2.0, "a", 9.0)
        await store.journal.mark(["f1"], "kept", 3.0, "a", fault=SLOW)
        await store.journal.mark(["f2"], "dropped", 3.0)
        again = failed("f2", None, 4.0)
        await store.journal.append([again])
        assert {group.id: group.sample for group in await store.upkeep.groups(ANY)} == {fingerprint(SLOW): "f1", again.group: "f2"}
        assert (await row_of(store.journal, "f1")).entry.group == fingerprint(SLOW)

    async def test_a_row_given_back_keeps_its_group(self, store: Store) -> None:
        await store.journal.append([failed("f1", TYPO, 1.0)])
        await store.journal.mark(["f1"], "claimed", 2.0, "a", 9.0)
        await store.journal.mark(["f1"], "kept", 3.0, "a")
        assert ids(await store.upkeep.groups(ANY)) == [fingerprint(TYPO)]

    async def test_rows_of_an_older_version_get_their_fingerprint_when_groups_are_asked_for(self, store: Store) -> None:
        old = [make_entry(f"f{n:04}", f"m{n}", fault=SLOW if n % 2 else None, time=float(n)) for n in range(1203)]
        await store.journal.append(old)
        assert await store.journal.count(Selection(group=fingerprint(SLOW))) == 601
        assert len(await store.journal.select(Selection(group=fingerprint(None, "RetryAttemptsExhausted")[:4]))) == 602
        assert [(group.rows, group.records) for group in await store.upkeep.groups(ANY)] == [(602, 602), (601, 601)]

    async def test_an_older_row_that_fails_again_first_counts_too(self, store: Store) -> None:
        old = [make_entry("f1", "m1", fault=TYPO, time=1.0), make_entry("f2", "m2", fault=TYPO, time=1.0)]
        await store.journal.append(old)
        await store.journal.mark(["f1"], "claimed", 2.0, "a", 9.0)
        await store.journal.mark(["f1"], "kept", 3.0, "a", fault=SLOW)
        await store.journal.mark(["f2"], "dropped", 3.0)
        await store.journal.append([failed("f2", SLOW, 4.0, "m2", "m3")])
        assert [(group.id, group.rows, group.records) for group in await store.upkeep.groups(ANY)] == [(fingerprint(SLOW), 2, 3)]

    async def test_a_group_is_named_by_its_first_letters(self, store: Store) -> None:
        names = ("abc-1", "abd-1", "ab-1", *(f"x{n}-1" for n in range(9)))
        await store.journal.append([make_entry(f"f{n}", f"m{n}", group=name) for n, name in enumerate(names)])
        for prefix, rows in {"abc": ["f0"], "abc-1": ["f0"], "ab-": ["f2"], "c": [], "abc-12": [], "a%": [], "x7": ["f10"]}.items():
            assert list(await held(store.journal, Selection(group=prefix))) == rows
        for prefix in ("ab", "", "x"):
            with refused(ConfigError) as caught:
                await store.journal.select(Selection(group=prefix))
            assert "group" in str(caught[0])

    async def test_a_key_selects_the_rows_that_hold_it(self, store: Store) -> None:
        long = "".join(sha256(b"%d" % n).hexdigest() for n in range(300))  # nothing that could be made shorter
        keys = {"f1": ("a", "b"), "f2": ("b",), "f3": (None, ""), "f4": (long, long + "b"), "f5": ("sch\N{SNOWMAN}\x00n",)}
        await store.journal.append(
            [
                make_entry(name, records=tuple(KeptRecord(f"{name}-{n}", key, 1.0, b"{}") for n, key in enumerate(held)), identifiers=())
                for name, held in keys.items()
            ]
        )
        expected = {"a": ["f1"], "b": ["f1", "f2"], "": ["f3"], "c": [], long: ["f4"], long + "b": ["f4"], long[:-1]: []}
        expected["sch\N{SNOWMAN}\x00n"] = ["f5"]
        assert {key: list(await held(store.journal, Selection(key=key))) for key in expected} == expected
        assert await store.journal.count(Selection(key="b", ids=("f2",))) == 1


class UpkeepContract(GroupsContract):
    """poller.failures.protocols.Upkeep, whole."""

    async def _all_states(self, store: Store) -> None:
        """A row in each state, in the order of their times: kept, dropped, replayed, claimed. They failed at 1 to 4, changed at 10."""
        states: tuple[RowState, ...] = ("kept", "dropped", "replayed", "claimed")
        await store.journal.append([failed(state, TYPO, time) for time, state in enumerate(states, 1)])
        await store.journal.mark(["dropped"], "dropped", 10.0)
        await store.journal.mark(["replayed", "claimed"], "claimed", 10.0, "a", 1e12)
        await store.journal.mark(["replayed"], "replayed", 10.0, "a")

    async def test_only_what_is_over_is_removed(self, store: Store) -> None:
        await self._all_states(store)
        assert list(await store.upkeep.remove(("replayed", "dropped"), 10.0, 9)) == []
        removed = await store.upkeep.remove(("replayed", "dropped"), 10.5, 9)
        assert [(row.id, row.mapping, row.records) for row in removed] == [("dropped", "orders", 1), ("replayed", "orders", 1)]
        assert list(await held(store.journal)) == ["kept", "claimed"]
        assert [row.id for row in await store.upkeep.remove(("kept",), 1.5, 9)] == ["kept"]

    async def test_a_row_is_as_old_as_its_last_failure(self, store: Store) -> None:
        """The same record failed again, live, while the row was kept: by the same discard, in another batch, and of an older time."""
        await store.journal.append([failed(name, TYPO, 1.0, f"{name}-1", f"{name}-2") for name in ("same", "other", "late", "claimed")])
        await store.journal.append([failed("alone", TYPO, 1.0)])
        await store.journal.mark(["claimed"], "claimed", 2.0, "a", 1e12)
        again = [
            failed("same", TYPO, 20.0, "same-1", "same-2"),
            failed("g", SLOW, 21.0, "other-2", "more"),
            failed("late", TYPO, 0.5, "late-1"),
        ]
        await store.journal.append([*again, failed("claimed", TYPO, 22.0, "claimed-1")])
        rows = {row.entry.id: (row.entry.time, row.changed) for row in await store.journal.select(ANY)}
        assert rows == {
            "same": (1.0, 20.0),
            "other": (1.0, 21.0),
            "late": (1.0, 1.0),
            "claimed": (1.0, 22.0),
            "alone": (1.0, 1.0),
            "g": (21.0, 21.0),
        }
        assert sorted(row.id for row in await store.upkeep.remove(("kept",), 20.5, 9)) == ["alone", "late", "same"]

    async def test_what_is_claimed_is_never_removed(self, store: Store) -> None:
        await self._all_states(store)
        assert list(await store.upkeep.remove(("claimed",), 1e9, 9)) == []
        assert len(await store.upkeep.remove(("kept", "claimed", "replayed", "dropped"), 1e9, 9)) == 3
        assert list(await held(store.journal)) == ["claimed"]

    async def test_the_oldest_go_first_and_no_more_than_asked_for(self, store: Store) -> None:
        await store.journal.append([failed(f"f{n}", TYPO, 100.0 - n) for n in range(5)])
        assert [row.id for row in await store.upkeep.remove(("kept",), 1000.0, 2)] == ["f4", "f3"]
        assert list(await store.upkeep.remove(("kept",), 1000.0, 0)) == []
        assert list(await store.upkeep.remove((), 1000.0, 9)) == []
        assert sorted(await held(store.journal)) == ["f0", "f1", "f2"]

    async def test_a_removed_row_leaves_nothing(self, store: Store) -> None:
        await store.journal.append([failed("f1", TYPO, 1.0, "m1", "m2")])
        assert len(await store.upkeep.remove(("kept",), 9.0, 9)) == 1
        assert (await store.upkeep.groups(ANY), await store.upkeep.size(), await store.journal.count(ANY)) == ([], 0, 0)
        # The same discard once more is a row again, with all of its records.
        assert list(await store.journal.append([failed("f1", TYPO, 20.0, "m1", "m2")])) == ["f1"]
        assert await held(store.journal) == {"f1": ["m1", "m2"]}

    async def test_the_size_is_that_of_what_is_there(self, store: Store) -> None:
        large = make_entry("f1", records=(KeptRecord("m1", None, 1.0, b"x" * 100_000),), identifiers=(), time=1.0)
        await store.journal.append([large, failed("f2", TYPO, 2.0)])
        whole = await store.upkeep.size()
        assert 100_000 < whole < 110_000
        (removed,) = await store.upkeep.remove(("kept",), 1.5, 9)
        assert (removed.id, await store.upkeep.size()) == ("f1", whole - removed.bytes)
        await store.journal.append([failed("f2", TYPO, 3.0, "f2", "m3")])
        assert await store.upkeep.size() > whole - removed.bytes

    async def test_two_at_once_remove_each_row_once(self, store: Store) -> None:
        await store.journal.append([failed(f"f{n}", TYPO, float(n)) for n in range(100)])
        done = await asyncio.gather(*(store.upkeep.remove(("kept",), 1000.0, 30) for _ in range(5)))
        names = [row.id for rows in done for row in rows]
        assert len(names) == len(set(names))
        assert len(names) + await store.journal.count(ANY) == 100

    async def test_what_was_removed_may_be_given_back_a_little_at_a_time(self, store: Store) -> None:
        payload = b"x" * 50_000
        rows = [make_entry(f"f{n}", records=(KeptRecord(f"m{n}", None, 1.0, payload),), identifiers=(), time=1.0) for n in range(20)]
        await store.journal.append(rows)
        await store.upkeep.remove(("kept",), 2.0, 20)
        given = await store.upkeep.compact(100_000)
        assert given <= 100_000
        while await store.upkeep.compact(100_000):
            pass
        assert await store.upkeep.compact(100_000) == 0
