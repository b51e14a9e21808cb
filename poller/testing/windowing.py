"""A simulated function with a tumbling window, and what must hold of the windows that it sees, whatever crashed (windows.py: laws 15, 16).

Its state is the names of the records it was given, so that what a final invocation is given can be compared with what there was.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from random import Random
from typing import Any

import orjson

from poller.failures.journal import Entry
from poller.model import Response, Returned
from poller.quotas import MAXIMUM_STATE_BYTES

Place = tuple[str, int, int, bool]
"""Lane, start and end of a window, and whether it ends early."""


@dataclass(slots=True)
class WindowOracle:
    """`tokens` and `lanes` of every record by name; `arrivals` grows as they come. `late`: seconds by which arrival times may go back;
    `attempts`: the most invocations of one final batch, None for no limit. `violated` raises."""

    random: Random
    width: int
    late: float
    attempts: int | None
    lanes: Mapping[str, str]
    violated: Callable[[str], None]
    count: Callable[[str], None]
    arrivals: dict[str, float] = field(default_factory=dict)
    given: dict[Place, list[tuple[str, ...]]] = field(default_factory=lambda: defaultdict(list))
    """The states that final invocations were given: what was in the window, again and again the same until one of them is done."""
    begun: Counter[tuple[Place, tuple[str, ...]]] = field(default_factory=Counter)
    over: set[tuple[Place, tuple[str, ...]]] = field(default_factory=set)

    def begin(self, event: dict[str, Any], names: Sequence[str]) -> None:
        """An invocation begins."""
        place, counted = self._read(event)
        lane, start, end, _ = place
        for name in (*names, *counted):
            if self.lanes[name] != lane:
                self.violated(f"law 15: {name} is in a window of {lane}")
            if not start - self.late <= self.arrivals[name] < end:
                self.violated(f"law 15: {name} arrived at {self.arrivals[name]}, and is in the window from {start} to {end}")
        if len(set(counted)) < len(counted) or set(counted).intersection(names):
            self.violated(f"law 16: a state holds {counted}, and the batch {names}")
        if event["isFinalInvokeForWindow"]:
            self._final(place, counted, names)

    def _final(self, place: Place, counted: tuple[str, ...], names: Sequence[str]) -> None:
        self.count("window ended early" if place[3] else "window ended")
        if names:
            self.violated(f"law 15: {names} are in a final invocation")
        self._give(place, counted)
        self.begun[place, counted] += 1
        if self.attempts is not None and self.begun[place, counted] > self.attempts:
            self.violated(f"law 11: the window {place} is ended for the time {self.begun[place, counted]}, {self.attempts} allowed")

    def _give(self, place: Place, counted: tuple[str, ...]) -> None:
        """Only what ends early may be followed by another window of the same time."""
        runs = self.given[place]
        if counted not in runs:
            if runs and not place[3]:
                self.violated(f"law 16: the window {place} is ended with {counted} after {runs}")
            runs.append(counted)

    def free(self, event: dict[str, Any]) -> None:
        """It was throttled, or ended by our own stop: no attempt."""
        if event["isFinalInvokeForWindow"]:
            self.begun[self._read(event)] -= 1

    def answer(self, event: dict[str, Any], response: Response, handled: Sequence[str], forgetful: bool) -> tuple[Response, Sequence[str]]:
        """What the function returns, and which records it has handled: as without a window, and the state, unless it is forgetful."""
        if not isinstance(response, Returned):
            return response, handled
        if forgetful:
            self.count("no state")
            return response, ()
        place, counted = self._read(event)
        state: dict[str, Any] = {"names": [*counted, *handled]}
        if not event["isFinalInvokeForWindow"] and self.random.random() < 0.04:
            self.count("large state")
            state["padding"] = "x" * MAXIMUM_STATE_BYTES
        elif event["isFinalInvokeForWindow"]:
            self.over.add((place, counted))
        return Returned(orjson.dumps({**(orjson.loads(response.payload) or {}), "state": state})), handled

    def kept(self, entry: Entry) -> None:
        """A failure is in the journal: perhaps a window that was given up."""
        event = orjson.loads(entry.head + b",".join(record.json for record in entry.records) + entry.tail)
        if event["isFinalInvokeForWindow"]:
            self.count("window given up")
            self._give(*self._read(event))  # its worker may have died before it began
            self.over.add(self._read(event))

    def finished(self, journal: set[str], unwanted: frozenset[str]) -> None:
        """At the end every record is in exactly one window, unless it is in the journal or was filtered out; and each window is over."""
        ended = [(place, counted) for place, runs in self.given.items() for counted in runs]
        if set(ended) != self.over:
            self.violated(f"law 15: windows that did not end: {set(ended) ^ self.over}")
        times = Counter(name for _, counted in ended for name in counted)
        wrong = [name for name in self.lanes if times[name] > 1 or (not times[name] and name not in journal and name not in unwanted)]
        if wrong:
            self.violated(f"law 16: in how many windows these records are: {[(name, times[name]) for name in wrong]}")

    def _read(self, event: dict[str, Any]) -> tuple[Place, tuple[str, ...]]:
        start, end = (int(datetime.fromisoformat(event["window"][edge]).timestamp()) for edge in ("start", "end"))
        if end - start != self.width or start % self.width:
            self.violated(f"law 15: a window from {start} to {end}, of {self.width} s")
        return (event["shardId"], start, end, event["isWindowTerminatedEarly"]), tuple(event["state"].get("names", ()))
