"""Replays: rows of the journal through the same engine, function and policy. A row is a lane."""

from poller.replay.counting import Count, Preview, preview
from poller.replay.format import ReplayFormat
from poller.replay.run import Replay, Tally, block, replay
from poller.replay.source import Part, ReplaySource

__all__ = ["Count", "Part", "Preview", "Replay", "ReplayFormat", "ReplaySource", "Tally", "block", "preview", "replay"]
