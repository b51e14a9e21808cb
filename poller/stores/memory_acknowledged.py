"""What idempotency windows remember, in memory, beside the other parts of the store in memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from math import inf


class MemoryAcknowledged:
    """`poller.protocols.Acknowledged`."""

    def __init__(self) -> None:
        self._until: dict[str, dict[bytes, float]] = defaultdict(dict)
        self._forgotten: dict[str, float] = {}

    async def put(self, mapping: str, names: Sequence[bytes], now: float, until: float) -> None:
        if now > self._forgotten.get(mapping, -inf):
            kept = self._until[mapping]
            for name in names:
                kept[name] = max(until, kept.get(name, until))

    async def known(self, mapping: str, names: Sequence[bytes], now: float) -> Collection[bytes]:
        kept = self._until[mapping]
        return {name for name in names if kept.get(name, now) > now}

    async def forget(self, mapping: str, now: float) -> None:
        self._forgotten[mapping] = max(now, self._forgotten.get(mapping, now))
        self._until.pop(mapping, None)

    async def trim(self, now: float, most: Mapping[str, int]) -> int:
        before = self._count()
        for mapping, kept in self._until.items():
            left = {name: until for name, until in kept.items() if until > now}
            over = len(left) - most.get(mapping, len(left))
            for name in sorted(left, key=left.__getitem__)[: max(0, over)]:
                del left[name]
            self._until[mapping] = left
        return before - self._count()

    def _count(self) -> int:
        return sum(map(len, self._until.values()))
