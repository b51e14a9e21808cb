"""Replays: rows of the journal through the same engine, function and policy. A row is a lane."""

from poller.replay.counting import Count, Preview, preview
from poller.replay.format import ReplayFormat
from poller.replay.run import Replay, ReplaySource, Tally, block, replay

__all__ = ["Count", "Preview", "Replay", "ReplayFormat", "ReplaySource", "Tally", "block", "preview", "replay"]
