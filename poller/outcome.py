"""What a response means for the batch. Pure. AWS's rules for partial batch responses, row by row: tests/unit/test_outcome.py."""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

from poller.model import Done, Fault, Identifier, Outcome, Partial, Response, Returned
from poller.protocols import Event

DONE = Done()
_NOTHING = frozenset((b"null", b"{}", b'""', b"[]", b""))


class _Windowed(msgspec.Struct):
    """The response of a function with a tumbling window: its state is kept as it was written."""

    state: msgspec.Raw = msgspec.Raw(b"null")


def interpret(response: Response, event: Event, reporting: bool, windowed: bool = False) -> Outcome:
    """The outcome. `reporting`: function_response_types has ReportBatchItemFailures; without it whatever is returned is success, unless the
    mapping has a tumbling window (`windowed`): then a response without a state fails the whole batch.

    Source: AWS Lambda guide, "Reporting batch item failures", and recordings: an id that is not of the batch, empty, null or no id at all
    fails the whole batch; JSON that is no object, or has no failures, is success.
    """
    if not isinstance(response, Returned):
        return response
    if windowed:
        return _in_window(response, event, reporting)
    if not reporting or response.payload in _NOTHING:
        return DONE
    try:
        answer = orjson.loads(response.payload)
    except orjson.JSONDecodeError:
        return _malformed("the response is not valid JSON")
    if not isinstance(answer, dict):
        return DONE
    failures = answer.get("batchItemFailures")
    if failures is None or failures == []:
        return DONE
    if not isinstance(failures, list):
        return _malformed("batchItemFailures is not a list")
    return _partial(failures, event)


def _in_window(response: Returned, event: Event, reporting: bool) -> Outcome:
    try:
        state = bytes(msgspec.json.decode(response.payload, type=_Windowed).state)
    except (msgspec.DecodeError, UnicodeDecodeError):
        state = b"null"
    if state == b"null":
        return _malformed('the response has no state: with a tumbling window every response is {"state": ...}')
    outcome = interpret(response, event, reporting)
    if isinstance(outcome, Done):
        return Done(state)
    return Partial(outcome.indices, state) if isinstance(outcome, Partial) else outcome


def _partial(failures: list[Any], event: Event) -> Outcome:
    # A record that was delivered twice may be in the batch twice: what is said of one is said of both.
    places: dict[Identifier, list[int]] = {}
    for i, identifier in enumerate(event.identifiers()):
        places.setdefault(identifier, []).append(i)
    indices: set[int] = set()
    for number, item in enumerate(failures):
        if not isinstance(item, dict) or "itemIdentifier" not in item:
            return _malformed(f"batchItemFailures[{number}] has no itemIdentifier")
        identifier = _identifier(item["itemIdentifier"])
        named = None if identifier is None else places.get(identifier)
        if named is None:
            return _malformed(f"batchItemFailures[{number}] names no record of the batch")
        indices.update(named)
    return Partial(tuple(sorted(indices)))


def _identifier(value: Any) -> Identifier | None:
    """The comparable form; None for what can name nothing. An object (Kafka's) becomes its sorted pairs."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, dict):
        pairs = sorted(value.items())
        return tuple(pairs) if all(type(part) in (str, int) for _, part in pairs) else None
    return None


def _malformed(message: str) -> Fault:
    return Fault("response", "MalformedResponse", message, unhandled=False)
