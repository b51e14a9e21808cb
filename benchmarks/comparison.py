"""Two sides in turn, A B A B ..., each measurement a process of its own; medians, and the ratio pair by pair.

Figures of different runs say nothing about each other: the machine drifts by a quarter within a minute. Only ratios of one run count.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal, TypeAlias

ROOT = Path(__file__).resolve().parent.parent

SIDE_SECONDS = 300.0
"""No single measurement takes longer, unless something hangs."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one measurement found, in the comparison's unit."""

    figure: float


@dataclass(frozen=True, slots=True)
class Side:
    """`SIDES[name]` of `benchmarks.<module>`, called with these parameters; `folder` besides if `in_folder`."""

    module: str
    name: str
    parameters: Mapping[str, object] = field(default_factory=dict, hash=False)
    in_folder: bool = False


Measure: TypeAlias = Callable[[Side, Path], Reading]


@dataclass(frozen=True, slots=True)
class Limit:
    """What our figure must keep to: as it is, as a multiple of the other side's, in excess of it; or as a share of its pace."""

    of: Literal["figure", "times", "excess", "share"]
    at_most: float | None = None
    at_least: float | None = None

    def __str__(self) -> str:
        bound, word = (self.at_least, "at least") if self.at_most is None else (self.at_most, "at most")
        sign = {"figure": "", "times": "x ", "excess": "+ ", "share": "share "}[self.of]
        return f"{word} {sign}{bound:g}"

    def kept(self, found: float) -> bool:
        return (self.at_most is None or found <= self.at_most) and (self.at_least is None or found >= self.at_least)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Ours beside another side, which is measured first, or alone. `limit` None: stated, not judged. `beside` says what the other is."""

    name: str
    unit: str
    ours: Side
    other: Side | None = None
    limit: Limit | None = None
    beside: str = "bare"


@dataclass(frozen=True, slots=True)
class Result:
    """The figures of a comparison, pair by pair."""

    comparison: Comparison
    ours: Sequence[float]
    other: Sequence[float]

    @property
    def spread(self) -> tuple[float, float, float]:
        """What the limit is about, or else the ratio, if there is one: median, least and most of the pairs."""
        limit = self.comparison.limit
        of = "figure" if not self.other else "times" if limit is None else limit.of
        found = list(self.ours)
        if of == "times":
            found = [ours / other for ours, other in zip(self.ours, self.other, strict=True)]
        elif of == "share":
            found = [other / ours for ours, other in zip(self.ours, self.other, strict=True)]
        elif of == "excess":
            found = [ours - other for ours, other in zip(self.ours, self.other, strict=True)]
        return median(found), min(found), max(found)

    @property
    def kept(self) -> bool:
        """Whether the median keeps to the limit."""
        limit = self.comparison.limit
        return limit is None or limit.kept(self.spread[0])


def compare(comparison: Comparison, pairs: int, folder: Path | None, measure: Measure) -> Result:
    """`folder`: where a side that writes gets a new folder of its own for each pair (default: the system's)."""
    ours, other = list[float](), list[float]()
    for _ in range(pairs):
        with tempfile.TemporaryDirectory(dir=folder, prefix="benchmark-") as own:
            if comparison.other is not None:
                other.append(measure(comparison.other, Path(own)).figure)
            ours.append(measure(comparison.ours, Path(own)).figure)
    return Result(comparison, ours, other)


def measured(side: Side, folder: Path) -> Reading:
    """One measurement, in a process of its own. Raises SystemExit with what it said when it fails."""
    parameters = {**side.parameters, **({"folder": str(folder)} if side.in_folder else {})}
    command = [sys.executable, "-m", "benchmarks.side", side.module, side.name, json.dumps(parameters)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=SIDE_SECONDS)
    if ran.returncode:
        raise SystemExit(f"{side.module} {side.name} failed:\n{ran.stderr.strip()}")
    return Reading(float(ran.stdout.split()[-1]))


def rows(results: Sequence[Result]) -> Iterator[tuple[str, ...]]:
    """The table's lines, headings first."""
    yield ("", "ours", "beside", "", "pairs: median (least-most)", "limit", "")
    for result in results:
        comparison = result.comparison
        middle, least, most = result.spread
        yield (
            comparison.name,
            f"{median(result.ours):,.2f} {comparison.unit}",
            f"{median(result.other):,.2f}" if result.other else "",
            comparison.beside if result.other else "",
            f"{middle:.2f} ({least:.2f}-{most:.2f})",
            "" if comparison.limit is None else str(comparison.limit),
            "" if comparison.limit is None else "kept" if result.kept else "MISSED",
        )


def table(results: Sequence[Result]) -> str:
    lines = list(rows(results))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines)
