"""Lanes with tumbling windows (windows.py): the strand that cuts batches at their edges, and the lane whose saves hold their state.

*Crash safety.* The state moves with the checkpoint. A save names the state that exactly the records below its positions have left, and
that state is in the store, under a number of its own, before the save that names it; what no save names any more is pruned after it. So
whatever crashes, the next life reads on from the checkpoint with the state of the checkpoint, as if nothing since had run.

*A final invocation* is saved before each attempt: from the first on it is durable that the window is over, and how often it was tried, so
that after a crash it runs with the same state, and what is read again joins no window that was closed. Its end is saved at once; a crash
between the two is an attempt whose outcome nobody knows, as with any batch.

*A save.* The state, the progress that names its number (`Progress.window`) and the pruning are made from one snapshot, taken without a
wait in between. A final invocation is a batch of one record, the window itself (`FinalFormat`), so that policy and journal need not know
it.

*What ends a window* is what was read, not what the filter let through; and it counts only once all that was read before has arrived in the
strand (`TumblingStrands.hear`), for the runner may fail between a fetch and its strands. "At the head" is a read that began a second past
the end, found nothing, and is not behind `Reader.head()`; readers that may come back with nothing though there is more, or without having
asked, say when they were at the head (`ordered.Heading`).

*A change.* What was begun with windows where there are none now, or the other way, is finished as it was begun (`Progress.outgrown`, as
another width is): the open window is ended early first, spans are run without a window first.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from poller.batching import cut
from poller.errors import LaneEnded, StoreError, StoreUnavailable
from poller.model import Action, Batch, Cause, Closing, Fetched, Lease, Record, Span
from poller.ordered import Heading, OrderedLane, Reader
from poller.progress import Progress
from poller.protocols import Facts, Format
from poller.settings import Batching, Context
from poller.strands import Strand, Strands
from poller.windows import NO_STATE, PASSED_SECONDS, Addressed, FinalFormat, Run, WindowFormat, Windows, is_final, placed

log = logging.getLogger("poller.tumbling")


class TumblingStrands(Strands):
    """The one strand of a lane with tumbling windows: a batch is cut where its window ends, and a window's last one is its final
    invocation, a batch without records. `ending`: why the open window ends though nobody waits for its end."""

    windowed = True

    def __init__(self, windows: Windows, format: Format) -> None:
        super().__init__(1, "hash")
        self._windows = windows
        self._format = WindowFormat(format, windows)
        self._final = FinalFormat(windows)
        self.ending: Closing = ""
        self._runs: deque[Run] = deque()
        """Of the records that wait."""
        self._horizon = 0.0
        self._heard = 0.0, 0

    # --- in ---------------------------------------------------------------------------------------------------------------------

    def add(self, records: Sequence[Record], facts: Facts, now: float) -> None:
        windows, runs = self._windows, self._runs
        last = runs[-1].bounds if runs else windows.joined
        for run in placed(facts.arrivals(), windows.width, last, windows.over):
            if runs and runs[-1].bounds == run.bounds:
                runs[-1] = Run(run.bounds, runs[-1].size + run.size)
            else:
                runs.append(run)
        super().add(records, facts, now)

    def hear(self, horizon: float, received: int) -> None:
        """Once so many records have been received in whole, what comes after them arrived at `horizon` or later (epoch seconds)."""
        self._horizon = self.horizon
        self._heard = horizon, received

    @property
    def horizon(self) -> float:
        """What has not been received yet arrived then, or later. Counted only when all that was read before is here: a window that ended
        while the runner failed to take some of it would lack them."""
        horizon, received = self._heard
        return max(self._horizon, horizon) if self.received >= received else self._horizon

    @property
    def end(self) -> float | None:
        """When the window ends that is open, or that the first waiting record will open."""
        bounds = self._windows.joined or (self._runs[0].bounds if self._runs else None)
        return None if bounds is None else bounds.end

    @property
    def over(self) -> bool:
        # A window that an earlier life has closed waits for nothing.
        end = self.end
        return self._final_is_due() or (end is not None and end <= self.horizon)

    # --- out --------------------------------------------------------------------------------------------------------------------

    def _can_cut(self, strand: Strand, batching: Batching, now: float) -> bool:
        return bool(strand.resumed) or self._final_is_due() or self._end_of_batch(strand, batching, now) is not None

    def _final_is_due(self) -> bool:
        window = self._windows.window
        if window is None:
            return False
        if window.closing:
            return True
        if self._runs:
            return self._runs[0].bounds != (window.start, window.end)
        return bool(self.ending) or window.end <= self.horizon

    def _end_of_batch(self, strand: Strand, batching: Batching, now: float) -> tuple[int, Cause] | None:
        if not self._runs:
            return None
        bounds, size = self._runs[0]
        closing = "window" if len(self._runs) > 1 or bounds.end <= self.horizon else self._closing(strand, batching, now)
        return cut(strand.sizes[:size], batching, closing, self.held_bytes)

    def take(self, strand: Strand, batching: Batching, format: Format, now: float) -> tuple[Batch, Span | None] | None:
        if strand.resumed:
            return super().take(strand, batching, self._format, now)
        if self._final_is_due():
            return self._take_final(strand)
        end = self._end_of_batch(strand, batching, now)
        if end is None:
            return None
        run, count = self._runs[0], end[0]
        if self._windows.window is None:
            self._windows.open(run.bounds, format.facts(strand.records[:1]).tokens()[0])
        if count == run.size:
            self._runs.popleft()
        else:
            self._runs[0] = Run(run.bounds, run.size - count)
        return self._cut(strand, strand, *end, self._format, now), None

    def _take_final(self, strand: Strand) -> tuple[Batch, Span | None]:
        window = self._windows.close(early=self.ending == "early")
        strand.flight, strand.flight_bytes = (), 0
        span = None
        if window.attempts or window.not_before:  # an earlier life began it
            span = Span(0, window.first, window.first, window.first, window.attempts, window.running, window.not_before)
        return Batch((window,), self._final, strand.number, "window", window.attempts + 1), span

    def heads(self) -> Iterator[tuple[int, Record]]:
        (strand,) = self
        if strand.flight is not None and not strand.flight:  # nothing of a final invocation is to be read again
            yield from ((0, record) for record in strand.records[:1])
        else:
            yield from super().heads()


class TumblingLane(OrderedLane):
    """An ordered lane with tumbling windows. `state`: of the window that `progress` says is open."""

    def __init__(
        self, context: Context, lease: Lease, reader: Reader, format: Format, progress: Progress, trusted_until: float, state: bytes
    ) -> None:
        super().__init__(context, lease, reader, format, progress, trusted_until)
        arn = format.arn if isinstance(format, Addressed) else ""
        self.windows = Windows(context.mapping.tumbling_window, self.name, arn, progress.window, progress.passed, state)
        self.strands = self._strands = TumblingStrands(self.windows, format)
        self._stored = self.windows.number
        """The number of the state that is in the store."""
        self._kept: int | None = None
        """The only one that is there; None: there may be others, of an earlier life or of an earlier window."""

    async def fetch(self, limit: int) -> Fetched:
        started, position = self._context.clock(), self.tracker.frontier
        try:
            fetched = await super().fetch(limit)
        except LaneEnded:
            # Another width, or way to read, leaves the window open for the lane that is opened anew.
            self._strands.ending = "over" if self.ended else "" if self._context.mapping.tumbling_window else "early"
            raise
        assert self._handed is not None
        following, _, received = self._handed
        if fetched.records:
            # What the runner filters out tells the time too.
            self._strands.hear(max(self.format.facts(fetched.records).arrivals()), received)
        elif following == position and not fetched.resumed:
            self._strands.hear(await self._headed(started) - PASSED_SECONDS, received)
        return fetched

    async def _headed(self, started: float) -> float:
        """After a read that began then and found nothing: all that had come by this time is here. Asked only if that may end a window."""
        end = self._strands.end
        if end is None or started < end + PASSED_SECONDS or self.tracker.catching_up or self.leaving.done():
            return 0.0
        if isinstance(self.reader, Heading):
            return self.reader.at_head
        newest = await self.reader.head()
        return started if newest is None or newest[0] <= self.tracker.frontier else 0.0

    async def begin(self, batch: Batch) -> None:
        if not is_final(batch):
            await super().begin(batch)
            return
        self._check()
        self._accept()
        self.windows.begin(batch.attempt)
        try:
            await self.save()
            self._check()
        except BaseException:
            self.windows.withdraw(batch.attempt)
            raise

    async def settle(self, batch: Batch, actions: Sequence[Action]) -> None:
        if not is_final(batch):
            # Nothing comes between the two: a save holds both or neither.
            await super().settle(batch, actions)
            self.windows.settle(actions)
            return
        self._check()
        self._accept()
        self.windows.finish(actions, self._context.clock())
        self._touch()
        if self._timer is not None and self.windows.window is None:
            self._timer.cancel()
            self._save_soon()

    def settle_now(self, batch: Batch, actions: Sequence[Action]) -> bool:  # noqa: ARG002 (between two batches a window may end)
        return False

    def _progress(self, closed: bool) -> Progress:
        progress, window = super()._progress(closed), self.windows.window
        return replace(progress, window=window, passed=self.windows.passed, ended=progress.ended and window is None)

    async def _write(self, progress: Progress) -> None:
        # The state as it was when `progress` was made: there was no wait since.
        state, number = self.windows.state, 0 if progress.window is None else progress.window.state
        if number and number != self._stored:
            await self._context.store.states.put(self.lease, number, state)
            self._stored = number
        await super()._write(progress)
        if number != self._kept:
            await self._prune(number)

    async def _prune(self, number: int) -> None:
        try:
            await self._context.store.states.prune(self.lease, (number,) if number else ())
            self._kept = number
        except StoreUnavailable as error:
            # What was to be saved is saved; the next save tries again.
            log.debug("%s: states of earlier windows not removed: %s", self.name, error)


@cache
def tumbling(lane: type[OrderedLane]) -> type[TumblingLane]:
    """The same kind of lane, with tumbling windows."""
    if issubclass(lane, TumblingLane):
        return lane
    return TumblingLane if lane is OrderedLane else type(f"Tumbling{lane.__name__}", (TumblingLane, lane), {})


async def open_lane(
    kind: type[OrderedLane], context: Context, lease: Lease, reader: Reader, format: Format, origin: str, trusted_until: float
) -> OrderedLane:
    """`kind.open`, with tumbling windows where the mapping has them, or an earlier life has left one open.

    Raises StoreError, which names the lane, if the state of that one is not there.
    """
    windowed, width = bool(context.mapping.tumbling_window), context.mapping.width
    progress = await context.store.checkpoints.load(lease.key) or Progress(origin, width=width)
    if progress.window is None and (not windowed or progress.outgrown(width, windowed)):
        lane = kind(context, lease, reader, format, progress, trusted_until)
    else:
        state = await _state(context, lease, progress)
        windowed_kind = tumbling(kind)  # type: ignore[arg-type]  # classes are hashable
        lane = windowed_kind(context, lease, reader, format, progress, trusted_until, state)
    await lane.opened()
    return lane


async def _state(context: Context, lease: Lease, progress: Progress) -> bytes:
    number = 0 if progress.window is None else progress.window.state
    state = await context.store.states.get(lease.key, number) if number else NO_STATE
    if state is None:
        key = lease.key
        raise StoreError(
            f"the state of the tumbling window of lane {key.lane} of mapping {key.mapping} (source {key.source}) is not in the store, "
            "though its progress names it; restore a backup of the store, or rewind the lane to begin anew"
        )
    return state
