"""What a supervisor gives a worker to do, and how it travels: the number of the worker, its name, and its share of the configuration."""

from __future__ import annotations

import base64
import pickle
from dataclasses import dataclass

from poller.config import Config


@dataclass(frozen=True, slots=True)
class Assignment:
    """`number` is from 1. The configuration is as the supervisor read it, secrets resolved: whatever has become of the file since.

    `owner`: the name that leases are held under. Each life of a worker has that of the one before, which has ended for certain: so it need
    not wait for that one's leases to run out, and a claim fences whatever that one left under way.
    """

    number: int
    owner: str
    config: Config


def packed(assignment: Assignment) -> bytes:
    """As text. Made and read by the same program of the same user, over pipes of its own, and never stored: so pickle is safe here."""
    return base64.b64encode(pickle.dumps(assignment))


def unpacked(text: bytes | str) -> Assignment:
    assignment: Assignment = pickle.loads(base64.b64decode(text))
    return assignment
