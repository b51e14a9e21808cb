"""The idempotency window: a record that was acknowledged is not invoked again, for a while, whatever crashes. The guard of a mapping.

    admitted --known--> acked, without an invocation
       '--not known--> runs --acknowledged--> put, durably --> settled (a delete, a checkpoint)

A crash before the put invokes the record again, as it would without a window; one after it does not. So what is left of "at least once" is
the time from the function's return to the put, instead of to the delete or the next checkpoint. Only what the function has handled is put:
what was given up is in the journal, and what was filtered out is filtered again.

*Names.* A record is known by its time of arrival, in milliseconds, and a hash of its source's identity and its name there (`Format.names`).
The time is for sources that use a name twice: a topic that was deleted and made again begins at offset 0, and skipping other records would
lose them; so a record without a time is not remembered. It comes first, so that what is acknowledged together lies together in the store:
hashes alone would touch a page a record.

*Attempts.* What is left of a batch is another batch, with attempts of its own (policy.py: `_fresh`). Some of it was acked before, so the
decision about the batch it came from was made, and made just that of it.

Law 27. What was put is never begun again within its window, in any life, by who asked after it was there; and nothing that a function has
handled is settled before it is put.

Upkeep trims what is over, of every mapping, then what is above each mapping's limit: there may be as many more as come in a minute.
`until` stands in the row, so that trimming asks no configuration. A rewind forgets: that sets `forgotten`, then removes rows; a put that
was asked before it and comes after it is not put. Clocks of hosts matter for as much as they differ: what a slower host puts in that time
after a rewind is not remembered. It is kept beside the journal and not in the ledger: who shares lanes but not the journal is warned.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from hashlib import blake2b
from math import inf

from poller.model import Ack, Action, Batch, Record
from poller.protocols import Acknowledged, Format
from poller.settings import IdempotencySettings
from poller.work import Work, counted

log = logging.getLogger("poller.idempotency")

TIME_BYTES, HASH_BYTES = 6, 10
"""Of a name. Two of a million records of one millisecond have one hash with a chance of one in 10^12."""

_TIMES = 1 << 8 * TIME_BYTES


def names(source: str, format: Format, records: Sequence[Record]) -> list[bytes]:
    """What the records are known by, in their order; b"" for one without a time. Pure; the same in every life."""
    # The length first: no identity and name run into each other.
    identity = source.encode("utf-8", "surrogatepass")
    start = blake2b(len(identity).to_bytes(4, "little") + identity, digest_size=HASH_BYTES).copy
    made = []
    for name, arrival in zip(format.names(records), format.facts(records).arrivals(), strict=True):
        if arrival == inf:
            made.append(b"")
            continue
        one = start()
        one.update(name.encode("utf-8", "surrogatepass"))
        made.append((round(arrival * 1000) % _TIMES).to_bytes(TIME_BYTES, "big") + one.digest())
    return made


class IdempotencyGuard:
    """`poller.protocols.Guard` of every lane of one mapping: it keeps nothing but what is in the store."""

    def __init__(self, work: Work, settings: IdempotencySettings, acknowledged: Acknowledged) -> None:
        self._work, self._settings, self._acknowledged = work, settings, acknowledged

    def __repr__(self) -> str:
        return f"<IdempotencyGuard {self._work.settings.name} [{self._settings.window:g} s]>"

    async def admit(self, batch: Batch) -> tuple[Batch | None, tuple[Action, ...]]:
        asked = self.names(batch, batch.records)
        known = await self._acknowledged.known(self._work.settings.id, _named(asked), self._work.clock())
        if not known:
            return batch, ()
        done = [record for name, record in zip(asked, batch.records, strict=True) if name in known]
        left = [record for name, record in zip(asked, batch.records, strict=True) if name not in known]
        self._tell(batch, done)
        return (batch.but(records=left, attempt=1, cause="retry") if left else None), (Ack(done),)

    async def settling(self, batch: Batch, actions: Sequence[Action]) -> None:
        acked = [record for action in actions if isinstance(action, Ack) for record in action.records]
        if acked:
            now = self._work.clock()
            await self._acknowledged.put(self._work.settings.id, _named(self.names(batch, acked)), now, now + self._settings.window)

    def names(self, batch: Batch, records: Collection[Record]) -> list[bytes]:
        """What records of the batch are known by."""
        return names(self._work.source, batch.format, list(records))

    def _tell(self, batch: Batch, done: Sequence[Record]) -> None:
        self._work.counters.skipped += len(done)
        fields = {"mapping": self._work.settings.name, "batch": batch.format.names(done[:1])[0]}
        log.info("passed over %s: acknowledged before, within idempotency_window", counted(len(done), "record"), extra=fields)


def _named(names: Sequence[bytes]) -> list[bytes]:
    return [name for name in names if name]
