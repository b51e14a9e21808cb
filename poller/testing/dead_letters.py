"""What every reader of dead letters must keep: its contract suite. An implementation's test is a subclass with a fixture `shelf`.

What lies there is put by the kind itself: what it sends to, it can read.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from poller.redrive.letters import DeadLetters, Letter, Readable, RedriveContext
from poller.settings import DestinationKind
from poller.testing.destinations import MAPPING, context, make_delivery, make_record

NOW = 1573691886.021


@dataclass(frozen=True, slots=True)
class Shelf:
    """An address of a kind that is `Readable` too; nothing is there yet."""

    kind: DestinationKind
    to: str
    options: Any
    folder: Path

    async def put(self, *ids: str) -> None:
        destination = await self.kind.open(self.to, self.options, context(folder=self.folder))
        for each in ids:
            await destination.send(make_delivery(each, records=(make_record("7", "x"),), identifiers=("7",)))
        await destination.aclose()

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[DeadLetters]:
        assert isinstance(self.kind, Readable)
        # The clock is far behind that of any server: nothing may depend on it.
        about = RedriveContext(MAPPING, None, self.folder, self.folder, lambda: NOW)
        letters = await self.kind.letters(self.to, self.options, about)
        try:
            yield letters
        finally:
            await letters.aclose()
            await letters.aclose()


async def rest(letters: DeadLetters, portion: int = 100) -> list[Letter]:
    """All that is left, `portion` at a time."""
    found: list[Letter] = []
    while some := await letters.fetch(portion):
        assert len(some) <= portion
        found += some
    return found


def ids(letters: list[Letter]) -> list[str]:
    return sorted(json.loads(letter.body)["id"] for letter in letters)


class DeadLettersContract:
    """poller.redrive.letters.DeadLetters."""

    async def test_each_is_fetched_once_and_removed_or_given_back_at_once(self, shelf: Shelf) -> None:
        sent = [f"{number:032x}" for number in range(5)]
        await shelf.put(*sent)
        async with shelf.opened() as letters:
            first = await rest(letters, 2)
        assert ids(first) == sent
        async with shelf.opened() as letters:
            second = await rest(letters)
            assert ids(second) == sent, "nobody has to wait for a timeout"
            assert {letter.name for letter in second} == {letter.name for letter in first}, "each has its name for good"
            stays = bool(letters.stays)
            assert await letters.remove(second[:2]) == (0 if stays else 2)
            assert not await letters.fetch(10)
        async with shelf.opened() as letters:
            left = {*ids(await rest(letters))}
        assert left >= {*ids(second[2:])}, "what was not removed is there"
        assert stays or left == {*ids(second[2:])}
