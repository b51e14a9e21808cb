"""Order within a row that holds its keys: behind a record that failed for good, later records of its key do not run, but fail with it."""

from __future__ import annotations

from collections.abc import Sequence

from poller.model import Action, Batch, Discard, Failure
from poller.replay.format import ReplayRecord


class RowGuard:
    """`poller.protocols.Guard` of one row. The journal hears of them by the row's decision, so no store is asked."""

    def __init__(self) -> None:
        self._failed: set[str | None] = set()

    def __repr__(self) -> str:
        return f"<RowGuard [{len(self._failed)} keys failed]>"

    async def admit(self, batch: Batch) -> tuple[Batch | None, tuple[Action, ...]]:
        records: Sequence[ReplayRecord] = batch.records
        behind = [record for record in records if record.kept.key in self._failed]
        if not behind:
            return batch, ()
        left = [record for record in records if record.kept.key not in self._failed]
        return (batch.but(records=left, attempt=1, cause="retry") if left else None), (Discard(Failure(behind, "Parked", 0)),)

    async def settling(self, batch: Batch, actions: Sequence[Action]) -> None:  # noqa: ARG002 (all actions are of one row)
        for action in actions:
            if isinstance(action, Discard):
                records: Sequence[ReplayRecord] = action.failure.records
                self._failed.update(record.kept.key for record in records if record.entry.holds and record.kept.key is not None)
