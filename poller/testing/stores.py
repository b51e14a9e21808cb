"""What every store must keep, by property: contract suites for checkpoints and leases (states.py and journals.py have the others).

A test class subclasses a suite; a fixture `store` gives each test a fresh, empty store or ledger. Times are passed in, and begin at 0: the
suites never wait. A store that asks a clock of its own for the time must let its test put the callers' in its place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from poller.errors import LaneLost, PollerError
from poller.model import Holding, LaneKey, Lease, Span
from poller.progress import Progress
from poller.protocols import Ledger

KEY = LaneKey("orders", "arn:aws:kinesis:eu-west-1:123456789012:stream/orders", "shardId-000000000000")
OTHERS = (
    LaneKey("orders", KEY.source, "shardId-000000000001"),
    LaneKey("orders", "arn:aws:kinesis:eu-west-1:123456789012:stream/orders-2", KEY.lane),
    LaneKey("returns", KEY.source, KEY.lane),
)
"""Keys that differ from KEY in one part each."""


@contextmanager
def refused(kind: type[PollerError]) -> Iterator[list[PollerError]]:
    """The body must raise this error, which is then in the list; nothing else will do."""
    caught: list[PollerError] = []
    try:
        yield caught
    except kind as error:
        caught.append(error)
        return
    raise AssertionError(f"{kind.__name__} was not raised")


async def claimed(store: Ledger, key: LaneKey, owner: str, now: float = 0.0, duration: float = 10.0) -> Lease:
    """A lease that must be had."""
    lease = await store.leases.claim(key, owner, now, duration)
    assert lease is not None, f"{owner} was refused a lease that is free"
    return lease


async def holdings(store: Ledger, now: float, key: LaneKey = KEY) -> dict[str, tuple[str, str]]:
    """Lane -> (owner, wanted), of the key's mapping and source."""
    shown = await store.leases.held(key.mapping, key.source, now)
    found = {one.lane: (one.owner, one.wanted) for one in shown}
    assert len(found) == len(shown), "a lane is shown twice"
    return found


async def holding(store: Ledger, key: LaneKey, now: float) -> Holding:
    """What is shown of one lane."""
    (shown,) = [one for one in await store.leases.held(key.mapping, key.source, now) if one.lane == key.lane]
    return shown


def at(frontier: int) -> Progress:
    """Progress that only its frontier tells apart."""
    return Progress("TRIM_HORIZON", frontier=frontier)


