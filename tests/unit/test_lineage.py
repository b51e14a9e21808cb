"""Law 14, the pure part: which shards may be opened, over any listings, by several workers that crash, and for rules that break it.

A shard is not opened before all its listed parents have ended, nor before those that had begun when this worker asked. As parents end,
every shard is opened some time; one that never ends holds up its own descendants only. Shards that are their own ancestors do not wait for
each other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.lineage import Knowledge, Known, Plan, Shard, needed, origin, plan, remembered, untangled
from poller.progress import Progress, decode, encode
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.strategies import counter_test, laws

REACHED = Counter[str]()


@dataclass(frozen=True)
class Rules:
    """The two functions under test."""

    remembered: Callable[[Mapping[str, Shard], Sequence[Shard], Knowledge], dict[str, Shard]] = remembered
    plan: Callable[[Mapping[str, Shard], Knowledge, Collection[str]], Plan] = plan


# --- a fleet ----------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Family:
    """All shards there ever are. `bad` never ends; `trimmed` are not listed any more once the world is calm."""

    shards: tuple[Shard, ...]
    bad: str
    trimmed: frozenset[str]

    def ancestors(self, name: str) -> set[str]:
        parents = {shard.name: shard.parents for shard in self.shards}
        found, left = set[str](), [name]
        while left:
            new = [each for each in parents.get(left.pop(), ()) if each not in found]
            found.update(new)
            left += new
        return found


@st.composite
def families(draw: st.DrawFn) -> Family:
    """Splits, merges and roll-overs; parents that nobody lists; now and then a shard that is its own ancestor."""
    count = draw(st.integers(1, 9))
    names = [f"s{n}" for n in range(count)]
    shards = []
    for n, name in enumerate(names):
        older = st.sampled_from((*names[:n], "gone-1", "gone-2"))
        wrong = st.lists(st.sampled_from(names), max_size=1) if draw(st.integers(0, 5)) == 0 else st.just([])
        shards.append(Shard(name, tuple(dict.fromkeys([*draw(st.lists(older, max_size=2)), *draw(wrong)]))))
    bad = draw(st.sampled_from((*names, "", "")))
    return Family(tuple(shards), bad, frozenset(draw(st.sets(st.sampled_from(names), max_size=2))))


@dataclass
class Worker:
    """What one life knows and reads."""

    told: dict[str, tuple[str, ...]] = field(default_factory=dict)
    shards: dict[str, Shard] = field(default_factory=dict)
    known: dict[str, Known | None] = field(default_factory=dict)
    running: list[str] = field(default_factory=list)


class Fleet:
    """Two workers, and what is durable."""

    def __init__(self, family: Family, rules: Rules) -> None:
        self.family, self.rules = family, rules
        self.workers = [Worker(), Worker()]
        self.begun = set[str]()
        self.ended = set[str]()
        self.older = {shard.name: family.ancestors(shard.name) for shard in family.shards}

    def scan(self, worker: Worker, listing: Sequence[Shard]) -> None:
        """As shards.py and ordered_source.py do it."""
        worker.told.update((shard.name, shard.parents) for shard in listing)
        worker.shards = self.rules.remembered(worker.shards, listing, worker.known)
        asked = set[str]()
        while True:
            steps = self.rules.plan(worker.shards, worker.known, worker.running)
            new = [name for name in steps.ask if name not in asked]
            if not new:
                break
            asked.update(new)
            for name in new:
                REACHED["a parent is asked for"] += 1
                require(worker.known.get(name) != Known("", ended=True), f"{name} is asked for again, and had ended")
                worker.known[name] = Known("", name in self.ended) if name in self.begun else None
            worker.shards = self.rules.remembered(worker.shards, listing, worker.known)
        REACHED["a shard waits"] += len(steps.waiting)
        for name in steps.open:
            require(name not in worker.running, f"{name} is opened twice")
            if any(name in other.running for other in self.workers):
                continue
            if name in self.ended:
                worker.known[name] = Known("", ended=True)
                continue
            self.lawful(worker, name, {shard.name for shard in listing})
            self.begun.add(name)
            worker.running.append(name)

    def lawful(self, worker: Worker, name: str, listed: set[str]) -> None:
        for parent in worker.told.get(name, ()):
            if parent in self.ended or name in self.older.get(parent, ()):
                continue  # they are each other's ancestors, or one its own
            require(parent not in listed, f"{name} is opened before its parent {parent} has ended, which is listed")
            stale = parent in worker.known and worker.known[parent] is None
            require(parent not in self.begun or stale, f"{name} is opened before its parent {parent} has ended, which has begun")
            REACHED["a parent was never listed"] += 1

    def end(self, worker: Worker, which: int) -> None:
        endable = [name for name in worker.running if name != self.family.bad]
        if endable:
            name = endable[which % len(endable)]
            worker.running.remove(name)
            self.ended.add(name)
            worker.known[name] = Known("", ended=True)

    def crash(self, which: int) -> None:
        REACHED["crash"] += 1
        self.workers[which] = Worker()

    def calm_down(self) -> None:
        """No more crashes, and all that is not trimmed is listed: everything ends that is not held up by the bad one."""
        listing = [shard for shard in self.family.shards if shard.name not in self.family.trimmed]
        for _ in range(2 * len(self.family.shards) + 2):
            for worker in self.workers:
                self.scan(worker, listing)
            for worker in self.workers:
                for _ in list(worker.running):
                    self.end(worker, 0)
        held = {name for name, older in self.older.items() if self.family.bad in older or name == self.family.bad}
        left = {shard.name for shard in listing} - held - self.ended
        require(not left, f"{sorted(left)} are never opened")


Step = tuple[str, int, int, int]

steps = st.lists(
    st.tuples(st.sampled_from(("scan", "scan", "scan", "end", "end", "crash")), st.integers(0, 1), st.integers(0, 511), st.integers(0, 9)),
    max_size=25,
)


def check(rules: Rules, examples: int) -> None:
    @laws(examples)
    @given(families(), steps)
    def law(family: Family, storm: list[Step]) -> None:
        fleet = Fleet(family, rules)
        for what, which, mask, number in storm:
            if what == "scan":
                # Out of date, or incomplete: any part of what there is.
                fleet.scan(fleet.workers[which], [shard for n, shard in enumerate(family.shards) if mask >> n & 1])
            elif what == "end":
                fleet.end(fleet.workers[which], number)
            else:
                fleet.crash(which)
        fleet.calm_down()

    law()


def test_law_14_children_after_their_parents_and_every_shard_some_time() -> None:
    check(Rules(), 800)
    for what in ("a parent is asked for", "a shard waits", "a parent was never listed", "crash"):
        assert REACHED[what], f"the laws never came across: {what}"


def eager(shards: Mapping[str, Shard], known: Knowledge, running: Collection[str]) -> Plan:
    """Opens children at once."""
    return plan({name: Shard(name) for name in shards}, known, running)


def either(shards: Mapping[str, Shard], known: Knowledge, running: Collection[str]) -> Plan:
    """After a merge, waits for one parent."""
    return plan({name: replace(shard, parents=shard.parents[:1]) for name, shard in shards.items()}, known, running)


def believing(before: Mapping[str, Shard], listing: Sequence[Shard], known: Knowledge) -> dict[str, Shard]:
    """What is not listed is gone."""
    return untangled({shard.name: shard for shard in listing})


def hasty(shards: Mapping[str, Shard], known: Knowledge, running: Collection[str]) -> Plan:
    """Takes a parent that is read for one that has ended."""
    return plan(shards, {**known, **{name: Known("", ended=True) for name in running}}, running)


def entangled(before: Mapping[str, Shard], listing: Sequence[Shard], known: Knowledge) -> dict[str, Shard]:
    """Leaves cycles as they are."""
    whole = {**before, **{shard.name: shard for shard in listing}}
    return {**remembered(before, listing, known), **whole}


def patient(shards: Mapping[str, Shard], known: Knowledge, running: Collection[str]) -> Plan:
    """Waits for parents that nobody ever saw."""
    return plan(shards, {name: each or Known("") for name, each in known.items()}, running)


@pytest.mark.parametrize(
    ("rules", "breach"),
    [
        (Rules(plan=eager), "before its parent"),
        (Rules(plan=either), "before its parent"),
        pytest.param(Rules(believing), "never opened", marks=pytest.mark.slow),  # rare
        (Rules(plan=hasty), "before its parent"),
        (Rules(entangled), "never opened"),
        (Rules(plan=patient), "never opened"),
    ],
    ids=lambda value: getattr(getattr(value, "plan", None), "__name__", None),
)
@pytest.mark.counterpart
def test_law_14_finds_out(rules: Rules, breach: str) -> None:
    with pytest.raises(Broken, match=breach), counter_test():
        check(rules, 3000)


# --- values only ------------------------------------------------------------------------------------------------------------------------

knowledge = st.dictionaries(
    st.sampled_from([*(f"s{n}" for n in range(9)), "gone-1", "gone-2"]),
    st.sampled_from((None, Known("TRIM_HORIZON"), Known("x", ended=True))),
)


@laws(300)
@given(families(), knowledge, st.sets(st.integers(0, 8)), st.randoms(use_true_random=False))
def test_the_answer_depends_on_values_only(family: Family, known: dict[str, Known | None], running: set[int], random: object) -> None:
    names = {f"s{n}" for n in running}
    shards = remembered({}, family.shards, known)
    first = plan(shards, known, names)
    shuffled = list(shards.items())
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    second = plan(dict(shuffled), dict(reversed(known.items())), names)
    assert [set(part) for part in (first.open, first.ask, first.waiting)] == [
        set(part) for part in (second.open, second.ask, second.waiting)
    ]
    left = {name for name in shards if name not in names and not ((each := known.get(name)) and each.ended)}
    assert {*first.open} | {*first.waiting} == left and not {*first.open} & {*first.waiting}
    assert {*first.ask} <= needed(shards[name] for name in first.waiting) - names - {*first.waiting}, "only parents that could be done"
    assert remembered(shards, family.shards, known) == shards


# --- examples ---------------------------------------------------------------------------------------------------------------------------


def table(rolls: int, wide: int) -> list[Shard]:
    """A table's stream: so many shards, each rolled over so many times."""
    return [Shard(f"{n}-{roll}", (f"{n}-{roll - 1}",)) for roll in range(rolls) for n in range(wide)]


