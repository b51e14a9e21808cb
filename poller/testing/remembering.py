"""What must hold of idempotency windows in every run of the simulator: law 27, checked against a plain record of puts and looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from poller.idempotency import names
from poller.testing.fakes import FORMAT, FakeRecord


@dataclass(slots=True)
class RememberingOracle:
    """Hears of every record that was sent, every put and look that reached the store, every invocation, and all that is settled as acked.

    `excused()`: names of records that no function need have handled to be acked: filtered out, or in the journal.
    """

    violated: Callable[[str], None]
    count: Callable[[str], None]
    excused: Callable[[], Collection[str]]
    known_as: dict[bytes, str] = field(default_factory=dict)
    until: dict[str, float] = field(default_factory=dict)
    known: dict[tuple[str, str], bool] = field(default_factory=dict)
    """What the last look of a life for a record has found."""
    looks: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Looks that found nothing, and after which the record has not begun."""

    def sent(self, source: str, record: FakeRecord) -> None:
        """A record is in the source with this identity, with the time of arrival that it keeps."""
        (name,) = names(source, FORMAT, [record])
        self.known_as[name] = record.name

    def hear(self, what: str, about: Any) -> bool:
        """A call of the store took effect; whether it was one about windows."""
        match what:
            case "acknowledged":
                hashes, until = about
                for name in self._names(hashes):
                    self.until[name] = max(until, self.until.get(name, until))
            case "looking":
                life, hashes, now = about
                for name in self._names(hashes):
                    self.known[life, name] = self.until.get(name, now) > now
                    if self.known[life, name]:
                        self.count("record remembered")
                        continue
                    self.looks[life, name] += 1
                    if name in self.until:
                        self.count("record forgotten in time")
            case _:
                return False
        return True

    def begin(self, life: str, batch: Sequence[str]) -> None:
        """An invocation begins: somebody has looked for its records before, and found none of them. A record may be in two batches of a
        life at once, when a queue delivers it twice, or its lane was lost and had again."""
        for name in batch:
            if self.looks[life, name]:
                self.looks[life, name] -= 1
            elif self.known.get((life, name)):
                self.violated(f"law 27: {name} was known to be acknowledged, and begins again")
            else:
                self.violated(f"law 27: {name} begins, and nobody has looked whether it was acknowledged")

    def settled(self, acked: Sequence[str]) -> None:
        """The lane was told that these are done."""
        missing = [name for name in acked if name not in self.until and name not in self.excused()]
        if missing:
            self.violated(f"law 27: {missing} are settled, and were not put before")

    def _names(self, hashes: Collection[bytes]) -> list[str]:
        return [self.known_as[each] for each in hashes if each in self.known_as]