class CheckpointsContract:
    """poller.protocols.Checkpoints: what is saved is loaded, and only the holder of the lane's lease saves."""

    async def test_a_lane_that_was_never_saved_has_no_progress(self, store: Ledger) -> None:
        assert await store.checkpoints.load(KEY) is None

    async def test_a_save_is_loaded_as_it_was(self, store: Ledger) -> None:
        progress = Progress(
            origin="AT_TIMESTAMP 1763686800.0",
            width=3,
            frontier=49590338271490256608559692538361571095921575989136588898 + 2,
            positions=((0, 49590338271490256608559692538361571095921575989136588898), (2, 7)),
            spans=(Span(0, 1, 5, 9, attempts=2, running=True, not_before=1763686801.25, listed=(1, 3)), Span(2, 7, 8, 10, attempts=1)),
            doubt=100_000,
            careful=12,
            closed=True,
            ended=True,
        )
        await store.checkpoints.save(await claimed(store, KEY, "a"), progress)
        assert await store.checkpoints.load(KEY) == progress

    async def test_the_last_save_counts(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await store.checkpoints.save(lease, at(1))
        await store.checkpoints.save(lease, at(2))
        assert await store.checkpoints.load(KEY) == at(2)

    async def test_saves_that_come_together_are_done_in_order(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await asyncio.gather(*(store.checkpoints.save(lease, at(n)) for n in range(50)))
        assert await store.checkpoints.load(KEY) == at(49)

    async def test_mappings_sources_and_lanes_are_apart(self, store: Ledger) -> None:
        await store.checkpoints.save(await claimed(store, KEY, "a"), at(1))
        assert [await store.checkpoints.load(key) for key in OTHERS] == [None, None, None]

    async def test_progress_outlives_its_lease(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await store.checkpoints.save(lease, at(1))
        await store.leases.drop(lease)
        assert await store.checkpoints.load(KEY) == at(1)

    async def test_a_lane_that_another_has_claimed_is_not_saved(self, store: Ledger) -> None:
        stale = await claimed(store, KEY, "a", 0.0, 10.0)
        await store.checkpoints.save(stale, at(1))
        fresh = await claimed(store, KEY, "b", 10.0, 10.0)
        with refused(LaneLost):
            await store.checkpoints.save(stale, at(2))
        assert await store.checkpoints.load(KEY) == at(1)
        await store.checkpoints.save(fresh, at(3))
        assert await store.checkpoints.load(KEY) == at(3)

    async def test_a_dropped_lease_saves_nothing(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await store.leases.drop(lease)
        with refused(LaneLost):
            await store.checkpoints.save(lease, at(1))
        assert await store.checkpoints.load(KEY) is None

    async def test_a_lease_from_before_another_owner_saves_nothing_though_the_name_is_the_same(self, store: Ledger) -> None:
        stale = await claimed(store, KEY, "a", 0.0)
        await claimed(store, KEY, "b", 10.0)
        await claimed(store, KEY, "a", 20.0)
        with refused(LaneLost):
            await store.checkpoints.save(stale, at(1))
        assert await store.checkpoints.load(KEY) is None

    async def test_a_lease_is_good_for_its_own_lane_only(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        for key in OTHERS:
            with refused(LaneLost):
                await store.checkpoints.save(Lease(key, lease.owner, lease.counter), at(1))
            assert await store.checkpoints.load(key) is None

    async def test_a_refused_save_names_the_lane(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await store.leases.drop(lease)
        with refused(LaneLost) as caught:
            await store.checkpoints.save(lease, at(1))
        assert KEY.lane in str(caught[0]) and KEY.mapping in str(caught[0])

    async def test_what_is_forgotten_was_never_saved(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await store.checkpoints.save(lease, at(1))
        await store.checkpoints.forget(lease)
        assert await store.checkpoints.load(KEY) is None
        await store.checkpoints.forget(lease)
        await store.checkpoints.save(lease, at(2))
        assert await store.checkpoints.load(KEY) == at(2)

    async def test_forgetting_leaves_the_other_lanes_as_they_are(self, store: Ledger) -> None:
        for n, key in enumerate(OTHERS):
            await store.checkpoints.save(await claimed(store, key, "a"), at(n))
        lease = await claimed(store, KEY, "a")
        await store.checkpoints.forget(lease)
        assert [await store.checkpoints.load(key) for key in OTHERS] == [at(0), at(1), at(2)]

    async def test_a_stale_lease_forgets_nothing(self, store: Ledger) -> None:
        stale = await claimed(store, KEY, "a", 0.0, 10.0)
        await store.checkpoints.save(stale, at(1))
        dropped = await claimed(store, KEY, "b", 10.0, 10.0)
        with refused(LaneLost):
            await store.checkpoints.forget(stale)
        await store.leases.drop(dropped)
        with refused(LaneLost):
            await store.checkpoints.forget(dropped)
        assert await store.checkpoints.load(KEY) == at(1)

    async def test_what_is_forgotten_keeps_its_counter(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await store.checkpoints.save(lease, at(1))
        await store.checkpoints.forget(lease)
        await store.leases.drop(lease)
        assert (await claimed(store, KEY, "a", 1.0)).counter > lease.counter
        with refused(LaneLost):
            await store.checkpoints.save(lease, at(2))


class LeasesContract:
    """poller.protocols.Leases: one owner at a time, and a counter that tells owners apart for good."""

    async def test_a_free_lane_is_had_at_once(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        assert (lease.key, lease.owner) == (KEY, "a")

    async def test_a_held_lane_is_refused_until_its_time_is_over(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 10.0)
        assert await store.leases.claim(KEY, "b", 9.99, 10.0) is None
        taken = await claimed(store, KEY, "b", 10.0, 10.0)
        assert taken.counter > held.counter

    async def test_a_refused_claim_changes_nothing(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 10.0)
        await store.leases.claim(KEY, "b", 5.0, 1000.0)
        assert await store.leases.renew([held], 6.0, 10.0) == [held]
        await claimed(store, KEY, "b", 16.0)

    async def test_the_owners_own_claim_renews_and_fences_what_it_sent_before(self, store: Ledger) -> None:
        first = await claimed(store, KEY, "a", 0.0, 10.0)
        again = await claimed(store, KEY, "a", 5.0, 10.0)
        assert again.counter > first.counter
        assert await store.leases.claim(KEY, "b", 12.0, 10.0) is None
        with refused(LaneLost):
            await store.checkpoints.save(first, at(1))

    async def test_renewing_extends(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a", 0.0, 10.0)
        assert await store.leases.renew([lease], 9.0, 10.0) == [lease]
        assert await store.leases.claim(KEY, "b", 18.0, 10.0) is None
        await claimed(store, KEY, "b", 19.0)

    async def test_only_those_that_are_still_ours_are_renewed_and_named(self, store: Ledger) -> None:
        long, short, dropped, lost = [await claimed(store, key, "a", 0.0, 10.0) for key in (KEY, *OTHERS)]
        await store.leases.renew([long], 5.0, 100.0)
        await store.leases.drop(dropped)
        await claimed(store, lost.key, "b", 10.0)
        assert await store.leases.renew([dropped, long, lost, short], 11.0, 10.0) == [long]
        await claimed(store, short.key, "b", 11.0)

    async def test_renewing_nothing_is_nothing(self, store: Ledger) -> None:
        assert list(await store.leases.renew([], 0.0, 10.0)) == []

    async def test_a_dropped_lane_is_free_at_once_and_its_counter_goes_on(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a", 0.0, 1000.0)
        await store.leases.drop(lease)
        taken = await claimed(store, KEY, "b", 1.0)
        assert taken.counter > lease.counter

    async def test_the_counter_goes_on_for_the_same_owner_too(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await store.leases.drop(lease)
        assert (await claimed(store, KEY, "a", 1.0)).counter > lease.counter

    async def test_dropping_what_is_not_ours_any_more_does_nothing(self, store: Ledger) -> None:
        stale = await claimed(store, KEY, "a", 0.0, 10.0)
        await claimed(store, KEY, "b", 10.0, 10.0)
        await store.leases.drop(stale)
        assert await store.leases.claim(KEY, "c", 11.0, 10.0) is None

    async def test_dropping_twice_is_dropping_once(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await store.leases.drop(lease)
        await store.leases.drop(lease)
        await claimed(store, KEY, "b")

    async def test_lanes_are_leased_apart(self, store: Ledger) -> None:
        await claimed(store, KEY, "a")
        for key in OTHERS:
            await claimed(store, key, "b")

    async def test_of_many_who_claim_at_once_one_has_it(self, store: Ledger) -> None:
        leases = await asyncio.gather(*(store.leases.claim(KEY, f"worker-{n}", 0.0, 10.0) for n in range(20)))
        assert len([lease for lease in leases if lease is not None]) == 1

    # --- asking ---------------------------------------------------------------------------------------------------------------------

    async def test_who_asks_is_refused_and_named(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 10.0)
        assert await store.leases.claim(KEY, "b", 1.0, 5.0, ask=True) is None
        assert await holding(store, KEY, 1.0) == Holding(KEY.lane, "a", "b")
        assert await store.leases.renew([held], 2.0, 10.0) == [held]
        await store.checkpoints.save(held, at(1))

    async def test_who_does_not_ask_is_not_named(self, store: Ledger) -> None:
        await claimed(store, KEY, "a", 0.0, 10.0)
        await store.leases.claim(KEY, "b", 1.0, 5.0)
        assert await holding(store, KEY, 1.0) == Holding(KEY.lane, "a", "")

    async def test_a_lane_that_is_free_is_had_by_asking_too(self, store: Ledger) -> None:
        lease = await store.leases.claim(KEY, "a", 0.0, 10.0, ask=True)
        assert lease is not None
        assert await holding(store, KEY, 1.0) == Holding(KEY.lane, "a", "")

    async def test_a_wanted_lane_is_kept_for_who_asked_once_it_is_dropped(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 100.0)
        await store.leases.claim(KEY, "b", 1.0, 5.0, ask=True)
        await store.leases.drop(held)
        assert await holding(store, KEY, 2.0) == Holding(KEY.lane, "", "b")
        assert await store.leases.claim(KEY, "a", 2.0, 10.0) is None
        assert await store.leases.claim(KEY, "c", 5.99, 10.0) is None
        taken = await claimed(store, KEY, "b", 5.99)
        assert taken.counter > held.counter

    async def test_it_is_kept_only_until_the_askings_time_is_over(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 100.0)
        await store.leases.claim(KEY, "b", 1.0, 5.0, ask=True)
        await store.leases.drop(held)
        assert await store.leases.claim(KEY, "a", 5.99, 10.0) is None
        assert await holding(store, KEY, 6.0) == Holding(KEY.lane, "", "")
        await claimed(store, KEY, "a", 6.0)

    async def test_a_lane_that_is_kept_for_one_is_not_anothers_by_asking(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 100.0)
        await store.leases.claim(KEY, "b", 1.0, 5.0, ask=True)
        await store.leases.drop(held)
        assert await store.leases.claim(KEY, "c", 2.0, 50.0, ask=True) is None
        assert await holding(store, KEY, 2.0) == Holding(KEY.lane, "", "b")
        await claimed(store, KEY, "b", 3.0)

    async def test_asking_again_makes_the_time_longer(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 100.0)
        await store.leases.claim(KEY, "b", 1.0, 5.0, ask=True)
        await store.leases.claim(KEY, "b", 4.0, 5.0, ask=True)
        await store.leases.drop(held)
        assert await store.leases.claim(KEY, "a", 8.99, 10.0) is None
        await claimed(store, KEY, "b", 8.99)

    async def test_a_refused_claim_without_asking_leaves_the_word(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 100.0)
        await store.leases.claim(KEY, "b", 1.0, 5.0, ask=True)
        await store.leases.claim(KEY, "b", 2.0, 50.0)
        await store.leases.claim(KEY, "c", 2.0, 50.0)
        assert await holding(store, KEY, 2.0) == Holding(KEY.lane, "a", "b")
        await store.leases.drop(held)
        await claimed(store, KEY, "c", 6.0)

    async def test_the_last_who_asks_is_heard(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 100.0)
        await store.leases.claim(KEY, "b", 1.0, 50.0, ask=True)
        await store.leases.claim(KEY, "c", 2.0, 5.0, ask=True)
        assert await holding(store, KEY, 2.0) == Holding(KEY.lane, "a", "c")
        await store.leases.drop(held)
        assert await store.leases.claim(KEY, "b", 3.0, 10.0) is None
        await claimed(store, KEY, "c", 3.0)

    async def test_the_claim_of_who_asked_takes_the_word_back(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 100.0)
        await store.leases.claim(KEY, "b", 1.0, 50.0, ask=True)
        await store.leases.drop(held)
        taken = await claimed(store, KEY, "b", 2.0)
        assert await holding(store, KEY, 2.0) == Holding(KEY.lane, "b", "")
        await store.leases.drop(taken)
        await claimed(store, KEY, "c", 3.0)

    async def test_the_owners_own_claim_is_not_kept_from_it_and_leaves_the_word(self, store: Ledger) -> None:
        held = await claimed(store, KEY, "a", 0.0, 10.0)
        await store.leases.claim(KEY, "b", 1.0, 50.0, ask=True)
        again = await claimed(store, KEY, "a", 2.0, 10.0)
        assert again.counter > held.counter
        assert await holding(store, KEY, 3.0) == Holding(KEY.lane, "a", "b")
        late = await claimed(store, KEY, "a", 20.0, 10.0)
        await store.leases.drop(late)
        assert await store.leases.claim(KEY, "a", 21.0, 10.0) is None
        await claimed(store, KEY, "b", 21.0)

    async def test_a_lease_whose_time_is_over_is_kept_for_nobody(self, store: Ledger) -> None:
        await claimed(store, KEY, "a", 0.0, 10.0)
        await store.leases.claim(KEY, "b", 1.0, 100.0, ask=True)
        assert await holding(store, KEY, 10.0) == Holding(KEY.lane, "", "")
        await claimed(store, KEY, "c", 10.0, 10.0)
        assert await holding(store, KEY, 11.0) == Holding(KEY.lane, "c", "b")

    # --- who has what -----------------------------------------------------------------------------------------------------------------

    async def test_what_was_never_claimed_is_held_by_nobody(self, store: Ledger) -> None:
        assert list(await store.leases.held(KEY.mapping, KEY.source, 0.0)) == []

    async def test_it_shows_the_lanes_of_one_mapping_and_source(self, store: Ledger) -> None:
        for key, owner in zip((KEY, *OTHERS), "abcd", strict=True):
            await claimed(store, key, owner)
        assert await holdings(store, 1.0) == {KEY.lane: ("a", ""), OTHERS[0].lane: ("b", "")}
        assert await holdings(store, 1.0, OTHERS[1]) == {OTHERS[1].lane: ("c", "")}
        assert await holdings(store, 1.0, OTHERS[2]) == {OTHERS[2].lane: ("d", "")}

    async def test_leases_that_are_dropped_or_past_their_time_are_shown_without_owner(self, store: Ledger) -> None:
        await store.leases.drop(await claimed(store, KEY, "a", 0.0, 10.0))
        await claimed(store, OTHERS[0], "b", 0.0, 10.0)
        assert await holdings(store, 9.99) == {KEY.lane: ("", ""), OTHERS[0].lane: ("b", "")}
        assert await holdings(store, 10.0) == {KEY.lane: ("", ""), OTHERS[0].lane: ("", "")}

    async def test_a_word_whose_time_is_over_is_not_shown(self, store: Ledger) -> None:
        await claimed(store, KEY, "a", 0.0, 100.0)
        await store.leases.claim(KEY, "b", 1.0, 5.0, ask=True)
        assert await holding(store, KEY, 5.99) == Holding(KEY.lane, "a", "b")
        assert await holding(store, KEY, 6.0) == Holding(KEY.lane, "a", "")

    async def test_renewals_and_claims_are_shown(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a", 0.0, 10.0)
        await store.leases.renew([lease], 5.0, 10.0)
        assert await holdings(store, 14.0) == {KEY.lane: ("a", "")}
        await claimed(store, KEY, "b", 15.0)
        assert await holdings(store, 15.0) == {KEY.lane: ("b", "")}

    async def test_lanes_with_progress_are_shown_when_nobody_has_them(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await store.checkpoints.save(lease, at(1))
        await store.leases.drop(lease)
        assert await holdings(store, 1.0) == {KEY.lane: ("", "")}
