"""What the runners of a mapping share: its settings and parts (`Work`), signs of life (`Signs`), and how far a lane's leaving has come."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Literal

from poller import error_rules
from poller.circuit import Circuit
from poller.errors import NotConnected, PollerError
from poller.failures.entry import entry, successes
from poller.failures.journal import Delivery, Entry
from poller.failures.parking import holds
from poller.failures.protocols import Journal, Outbox
from poller.functions import Function
from poller.metrics import MappingCounters
from poller.model import Ack, Action, Batch, Discard, Failure, Outcome, Release
from poller.protocols import Guard, Lane, Policy
from poller.settings import Backoff, ErrorRule, MappingSettings
from poller.turn import Turn

RECONNECT = Backoff(initial=0.2, maximum=30.0)
RECONNECT_SLOWLY = Backoff(initial=5.0, maximum=60.0)
"""Where trying again needs a person first: one who is at it (a queue that is being made) need not wait a minute."""


def reconnect_delay(error: PollerError, tries: int, dice: float) -> float:
    """Seconds before a source is tried again, after so many failures in a row: what it asked for, else a backoff with half its jitter."""
    if isinstance(error, NotConnected):
        if error.retry_after is not None:
            return error.retry_after
        if error.permanent:
            return RECONNECT_SLOWLY.delay(tries, 0.5 + dice / 2)
    return RECONNECT.delay(tries, 0.5 + dice / 2)


@dataclass(slots=True)
class Work:
    """What all lanes of a mapping share. `clock` is epoch seconds; `replaying` names the run whose failures these are, or "".

    `outbox` may be None where the settings name no `on_success`. `posted` is called when something came into the outbox.
    `guards` makes those of a lane that opens: they are asked before each invocation, in turn, and told what was decided.
    `pause`, given who or what pauses, pauses the mapping durably; it may raise StoreUnavailable, and is there while `replaying` is ""."""

    settings: MappingSettings
    function: Function
    policy: Policy
    source: str
    journal: Journal
    counters: MappingCounters
    clock: Callable[[], float]
    random: Random
    turn: Turn
    replaying: str = ""
    circuit: Circuit = field(default_factory=Circuit)
    outbox: Outbox | None = None
    posted: Callable[[], None] = lambda: None
    pause: Callable[[str], Awaitable[None]] | None = None
    guards: Callable[[Lane], Sequence[Guard]] = lambda _lane: ()

    def rule(self, outcome: Outcome) -> ErrorRule | None:
        """What the mapping says about errors like this one."""
        return error_rules.found(self.settings.failure.errors, outcome)

    def entries(self, batch: Batch, failures: Sequence[Failure], lane: str) -> list[Entry]:
        """Of a batch that was given up, whole or in parts, as its format has it, which may know more than the lane's.

        A replay's failures go to no destination: they have been there. Nor does what is parked: it has not failed."""
        to = () if self.replaying else self.settings.on_failure
        return [self._entry(batch, failure, lane, () if failure.reason == "Parked" else to) for failure in failures]

    def successes(self, batch: Batch, actions: Sequence[Action], result: bytes, lane: str) -> list[Delivery]:
        """Of what was handled of it, after an invocation that returned `result`."""
        handled = [action.records for action in actions if isinstance(action, Ack) and action.records]
        # The reason means nothing.
        parts = [Failure(records, "RetryAttemptsExhausted", batch.attempt) for records in handled]
        return [delivery for part in parts for delivery in successes(self._entry(batch, part, lane, self.settings.on_success), result)]

    def _entry(self, batch: Batch, failure: Failure, lane: str, destinations: Sequence[str]) -> Entry:
        return entry(
            failure,
            batch.format,
            mapping=self.settings.id,
            source=self.source,
            lane=lane,
            function=self.function.name,
            now=self.clock(),
            run=self.replaying,
            request_id=batch.request_id,
            destinations=destinations,
            holds=failure.kept == "failure" and holds(failure.reason, self.settings),
        )


_MAY_FAIL = (Discard, Release)  # a union would be made anew for each action


def given_up(actions: Sequence[Action]) -> list[Failure]:
    """What the journal is to keep, before any of these is done."""
    return [action.failure for action in actions if isinstance(action, _MAY_FAIL) and action.failure is not None]


def counted(count: int, noun: str) -> str:
    """For a person."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@dataclass(slots=True)
class Signs:
    """Signs of life of one lane, for `status` and readiness. Epoch seconds; None: never yet.

    `progressed_at`: records were settled for good (a retry settles nothing). `last_error` is ours or the source's,
    `store_error` says why the store keeps a strand waiting now ("": it does not), `full` why a failure waits for room in the journal
    (ParkingFull). `fault` is the function's.
    """

    state: Literal["running", "reconnecting", "leaving", "ended", "lost"] = "running"
    opened_at: float = 0.0
    read_at: float | None = None
    progressed_at: float | None = None
    held_since: float | None = None
    last_error: str = ""
    store_error: str = ""
    full: str = ""
    fault: str = ""
    errors: int = 0


@dataclass(slots=True)
class Leave:
    """How far leaving has come. `stopped`: nothing new begins."""

    stopped: bool = False
