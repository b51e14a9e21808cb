"""Parks what comes behind a failure that holds its key: the guard of one lane, while it is open (failures/parking.py has the words).

    admitted --key is not held---------------------------------------> runs
       |                                                               ^
       '--key is held--> asked of the store --released meanwhile-------'
                              '--parked, durably: a row behind the open one--> acked

*Who knows what is held.* The store does: it parks and releases in one transaction, so no record is parked behind nothing. A lane that keeps
its keys (streams) need not ask it for every batch: nobody else has its keys while it is open, so what it loads with its first batch, and
adds itself, is all that is held, and what was released since shows when it parks. Of a queue another worker may have a group next time:
there the store is asked for each batch.

*Order.* Admitting comes before each attempt, and what is given up holds its keys before anything of its batch is settled. So of a batch
that was divided, each part is looked at after those before it are done. What was done before a failure is durable before the failure is
(settling.py): read again after a crash, it would be parked behind what it came before. A batch that got smaller is another one, with
attempts of its own, as what `Policy.screen` leaves: law 11 counts batches. It happens once for each failure, for a key that is held is not
begun again.

Laws: 24. Once a record of a key has failed for good, no later record of that key begins, in any life, before every row that holds the key
has been replayed or dropped. 26. A parked row always has an open row of its key before it.

*At the limit* of keys the strand waits where it decided (ParkingFull), without a permit: a replay may need it. What fails while nothing
else is held waits for nothing, however many keys it has: no replay could help.

*Where it ends.* Order is a lane's. What is taken from a dead-letter queue holds nothing. After a crash a record that was parked, replayed
at once and not yet saved as settled is read again, and may be parked a second time. A worker that appends a failure after it lost its lane
(it stood still in between) holds a key that the lane's owner does not know of until the lane opens again: appends present no lease. Kafka
drops positions from a commit that does not fit; what is read again then may be parked behind what it came before. A rewind reads keys that
are held into the same rows: replay or drop them first.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Sequence

from poller.errors import ParkingFull
from poller.failures.parking import behind, full, keys_held, keys_of, parked
from poller.failures.protocols import Parking
from poller.model import Ack, Action, Batch
from poller.protocols import Lane, Saving
from poller.work import Work, counted

log = logging.getLogger("poller.parking")

WRITTEN_OUT = "\\x"
"""In the text of a key: before a byte that is no UTF-8 (`text_of`), or by chance."""


class ParkingGuard:
    """`poller.protocols.Guard` of a lane of a mapping whose failures may hold their keys."""

    def __init__(self, lane: Lane, work: Work, parking: Parking) -> None:
        self._lane, self._work, self._parking = lane, work, parking
        self._held: set[str] | None = None
        """Of a lane that keeps its keys: at least those that are held. None: not loaded yet."""
        self._loading = asyncio.Lock()

    def __repr__(self) -> str:
        held = "asks" if self._held is None else f"{len(self._held)} keys held"
        return f"<ParkingGuard {self._work.settings.name}/{self._lane.name} [{held}]>"

    async def admit(self, batch: Batch) -> tuple[Batch | None, tuple[Action, ...]]:
        held = await self._held_of(batch)
        groups = behind(batch, held) if held else {}
        if not groups:
            return batch, ()
        if isinstance(self._lane, Saving):
            # What was parked before is durably acked first: it may be replayed any time, and read again after a crash it would be parked
            # once more, behind what came after it.
            await self._lane.save()
        failures = [parked(records) for records in groups.values()]
        ids = await self._parking.park(self._work.entries(batch.but(request_id=""), failures, self._lane.name))
        gone = {id(record) for row, failure in zip(ids, failures, strict=True) if row for record in failure.records}
        if self._held is not None:
            # But for what may stand for two keys: of the other one a failure may be on its way in another strand.
            self._held.difference_update(key for key, row in zip(groups, ids, strict=True) if not row and WRITTEN_OUT not in key)
        if not gone:
            return batch, ()
        self._tell(batch, len(gone), sum(map(bool, ids)))
        left = [record for record in batch.records if id(record) not in gone]
        done = Ack([record for record in batch.records if id(record) in gone])
        return (batch.but(records=left, attempt=1, cause="retry") if left else None), (done,)

    async def settling(self, batch: Batch, actions: Sequence[Action]) -> None:
        """Raises ParkingFull while too many other keys are held."""
        work = self._work
        keys = keys_held(batch, actions, work.settings)
        if not keys:
            return
        known = await self._loaded()
        if known is None or not keys <= known:
            held, most = await self._parking.held(work.settings.id, work.source), work.settings.maximum_parked_keys
            if full(held, keys, most):
                name = work.settings.name
                raise ParkingFull(
                    f"failures of mapping {name} hold {counted(len(held), 'key')}, and what has failed since would make it "
                    f"{len(held | keys)}; maximum_parked_keys is {most}: replay or drop what failed (poller replay --mapping {name}), or "
                    "raise the limit"
                )
        if known is not None:
            known |= keys  # before the row is there: nothing else of these keys is asked for until this batch is settled

    async def _held_of(self, batch: Batch) -> Collection[str]:
        known = await self._loaded()
        if known is not None:
            return known
        keys = keys_of(batch)
        return await self._parking.held(self._work.settings.id, self._work.source, keys) if keys else ()

    async def _loaded(self) -> set[str] | None:
        """What is known to be held; None where the store is to be asked."""
        if self._held is None and self._lane.strands.assign == "hash":
            async with self._loading:  # two strands that load would forget what one of them adds
                if self._held is None:
                    self._held = await self._parking.held(self._work.settings.id, self._work.source)
        return self._held

    def _tell(self, batch: Batch, records: int, keys: int) -> None:
        self._work.counters.parked += records
        fields = {"mapping": self._work.settings.name, "lane": self._lane.name, "batch": batch.format.names(batch.records[:1])[0]}
        text = "parked %s behind failures that hold %s: they run when these are replayed or dropped"
        log.info(text, counted(records, "record"), counted(keys, "key"), extra=fields)
