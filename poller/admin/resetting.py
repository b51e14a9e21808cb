"""The control command `reset`: a mapping's circuit breaker is closed by a person's decision, in every worker of the daemon."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from poller.admin.commands import Command
from poller.errors import PollerError

if TYPE_CHECKING:
    from poller.daemon import Daemon


def reset(daemon: Daemon) -> Command:
    """Answers {"mapping", "runs": whether it runs in this worker, "was": the circuit as it was open, or None}. What the breaker has seen so
    far is forgotten, open or not."""

    async def reset(mapping: str, by: str) -> AsyncIterator[dict[str, Any]]:
        if mapping not in daemon.config.mappings:
            raise PollerError(f"the daemon runs no mapping {mapping!r}, only {', '.join(daemon.config.mappings) or 'none'}")
        running = daemon.running.get(mapping)
        was = None
        if running is not None:
            circuit = running.runner.work.circuit
            was = circuit.shown(daemon.clock())
            circuit.reset(by)
        yield {"mapping": mapping, "runs": running is not None, "was": None if was is None else asdict(was)}

    return reset
