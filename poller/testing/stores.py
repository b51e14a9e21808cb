"""What every store must keep, by property: contract suites for checkpoints and leases (the journal's is journals.py).

A test class subclasses a suite; a fixture `store` gives each test a fresh, empty store. Times are passed in: the suites never wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from poller.errors import LaneLost, PollerError
from poller.model import LaneKey, Lease, Span
from poller.progress import Progress
from poller.protocols import Store

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


async def claimed(store: Store, key: LaneKey, owner: str, now: float = 0.0, duration: float = 10.0) -> Lease:
    """A lease that must be had."""
    lease = await store.leases.claim(key, owner, now, duration)
    assert lease is not None, f"{owner} was refused a lease that is free"
    return lease


def at(frontier: int) -> Progress:
    """Progress that only its frontier tells apart."""
    return Progress("TRIM_HORIZON", frontier=frontier)


class CheckpointsContract:
    """poller.protocols.Checkpoints: what is saved is loaded, and only the holder of the lane's lease saves."""

    async def test_a_lane_that_was_never_saved_has_no_progress(self, store: Store) -> None:
        assert await store.checkpoints.load(KEY) is None

    async def test_a_save_is_loaded_as_it_was(self, store: Store) -> None:
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

    async def test_the_last_save_counts(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a")
        await store.checkpoints.save(lease, at(1))
        await store.checkpoints.save(lease, at(2))
        assert await store.checkpoints.load(KEY) == at(2)

    async def test_saves_that_come_together_are_done_in_order(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a")
        await asyncio.gather(*(store.checkpoints.save(lease, at(n)) for n in range(50)))
        assert await store.checkpoints.load(KEY) == at(49)

    async def test_mappings_sources_and_lanes_are_apart(self, store: Store) -> None:
        await store.checkpoints.save(await claimed(store, KEY, "a"), at(1))
        assert [await store.checkpoints.load(key) for key in OTHERS] == [None, None, None]

    async def test_progress_outlives_its_lease(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a")
        await store.checkpoints.save(lease, at(1))
        await store.leases.drop(lease)
        assert await store.checkpoints.load(KEY) == at(1)

    async def test_a_lane_that_another_has_claimed_is_not_saved(self, store: Store) -> None:
        stale = await claimed(store, KEY, "a", 0.0, 10.0)
        await store.checkpoints.save(stale, at(1))
        fresh = await claimed(store, KEY, "b", 10.0, 10.0)
        with refused(LaneLost):
            await store.checkpoints.save(stale, at(2))
        assert await store.checkpoints.load(KEY) == at(1)
        await store.checkpoints.save(fresh, at(3))
        assert await store.checkpoints.load(KEY) == at(3)

    async def test_a_dropped_lease_saves_nothing(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a")
        await store.leases.drop(lease)
        with refused(LaneLost):
            await store.checkpoints.save(lease, at(1))
        assert await store.checkpoints.load(KEY) is None

    async def test_a_lease_from_before_another_owner_saves_nothing_though_the_name_is_the_same(self, store: Store) -> None:
        stale = await claimed(store, KEY, "a", 0.0)
        await claimed(store, KEY, "b", 10.0)
        await claimed(store, KEY, "a", 20.0)
        with refused(LaneLost):
            await store.checkpoints.save(stale, at(1))
        assert await store.checkpoints.load(KEY) is None

    async def test_a_lease_is_good_for_its_own_lane_only(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a")
        for key in OTHERS:
            with refused(LaneLost):
                await store.checkpoints.save(Lease(key, lease.owner, lease.counter), at(1))
            assert await store.checkpoints.load(key) is None

    async def test_a_refused_save_names_the_lane(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a")
        await store.leases.drop(lease)
        with refused(LaneLost) as caught:
            await store.checkpoints.save(lease, at(1))
        assert KEY.lane in str(caught[0]) and KEY.mapping in str(caught[0])


class LeasesContract:
    """poller.protocols.Leases: one owner at a time, and a counter that tells owners apart for good."""

    async def test_a_free_lane_is_had_at_once(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a")
        assert (lease.key, lease.owner) == (KEY, "a")

    async def test_a_held_lane_is_refused_until_its_time_is_over(self, store: Store) -> None:
        held = await claimed(store, KEY, "a", 0.0, 10.0)
        assert await store.leases.claim(KEY, "b", 9.99, 10.0) is None
        taken = await claimed(store, KEY, "b", 10.0, 10.0)
        assert taken.counter > held.counter

    async def test_a_refused_claim_changes_nothing(self, store: Store) -> None:
        held = await claimed(store, KEY, "a", 0.0, 10.0)
        await store.leases.claim(KEY, "b", 5.0, 1000.0)
        assert await store.leases.renew([held], 6.0, 10.0) == [held]
        await claimed(store, KEY, "b", 16.0)

    async def test_the_owners_own_claim_renews_and_fences_what_it_sent_before(self, store: Store) -> None:
        first = await claimed(store, KEY, "a", 0.0, 10.0)
        again = await claimed(store, KEY, "a", 5.0, 10.0)
        assert again.counter > first.counter
        assert await store.leases.claim(KEY, "b", 12.0, 10.0) is None
        with refused(LaneLost):
            await store.checkpoints.save(first, at(1))

    async def test_renewing_extends(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a", 0.0, 10.0)
        assert await store.leases.renew([lease], 9.0, 10.0) == [lease]
        assert await store.leases.claim(KEY, "b", 18.0, 10.0) is None
        await claimed(store, KEY, "b", 19.0)

    async def test_only_those_that_are_still_ours_are_renewed_and_named(self, store: Store) -> None:
        long, short, dropped, lost = [await claimed(store, key, "a", 0.0, 10.0) for key in (KEY, *OTHERS)]
        await store.leases.renew([long], 5.0, 100.0)
        await store.leases.drop(dropped)
        await claimed(store, lost.key, "b", 10.0)
        assert await store.leases.renew([dropped, long, lost, short], 11.0, 10.0) == [long]
        await claimed(store, short.key, "b", 11.0)

    async def test_renewing_nothing_is_nothing(self, store: Store) -> None:
        assert list(await store.leases.renew([], 0.0, 10.0)) == []

    async def test_a_dropped_lane_is_free_at_once_and_its_counter_goes_on(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a", 0.0, 1000.0)
        await store.leases.drop(lease)
        taken = await claimed(store, KEY, "b", 1.0)
        assert taken.counter > lease.counter

    async def test_the_counter_goes_on_for_the_same_owner_too(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a")
        await store.leases.drop(lease)
        assert (await claimed(store, KEY, "a", 1.0)).counter > lease.counter

    async def test_dropping_what_is_not_ours_any_more_does_nothing(self, store: Store) -> None:
        stale = await claimed(store, KEY, "a", 0.0, 10.0)
        await claimed(store, KEY, "b", 10.0, 10.0)
        await store.leases.drop(stale)
        assert await store.leases.claim(KEY, "c", 11.0, 10.0) is None

    async def test_dropping_twice_is_dropping_once(self, store: Store) -> None:
        lease = await claimed(store, KEY, "a")
        await store.leases.drop(lease)
        await store.leases.drop(lease)
        await claimed(store, KEY, "b")

    async def test_lanes_are_leased_apart(self, store: Store) -> None:
        await claimed(store, KEY, "a")
        for key in OTHERS:
            await claimed(store, key, "b")

    async def test_of_many_who_claim_at_once_one_has_it(self, store: Store) -> None:
        leases = await asyncio.gather(*(store.leases.claim(KEY, f"worker-{n}", 0.0, 10.0) for n in range(20)))
        assert len([lease for lease in leases if lease is not None]) == 1
