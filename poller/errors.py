"""Our own errors, all of one base. What the user's function does wrong is never an exception here: it is a `Fault` (model.py).

Four of them are control flow and carry no blame: `NotConnected`, `NotYet`, `LaneEnded`, `LaneLost`.
"""

from __future__ import annotations


class PollerError(Exception):
    """The base of every error that this project raises on purpose. Its text says what, where and what to do."""


class ConfigError(PollerError):
    """Raised when the configuration cannot be used; holds every problem found, not just the first.

    `problems` are lines for a person: file, line, TOML path, what was found, what is allowed.
    """

    def __init__(self, problems: list[str] | str) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class PluginError(PollerError):
    """Raised when a connector or handler is missing, is there twice, or was written for another version of the contract."""


class StoreError(PollerError):
    """Raised when the store cannot be used as it is: corrupt, newer than this program, locked by another mapping's identity."""


class StoreUnavailable(StoreError):
    """Raised when the store does not answer now (disk full, busy, unreachable); what was asked for was not done; trying again may help."""


class ParkingFull(StoreUnavailable):
    """Raised when a failure would hold more keys than the mapping may hold: its lane waits until what failed is replayed or dropped."""


class SourceError(PollerError):
    """Raised when a source refuses for good: it does not exist, or the credentials may not read it."""


class HandlerError(PollerError):
    """Raised when a way to run functions cannot be set up (no such interpreter, no such file): ours to say, not the function's fault."""


class StopError(PollerError):
    """Raised when all has ended, but not all of it in order: what had not handed back its work comes again as after a crash."""


class NotConnected(PollerError):
    """Raised when a source does not answer now. The engine tries again with backoff, once for all connectors.

    `retry_after`: seconds that the source asked for, or None. `permanent`: trying again needs a person (credentials, missing queue),
    so the engine tries slowly and says so.
    """

    def __init__(self, message: str, *, retry_after: float | None = None, permanent: bool = False) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.permanent = permanent


class SourceReplaced(NotConnected):
    """Raised by a source when what it was opened for is no more, and something else has its name: the engine leaves its lanes, and opens it
    anew."""


class NotYet(PollerError):
    """Raised by `begin` when an attempt must wait for others of its lane; nothing began. It is asked again after `after` seconds, and holds
    no permit meanwhile: those it waits for may need one."""

    def __init__(self, message: str, after: float) -> None:
        super().__init__(message)
        self.after = after


class LaneEnded(PollerError):
    """Raised by `fetch` when a lane has no more records and never will (a closed shard, a finished selection)."""


class LaneLost(PollerError):
    """Raised by any call of a lane, or of the store under a stale lease, once another worker may own it: drop everything, save nothing."""
