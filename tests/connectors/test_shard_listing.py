"""Which shards a stream has: `StreamShards` over a service whose pages fail, and lanes of many shards of which one is bad."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from connectors.kinesis.client import KinesisRecord
from connectors.sharded.listing import PATIENCE, TRIES, StreamShards
from connectors.sharded.shards import Expired, Gone, Refused, Throttled
from poller.errors import LaneEnded, NotConnected
from poller.lineage import Shard
from poller.progress import ORIGIN
from poller.testing.clock import run_virtually
from tests.connectors.scripted_shards import Service, context, dialect, record


def listing(service: Service, streams: Sequence[str] = ("stream",), **changes: Any) -> StreamShards[KinesisRecord]:
    async def find() -> Sequence[str]:
        return streams

    return StreamShards(dialect(service, **changes), context(), find, streams[-1], service.aclose, dice=lambda: 0.5)


def virtually(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        run_virtually(test())  # type: ignore[arg-type]

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


@virtually
async def test_all_pages_or_none() -> None:
    """A page that fails in the middle gives no listing, nor part of one; what was listed before is listed after."""
    service = Service()
    for n in range(684):
        service.add(f"s{n}")
    shards = listing(service)
    failing = True
    service.refuse = lambda _, page: NotConnected("broken line") if failing and page == "300" else None
    for _ in range(2):
        with pytest.raises(NotConnected):
            await shards.shards()
    failing = False
    assert [each.name for each in await shards.shards()] == [f"s{n}" for n in range(684)]
    failing = True
    await asyncio.sleep(20)
    with pytest.raises(NotConnected):
        await shards.shards()
    failing = False
    assert len(await shards.shards()) == 684
    await shards.aclose()


def refusing_once(page: str, refused: Refused) -> Callable[[str, str], Refused | None]:
    left = [refused]
    return lambda operation, what: left.pop() if left and operation == "shards" and what == page else None


@virtually
async def test_a_page_that_is_throttled_is_asked_for_again_and_an_expired_token_begins_anew() -> None:
    for refused, calls in ((Throttled("slow", 1.0), 4), (Expired("old"), 5)):
        service = Service()
        for n in range(250):
            service.add(f"s{n}")
        service.refuse = refusing_once("200", refused)
        assert len(await listing(service).shards()) == 250
        assert service.count("shards") == calls + (1 if isinstance(refused, Expired) else 0)


@virtually
async def test_pages_that_are_throttled_once_each_are_a_listing_all_the_same() -> None:
    service = Service()
    for n in range(100 * 2 * TRIES):
        service.add(f"s{n}")
    refused = set[str]()

    def once(_operation: str, page: str) -> Refused | None:
        first = page not in refused
        refused.add(page)
        return Throttled("slow", 1.0) if first else None

    service.refuse = once
    assert len(await listing(service).shards()) == 100 * 2 * TRIES


@virtually
async def test_a_listing_that_takes_long_keeps_nobody_from_what_is_known() -> None:
    """Leases of a worker that has crashed wait for no listing. What comes of it is told later, once: the listing, or why there is none."""
    service, loop = Service(), asyncio.get_running_loop()
    service.add("s")
    shards = listing(service)
    known = await shards.shards()
    service.add("t")
    throttled = True
    service.refuse = lambda *_: Throttled("slow", 1.0) if throttled else None
    await asyncio.sleep(20)
    looks, failures = 0, 0
    while failures < 2:
        began = loop.time()
        try:
            assert await shards.shards() is known
        except NotConnected:
            failures += 1
        assert loop.time() - began <= PATIENCE + 0.01
        looks += 1
        await asyncio.sleep(0.75)
    assert looks > 10
    assert service.count("shards") == 1 + 2 * TRIES
    throttled = False
    while await shards.shards() is known:
        await asyncio.sleep(0.75)
    assert [each.name for each in await shards.shards()] == ["s", "t"]
    await shards.aclose()


@virtually
async def test_who_is_refused_for_ever_gives_up() -> None:
    for refused in (Throttled("slow", 1.0), Expired("old")):
        service = Service()
        service.add("s")
        service.refuse = lambda *_, refused=refused: refused
        with pytest.raises(NotConnected):
            await listing(service).shards()
        assert service.count("shards") == TRIES


@virtually
async def test_a_stream_that_is_gone_needs_a_person() -> None:
    service = Service()
    service.refuse = lambda *_: Gone("no stream")
    with pytest.raises(NotConnected, match="the stream is gone") as raised:
        await listing(service).shards()
    assert raised.value.permanent


@virtually
async def test_it_is_kept_for_a_while_and_asked_for_at_every_look_after_an_end() -> None:
    service = Service()
    service.add("s").closed = True
    shards = listing(service)
    for _ in range(5):
        await shards.shards()
        await asyncio.sleep(1.0)
    assert service.count("shards") == 1
    with pytest.raises(LaneEnded):
        await shards.reader("s").read(ORIGIN, "TRIM_HORIZON", 10)
    for _ in range(3):
        await shards.shards()
    assert service.count("shards") == 4
    service.add("child", "s")
    assert [each.name for each in await shards.shards()] == ["s", "child"]
    for _ in range(3):
        await shards.shards()
    assert service.count("shards") == 5, "its child is there"
    await shards.aclose()


@virtually
async def test_who_asks_at_the_same_time_shares_a_listing_that_began_later() -> None:
    """684 shards whose iterators are gone at once ask once or twice, not 684 times; what each is told is newer than its question."""
    service = Service()
    for n in range(50):
        service.add(f"s{n}")
    shards = listing(service)
    await shards.shards()
    asked = [asyncio.create_task(shards.listed(f"s{n}")) for n in range(50)]
    await asyncio.sleep(0.005)  # under way
    service.drop("s7")
    later = asyncio.create_task(shards.listed("s7"))
    assert all(await asyncio.gather(*asked[:7]))
    assert not await later
    assert service.count("shards") == 3
    await asyncio.gather(*asked)
    await shards.aclose()


@virtually
async def test_a_caller_that_is_cancelled_takes_the_listing_from_nobody() -> None:
    service = Service()
    service.add("s")
    shards = listing(service)
    first, second = asyncio.create_task(shards.shards()), asyncio.create_task(shards.shards())
    await asyncio.sleep(0.005)
    first.cancel()
    assert [each.name for each in await second] == ["s"]
    await shards.aclose()


class Series(Service):
    """Several streams: the listing of each by its name."""

    def __init__(self, streams: dict[str, list[Any]]) -> None:
        super().__init__()
        self.streams = streams

    async def shards(self, stream: str, more: str | None = None) -> Any:
        if stream not in self.streams:
            return Gone(f"no {stream}")
        self.listing = self.streams[stream]
        return await super().shards(stream, more)


@virtually
async def test_the_shards_of_a_later_stream_come_after_those_of_the_earlier() -> None:
    before = [Shard("a"), Shard("b"), Shard("c", ("a",))]
    after = [Shard("x", ("trimmed",)), Shard("y", ("x",))]
    service = Series({"one": before, "two": [], "three": after})
    shards = listing(service, ("gone", "one", "two", "three"))
    assert await shards.shards() == (
        Shard("a"),
        Shard("b"),
        Shard("c", ("a",)),
        Shard("x", ("trimmed", "b", "c")),
        Shard("y", ("x",)),
    )
    await shards.aclose()
    with pytest.raises(NotConnected, match="gone"):
        await listing(service, ("one", "gone")).shards()


@virtually
async def test_of_684_shards_one_is_bad_and_683_are_read() -> None:
    service = Service()
    for n in range(684):
        service.add(f"s{n}").records.append(record(n))
    shards = listing(service)
    service.refuse = lambda operation, what: NotConnected("bad") if what == "s99" and operation != "shards" else None
    names = [each.name for each in await shards.shards()]

    async def read(name: str) -> int:
        return len((await shards.reader(name).read(ORIGIN, "TRIM_HORIZON", 10))[0])

    found = await asyncio.gather(*map(read, names), return_exceptions=True)
    assert [name for name, each in zip(names, found, strict=True) if each != 1] == ["s99"]
    assert isinstance(found[99], NotConnected)
    await shards.aclose()