def test_of_684_shards_a_bad_one_holds_up_its_own_descendants_only() -> None:
    shards, known = remembered({}, table(6, 114), {f"{n}--1": None for n in range(114)}), dict[str, Known | None]()
    known.update((f"{n}--1", None) for n in range(114))
    for roll in range(6):
        steps = plan(shards, known)
        assert set(steps.open) - {"7-0"} == {f"{n}-{roll}" for n in range(114) if roll == 0 or n != 7} - {"7-0"}
        known.update((name, Known("TRIM_HORIZON", ended=True)) for name in steps.open if name != "7-0")
    assert set(plan(shards, known).waiting) == {f"7-{roll}" for roll in range(1, 6)}


def test_nothing_is_asked_for_while_no_child_waits() -> None:
    roots = remembered({}, [Shard("a"), Shard("b")], {})
    assert plan(roots, {}) == Plan(open=("a", "b"))
    family = remembered({}, [Shard("a"), Shard("b", ("a",)), Shard("c", ("b",))], {})
    assert plan(family, {}) == Plan(open=("a",), ask=("a",), waiting=("b", "c")), "b waits itself: it cannot have ended"
    assert plan(family, {}, running={"a"}) == Plan(open=(), waiting=("b", "c")), "of its own a worker knows by itself"
    assert plan(family, {"a": Known("", ended=True)}) == Plan(open=("b",), ask=("b",), waiting=("c",))


