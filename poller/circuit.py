"""The circuit breaker at work: who waits while it is open, who probes, and who is told (breaker.py decides).

One for each mapping in each worker, for all its lanes. While it is open, strands wait at `admitted`. They probe one at a time, who waits
longest first, and go behind the others when their probe has failed: a record that always fails does not hide that the function is well.

An invocation that fails while the breaker is open, the one that opens it included, is to the policy what Busy is: the same batch, the same
attempt. The tracker knows nothing of it: the attempt was saved ahead as begun, if it had to be, and the `Retry` of the same attempt hands
it back, as after our own stop. So law 11 stays, and each crash in an outage costs at most one attempt. Attempts that failed before count;
but who had one more coming still has it. A split goes on, for it costs no attempt and finds out what is well. What failed of a queue is
held under heartbeat; what only waited is given back, unless it could not be received once more: an outage costs a message at most one
receive, or two to read a batch for a probe where nobody holds one.

Strands wait before their permit, and with an empty hand: what they would cut goes on filling. A batch that waited for its permit or its
save when it opened is handed back unbegun. After `patience` attempts count again, at the probes' pace: a strand that has nothing but its
poison record to probe with must not stand still for ever. Fetching stops (`demand` is 0), and nothing else does: leases are renewed, group
membership goes on; a lane that is left is left at once. The state is a worker's own and not durable: a restart begins closed. Replays have
none.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

from poller.breaker import Closed, Failed, Open, State, answered, failed, is_split, keys_of, missed, spares
from poller.failures.fingerprint import fingerprint
from poller.metrics import MappingCounters
from poller.model import Action, Batch, Busy, Fault, Outcome
from poller.outcome import DONE
from poller.settings import BreakerSettings

log = logging.getLogger("poller.circuit")

Actions: TypeAlias = tuple[Action, ...]

SPARED = Busy(0.0, "the circuit breaker is open")
"""What a fault means that costs no attempt."""


@dataclass(frozen=True, slots=True)
class Broken:
    """An open circuit, for a person. Epoch seconds; `error`: type and message of the fault, as far as it is shown; `probes` have failed."""

    state: Literal["open", "half-open"]
    since: float
    error: str
    probes: int
    next_probe: float


class Circuit:
    """Without `settings` it never opens. For the hot path: `open`, and `alert`: whether it must hear of successes too.

    `listeners` are called when it opens, closes, or a probe is due and nobody has a batch for it (`hungry`).
    """

    def __init__(self, settings: BreakerSettings | None = None, mapping: str = "", counters: MappingCounters | None = None) -> None:
        self.open = False
        self.alert = False
        self.listeners: dict[Callable[[], None], None] = {}  # in the order in which they came
        self._settings = settings
        self._mapping = mapping
        self._counters = counters if counters is not None else MappingCounters()
        self._state: State = Closed()
        self._error = ""
        self._waiting: deque[asyncio.Future[int]] = deque()
        self._probe = 0
        """The number of the probe that runs; 0: none does."""
        self._probes = 0
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<Circuit {self._mapping} [{self._state!r}, {len(self._waiting)} waiting]>"

    # --- outcomes ---------------------------------------------------------------------------------------------------------------

    def decided(
        self, batch: Batch, outcome: Outcome, probe: int, decide: Callable[[Batch, Outcome], Actions], blamed: bool = False
    ) -> Actions:
        """Hear of an outcome, and what the policy makes of it then; `probe`: the number that `admitted` gave. `blamed`: a rule
        says that it is the record's fault; so the function has answered.

        What fails while the function does keeps its attempt, as if it had not been reached. Cutting it in two goes on: that costs none.
        """
        spared = self._hear(batch, DONE if blamed else outcome, probe)
        actions = decide(batch, outcome)
        return decide(batch, SPARED) if spared and not is_split(actions, batch) else actions

    def _hear(self, batch: Batch, outcome: Outcome, probe: int) -> bool:
        """Returns whether it is a fault that costs no attempt.

        Only a probe closes it: what began before it opened says less than what failed since.
        """
        if self._settings is None or isinstance(outcome, Busy):
            self.withdraw(probe)
            return False
        if not isinstance(outcome, Fault):
            if self.holds(probe):
                self._close("a probe was answered")
            elif isinstance(self._state, Closed):
                self._set(answered(self._state))
            return False
        now = _now()
        self._error = f"{outcome.type}: {outcome.message[:200]}"
        if isinstance(self._state, Closed):
            self._failed(self._state, batch, outcome, now, self._settings)
        elif self.holds(probe):
            self._missed(ran=True)
        return spares(self._state, now, self._settings)

    def _failed(self, state: Closed, batch: Batch, fault: Fault, now: float, settings: BreakerSettings) -> None:
        found = failed(state, Failed(fingerprint(fault, "RetryAttemptsExhausted"), keys_of(batch)), now, settings)
        if isinstance(found, Open):
            self._counters.opened += 1
            text = "the circuit breaker is open: the function fails, whatever it is given (%s); a probe in %.1f s"
            log.error(text, self._error, settings.initial, extra={"mapping": self._mapping})
        self._set(found)
        if isinstance(found, Open):
            self._tell()
            self._offer()

    # --- probes -----------------------------------------------------------------------------------------------------------------

    async def admitted(self) -> int:
        """Wait until it is closed (0), or the caller may probe: then the number of the probe, which it owes `decided` or `withdraw`."""
        while self.open:
            waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            self._offer()
            try:
                if probe := await waiter:
                    return probe
            except asyncio.CancelledError:
                if waiter.done() and not waiter.cancelled():
                    self.withdraw(waiter.result())  # it was given to us in the same turn of the loop
                else:
                    with suppress(ValueError):
                        self._waiting.remove(waiter)
                raise
        return 0

    def holds(self, probe: int) -> bool:
        """Whether this is the number of the probe that runs."""
        return probe != 0 and probe == self._probe

    def withdraw(self, probe: int) -> None:
        """The probe does not run, or its outcome says nothing. Tolerated twice, and for 0."""
        if self.holds(probe):
            self._missed(ran=False)

    @property
    def hungry(self) -> bool:
        """Whether a probe is due, and nobody has a batch for it: then lanes may read one."""
        state = self._state
        return isinstance(state, Open) and not self._probe and not self._waiting and _now() >= state.due

    def _missed(self, ran: bool) -> None:
        assert isinstance(self._state, Open) and self._settings is not None
        self._probe = 0
        self._state = missed(self._state, _now(), self._settings, ran)
        if ran:
            wait = self._state.due - _now()
            log.warning("the function still fails; the next probe in %.1f s", wait, extra={"mapping": self._mapping})
        self._offer()

    def _offer(self) -> None:
        """The probe, if it is due, to who waits longest."""
        state = self._state
        if not isinstance(state, Open) or self._probe:
            return
        if _now() < state.due:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_at(state.due, self._due)
            return
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                self._probes += 1
                self._probe = self._probes
                waiter.set_result(self._probe)
                return
        self._tell()

    def _due(self) -> None:
        self._timer = None
        self._offer()

    # --- opening and closing ----------------------------------------------------------------------------------------------------

    def reset(self, by: str) -> bool:
        """Close it, as if a probe had been answered. Returns whether it was open."""
        was = self.open
        if was:
            self._close(f"reset by {by}")
        else:
            self._set(Closed())
        return was

    def _close(self, why: str) -> None:
        self._probe = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._set(Closed())
        waiting, self._waiting = self._waiting, deque()
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(0)
        log.warning("the circuit breaker is closed: %s", why, extra={"mapping": self._mapping})
        self._tell()

    def _set(self, state: State) -> None:
        self._state = state
        self.open = isinstance(state, Open)
        self.alert = self.open or state != Closed()

    def _tell(self) -> None:
        for listener in tuple(self.listeners):
            listener()

    def shown(self, now: float) -> Broken | None:
        """None: it is closed. `now` is epoch seconds."""
        state = self._state
        if not isinstance(state, Open):
            return None
        shift = now - _now()
        return Broken("half-open" if self._probe else "open", state.since + shift, self._error, state.probes, state.due + shift)


def _now() -> float:
    return asyncio.get_running_loop().time()
