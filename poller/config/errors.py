"""What the tables `[[mappings.NAME.errors]]` may say. Pure: what breaks a rule, with the number of its table, from 0."""

from __future__ import annotations

from collections.abc import Iterator

from poller import units
from poller.config.problems import shown
from poller.config.rules import Breach, Case, unordered
from poller.config.schema import ErrorTable
from poller.error_rules import GIVING_UP

_RETRY = frozenset(("maximum_retry_attempts", "maximum_receive_count", "retry_backoff"))
_STREAMS = frozenset(("maximum_retry_attempts", "bisect_batch_on_function_error"))
_ALLOWED: dict[str, frozenset[str]] = {
    "retry": _RETRY | _STREAMS,
    "discard": frozenset(("bisect_batch_on_function_error",)),
    "park": frozenset(("bisect_batch_on_function_error",)),
    "pause": frozenset(),
}


def error_breaches(case: Case) -> Iterator[tuple[int, Breach]]:
    """Everything that they break."""
    seen: set[str] = set()
    for number, table in enumerate(case.table.errors):
        for breach in (*_of_action(table, case), *_of_kind(table, case), *_of_values(table, case)):
            yield number, breach
        if before := seen & {table.match, "*"}:
            found = f"{shown(table.match)} behind {shown(min(before))}, which takes all that it would match"
            yield number, Breach("match", found, "the more special one first")
        seen.add(table.match)


def undivided(case: Case) -> Iterator[tuple[int, str]]:
    """The tables by which good records are given up with a bad one, and what to do instead."""
    if case.size == 1:
        return
    for number, table in enumerate(case.table.errors):
        if table.action not in GIVING_UP:
            continue
        if case.traits.kind == "queue":
            yield number, "set batch_size = 1, or let the exception say which one it is (record_index)"
            continue
        bisect = next(each for each in (table.bisect_batch_on_function_error, _bisects(case)) if each is not None)
        if not bisect:
            yield number, "set bisect_batch_on_function_error = true"


def _bisects(case: Case) -> bool:
    said = case.table.bisect_batch_on_function_error
    return case.safe if said is None else bool(said)


def _given(table: ErrorTable) -> set[str]:
    return {key for key in _RETRY | _STREAMS if getattr(table, key) is not None}


def _of_action(table: ErrorTable, case: Case) -> Iterator[Breach]:
    if table.action == "park" and (why := unordered(case)):
        yield Breach("action", f'"park" {why[0]}', why[1])
    allowed = _ALLOWED[table.action]
    for key in sorted(_given(table) - allowed):
        yield Breach(key, f'a key for action = "retry", and this is "{table.action}"', ", ".join(sorted(allowed)) or "no such key")


def _of_kind(table: ErrorTable, case: Case) -> Iterator[Breach]:
    if not case.type:
        return
    others = _STREAMS if case.traits.kind == "queue" else {"maximum_receive_count"}
    instead = "maximum_receive_count" if case.traits.kind == "queue" else "maximum_retry_attempts"
    for key in sorted(_given(table) & others & _ALLOWED[table.action]):
        kind = "stream" if key in _STREAMS else "queue"
        yield Breach(key, f'a key for {kind}s, and the source type "{case.type}" is a {case.traits.kind}', instead)


def _of_values(table: ErrorTable, case: Case) -> Iterator[Breach]:
    limit, most = table.maximum_receive_count, case.table.maximum_receive_count
    if limit is not None and most is not None and limit > most:
        allowed = f"1 to {most}, the mapping's: what was received more often is given up untried"
        yield Breach("maximum_receive_count", str(limit), allowed)
    backoff = table.retry_backoff
    if backoff is not None and units.duration(backoff.initial) > units.duration(backoff.maximum):
        yield Breach("retry_backoff", f"initial {shown(backoff.initial)} above maximum {shown(backoff.maximum)}", "initial up to maximum")
