"""The store in memory: the same protocols, without a thread, a file or a wait. For simulations; gone with the process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from poller.model import Holding, LaneKey, Lease
from poller.progress import Progress
from poller.stores.fencing import lost
from poller.stores.memory_acknowledged import MemoryAcknowledged
from poller.stores.memory_journal import MemoryJournal
from poller.stores.memory_outbox import MemoryOutbox
from poller.stores.memory_parking import MemoryParking
from poller.stores.memory_runs import MemoryRuns
from poller.stores.memory_upkeep import MemoryUpkeep


@dataclass(slots=True)
class _Held:
    owner: str
    counter: int
    until: float
    wanted: str = ""
    wanted_until: float = 0.0

    def free_for(self, owner: str, now: float) -> bool:
        """Whether this owner may have it. Dropped, it is kept for who asked; past its time, for nobody."""
        if self.owner == owner:
            return True
        return self.wanted in ("", owner) or self.wanted_until <= now if self.owner == "" else self.until <= now

    def word_holds(self, now: float) -> bool:
        """Whether it is kept for who asked, or will be."""
        return self.wanted_until > now and (self.owner == "" or self.until > now)


class MemoryLeases:
    """`poller.protocols.Leases`."""

    def __init__(self) -> None:
        self._held: dict[LaneKey, _Held] = {}

    def holds(self, lease: Lease) -> bool:
        """Whether nobody has claimed it since, and it was not dropped."""
        held = self._held.get(lease.key)
        return held is not None and held.owner == lease.owner and held.counter == lease.counter

    async def claim(self, key: LaneKey, owner: str, now: float, duration: float, ask: bool = False) -> Lease | None:
        held = self._held.setdefault(key, _Held("", 0, 0.0))
        if not held.free_for(owner, now):
            if ask and held.owner:
                held.wanted, held.wanted_until = owner, now + duration
            return None
        held.counter += 1
        held.owner, held.until = owner, now + duration
        if held.wanted == owner:
            held.wanted = ""
        return Lease(key, owner, held.counter)

    async def renew(self, leases: Sequence[Lease], now: float, duration: float) -> Sequence[Lease]:
        renewed = [lease for lease in leases if self.holds(lease) and self._held[lease.key].until > now]
        for lease in renewed:
            self._held[lease.key].until = now + duration
        return renewed

    async def drop(self, lease: Lease) -> None:
        if self.holds(lease):
            self._held[lease.key].owner = ""  # the counter stays: fencing tokens never come twice

    async def held(self, mapping: str, source: str, now: float) -> Sequence[Holding]:
        return [
            Holding(key.lane, held.owner if held.until > now else "", held.wanted if held.word_holds(now) else "")
            for key, held in self._held.items()
            if (key.mapping, key.source) == (mapping, source)
        ]


class MemoryCheckpoints:
    """`poller.protocols.Checkpoints`, fenced by leases of the same store."""

    def __init__(self, leases: MemoryLeases) -> None:
        self._leases = leases
        self._saved: dict[LaneKey, Progress] = {}

    async def load(self, key: LaneKey) -> Progress | None:
        return self._saved.get(key)

    async def save(self, lease: Lease, progress: Progress) -> None:
        if not self._leases.holds(lease):
            raise lost(lease)
        self._saved[lease.key] = progress

    async def forget(self, lease: Lease) -> None:
        if not self._leases.holds(lease):
            raise lost(lease)
        self._saved.pop(lease.key, None)

    async def sources(self, mapping: str) -> Sequence[str]:
        """The identities of all sources that this mapping has progress for, in order."""
        return sorted({key.source for key in self._saved if key.mapping == mapping})


class MemoryStates:
    """`poller.protocols.States`, fenced by leases of the same store."""

    def __init__(self, leases: MemoryLeases) -> None:
        self._leases = leases
        self._values: dict[LaneKey, dict[int, bytes]] = defaultdict(dict)

    async def put(self, lease: Lease, number: int, value: bytes) -> None:
        if not self._leases.holds(lease):
            raise lost(lease)
        self._values[lease.key][number] = value

    async def get(self, key: LaneKey, number: int) -> bytes | None:
        return self._values[key].get(number) if key in self._values else None

    async def prune(self, lease: Lease, keep: Collection[int]) -> None:
        if not self._leases.holds(lease):
            raise lost(lease)
        self._values[lease.key] = {number: value for number, value in self._values[lease.key].items() if number in keep}


class MemoryStore:
    """`poller.protocols.Store` without a real clock, thread or file; several workers of a simulation share one."""

    def __init__(self) -> None:
        self.leases = MemoryLeases()
        self.checkpoints = MemoryCheckpoints(self.leases)
        self.states = MemoryStates(self.leases)
        self.outbox = MemoryOutbox()
        self.journal = MemoryJournal(self.outbox)
        self.parking = MemoryParking(self.journal)
        self.runs = MemoryRuns(self.journal)
        self.upkeep = MemoryUpkeep(self.journal)
        self.acknowledged = MemoryAcknowledged()

    async def aclose(self) -> None:
        """Nothing to do: what was kept stays readable, so that a simulation can look at it."""
