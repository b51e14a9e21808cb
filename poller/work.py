"""What the runners of a mapping share: its settings and parts (`Work`), signs of life (`Signs`), and how far a lane's leaving has come."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Literal

from poller.errors import NotConnected, PollerError
from poller.functions import Function
from poller.metrics import MappingCounters
from poller.protocols import Journal, Policy
from poller.settings import Backoff, MappingSettings
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
    """What all lanes of a mapping share. `clock` is epoch seconds; `replaying` names the run whose failures these are, or ""."""

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


@dataclass(slots=True)
class Signs:
    """Signs of life of one lane, for `status` and readiness. Epoch seconds; None: never yet.

    `progressed_at`: records were settled for good (a retry settles nothing). `last_error` is ours or the source's,
    `store_error` says why the store keeps a strand waiting now ("": it does not), `fault` is the function's.
    """

    state: Literal["running", "reconnecting", "leaving", "ended", "lost"] = "running"
    opened_at: float = 0.0
    read_at: float | None = None
    progressed_at: float | None = None
    held_since: float | None = None
    last_error: str = ""
    store_error: str = ""
    fault: str = ""
    errors: int = 0


@dataclass(slots=True)
class Leave:
    """How far leaving has come. `stopped`: nothing new begins."""

    stopped: bool = False
