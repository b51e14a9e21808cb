"""Replays: rows of the journal through the same engine, function and policy. A row is a lane.

A run's plan is listed once (listing.py), rows are claimed some at a time, about a second's worth (claims.py, source.py), and each is a
lane (lane.py). Marking rows, keeping what failed of a split one, and the trail are one transaction, shared by all rows that end together.
A slot is free as soon as its row has run; at most 100 rows are run and not written yet, and those are what a kill runs again. No row is
run twice in one run: what the trail names is left out at the listing, and again after each claim. `--to` is the same engine with a
function that sends (sending.py). One process runs a run (hold.py): it renews its row each 5 s and looks there each second, which is how
pause and abort reach it. One that is not renewed for 70 s is free, and by then its claims have run out too.

What its rows release of what was parked is taken up at the end of what waits; the source ends only when no row runs. The trail names what
each row released, in the transaction that released it: so a resumed run takes that up, whatever its plan selects. Within a row that holds
keys a guard (guard.py) lets nothing run behind a record of its key that failed for good.
"""

from poller.replay.counting import Count, Preview, preview
from poller.replay.format import ReplayFormat
from poller.replay.run import Replay, Tally, block, replay
from poller.replay.source import Part, ReplaySource

__all__ = ["Count", "Part", "Preview", "Replay", "ReplayFormat", "ReplaySource", "Tally", "block", "preview", "replay"]
