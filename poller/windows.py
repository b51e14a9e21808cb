"""Tumbling windows: which one a record belongs to, when one ends, and what a function is given and gives back. Pure.

A lane has at most one open window, and one batch at a time. Source: AWS Lambda guide, "Tumbling windows" (Kinesis, DynamoDB Streams):
windows are aligned on arrival time; each batch is given the window's state, and returns it; when the window is over, one more invocation
without records is final; a state above 1 MB ends the window early.

    none --its first batch is cut--> open --a later record came, or none for PASSED_SECONDS past its end, or none ever will--> over
      ^                               '-----------------------its state outgrew the limit-----------> early      |
      |                                                                                                 |        |
      +-------------------------- its final invocation succeeded, or was given up ----------------------+--------+

The laws, tested with counter-tests in tests/unit/test_windows.py:

15. Every record is in exactly one window, none in one that ends before it arrived; windows follow one another, and no batch holds two.
16. The state that an invocation is given is what exactly the records of its window that are done before it have left.

*Late records.* Arrival times of a shard may go back a little. A record that arrived before the open window began counts in that window;
where none is open, in the first one after those that are over. So a window ends once, and no record is lost for being late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import Any, NamedTuple, Protocol, assert_never, runtime_checkable

import msgspec
import orjson

from poller.model import Ack, Action, Batch, Discard, Identifier, Release, Retry, Window
from poller.protocols import Event, Format
from poller.quotas import MAXIMUM_STATE_BYTES

PASSED_SECONDS = 1.0
"""At the head of a lane a window ends so long after its end."""

NO_STATE = b"{}"
"""What the first batch of a window is given."""


class Bounds(NamedTuple):
    """From `start` up to `end`: epoch seconds."""

    start: int
    end: int


class Run(NamedTuple):
    """So many records, one after the other, of one window."""

    bounds: Bounds
    size: int


def bounds_at(arrival: float, width: int) -> Bounds:
    """The window of so many seconds that a moment lies in."""
    start = int(arrival // width) * width
    return Bounds(start, start + width)


def placed(arrivals: Sequence[float], width: int, last: Bounds | None, passed: int) -> list[Run]:
    """The windows of records, in order. `last`: that of the record before them, if it is not over; `passed`: up to here all are over."""
    runs: list[Run] = []
    count = 0
    for arrival in arrivals:
        if last is None or arrival >= last.end:
            if last is not None and count:
                runs.append(Run(last, count))
            last, count = bounds_at(max(arrival, passed), width), 0
        count += 1
    if last is not None and count:
        runs.append(Run(last, count))
    return runs


class Windows:
    """The open window of a lane, if there is one, and its state, as they are now: its strand and its saves look at this.

    `width`: seconds of a window. `state` is JSON text; `number` grows with each state of this lane's life.
    """

    __slots__ = ("arn", "lane", "number", "passed", "state", "width", "window")

    def __init__(self, width: int, lane: str, arn: str, window: Window | None = None, passed: int = 0, state: bytes = NO_STATE) -> None:
        self.width = width if window is None or width else window.end - window.start
        self.lane = lane
        self.arn = arn
        self.window = window
        self.passed = passed
        self.state = state
        self.number = 0 if window is None else window.state

    def __repr__(self) -> str:
        return f"<Windows [{self.window}, {len(self.state)} bytes of state]>"

    @property
    def joined(self) -> Bounds | None:
        """The open window, if records still join it."""
        window = self.window
        return None if window is None or window.closing else Bounds(window.start, window.end)

    @property
    def over(self) -> int:
        """Up to here all windows are over. One that ends early may be followed by another with its bounds."""
        window = self.window
        if window is None or not window.closing:
            return self.passed
        return window.end if window.closing == "over" else window.start

    def open(self, bounds: Bounds, first: int) -> None:
        """Its first batch was cut; `first` is the token of its first record."""
        assert self.window is None
        self.window = Window(*bounds, first)
        self.state = NO_STATE

    def settle(self, actions: Sequence[Action]) -> None:
        """What was decided about a batch of records is done: what is acked is in the state that comes with it."""
        assert self.window is not None
        for action in actions:
            if isinstance(action, Ack) and action.state is not None:
                self.number += 1
                self.state = action.state
                self.window = replace(self.window, state=self.number)
                if len(action.state) > MAXIMUM_STATE_BYTES:
                    self.close(early=True)

    # --- the final invocation ---------------------------------------------------------------------------------------------------

    def close(self, early: bool = False) -> Window:
        """No record joins it any more."""
        assert self.window is not None
        self.window = replace(self.window, closing=self.window.closing or ("early" if early else "over"))
        return self.window

    def begin(self, attempt: int) -> None:
        assert self.window is not None
        self.window = replace(self.window, attempts=attempt, running=True)

    def withdraw(self, attempt: int) -> None:
        """It did not begin after all."""
        assert self.window is not None
        self.window = replace(self.window, attempts=attempt - 1, running=False)

    def finish(self, actions: Sequence[Action], now: float) -> None:
        """What was decided about it is done: the window and its state are gone, unless it is tried again."""
        assert self.window is not None
        window = self.window
        for action in actions:
            match action:
                case Retry(batch, delay):
                    due = now + delay if delay else 0.0
                    self.window = replace(window, attempts=batch.attempt - 1, running=False, not_before=due)
                case Ack() | Discard():
                    self.passed, self.window, self.state = self.over, None, NO_STATE
                case Release():
                    raise AssertionError("nothing is released on a stream")
                case _ as never:
                    assert_never(never)

    def envelope(self, final: bool = False) -> bytes:
        """What the event of the next invocation has besides its records: members of a JSON object."""
        window = self.window
        assert window is not None
        return b"".join(
            (
                b'"window":',
                orjson.dumps({"start": iso(window.start), "end": iso(window.end)}),
                b',"state":',
                self.state,
                b',"shardId":',
                orjson.dumps(self.lane),
                b',"eventSourceARN":',
                orjson.dumps(self.arn),
                b',"isFinalInvokeForWindow":',
                b"true" if final else b"false",
                b',"isWindowTerminatedEarly":',
                b"true" if final and window.closing == "early" else b"false",
            )
        )


# --- events ---------------------------------------------------------------------------------------------------------------------------


@runtime_checkable
class Addressed(Protocol):
    """A format that knows the ARN of its source, as those of sources that may have tumbling windows do."""

    @property
    def arn(self) -> str: ...


class WindowEvent:
    """`poller.protocols.Event`: an event of records, and what a window adds to it."""

    __slots__ = ("_envelope", "_event", "identifiers")

    def __init__(self, event: Event, envelope: bytes) -> None:
        self._event, self._envelope = event, envelope
        self.identifiers = event.identifiers

    def json(self) -> bytes:
        return self._event.json()[:-1] + b"," + self._envelope + b"}"

    def mapping(self) -> dict[str, Any]:
        # Not orjson: a state is the function's own, and its integers may be of any size.
        return {**self._event.mapping(), **msgspec.json.decode(b"{" + self._envelope + b"}")}

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        head, records, tail = self._event.parts()
        return head, records, tail[:-1] + b"," + self._envelope + b"}"


class WindowFormat:
    """`poller.protocols.Format` of the records of a lane with windows. An event is given the state as it is when it is made: what runs
    later of one batch, its halves or the rest of it, is given what the earlier part of it returned."""

    __slots__ = ("_format", "_windows", "documents", "facts", "names")

    def __init__(self, format: Format, windows: Windows) -> None:
        self._format, self._windows = format, windows
        self.facts, self.documents, self.names = format.facts, format.documents, format.names

    def event(self, records: Sequence[Any]) -> WindowEvent:
        return WindowEvent(self._format.event(records), self._windows.envelope())


class _Nothing:
    """`poller.protocols.Event` without records: of a final invocation."""

    def json(self) -> bytes:
        return b'{"Records":[]}'

    def mapping(self) -> dict[str, Any]:
        return {"Records": []}

    def identifiers(self) -> Sequence[Identifier]:
        return ()

    def parts(self) -> tuple[bytes, Sequence[bytes], bytes]:
        return b'{"Records":[', (b"",), b"]}"


class _FinalFacts:
    """`poller.protocols.Facts` of final invocations."""

    def __init__(self, records: Sequence[Window], tried: bool) -> None:
        self._records, self._tried = records, tried

    def tokens(self) -> Sequence[int]:
        return [window.first for window in self._records]

    def arrivals(self) -> Sequence[float]:
        # Ages are counted from the window's end; but it is tried once, however long nobody was there to do it.
        return [float(window.end) if self._tried else inf for window in self._records]

    def sizes(self) -> Sequence[int]:
        return [0] * len(self._records)

    def keys(self) -> Sequence[bytes | None]:
        return [None] * len(self._records)


class FinalFormat:
    """`poller.protocols.Format` of final invocations. To policies and the journal such a one is a batch of one record, the window itself:
    attempts and ages are limited as those of any batch, and one that is given up is kept with its state."""

    __slots__ = ("_windows",)

    def __init__(self, windows: Windows) -> None:
        self._windows = windows

    def facts(self, records: Sequence[Window]) -> _FinalFacts:
        window = self._windows.window
        return _FinalFacts(records, window is not None and window.attempts > 0)

    def documents(self, records: Sequence[Window], keys: Any) -> Sequence[dict[str, Any]]:  # noqa: ARG002
        """Never asked: filters look at records."""
        return [{} for _ in records]

    def event(self, records: Sequence[Window]) -> WindowEvent:  # noqa: ARG002
        return WindowEvent(_Nothing(), self._windows.envelope(final=True))

    def names(self, records: Sequence[Window]) -> Sequence[str]:
        """Its first record tells a window from another with its bounds, of which it may be the rest."""
        return [f"{self._windows.lane}:window {iso(window.start)} from {window.first}" for window in records]


def is_final(batch: Batch) -> bool:
    """Whether this is the final invocation of a window."""
    return isinstance(batch.format, FinalFormat)


def iso(moment: int) -> str:
    """Epoch seconds, from 1970 on, as "2020-12-09T07:04:00Z"."""
    days, seconds = divmod(moment, 86_400)
    # Years that begin in March, in eras of 400 of them (Hinnant, "chrono-compatible low-level date algorithms").
    era, day = divmod(days + 719_468, 146_097)
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    month = month + 3 if month < 10 else month - 9
    year += 400 * era + (month <= 2)
    return f"{year:04d}-{month:02d}-{day + 1:02d}T{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}Z"
