"""What every destination must keep when its receiver does not take what is sent, when many are sent at once, and when a send is cancelled.

`destinations.py` has what holds while all is well. A test is a subclass with a fixture `target`, a `FaultyTarget` over an empty receiver.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import pytest

from poller.errors import NotConnected
from poller.failures.protocols import Destination
from poller.settings import DestinationContext, Finding
from poller.testing.destinations import Target, context, make_delivery

LIMIT = 30.0
"""Seconds any single wait of the suite may take; reached only by a failure."""

LEFT = 5.0
"""Seconds within which nothing of a closed destination runs any more; reached only by a failure."""


class FaultyTarget(Target, Protocol):
    """A receiver that can be told to take nothing."""

    foretells: bool
    """Whether a probe shows that it takes nothing."""

    async def probe(self, context: DestinationContext) -> list[Finding]: ...

    async def refuse(self) -> None:
        """From now on nothing arrives, as when it is down, or full."""

    async def accept(self) -> None:
        """All is well again."""

    async def count(self) -> int:
        """How many bodies have arrived."""


class DestinationFaultsContract:
    """poller.failures.protocols.Destination, when things go wrong."""

    async def test_many_at_once_all_arrive(self, target: FaultyTarget) -> None:
        names = [f"{number:032x}" for number in range(20)]
        async with _opened(target) as destination:
            await asyncio.gather(*(destination.send(make_delivery(name)) for name in names))
        assert sorted(body["id"] for body in await target.bodies(len(names))) == names

    async def test_what_is_refused_is_said_and_arrives_once_it_is_taken_again(self, target: FaultyTarget) -> None:
        """By the same destination: nobody need open it anew."""
        async with _opened(target) as destination:
            await destination.send(make_delivery("a" * 32))
            await target.refuse()
            for _ in range(2):
                with pytest.raises(NotConnected) as caught:
                    await destination.send(make_delivery("b" * 32))
                assert str(caught.value)
                assert "order 7" not in str(caught.value)  # no payloads in errors
            await target.accept()
            await destination.send(make_delivery("b" * 32))
        names = [body["id"] for body in await target.bodies(2)]
        # What was said not to have arrived may have: then it came twice, and can be told from another.
        assert list(dict.fromkeys(names)) == ["a" * 32, "b" * 32]

    async def test_a_refusal_is_shown_before_anything_is_sent(self, target: FaultyTarget) -> None:
        await target.refuse()
        levels = {finding.level for finding in await target.probe(context())}
        assert levels == ({"error"} if target.foretells else {"ok"})
        await target.accept()
        levels = {finding.level for finding in await target.probe(context())}
        assert levels == {"ok"}
        assert await target.count() == 0

    async def test_a_send_that_is_cancelled_leaves_nothing_open(self, target: FaultyTarget) -> None:
        """And keeps nothing that comes after it from arriving, wherever it was cancelled."""
        async with _opened(target) as destination:
            for turns in (0, 1, 2, 3, 5, 8, 13, 21, 34):
                sending = asyncio.ensure_future(destination.send(make_delivery("c" * 32)))
                for _ in range(turns):
                    await asyncio.sleep(0)
                sending.cancel()
                await asyncio.wait([sending])
            await destination.send(make_delivery("d" * 32))
        names = [body["id"] for body in await target.bodies(await target.count())]
        assert set(names) <= {"c" * 32, "d" * 32}
        assert names.count("d" * 32) == 1

    async def test_one_that_nobody_hears_can_be_closed(self, target: FaultyTarget) -> None:
        await target.refuse()
        async with asyncio.timeout(LIMIT), _opened(target) as destination:
            with pytest.raises(NotConnected):
                await destination.send(make_delivery())
        await target.accept()


@asynccontextmanager
async def _opened(target: FaultyTarget) -> AsyncIterator[Destination]:
    """Closed at the end, with nothing of it left on the loop."""
    async with asyncio.timeout(LIMIT):
        before = asyncio.all_tasks()
        destination = await target.open(context())
        try:
            yield destination
        finally:
            await destination.aclose()
    # A receiver on this loop may have to see first that its connections have ended.
    async with asyncio.timeout(LEFT):
        while asyncio.all_tasks() - before:  # noqa: ASYNC110 (tasks of others tell nobody)
            await asyncio.sleep(0.01)