def test_what_has_begun_is_read_to_its_end_though_it_is_listed_no_more() -> None:
    listing = [Shard("b", ("a",))]
    known: dict[str, Known | None] = {}
    assert plan(remembered({}, listing, known), known) == Plan(open=(), ask=("a",), waiting=("b",))
    known["a"] = Known("TRIM_HORIZON")
    assert plan(remembered({}, listing, known), known) == Plan(open=("a",), ask=("a",), waiting=("b",))
    known["a"] = Known("TRIM_HORIZON", ended=True)
    assert plan(remembered({}, listing, known), known) == Plan(open=("b",))


def test_what_was_listed_once_is_remembered_until_it_has_ended() -> None:
    before = remembered({}, [Shard("a"), Shard("b", ("a",))], {})
    assert remembered(before, [Shard("b", ("a",))], {}) == {"b": Shard("b", ("a",)), "a": Shard("a")}
    assert remembered(before, [Shard("b", ("a",))], {"a": Known("", ended=True)}) == {"b": Shard("b", ("a",))}


def test_a_knot_is_cut_and_its_descendants_wait_for_it() -> None:
    shards = untangled(
        {shard.name: shard for shard in (Shard("a", ("b", "o")), Shard("b", ("a",)), Shard("c", ("b",)), Shard("d", ("d",)))}
    )
    assert {name: shard.parents for name, shard in shards.items()} == {"a": ("o",), "b": (), "c": ("b",), "d": ()}


def test_a_child_begins_where_its_parents_did() -> None:
    child = Shard("c", ("a", "b"))
    known: dict[str, Known | None] = {"a": Known("AT_TIMESTAMP 20.5", ended=True), "b": None}
    assert origin(child, known, "AT_TIMESTAMP 99.0") == "AT_TIMESTAMP 20.5"
    assert origin(child, known | {"b": Known("AT_TIMESTAMP 3.0", ended=True)}, "TRIM_HORIZON") == "AT_TIMESTAMP 3.0"
    assert origin(child, known | {"b": Known("TRIM_HORIZON", ended=True)}, "AT_TIMESTAMP 99.0") == "TRIM_HORIZON"
    assert origin(child, {"a": None}, "AT_TIMESTAMP 99.0") == origin(Shard("r"), known, "AT_TIMESTAMP 99.0") == "AT_TIMESTAMP 99.0"


def test_progress_says_whether_it_has_ended_and_rows_of_before_that_say_it_has_not() -> None:
    ended = Progress("TRIM_HORIZON", frontier=7, closed=True, ended=True)
    assert decode(encode(ended)) == ended
    older = encode(ended).replace(b',"ended":true', b"")
    assert older != encode(ended) and decode(older) == replace(ended, ended=False)
