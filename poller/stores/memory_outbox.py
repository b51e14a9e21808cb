"""The outbox in memory, beside the journal in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count, islice

from poller.failures.journal import Damaged, Delivery, Waiting


class MemoryOutbox:
    """`poller.failures.protocols.Outbox`."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._kept: dict[int, Delivery] = {}
        self._unreadable: set[int] = set()
        self._set_aside: set[int] = set()

    def post(self, deliveries: Iterable[Delivery]) -> None:
        """Put deliveries into it, in one step with whatever the caller does without a wait."""
        for each in deliveries:
            number = next(self._numbers)
            self._kept[number] = replace(each, number=number, attempts=0, error="")

    async def put(self, deliveries: Sequence[Delivery]) -> None:
        for each in deliveries:
            if (_key(each), "success") not in ((_key(kept), kept.outcome) for kept in self._kept.values()):
                self.post((each,))

    async def due(self, mapping: str, destination: str, now: float, limit: int) -> Sequence[Delivery | Damaged]:
        meant = (each for each in self._kept.values() if (each.entry.mapping, each.destination) == (mapping, destination))
        return [self._told(each) for each in islice((each for each in meant if each.due <= now), limit)]

    async def settle(self, number: int, due: float | None, error: str = "", damaged: bool = False) -> None:
        if due is None:
            self._kept.pop(number, None)
        elif number in self._kept:
            each = self._kept[number]
            self._kept[number] = replace(each, attempts=each.attempts + 1, due=due, error=error)
            (self._set_aside.add if damaged else self._set_aside.discard)(number)

    async def waiting(self) -> Sequence[Waiting]:
        lines: dict[tuple[str, str], list[Delivery]] = {}
        for each in self._kept.values():
            lines.setdefault((each.entry.mapping, each.destination), []).append(each)
        return [self._line(mapping, destination, lines[mapping, destination]) for mapping, destination in sorted(lines)]

    async def drop(self, line: Waiting, limit: int, damaged: bool = False) -> int:
        meant = (
            number for number, each in self._kept.items() if (each.entry.mapping, each.destination) == (line.mapping, line.destination)
        )
        told = (number for number in meant if number <= line.newest)
        gone = list(islice((number for number in told if not damaged or number in self._set_aside & self._unreadable), limit))
        for number in gone:
            del self._kept[number]
        return len(gone)

    def damage(self, id: str, unreadable: bool = True) -> None:
        """From now on this delivery cannot be read, or can again. For tests: memory does not tear."""
        (self._unreadable.update if unreadable else self._unreadable.difference_update)(
            number for number, each in self._kept.items() if each.id == id
        )

    def _told(self, each: Delivery) -> Delivery | Damaged:
        if each.number not in self._unreadable:
            return each
        error = f"the delivery {each.id} in the outbox is damaged"
        return Damaged(each.number, each.id, each.destination, each.attempts, each.due, error)

    def _line(self, mapping: str, destination: str, kept: Sequence[Delivery]) -> Waiting:
        aside = sum(each.number in self._set_aside for each in kept)
        failed = next((each for each in kept if each.attempts and each.number not in self._set_aside), None)
        last = (failed.attempts, failed.error) if failed is not None else (0, "")
        return Waiting(mapping, destination, len(kept), kept[0].entry.time, *last, aside, kept[-1].number)


def _key(each: Delivery) -> tuple[str, str, str]:
    return each.id, each.entry.mapping, each.destination
