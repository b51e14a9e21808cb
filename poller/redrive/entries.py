"""From a letter to the journal's entry. Pure, but for what a `Regainer` asks its source."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from poller.errors import SourceError
from poller.failures.entry import identity
from poller.failures.fingerprint import fingerprint
from poller.failures.journal import Entry, KeptRecord
from poller.model import Fault, Reason
from poller.redrive.letters import Letter, RedriveContext, Regained, Regainer
from poller.redrive.record import Told, notification, notified, row_id, told
from poller.settings import MappingSettings

HEADER = "poller.id"
"""Names the failure that a message without record is of."""

_JOURNAL = "journal:"
"""Of a place that is a journal's row: it was looked for there already, or is another journal's."""

_DEAD = ("RequestID", "ErrorCode", "ErrorMessage")
"""What Lambda and SNS say in the attributes of what they put into a dead-letter queue."""


@dataclass(frozen=True, slots=True)
class Understood:
    """`entry` as it would be kept. `known`: rows that hold the same, if the journal has one of them."""

    letter: Letter
    entry: Entry
    known: tuple[str, ...]
    until: float | None = None
    remark: str = ""


async def understood(letter: Letter, context: RedriveContext, regainer: Regainer, address: str) -> Understood:
    """Raises SourceError: it is no failure of this mapping, or its records are gone (RangeGone); NotConnected."""
    mapping, now, found = context.mapping, context.clock(), told(letter.body)
    if found is None:
        regained, reason, fault = await _unrecorded(letter, regainer, address)
        return _made(letter, regained, address, mapping, now, reason, fault)
    if found.function and found.function != mapping.function:
        raise SourceError(f"it failed in function {found.function}, and mapping {mapping.name} runs {mapping.function}")
    regained = await _recorded(letter, found, context, regainer, address)
    return _made(letter, regained, address, mapping, now, found.reason, found.fault, found)


async def _recorded(letter: Letter, found: Told, context: RedriveContext, regainer: Regainer, address: str) -> Regained:
    if found.event is None and found.place and not found.place.startswith(_JOURNAL):
        there = told(await context.fetch(found.place))
        if there is None or there.event is None:
            raise SourceError(f"its event should be at {found.place}, where something else is")
        found = there
    if found.event is None:
        return await regainer.of_range(found.whole)
    if found.asynchronous:
        return _whole(letter, found.event, address, found.request_id)
    return await regainer.of_event(found.event, found.whole)


async def _unrecorded(letter: Letter, regainer: Regainer, address: str) -> tuple[Regained, Reason, Fault | None]:
    if not all(name in letter.attributes for name in _DEAD):
        regained = await regainer.of_message(letter)
        # Who gave it up has not said why, but for what its source can read: then it was tried as often as it was to be.
        return regained, "MaximumReceiveCountExceeded" if regained.fault is None else "RetryAttemptsExhausted", regained.fault
    request, code, message = (letter.attributes[name] for name in _DEAD)
    fault = Fault("error", f"ErrorCode {code}", message)
    note = notification(letter.body)
    if note is None:
        return _whole(letter, letter.body, address, request), "RetryAttemptsExhausted", fault
    try:
        regained = await regainer.of_message(letter)  # the topic's subscriber was the mapping's source
    except SourceError:
        regained = _whole(letter, notified(letter.body, note), address, note.id)
    return regained, "RetryAttemptsExhausted", fault


def _whole(letter: Letter, event: bytes, address: str, request: str) -> Regained:
    """An event of which only its sender knows what it is made of: one record."""
    try:
        msgspec.json.decode(event)
    except (msgspec.MsgspecError, ValueError):
        raise SourceError("its body is no JSON, and a function is called with nothing else") from None
    return Regained(address, "", (KeptRecord(request or letter.name, None, letter.sent, event),))


def _made(
    letter: Letter,
    regained: Regained,
    address: str,
    mapping: MappingSettings,
    now: float,
    reason: Reason,
    fault: Fault | None,
    found: Told | None = None,
) -> Understood:
    names = [record.id for record in regained.records]
    name = identity(mapping.id, regained.source, regained.lane, names)
    time = letter.sent if found is None or found.time is None else found.time
    entry = Entry(
        id=name,
        mapping=mapping.id,
        source=regained.source,
        lane=regained.lane,
        function=mapping.function,
        reason=reason,
        attempts=1 if found is None else found.attempts,
        fault=fault,
        first=names[0],
        last=names[-1],
        time=min(time, now),  # a run is for what failed before it began, and clocks differ
        head=regained.head,
        tail=regained.tail,
        records=regained.records,
        identifiers=regained.identifiers,
        request_id="" if found is None else found.request_id,
        group=fingerprint(fault, reason),
        taken_from=address,
    )
    row = row_id(letter.attributes.get(HEADER, "")) if found is None else found.id
    known = (name, row) if row else (name,)
    return Understood(letter, entry, known, regained.until, regained.remark)
