"""How fast a replay may go: so many records a second, without a burst. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Pace:
    """`rate`: records a second; 0: no limit. Times are seconds on one clock. A row goes whole, and the next one waits for all of it."""

    rate: float
    _free_at: float = 0.0

    def wait(self, records: int, now: float) -> float:
        """Seconds until a row of so many records may begin; it is counted as begun then."""
        if not self.rate:
            return 0.0
        begins = max(now, self._free_at)
        self._free_at = begins + max(1, records) / self.rate
        return begins - now


def ahead(last: int, seconds: float) -> int:
    """How many rows to claim at once, after `last` were claimed and lasted so many seconds: about a second's worth, so that a fast run
    claims many in one commit, and a slow one keeps none from another that has nothing to do."""
    if seconds > 2.0:
        return max(1, last // 2)
    return min(last * 2, 200) if seconds < 0.5 else last
