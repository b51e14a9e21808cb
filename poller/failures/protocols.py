"""What failures are kept in, asked for through, and sent to. Each protocol has at most four methods.

Times are epoch seconds. Cancelling is always allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from poller.failures.journal import Damaged, Delivery, Entry, ErrorGroup, Removed, Row, RowState, Selection, Waiting
    from poller.failures.runs import Finished, Run, Step
    from poller.model import Fault


class Journal(Protocol):
    """Where failures are kept, and replayed from."""

    async def append(self, entries: Sequence[Entry]) -> Sequence[str]:
        """Durable when it returns. Idempotent: records that an open row holds already are not added again (same mapping, source, lane and
        record id; not in a claimed one if `entry.run` is set; a "queue-dlq" copy holds nothing against a failure), and a row that is open
        stays as it is, but that it `changed` then: upkeep counts its age from there. What was replayed or dropped, and fails once more, is
        kept again. The rows that have the records of an entry that `holds` hold their keys from then on (`Parking`); one of reason Parked
        is parked if a kept or claimed row holds its key, else kept. Returns, for each, the id of the row that holds its first record."""

    async def select(self, selection: Selection) -> Sequence[Row]:
        """Oldest first."""

    async def count(self, selection: Selection) -> int:
        """How many rows `select` would give."""

    async def mark(
        self, ids: Sequence[str], state: RowState, now: float, owner: str = "", until: float = 0.0, fault: Fault | None = None
    ) -> Sequence[str]:
        """Change rows, where the change is allowed, durably, and return the ids it was done for.

        kept -> claimed (by `owner`, until then); claimed -> claimed by the same owner, or by another once `until` is past; claimed ->
        kept or replayed by `owner`; kept or parked -> dropped. claimed -> kept with a `fault` is a replay that failed again: the row shows
        the new fault and counts it in `failures`.
        """


class Parking(Protocol):
    """What is parked behind failures that hold their keys: a part of the journal's store. Each call is one transaction, and releasing a key
    (below) and parking behind it serialise: no record is parked behind nothing.

    A key of a mapping and source is *held* while an open row (kept, claimed or parked) of an entry that `holds` has a record of it,
    wherever in the source it came from. When such a row stops being open, by `Journal.mark`, `Runs.finish` or `Upkeep.remove`, then for
    each of its keys that no row holds which is kept or claimed, the first parked row becomes kept, in the same transaction. So a parked
    row has an open row of its key before it (law 26), and rows of a key are released one at a time, in the order in which they were put
    down (law 25); but a replay's rests stand where the row stood that they are of.
    """

    async def held(self, mapping: str, source: str, keys: Collection[str] | None = None) -> set[str]:
        """The keys that are held now: of these, or (None) all."""

    async def park(self, entries: Sequence[Entry]) -> Sequence[str]:
        """Entries of reason Parked, which hold, each with records of one key, in their order. Durable when it returns: where the key is
        held, the entry is kept as by `Journal.append`, but parked; where it is not, nothing is. Returns, for each, the id of the row that
        holds its first record, "" where nothing was kept."""


class Upkeep(Protocol):
    """What looks at a journal as a whole, and keeps it from growing for ever: a part of the journal's store."""

    async def groups(self, selection: Selection) -> Sequence[ErrorGroup]:
        """The error groups of the selected rows, largest first (by rows, then by id); its limit is not looked at. Rows that have no
        fingerprint yet, because an older version put them down, get theirs first. Reads no row but the samples."""

    async def size(self) -> int:
        """Bytes that all rows take, about: the events, and what is kept beside them. Of rows without a fingerprint as `groups`."""

    async def remove(self, states: Sequence[RowState], before: float, limit: int) -> Sequence[Removed]:
        """Rows in one of these states that failed, and were changed last, before then (epoch seconds): the oldest ones, at most so many
        and fewer where they are large, are removed in one transaction, and what is parked behind them is released. None: there are none.
        Claimed ones never are removed."""

    async def compact(self, limit: int) -> int:
        """Give the file system back what removed rows have left, at most about so many bytes, and say how many; 0: there is nothing, or
        the store cannot."""


