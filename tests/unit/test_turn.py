"""The slices of a loop: who is over them waits, one strand and one reader a round."""

from __future__ import annotations

import asyncio

from poller.testing.clock import run_virtually
from poller.turn import SLICE_SECONDS, Turn


async def _a_slice() -> None:
    turn = Turn()
    assert turn.over(), "nobody has begun one"
    await turn.yield_()
    assert not turn.over()
    await asyncio.sleep(SLICE_SECONDS)
    assert turn.over() and turn.readers.over()


def test_a_slice_begins_when_who_waited_is_back() -> None:
    run_virtually(_a_slice())


async def _rounds() -> None:
    turn, back = Turn(), list[str]()

    async def strand(name: str) -> None:
        await turn.yield_()
        back.append(name)

    async def reader() -> None:
        await turn.readers.yield_()
        back.append("reader")

    tasks = [asyncio.create_task(strand(f"strand {n}")) for n in range(100)]
    tasks.append(asyncio.create_task(reader()))
    await asyncio.gather(*tasks)
    assert [name for name in back if name != "reader"] == [f"strand {n}" for n in range(100)], "first come, first served"
    assert back.index("reader") <= 2, "it does not wait behind strands"


def test_a_reader_does_not_wait_behind_the_strands() -> None:
    run_virtually(_rounds())
