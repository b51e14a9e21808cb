"""What a change under a stale lease raises, in every store's words. Pure."""

from __future__ import annotations

from poller.errors import LaneLost
from poller.model import Lease


def lost(lease: Lease) -> LaneLost:
    """The lease has another owner or counter by now, or was dropped."""
    key = lease.key
    return LaneLost(f"lane {key.lane} of mapping {key.mapping} is no longer held by {lease.owner} (lease {lease.counter})")