class Trail(Protocol):
    """What replays did, line by line."""

    async def trail(self, run: str, rows: Sequence[str] = (), after: int = 0, limit: int | None = None) -> Sequence[Step]:
        """The lines of this run, or of these rows in it, in their order; those behind number `after`."""

    async def forget(self, before: float, limit: int) -> int:
        """Of a run that has ended (`runs.over`), and was changed last, before then (epoch seconds) some lines are removed, at most so many,
        in one transaction; the run goes with its last ones. How many lines and runs are gone; 0: there is no such run. One that was started
        again meanwhile stays, with the lines it has left."""


class Runs(Trail, Protocol):
    """Replays by name (runs.py), and the trail of what they did: in the journal's store, for one transaction marks a row and says so."""

    async def put(self, run: Run) -> bool:
        """Make the run, or change it; durable. Only if the store has it at `run.version` (0: not at all), which grows by one; else
        False."""

    async def select(self, names: Sequence[str] = (), limit: int | None = None) -> Sequence[Run]:
        """Those of these names, or all; newest first, with their counts."""

    async def finish(self, run: str, done: Sequence[Finished], now: float, owner: str, who: str) -> Sequence[Step]:
        """All in one transaction: of the rows that `owner` has claimed, mark each as its outcome says (failed_again: kept, with the fault;
        else replayed), append its rests as `Journal.append` does, release what is parked behind it (`Parking`), and add a line to the
        trail, if the run is not forgotten. Returns these lines, their numbers apart; for other rows nothing is done. Durable."""


class Backlog(Protocol):
    """What waits in an outbox, for who looks at it, and may give it up."""

    async def waiting(self) -> Sequence[Waiting]:
        """A line for each mapping and destination that has anything waiting."""

    async def drop(self, line: Waiting, limit: int, damaged: bool = False) -> int:
        """Remove the oldest of what the line tells of, at most so many, in one transaction, and nothing that came later (`newest`).
        `damaged`: only what is set aside, and cannot be read now either. How many are gone; 0: nothing is left. Durable."""


class Outbox(Backlog, Protocol):
    """What is still to be delivered to destinations. Failures come into it by `Journal.append`, in one transaction with their row.

    One worker at a time delivers to a destination of a mapping: it holds the lease of it (delivery.py)."""

    async def put(self, deliveries: Sequence[Delivery]) -> None:
        """Successes, whose entry no journal row holds; their `number` is not looked at. Durable when it returns; the same id and
        destination again changes nothing."""

    async def due(self, mapping: str, destination: str, now: float, limit: int) -> Sequence[Delivery | Damaged]:
        """Those whose time has come, oldest first. One that cannot be read is told as Damaged, and keeps no other from being told."""

    async def settle(self, number: int, due: float | None, error: str = "", damaged: bool = False) -> None:
        """None: it has arrived, and is removed; else it failed with `error`, counts one attempt more, and is due again then. `damaged`: it
        could not be read, which `waiting` counts. Durable."""


class Destination(Protocol):
    """Where what became of a batch is sent."""

    async def send(self, delivery: Delivery) -> None:
        """It has arrived, durably, when this returns; sent twice it is the same (`Delivery.id`) where the receiver can tell.

        Raises NotConnected: the engine tries again, slowly where it is `permanent` (missing, forbidden, too large), and shows why."""

    async def aclose(self) -> None:
        """Tolerated twice."""


@runtime_checkable
class Placing(Protocol):
    """A destination that takes bodies of any size, each to a place of its own. Others point there for what is too large for them."""

    def place(self, delivery: Delivery) -> str:
        """Where `send` puts it, as a URL: always the same for one delivery, so that it may be sent any number of times."""
