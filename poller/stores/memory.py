"""The store in memory: the same protocols, without a thread, a file or a wait. For simulations; gone with the process."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from poller.failures.fingerprint import fingerprint
from poller.failures.journal import Entry, KeptRecord, Row, RowState, Selection
from poller.model import Fault, Holding, LaneKey, Lease
from poller.progress import Progress
from poller.stores.fencing import lost
from poller.stores.ids import meant
from poller.stores.memory_outbox import MemoryOutbox
from poller.stores.memory_runs import MemoryRuns
from poller.stores.memory_upkeep import MemoryUpkeep
from poller.stores.posts import posted


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


@dataclass(slots=True)
class _Kept:
    """A row, and the claim on it."""

    row: Row
    owner: str = ""
    until: float = 0.0


class MemoryJournal:
    """`poller.failures.protocols.Journal`."""

    def __init__(self, outbox: MemoryOutbox | None = None) -> None:
        self._outbox = outbox or MemoryOutbox()
        self._rows: dict[str, _Kept] = {}
        self._holders: dict[tuple[LaneKey, str], list[str]] = defaultdict(list)

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        return [self._append(entry) for entry in entries]

    async def select(self, selection: Selection) -> Sequence[Row]:
        # Sorting is stable, and a dict keeps the order of appending: of one time, first come first.
        rows = sorted(self._selected(selection), key=lambda row: row.entry.time)
        return rows[: selection.limit]

    async def count(self, selection: Selection) -> int:
        """How many rows `select` would give."""
        return len(await self.select(selection))

    async def mark(
        self, ids: Sequence[str], state: RowState, now: float, owner: str = "", until: float = 0.0, fault: Fault | None = None
    ) -> Sequence[str]:
        return [one for one in dict.fromkeys(ids) if self._mark(one, state, now, owner, until, fault)]

    def _append(self, entry: Entry) -> str:
        key = LaneKey(entry.mapping, entry.source, entry.lane)
        states = ("kept",) if entry.run else ("kept", "claimed")
        held = [self._holder(key, record, states, entry.kept) for record in entry.records]
        first = held[0] if held else None
        left = [place for place, holder in enumerate(held) if holder is None]
        there = self._rows.get(entry.id)
        if there is not None:
            if left:
                self._add_to(there, key, left, entry)
            if first is None and entry.records:
                first = self._holder(key, entry.records[0], ("kept", "claimed", "replayed", "dropped"), "queue-dlq")
        elif left:
            records = tuple(entry.records[place] for place in left)
            identifiers = tuple(entry.identifiers[place] for place in left) if entry.identifiers else ()
            self._rows[entry.id] = _Kept(
                Row(replace(entry, records=records, identifiers=identifiers, destinations=()), "kept", 0, entry.time)
            )
            for record in records:
                self._holders[key, record.id].append(entry.id)
            self._outbox.post(posted(entry, left))
        return first or entry.id

    def _add_to(self, there: _Kept, key: LaneKey, left: Sequence[int], entry: Entry) -> None:
        """The id is there, and no open row holds these of its records: what was replayed or dropped before has failed once more."""
        row, old = there.row, there.row.entry
        own = {record.id for record in old.records}
        new = [place for place in left if entry.records[place].id not in own]
        for place in new:
            self._holders[key, entry.records[place].id].append(entry.id)
        records = (*old.records, *(entry.records[place] for place in new))
        identifiers = (*old.identifiers, *(entry.identifiers[place] for place in new)) if entry.identifiers else old.identifiers
        if row.state in ("replayed", "dropped") or old.kept != entry.kept == "failure":
            again = replace(
                entry,
                records=records,
                identifiers=identifiers,
                first=old.first,
                last=old.last,
                head=old.head,
                tail=old.tail,
                destinations=(),
            )
            there.row, there.owner, there.until = replace(row, entry=again, state="kept", changed=entry.time), "", 0.0
            self._outbox.post(posted(entry, left, again=True))
        else:
            there.row = replace(row, entry=replace(old, records=records, identifiers=identifiers))
            self._outbox.post(posted(entry, new, again=True) if new else ())

    def _holder(self, key: LaneKey, record: KeptRecord, states: Sequence[str], kept: str) -> str | None:
        """The newest row in one of these states that holds the record. A copy ("queue-dlq") holds nothing against a failure."""
        rows = [self._rows[one] for one in self._holders.get((key, record.id), ())]
        held = [each.row for each in rows if each.row.state in states and each.row.entry.kept in ("failure", kept)]
        return held[-1].entry.id if held else None

    def work_out(self) -> None:
        """Rows that have no fingerprint get theirs."""
        for kept in self._rows.values():
            entry = kept.row.entry
            if not entry.group:
                kept.row = replace(kept.row, entry=replace(entry, group=fingerprint(entry.fault, entry.reason)))

    def all(self, selection: Selection) -> list[Row]:
        """Those that are selected, in the order of appending."""
        return list(self._selected(selection))

    def remove(self, id: str) -> None:
        """As if it had never been there."""
        entry = self._rows.pop(id).row.entry
        for record in entry.records:
            self._holders[LaneKey(entry.mapping, entry.source, entry.lane), record.id].remove(id)

    def _selected(self, selection: Selection) -> Iterator[Row]:
        if selection.group is not None:
            self.work_out()
            groups = sorted({each.row.entry.group for each in self._rows.values() if each.row.entry.group.startswith(selection.group)})
            group = meant(selection.group, groups, "group")
        wanted = {meant(prefix, [one for one in self._rows if one.startswith(prefix)]) for prefix in selection.ids}
        for kept in self._rows.values():
            row, entry = kept.row, kept.row.entry
            if (
                (not selection.ids or entry.id in wanted)
                and selection.mapping in (None, entry.mapping)
                and (selection.after is None or entry.time >= selection.after)
                and (selection.before is None or entry.time < selection.before)
                and (not selection.states or row.state in selection.states)
                and (selection.copies or entry.kept != "queue-dlq")
                and (selection.group is None or entry.group == group)
                and (selection.key is None or any(record.key == selection.key for record in entry.records))
            ):
                yield row

    def _mark(self, id: str, state: RowState, now: float, owner: str, until: float, fault: Fault | None) -> bool:
        kept = self._rows.get(id)
        if kept is None or not _allowed(kept, state, now, owner):
            return False
        row = replace(kept.row, state=state, changed=now)
        if state == "kept" and fault is not None:
            group = fingerprint(fault) if row.entry.group else ""
            row = replace(row, entry=replace(row.entry, fault=fault, group=group), failures=row.failures + 1)
        kept.row, kept.owner, kept.until = row, "", 0.0
        if state == "claimed":
            kept.owner, kept.until = owner, until
        return True


def _allowed(kept: _Kept, state: RowState, now: float, owner: str) -> bool:
    match kept.row.state:
        case "kept":
            return state in ("claimed", "dropped")
        case "claimed" if state == "claimed":
            return kept.owner == owner or kept.until <= now
        case "claimed":
            return state in ("kept", "replayed") and kept.owner == owner
        case _:
            return False


class MemoryStore:
    """`poller.protocols.Store` without a real clock, thread or file; several workers of a simulation share one."""

    def __init__(self) -> None:
        self.leases = MemoryLeases()
        self.checkpoints = MemoryCheckpoints(self.leases)
        self.states = MemoryStates(self.leases)
        self.outbox = MemoryOutbox()
        self.journal = MemoryJournal(self.outbox)
        self.runs = MemoryRuns(self.journal)
        self.upkeep = MemoryUpkeep(self.journal)

    async def aclose(self) -> None:
        """Nothing to do: what was kept stays readable, so that a simulation can look at it."""
