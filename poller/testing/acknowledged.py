"""What must hold of what a store remembers for idempotency windows: its contract suite. See stores.py for how suites are used."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from poller.protocols import Store

LONG = 10_000.0


def names(*numbers: int) -> list[bytes]:
    return [number.to_bytes(16, "big") for number in numbers]


async def known(store: Store, numbers: Iterable[int], now: float = 1_000.0, mapping: str = "orders") -> list[int]:
    """Those of these that are known then."""
    found = await store.acknowledged.known(mapping, names(*numbers), now)
    return sorted(int.from_bytes(name, "big") for name in found)


async def put(store: Store, *numbers: int, now: float = 1_000.0, until: float = LONG, mapping: str = "orders") -> None:
    await store.acknowledged.put(mapping, names(*numbers), now, until)


class AcknowledgedContract:
    """poller.protocols.Acknowledged."""

    async def test_what_was_put_is_known_until_its_time_and_nothing_else_is(self, store: Store) -> None:
        await put(store, 1, 2, until=1_600.0)
        assert await known(store, (1, 2, 3), now=1_599.9) == [1, 2]
        assert await known(store, (1, 2, 3), now=1_600.0) == []
        assert await known(store, (1, 2, 3), mapping="other") == []
        assert await known(store, ()) == []

    async def test_a_name_is_put_any_number_of_times_and_keeps_its_latest_time(self, store: Store) -> None:
        await put(store, 1, 1, until=1_600.0)
        await put(store, 1, 2, until=1_700.0)
        await put(store, 1, 2, until=1_650.0)
        await put(store)
        assert await known(store, (1, 1, 2), now=1_699.0) == [1, 2]
        assert await known(store, (1, 2), now=1_700.0) == []

    async def test_names_are_bytes_and_mappings_are_apart(self, store: Store) -> None:
        odd = [bytes(16), b"\xff" * 16, b"\x00\xfe" * 8]
        await store.acknowledged.put("orders \N{SNOWMAN} \udc80", odd, 1_000.0, LONG)
        assert {*await store.acknowledged.known("orders \N{SNOWMAN} \udc80", [*odd, b"\x01" * 16], 1_000.0)} == {*odd}
        assert not await store.acknowledged.known("orders", odd, 1_000.0)

    async def test_as_many_as_a_batch_may_have(self, store: Store) -> None:
        await put(store, *range(10_000))
        assert await known(store, range(5_000, 15_000)) == [*range(5_000, 10_000)]

    async def test_what_many_put_and_ask_at_once_is_each_ones_own(self, store: Store) -> None:
        async def one(number: int) -> list[int]:
            # Overlapping, in different orders, and of two mappings.
            mine, mapping = [number, number + 1, number - 1], f"m{number % 2}"
            await put(store, *mine, mapping=mapping)
            return await known(store, mine, mapping=mapping)

        assert await asyncio.gather(*map(one, range(1, 60))) == [[n - 1, n, n + 1] for n in range(1, 60)]
        assert await known(store, range(100), mapping="m0") == [*range(1, 60)]

    async def test_a_mapping_is_forgotten_and_others_are_not(self, store: Store) -> None:
        await put(store, *range(2_500))
        await put(store, 1, mapping="other")
        await store.acknowledged.forget("orders", 1_010.0)
        assert await known(store, range(2_500)) == []
        assert await known(store, (1,), mapping="other") == [1]

    async def test_what_was_asked_before_a_mapping_was_forgotten_and_comes_after_it_is_not_put(self, store: Store) -> None:
        await store.acknowledged.forget("orders", 1_010.0)
        await store.acknowledged.forget("orders", 1_005.0)
        await put(store, 1, now=1_009.0)
        await put(store, 2, now=1_010.0)
        await put(store, 3, now=1_010.1)
        assert await known(store, (1, 2, 3), now=1_011.0) == [3]

    async def test_what_is_over_is_removed_of_every_mapping(self, store: Store) -> None:
        await put(store, 1, 2, until=1_500.0)
        await put(store, 2, 3, until=1_600.0)
        await put(store, 4, until=1_400.0, mapping="gone")
        assert await store.acknowledged.trim(1_500.0, {}) == 2
        assert await store.acknowledged.trim(1_500.0, {}) == 0
        assert await known(store, (1, 2, 3), now=1_000.0) == [2, 3]
        assert await known(store, (4,), now=1_000.0, mapping="gone") == []

    async def test_above_its_limit_a_mapping_loses_what_ends_first(self, store: Store) -> None:
        await asyncio.gather(*(put(store, number, until=5_000.0 + (number * 7) % 2_500) for number in range(2_500)))
        await put(store, 1, 2, 3, mapping="other")
        last = sorted(range(2_500), key=lambda number: (number * 7) % 2_500)[-100:]
        assert await store.acknowledged.trim(1_000.0, {"orders": 100, "none": 1}) == 2_400
        assert await known(store, range(2_500)) == sorted(last)
        assert await known(store, (1, 2, 3), mapping="other") == [1, 2, 3]
        assert await store.acknowledged.trim(1_000.0, {"orders": 100}) == 0

    async def test_what_is_renewed_while_it_is_trimmed_stays(self, store: Store) -> None:
        await put(store, *range(3_000), until=1_500.0)
        trimming = asyncio.ensure_future(store.acknowledged.trim(1_600.0, {}))
        await put(store, *range(0, 3_000, 300), now=1_600.0, until=LONG)
        await trimming
        assert await known(store, range(3_000), now=1_600.0) == [*range(0, 3_000, 300)]
