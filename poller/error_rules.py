"""What a mapping says about certain errors (`[[mappings.NAME.errors]]`): which rule is about a fault, and what it changes. Pure.

`match` is a glob (`*`, `?`, `[...]`), with regard to case, over the error's type; one that holds ": " is over "type: message". The first
rule that matches counts. Rules are about what the function did: never about a partial failure, which names records and no error, nor about
a worker that died.

`discard`: given up at the first failure, as ErrorDiscarded; where the mapping bisects, the record is found first and goes alone.
`retry`: tried again with the rule's own limit, backoff and bisect; what it leaves out is the mapping's.
`pause`: the mapping is paused (pause.py), by a name that says why; a stream's batch keeps its attempt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import translate
from functools import lru_cache

from poller.model import Fault, Outcome
from poller.settings import ErrorRule

LOOKED_AT = 4_096
"""Characters of an error that are matched."""

SHOWN = 200
"""Characters of a message that a person is shown."""


def found(rules: Sequence[ErrorRule], outcome: Outcome) -> ErrorRule | None:
    """The rule that is about it."""
    if not rules or not isinstance(outcome, Fault) or outcome.kind in ("lost", "partial"):
        return None
    return next((rule for rule in rules if matches(rule.match, outcome)), None)


def matches(pattern: str, fault: Fault) -> bool:
    text = f"{fault.type}: {fault.message}" if ": " in pattern else fault.type
    return _compiled(pattern).match(text[:LOOKED_AT]) is not None


def told(rule: ErrorRule, outcome: Outcome) -> str:
    """Who pauses a mapping, and why, for a person: of a rule that was `found` for this outcome."""
    assert isinstance(outcome, Fault)
    return f'the error rule "{rule.match}" ({outcome.type}: {outcome.message[:SHOWN]})'


def replayed(rules: Iterable[ErrorRule], retries: int, *, bisected: bool = False) -> tuple[ErrorRule, ...]:
    """The rules as a replay has them: it comes to an end (`retries` where a rule has no limit), and pauses nothing. `bisected`: whatever
    fails as a whole is divided."""
    kept = []
    for rule in rules:
        limit = rule.maximum_retry_attempts
        if rule.maximum_receive_count is not None:
            limit = rule.maximum_receive_count - 1  # of a queue's receives the first is no retry
        limit = retries if limit == -1 else limit
        bisect = None if bisected else rule.bisect
        rule = replace(rule, maximum_retry_attempts=limit, maximum_receive_count=None, bisect=bisect)
        # Left out, a rule would let a later one have its errors.
        kept.append(rule if rule.action != "pause" else ErrorRule(rule.match, "retry"))
    return tuple(kept)


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern))
