"""The journal in memory: rows, the claims on them, and what is parked behind them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from poller.failures.fingerprint import fingerprint
from poller.failures.journal import OPEN, Entry, KeptRecord, Row, RowState, Selection
from poller.model import Fault, LaneKey
from poller.stores.ids import meant
from poller.stores.memory_outbox import MemoryOutbox
from poller.stores.memory_parking import HeldKeys, Key, keys_of
from poller.stores.posts import posted


@dataclass(slots=True)
class _Kept:
    """A row, and the claim on it."""

    row: Row
    owner: str = ""
    until: float = 0.0


class MemoryJournal:
    """`poller.failures.protocols.Journal`. What has no underscore and does not wait is for the other parts of the store."""

    def __init__(self, outbox: MemoryOutbox | None = None) -> None:
        self.held = HeldKeys()
        self._outbox = outbox or MemoryOutbox()
        self._rows: dict[str, _Kept] = {}
        self._holders: dict[tuple[LaneKey, str], list[str]] = defaultdict(list)

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        return [self.put(entry) for entry in entries]

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
        done = [one for one in dict.fromkeys(ids) if self.change(one, state, now, owner, until, fault)]
        if state not in OPEN:
            self.release([key for one in done for key in self.held.close(one)], now)
        return done

    # --- of one transaction -------------------------------------------------------------------------------------------------------

    def put(self, entry: Entry, places: Mapping[str, int] | None = None) -> str:
        """Append one entry; of a rest, `places` are those of the row that it is of, by keys."""
        key = LaneKey(entry.mapping, entry.source, entry.lane)
        states: tuple[RowState, ...] = ("kept", "parked") if entry.run else OPEN
        held = [self._holder(key, record, states, entry.kept) for record in entry.records]
        self._fail_once_more({holder for holder in held if holder is not None}, entry.time)
        first = held[0] if held else None
        left = [place for place, holder in enumerate(held) if holder is None]
        there = self._rows.get(entry.id)
        state: RowState = "parked" if entry.reason == "Parked" and self.behind(entry) else "kept"
        if there is not None:
            if left:
                self._add_to(there, key, left, entry, state)
            if first is None and entry.records:
                first = self._holder(key, entry.records[0], (*OPEN, "replayed", "dropped"), "queue-dlq")
        elif left:
            self._make(key, left, entry, state)
        if entry.holds:
            for record, holder in zip(entry.records, held, strict=True):
                if record.key is not None:
                    self._hold(holder or entry.id, Key(entry.mapping, entry.source, record.key), places or {})
        return first or entry.id

    def behind(self, entry: Entry) -> bool:
        """Whether it is to be parked: a row that is kept or claimed holds a key of it. What holds nothing itself nobody would release."""
        return entry.holds and any(self._heads(key) for key in keys_of(entry))

    def change(self, id: str, state: RowState, now: float, owner: str = "", until: float = 0.0, fault: Fault | None = None) -> bool:
        """`mark` of one row, which goes on holding what it holds."""
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

    def release(self, keys: Iterable[Key], now: float | None = None) -> list[str]:
        """Of each key that no row holds which is kept or claimed, the first parked row is kept. These rows."""
        released = []
        for key in keys:
            rows = self.held.holders(key)
            if rows and not self._heads(key):
                kept = self._rows[rows[0]]
                kept.row = replace(kept.row, state="kept", changed=kept.row.changed if now is None else now)
                released.append(rows[0])
        return released

    def remove(self, id: str) -> None:
        """As if it had never been there."""
        self.release(self.held.close(id))
        entry = self._rows.pop(id).row.entry
        for record in entry.records:
            self._holders[LaneKey(entry.mapping, entry.source, entry.lane), record.id].remove(id)

    def all(self, selection: Selection) -> list[Row]:
        """Those that are selected, in the order of appending."""
        return list(self._selected(selection))

    def work_out(self) -> None:
        """Rows that have no fingerprint get theirs."""
        for kept in self._rows.values():
            entry = kept.row.entry
            if not entry.group:
                kept.row = replace(kept.row, entry=replace(entry, group=fingerprint(entry.fault, entry.reason)))

    # ------------------------------------------------------------------------------------------------------------------------------

    def _fail_once_more(self, rows: Iterable[str], time: float) -> None:
        """These were open, and a record of theirs has failed again."""
        for kept in map(self._rows.__getitem__, rows):
            kept.row = replace(kept.row, changed=max(kept.row.changed, time))

    def _heads(self, key: Key) -> list[str]:
        return [row for row in self.held.holders(key) if self._rows[row].row.state != "parked"]

    def _hold(self, row: str, key: Key, places: Mapping[str, int]) -> None:
        self.held.hold(key, row, places.get(key.key))
        kept = self._rows[row]
        kept.row = replace(kept.row, entry=replace(kept.row.entry, holds=True))

    def _make(self, key: LaneKey, left: Sequence[int], entry: Entry, state: RowState) -> None:
        records = tuple(entry.records[place] for place in left)
        identifiers = tuple(entry.identifiers[place] for place in left) if entry.identifiers else ()
        made = replace(entry, records=records, identifiers=identifiers, destinations=())
        self._rows[entry.id] = _Kept(Row(made, state, 0, entry.time))
        for record in records:
            self._holders[key, record.id].append(entry.id)
        self._outbox.post(posted(entry, left))

    def _add_to(self, there: _Kept, key: LaneKey, left: Sequence[int], entry: Entry, state: RowState) -> None:
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
            there.row, there.owner, there.until = replace(row, entry=again, state=state, changed=entry.time), "", 0.0
            self._outbox.post(posted(entry, left, again=True))
        else:
            there.row = replace(row, entry=replace(old, records=records, identifiers=identifiers))
            self._outbox.post(posted(entry, new, again=True) if new else ())

    def _holder(self, key: LaneKey, record: KeptRecord, states: Sequence[str], kept: str) -> str | None:
        """The newest row in one of these states that holds the record. A copy ("queue-dlq") holds nothing against a failure."""
        rows = [self._rows[one] for one in self._holders.get((key, record.id), ())]
        held = [each.row for each in rows if each.row.state in states and each.row.entry.kept in ("failure", kept)]
        return held[-1].entry.id if held else None

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


def _allowed(kept: _Kept, state: RowState, now: float, owner: str) -> bool:
    match kept.row.state:
        case "kept":
            return state in ("claimed", "dropped")
        case "parked":
            return state == "dropped"
        case "claimed" if state == "claimed":
            return kept.owner == owner or kept.until <= now
        case "claimed":
            return state in ("kept", "replayed") and kept.owner == owner
        case _:
            return False
