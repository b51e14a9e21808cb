"""What every store's states must keep, by property: their contract suite. See stores.py for how suites are used."""

from __future__ import annotations

from collections.abc import Iterable

from poller.errors import LaneLost
from poller.model import LaneKey, Lease
from poller.protocols import Ledger, States
from poller.testing.stores import KEY, OTHERS, claimed, refused

LARGE = 1024 * 1024 + 4321
"""More than a window's state may have, in bytes, and more than a row of some stores can hold."""


class StatesContract:
    """poller.protocols.States: values by number, whole, written by the holder of the lane's lease only."""

    async def _there(self, states: States, numbers: Iterable[int], key: LaneKey = KEY) -> dict[int, bytes]:
        found = {number: await states.get(key, number) for number in numbers}
        return {number: value for number, value in found.items() if value is not None}

    async def test_a_number_that_was_never_put_is_not_there(self, store: Ledger) -> None:
        assert await store.states.get(KEY, 0) is None

    async def test_what_is_put_is_there_as_it_was(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        values = {0: b"", 1: b"{}", 2: bytes(range(256)), 2**62: b"last"}
        for number, value in values.items():
            await store.states.put(lease, number, value)
        assert await self._there(store.states, [*values, 3]) == values

    async def test_large_values_come_back_whole(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        values = {1: bytes(n * 7919 % 251 for n in range(LARGE)), 2: b"\xff" * (350_000 * 2), 3: b"\x00" * 350_000}
        for number, value in values.items():
            await store.states.put(lease, number, value)
        assert await self._there(store.states, values) == values

    async def test_a_number_that_is_there_is_replaced_whole(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        for value in (b"x" * LARGE, b"short", b"y" * 400_000, b""):
            await store.states.put(lease, 7, value)
            assert await store.states.get(KEY, 7) == value

    async def test_only_what_is_to_be_kept_is_kept(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        for number in range(5):
            await store.states.put(lease, number, b"x" * 360_000 if number == 2 else b"%d" % number)
        await store.states.prune(lease, {1, 3, 99})
        assert await self._there(store.states, range(5)) == {1: b"1", 3: b"3"}
        await store.states.prune(lease, [1, 3])
        assert await self._there(store.states, range(5)) == {1: b"1", 3: b"3"}
        await store.states.prune(lease, ())
        assert await self._there(store.states, range(5)) == {}

    async def test_states_of_mappings_sources_and_lanes_are_apart(self, store: Ledger) -> None:
        for n, key in enumerate((KEY, *OTHERS)):
            await store.states.put(await claimed(store, key, "a"), 1, b"%d" % n)
        await store.states.prune(await claimed(store, KEY, "a"), ())
        assert [await store.states.get(key, 1) for key in (KEY, *OTHERS)] == [None, b"1", b"2", b"3"]

    async def test_states_outlive_their_lease(self, store: Ledger) -> None:
        lease = await claimed(store, KEY, "a")
        await store.states.put(lease, 1, b"1")
        await store.leases.drop(lease)
        assert await store.states.get(KEY, 1) == b"1"
        await store.states.prune(await claimed(store, KEY, "b", 1.0), {1})
        assert await store.states.get(KEY, 1) == b"1"

    async def test_a_stale_lease_changes_nothing(self, store: Ledger) -> None:
        stale = await claimed(store, KEY, "a", 0.0, 10.0)
        await store.states.put(stale, 1, b"1")
        dropped = await claimed(store, KEY, "b", 10.0, 10.0)
        await store.leases.drop(dropped)
        for lease in (stale, dropped, Lease(OTHERS[0], "a", stale.counter)):
            with refused(LaneLost):
                await store.states.put(lease, 1, b"2")
            with refused(LaneLost):
                await store.states.put(lease, 2, b"2" * LARGE)
            with refused(LaneLost):
                await store.states.prune(lease, ())
        assert await self._there(store.states, range(5)) == {1: b"1"}
        assert await self._there(store.states, range(5), OTHERS[0]) == {}
