"""What `check --live` finds out about a queue, without taking a message from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from connectors.sqs.client import SqsClient
from connectors.sqs.entries import entries, hidden
from connectors.sqs.queue import Queue, Where
from connectors.sqs.source import find
from poller.errors import NotConnected, SourceError
from poller.policy import Redeliver
from poller.settings import Finding
from poller.units import show_duration

NOBODYS = "poller-check"
"""A receipt handle that no message has: SQS refuses the entry, but only after it has agreed to the call."""


async def probe(connect: Callable[[], Awaitable[SqsClient]], named: Where, policy: Redeliver, timeout: float) -> list[Finding]:
    """`policy`: without the queue's own limit. `timeout`: the function's, in seconds. Raises nothing of SQS."""
    try:
        client = await connect()
    except (NotConnected, SourceError) as error:
        return [Finding("error", str(error))]
    try:
        found = await find(client, named)
        return [
            Finding(
                "ok",
                f"{found.arn} is there, and we may read its attributes (receiving was not tried: it would take a message, and"
                " raise its receive count)",
            ),
            *await _permissions(client, found),
            _visibility(found, timeout),
            _redrive(found, policy),
        ]
    except (NotConnected, SourceError) as error:
        return [Finding("error", str(error))]
    finally:
        await client.aclose()


async def _permissions(client: SqsClient, found: Queue) -> list[Finding]:
    findings = list[Finding]()
    try:
        await client.delete(found.url, entries([NOBODYS]))
    except (NotConnected, SourceError) as error:
        findings.append(Finding("error", f"messages could not be deleted, so each would come again: {error}"))
    try:
        await client.change_visibility(found.url, hidden([(NOBODYS, 0)]))
    except (NotConnected, SourceError) as error:
        text = f"visibility cannot be changed, so a message comes again while its function outlives the visibility timeout: {error}"
        findings.append(Finding("warning", text))
    return findings


def _visibility(found: Queue, timeout: float) -> Finding:
    visibility = show_duration(found.visibility)
    if timeout > found.visibility:
        return Finding(
            "warning",
            f"{found.name}: visibility timeout {visibility} is below the function's timeout {show_duration(timeout)}; AWS Lambda"
            " refuses that. Here the visibility is extended while the function runs; only after a crash may a message come again too early",
        )
    return Finding("ok", f"{found.name}: visibility timeout {visibility} covers the function's timeout {show_duration(timeout)}")


def _redrive(found: Queue, policy: Redeliver) -> Finding:
    if found.redrive_count is not None:
        where_to = found.dead_letter.rpartition(":")[2] or "its dead-letter queue"
        return Finding("ok", f"{found.name}: after {found.redrive_count} receives the queue moves a message to {where_to}")
    if policy.limit is None:
        text = "has no redrive policy, and the mapping no maximum_receive_count: a message that always fails comes for ever"
        return Finding("warning", f"{found.name} {text}")
    return Finding("ok", f"{found.name} has no redrive policy: after {policy.limit} receives a message is kept in the journal and deleted")
