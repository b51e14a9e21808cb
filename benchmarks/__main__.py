"""All benchmarks, or those named. Ends with 1 when a limit is missed.

python -m benchmarks [engine] [sqs] [local] [filters] [kafka] [kinesis] [journal] [groups] [replay] [start]
                     [idempotency]
                     [--quick] [--pairs 5] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sqlite3
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from benchmarks.comparison import Comparison, Measure, Result, compare, measured, table

NAMES = ("engine", "sqs", "local", "filters", "kafka", "kinesis", "journal", "groups", "replay", "start", "idempotency")
PAIRS, QUICK_PAIRS = 5, 2


def chosen(names: Sequence[str], quick: bool) -> list[Comparison]:
    """The comparisons of these benchmarks, in order."""
    return [each for name in names for each in importlib.import_module(f"benchmarks.{name}").comparisons(quick)]


def serving(name: str, quick: bool, folder: Path | None) -> AbstractContextManager[Any]:
    """What the sides of this benchmark need while they run: its `serve`, if it has one."""
    serve = getattr(importlib.import_module(f"benchmarks.{name}"), "serve", None)
    return nullcontext() if serve is None else serve(quick, folder)


def run(comparisons: Sequence[Comparison], pairs: int, folder: Path | None, measure: Measure) -> list[Result]:
    """Says what it is about to measure: it takes minutes."""
    results = []
    for comparison in comparisons:
        print(f"{comparison.name} ...", file=sys.stderr, flush=True)
        results.append(compare(comparison, pairs, folder, measure))
    return results


def main(
    arguments: Sequence[str] | None = None,
    choose: Callable[[Sequence[str], bool], Sequence[Comparison]] = chosen,
    measure: Measure = measured,
) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ours beside the bare client, A B A B, in one run.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; default: all")
    parser.add_argument(
        "--quick", action="store_true", help=f"a tenth of the records and {QUICK_PAIRS} pairs: whether it works, no figures"
    )
    parser.add_argument("--pairs", type=int, default=None, help=f"default {PAIRS}")
    parser.add_argument("--folder", type=Path, default=None, help="where files are written: a folder on the disk that is meant")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(NAMES))
    if unknown:
        parser.error(f"no such benchmark: {', '.join(unknown)}; there are {', '.join(NAMES)}")
    pairs = options.pairs or (QUICK_PAIRS if options.quick else PAIRS)
    results = []
    for name in options.names or NAMES:
        with serving(name, options.quick, options.folder):
            results += run(choose([name], options.quick), pairs, options.folder, measure)
    print(f"{pairs} pairs; Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {os.cpu_count()} CPUs")
    print(table(results))
    return 0 if all(result.kept for result in results) else 1


if __name__ == "__main__":
    import pytest  # in its words a server says what it lacks

    try:
        sys.exit(main())
    except (pytest.skip.Exception, pytest.fail.Exception) as missing:
        sys.exit(str(missing))
