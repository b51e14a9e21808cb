"""What a mapping says about certain errors (`[[mappings.NAME.errors]]`): which rule is about a fault, and what it changes. Pure.

`match` is a glob (`*`, `?`, `[...]`), with regard to case, over the error's type; one that holds ": " is over "type: message". The first
rule that matches counts. Rules are about what the function did: never about a partial failure, which names records and no error, nor about
a worker that died.

`discard`: given up at the first failure, as ErrorDiscarded; where the mapping bisects, the record is found first and goes alone.
`park`: the same as ErrorParked, and later records of its key are parked behind it (parking.py).
`retry`: tried again with the rule's own limit, backoff and bisect; what it leaves out is the mapping's.
`pause`: the mapping is paused (pause.py), by a name that says why; a stream's batch keeps its attempt.

A rule is the policy with other numbers (policy.py: `under`), so what a rule does is what a mapping would do that said so. A rule for `*`
must not discard, or spare for ever, what killed its worker. A limit of receives can only be lowered, for `screen` knows no error: a
message above the mapping's limit is given up before it is tried. `discard` and `park` are heard by the circuit breaker as answers, so law
18 is about other errors. A pause is written before the batch is settled, so that one that is handed back cannot begin again unpaused; the
batch then waits for 5 s, by which time its lane is being left. On a queue it decides nothing: given back at once, the message would be
received, and counted, by workers that have not seen the pause yet. A replay has the rules with ends (`replayed`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from fnmatch import translate
from functools import lru_cache

from poller.model import Fault, Outcome, Reason
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


GIVING_UP: dict[str, Reason] = {"discard": "ErrorDiscarded", "park": "ErrorParked"}
"""The actions that give up at the first failure, each with the reason that the journal shows. The fault is then the record's."""


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
