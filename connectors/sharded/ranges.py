"""Fetches the records between two sequence numbers of a shard again, as an invocation record without event names them. Vendor-free.

iterator at the first --records--> ... --one past the last, or the last itself--> all of them
         |                    '--the head of the shard, or its end, before the last--> gone
         '--trimmed, or the shard is gone; or what comes first is a later one--> gone
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from connectors.sharded.dialect import Dialect
from connectors.sharded.sequence import Start, place
from connectors.sharded.shards import Expired, Gone, Records, Refused, Throttled, Trimmed
from poller.errors import NotConnected, SourceError
from poller.failures.entry import entry
from poller.failures.journal import Entry
from poller.filtering import Filtering
from poller.model import Failure
from poller.redrive.letters import RangeGone, Regained
from poller.settings import MappingSettings

R = TypeVar("R")

REFUSALS = 20
"""So many refusals in a row, and it is given up for now."""

EMPTY = 60
"""So many empty answers in a row, where a service does not say that its head was reached."""


@dataclass(frozen=True, slots=True)
class Range:
    """As AWS tells it (KinesisBatchInfo, DDBStreamBatchInfo). `count`: records of the batch."""

    stream: str
    shard: str
    first: str
    last: str
    count: int

    @classmethod
    def of(cls, info: Mapping[str, Any]) -> Range:
        """Raises SourceError."""
        try:
            found = cls(
                str(info["streamArn"]), str(info["shardId"]), str(info["startSequenceNumber"]), str(info["endSequenceNumber"]),
                int(info["batchSize"]),
            )  # fmt: skip
            int(found.first), int(found.last)
        except (KeyError, TypeError, ValueError) as error:
            raise SourceError(f"it does not tell which records failed ({type(error).__name__}: {error})") from error
        return found

    def __str__(self) -> str:
        return f"{self.shard} from {self.first} to {self.last}"


async def fetched(dialect: Dialect[R], stream: str, wanted: Range) -> list[R]:
    """All of the range, in order. `stream`: as the client's calls take it. Raises RangeGone, NotConnected, SourceError."""
    client, limits = dialect.client, dialect.limits
    begin = Start("AT_SEQUENCE_NUMBER", wanted.first.zfill(dialect.digits))
    iterator: str | None = await _patient(lambda: client.iterator(stream, wanted.shard, begin), wanted)
    found = list[R]()
    empty = 0
    while iterator is not None:
        current = iterator
        answer: Records[R] = await _patient(lambda current=current: client.records(current, wanted.shard, limits.records), wanted)
        iterator = answer.following
        if dialect.mark is not None:
            dialect.mark(answer.records, stream)
        numbers = [place(token).sequence for token in dialect.format.facts(answer.records).tokens()]
        if not found and numbers and numbers[0] > int(wanted.first):
            raise RangeGone(f"{wanted}: its first records are older than what the stream keeps, and are gone")
        found += [record for record, number in zip(answer.records, numbers, strict=True) if number <= int(wanted.last)]
        if numbers and numbers[-1] >= int(wanted.last):
            return found
        empty = 0 if numbers else empty + 1
        if not numbers and (answer.behind == 0 or empty >= EMPTY):
            break
        await asyncio.sleep(1 / limits.reads)
    raise RangeGone(f"{wanted}: the shard ends before that; was the stream made anew?")


async def _patient(call: Any, wanted: Range) -> Any:
    """Its answer, asked for again while it asks for patience."""
    for _ in range(REFUSALS):
        answer: Any | Refused = await call()
        match answer:
            case Throttled(_, after):
                await asyncio.sleep(after)
            case Trimmed():
                raise RangeGone(f"{wanted}: older than what the stream keeps: its records are gone")
            case Gone(text):
                raise RangeGone(f"{wanted}: its records are gone with their shard ({text})")
            case Expired(text):
                raise NotConnected(f"{wanted}: {text}; run the command again")
            case _:
                return answer
    raise NotConnected(f"{wanted}: the stream asks for fewer requests; run the command again later")


def regained(dialect: Dialect[R], records: Sequence[R], wanted: Range, mapping: MappingSettings, source: str, retention: float) -> Regained:
    """What `fetched` brought, as the mapping would have seen it. Raises RangeGone."""
    if dialect.expand is not None:
        records = dialect.expand(records)
    if mapping.filters is not None and records:
        records, _ = Filtering(mapping.filters).split(dialect.format, records)
    if not records:
        raise RangeGone(f"{wanted}: no record there passes the mapping's filters of today")
    kept: Entry = entry(
        Failure(records, "RetryAttemptsExhausted", 1),
        dialect.format,
        mapping=mapping.id,
        source=source,
        lane=wanted.shard,
        function=mapping.function,
        now=0.0,
    )
    until = min(each.arrival for each in kept.records) + retention
    remark = ""
    if len(records) != wanted.count:
        # With a parallelization factor, or a partial failure, a batch has only some of the records between its ends.
        remark = f"{wanted} has {len(records):,} records, and the batch had {wanted.count:,}: all that are there are run"
    return Regained(source, wanted.shard, kept.records, kept.identifiers, kept.head, kept.tail, until, remark)
