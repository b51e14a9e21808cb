"""The rules by which workers share lanes, each for itself: over any crashes and arrivals, in any order, and for rules that break them.

A free lane is taken at the first or the second look; what another has, or is kept for him, is never claimed. A move goes to a worker that
has at least two lanes less. With the same workers and lanes the moves end, and then no worker has two lanes more than another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.model import Holding
from poller.sharing import ASKED_AT_ONCE, Shares, View, share
from poller.testing.laws import require
from poller.testing.oracle import Broken
from poller.testing.strategies import counter_test, laws

Rule = Callable[[View, float], Shares]

REACHED = Counter[str]()

LEASE = 13
WORD = 4
"""So many rounds a lease and a word hold: 10 and 3 s are so many scans."""

CALM = 6 * LEASE
"""After so many rounds without a change from outside, nothing moves any more."""


# --- a fleet ----------------------------------------------------------------------------------------------------------------------------


@dataclass
class Row:
    """A lane as the store has it. `until`: the round in which the word runs out; `leaving`: the rounds until its owner has left it."""

    owner: str = ""
    wanted: str = ""
    until: int = 0
    leaving: int | None = None


@dataclass
class Fleet:
    """Workers that look in some order, each look one step. `patience` draws how long a hand-over takes."""

    rule: Rule
    rows: dict[str, Row]
    random: Random
    round: int = 0
    moves: int = 0
    started: int = 0
    alive: list[str] = field(default_factory=list)
    dead: dict[str, int] = field(default_factory=dict)
    spare: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def view(self, me: str) -> View:
        words = {lane: row.wanted if row.until > self.round else "" for lane, row in self.rows.items()}
        mine = {lane for lane, row in self.rows.items() if row.owner == me}
        return View(
            me,
            [Holding(lane, row.owner, words[lane]) for lane, row in self.rows.items() if row.owner or row.wanted],
            [lane for lane in self.rows if lane not in mine],
            {lane for lane in mine if self.rows[lane].leaving is None},
            {lane for lane in mine if self.rows[lane].leaving is not None},
            self.spare.get(me, ()),
        )

    def look(self, me: str) -> None:
        view = self.view(me)
        shares = self.rule(view, self.random.random())
        free = {lane for lane in view.openable if not (row := self.rows[lane]).owner and self._word(row) in ("", me)}
        require({*shares.claim, *shares.spare} == free, f"{me}: of {sorted(free)} claims {shares.claim}, leaves {shares.spare}")
        require(not free & {*view.overdue} - {*shares.claim}, f"{me}: leaves what was spare before")
        require(len(shares.ask) <= ASKED_AT_ONCE, f"{me}: asks for {len(shares.ask)}")
        for lane in shares.give:
            self._give(me, lane)
        for lane in shares.claim:
            self.rows[lane] = Row(me)
        for lane in shares.ask:
            row = self.rows[lane]
            require(row.owner not in ("", me), f"{me}: asks for {lane}, which is {row.owner or 'free'}")
            row.wanted, row.until = me, self.round + WORD
            REACHED["asked"] += 1
        self.spare[me] = shares.spare
        REACHED["spare"] += bool(shares.spare)

    def _word(self, row: Row) -> str:
        return row.wanted if row.until > self.round else ""

    def _give(self, me: str, lane: str) -> None:
        row, loads = self.rows[lane], self.loads()
        require(row.owner == me and row.leaving is None, f"{me}: gives {lane}, which is not his")
        word = self._word(row)
        require(word not in ("", me), f"{me}: gives {lane} to nobody")
        require(loads[me] >= loads[word] + 2, f"a move from {loads[me]} lanes to {loads[word]}")
        row.leaving = self.random.randrange(5)
        self.moves += 1
        REACHED["given"] += 1

    def loads(self) -> Counter[str]:
        """How many lanes each has, or will have when all hand-overs that have begun are over."""
        loads = Counter[str](dict.fromkeys(self.alive, 0))
        for row in self.rows.values():
            word = self._word(row)
            loads[word if (row.leaving is not None and word) or not row.owner else row.owner] += 1
        return loads

    def turn(self) -> None:
        """One round: everybody looks once, in some order; hand-overs go on; leases of who has crashed run out."""
        self.round += 1
        order = list(self.alive)
        self.random.shuffle(order)
        for me in order:
            self.look(me)
        for row in self.rows.values():
            if row.leaving is not None:
                row.leaving -= 1
                if row.leaving < 0:
                    row.owner, row.leaving = "", None
        for name, until in list(self.dead.items()):
            if self.round >= until:
                del self.dead[name]
                for row in self.rows.values():
                    if row.owner == name:
                        row.owner, row.wanted, row.leaving = "", "", None

    def start(self) -> None:
        self.started += 1
        self.alive.append(f"w{self.started}")

    def crash(self, which: int) -> None:
        if len(self.alive) > 1:
            name = self.alive.pop(which % len(self.alive))
            self.dead[name] = self.round + self.random.randrange(1, LEASE + 1)
            REACHED["crash"] += 1

    def stop(self, which: int) -> None:
        if len(self.alive) > 1:
            name = self.alive.pop(which % len(self.alive))
            for row in self.rows.values():
                if row.owner == name:
                    row.owner, row.leaving = "", None
            REACHED["stop"] += 1

    def calm_down(self) -> None:
        for _ in range(CALM):
            self.turn()
        moved, loads = self.moves, self.loads()
        require(max(loads.values()) - min(loads.values()) <= 1, f"ends with {sorted(loads.values())}")
        for _ in range(2 * LEASE):
            self.turn()
        require(self.moves == moved, f"goes on moving: {self.moves - moved} more")
        require(all(row.owner for row in self.rows.values()), "a lane is free")


steps = st.lists(st.tuples(st.sampled_from(("turn", "turn", "turn", "start", "crash", "stop")), st.integers(0, 9)), max_size=25)


def check(rule: Rule, examples: int) -> None:
    @laws(examples)
    @given(st.integers(0, 24), st.integers(1, 6), steps, st.randoms(use_true_random=False))
    def law(lanes: int, workers: int, storm: list[tuple[str, int]], random: Random) -> None:
        fleet = Fleet(rule, {f"s{n}": Row() for n in range(lanes)}, Random(random.random()))
        for _ in range(workers):
            fleet.start()
        for what, which in storm:
            if what in ("turn", "start"):
                getattr(fleet, what)()
            else:
                getattr(fleet, what)(which)
        fleet.calm_down()

    law()


def test_workers_share_lanes_evenly_and_come_to_rest() -> None:
    check(share, 300)
    for what in ("asked", "given", "spare", "crash", "stop"):
        assert REACHED[what], f"the laws never came across: {what}"


# --- rules that break them --------------------------------------------------------------------------------------------------------------


def grabbing(view: View, dice: float) -> Shares:
    """Claims what others have."""
    return replace(share(view, dice), claim=tuple(view.openable), spare=())


def impolite(view: View, dice: float) -> Shares:
    """Claims what is kept for another."""
    return share(replace(view, holdings=[h if h.owner else replace(h, wanted="") for h in view.holdings]), dice)


def modest(view: View, dice: float) -> Shares:
    """Takes its share, and never more."""
    return share(replace(view, overdue=()), dice)


def idle(view: View, dice: float) -> Shares:
    """Asks for nothing."""
    return replace(share(view, dice), ask=())


def miserly(view: View, dice: float) -> Shares:
    """Gives nothing."""
    return replace(share(view, dice), give=())


def generous(view: View, dice: float) -> Shares:
    """Gives all that is asked for."""
    wanted = {holding.lane for holding in view.holdings if holding.wanted not in ("", view.me)}
    return replace(share(view, dice), give=tuple(sorted(wanted & {*view.ours})))


def forgetful(view: View, dice: float) -> Shares:
    """Gives without counting what was asked of others."""
    here = {*view.ours}
    theirs = [h for h in view.holdings if h.lane in here or h.owner in ("", view.me) or not h.wanted]
    rest = [replace(h, wanted="") for h in view.holdings if h not in theirs]
    return replace(share(view, dice), give=share(replace(view, holdings=[*theirs, *rest]), dice).give)


def stubborn(view: View, dice: float) -> Shares:
    """Asks again for all that it has asked for, as long as its owner has more."""
    loads = Counter(h.owner for h in view.holdings)
    words = [h for h in view.holdings if h.wanted == view.me and h.owner not in ("", view.me)]
    again = [h.lane for h in words if loads[h.owner] >= len(view.ours) + 2]
    return replace(share(view, dice), ask=tuple(dict.fromkeys((*share(view, dice).ask, *again))))


@pytest.mark.parametrize(
    ("rule", "breach"),
    [
        (grabbing, "claims"),
        (impolite, "claims"),
        (modest, "spare before"),
        (idle, "ends with"),
        (miserly, "ends with"),
        (generous, "a move from"),
        (forgetful, "a move from"),
        (stubborn, "ends with"),
    ],
)
@pytest.mark.counterpart
def test_a_broken_rule_is_found_out(rule: Rule, breach: str) -> None:
    with pytest.raises(Broken, match=breach), counter_test():
        check(rule, 3000)


# --- examples ---------------------------------------------------------------------------------------------------------------------------


def held(**lanes: str) -> list[Holding]:
    """`s1="a"`: a has it; `s1="a>b"`: and b wants it; `s1=">b"`: it is kept for b."""
    parted = {lane: who.partition(">") for lane, who in lanes.items()}
    return [Holding(lane, owner, wanted) for lane, (owner, _, wanted) in parted.items()]


def test_who_is_alone_takes_all_in_an_order_of_its_own() -> None:
    lanes = [f"s{n}" for n in range(500)]
    orders = [share(View("a", [], lanes), dice).claim for dice in (0.1, 0.2)]
    assert sorted(orders[0]) == sorted(orders[1]) == sorted(lanes)
    assert sum(first == second for first, second in zip(*orders, strict=True)) < 10


def test_lanes_of_who_has_crashed_are_shared_out_at_once() -> None:
    """Fifty workers with ten each, of which one is gone: each of the others has room for one more."""
    lanes = [f"s{n}" for n in range(500)]
    holdings = [Holding(lane, f"w{n % 50}" if n % 50 else "") for n, lane in enumerate(lanes)]
    ours = {lane for n, lane in enumerate(lanes) if n % 50 == 1}
    shares = share(View("w1", holdings, [lane for lane in lanes if lane not in ours], ours), 0.5)
    assert (len(shares.claim), len(shares.spare), shares.ask, shares.give) == (1, 9, (), ())


def test_what_is_ours_from_before_or_kept_for_us_comes_before_all_shares() -> None:
    view = View("a", held(s1="a", s2=">a", s3=">b", s4="b", s5="b"), ["s1", "s2", "s3", "s4", "s5"])
    assert share(view, 0.5) == Shares(claim=("s1", "s2"))


def test_who_has_none_asks_the_most_loaded() -> None:
    view = View("c", held(s1="a", s2="a", s3="a", s4="b", s5="b"), ["s1", "s2", "s3", "s4", "s5"])
    asked = share(view, 0.5).ask
    assert len(asked) == 1 and asked[0] in ("s1", "s2", "s3")


def test_one_lane_more_is_no_reason_to_ask() -> None:
    assert share(View("c", held(s1="a", s2="b", s3="b", s4="c"), ["s1", "s2", "s3"], {"s4"}), 0.5) == Shares()


def test_what_another_has_asked_for_is_left_to_him() -> None:
    view = View("c", held(s1="a>b", s2="a>b", s3="a", s4="a"), ["s1", "s2", "s3", "s4"])
    assert {*share(view, 0.5).ask} <= {"s3", "s4"}


def test_a_worker_gives_while_it_has_two_more_all_that_was_asked_for_counted() -> None:
    ours = {"s1", "s2", "s3", "s4"}
    assert len(share(View("a", held(s1="a>b", s2="a>b", s3="a>b", s4="a"), [], ours), 0.5).give) == 2
    assert len(share(View("a", held(s1="a>b", s2="a>c", s3="a", s4="a"), [], ours), 0.5).give) == 2
    elsewhere = held(s1="a>b", s2="a", s3="a", s4="a", s5="c>b", s6="c>b", s7="c")
    assert share(View("a", elsewhere, ["s5", "s6", "s7"], ours), 0.5).give == ("s1",)
    assert share(View("a", [*elsewhere, Holding("s8", "d", "b")], ["s5", "s6", "s7", "s8"], ours), 0.5).give == ()
