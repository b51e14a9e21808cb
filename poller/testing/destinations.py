"""What every destination must keep: its contract suite, and deliveries to send.

An implementation's test is a subclass with a fixture `target`, a `Target` over an empty receiver.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Protocol

from poller.failures.journal import Delivery, Entry, KeptRecord
from poller.failures.protocols import Destination
from poller.model import Response
from poller.settings import Batching, DestinationContext, FailureSettings, MappingSettings
from poller.testing.journals import make_entry

MAPPING = MappingSettings("7b7a4f5c-0000-4000-8000-000000000001", "orders", "orders", Batching(10), FailureSettings(), 1)
SHARD = "shardId-000000000001"


def make_delivery(
    id: str = "0123456789abcdef0123456789abcdef",
    outcome: Literal["failure", "success"] = "failure",
    result: bytes | None = None,
    **fields: Any,
) -> Delivery:
    """Of two records of a stream of Kinesis's kind, unless `fields` of its entry say otherwise."""
    given: dict[str, Any] = {
        "source": "arn:aws:kinesis:eu-west-1:123456789012:stream/orders",
        "lane": SHARD,
        "time": 1573691886.021,
        "request_id": "c9b8fa9f-5a7f-4000-af9c-0c604cde93a5",
        "records": tuple(make_record(str(number), f"order {number}") for number in (7, 8)),
        "identifiers": ("7", "8"),
        "first": f"{SHARD}:7",
        "last": f"{SHARD}:8",
    }
    return Delivery(1, id, "somewhere", outcome, make_entry(id, **{**given, **fields}), result)


def make_record(sequence: str, data: str) -> KeptRecord:
    """`data` stands in the element as it is."""
    element = {
        "kinesis": {"sequenceNumber": sequence, "data": data, "approximateArrivalTimestamp": 1573691884.835},
        "eventID": f"{SHARD}:{sequence}",
        "eventSourceARN": "arn:aws:kinesis:eu-west-1:123456789012:stream/orders",
    }
    return KeptRecord(f"{SHARD}:{sequence}", "k", 1573691884.835, json.dumps(element).encode())


def described(entry: Entry) -> dict[str, Any]:
    """As a connector might."""
    return {"BatchInfo": {"first": entry.first, "last": entry.last, "batchSize": len(entry.records)}}


async def nothing(function: str, event: bytes) -> Response:
    raise AssertionError(f"{function} was invoked with {len(event)} bytes")


def context(
    describe: Callable[[Entry], dict[str, Any]] = described,
    *,
    exact: bool = False,
    spill: Callable[[Delivery], Awaitable[str]] | None = None,
    invoke: Callable[[str, bytes], Awaitable[Response]] = nothing,
    folder: Path = Path(),
) -> DestinationContext:
    """Of the mapping `orders`; the time is always the same."""
    return DestinationContext(MAPPING, folder, folder, lambda: 1573691886.021, invoke, describe, exact, spill)


class Target(Protocol):
    """A destination's receiver, as its tests see it."""

    @property
    def maximum_bytes(self) -> int | None:
        """As in `DestinationTraits`."""

    @property
    def distinct(self) -> bool:
        """Whether the receiver knows a delivery that comes twice, and has it once."""

    @property
    def carries(self) -> bool:
        """Whether AWS's own record holds the payload at this kind of destination."""

    async def open(self, context: DestinationContext) -> Destination: ...

    async def bodies(self, count: int) -> list[Any]:
        """What has arrived, parsed, oldest first, once there are so many; one may come again and again."""


class DestinationContract:
    """poller.failures.protocols.Destination, for those that are sent whole records (poller.failures.invocation)."""

    async def test_a_failure_arrives_with_its_cause_and_its_event(self, target: Target) -> None:
        body = await _sent(target, make_delivery())
        assert body["requestContext"]["condition"] == "RetryAttemptsExhausted"
        assert body["requestContext"]["approximateInvokeCount"] == 3
        assert body["error"]["message"] == make_delivery().entry.fault.message  # type: ignore[union-attr]
        assert len(json.loads(body["payload"])["Records"]) == 2
        assert body["id"] == make_delivery().id

    async def test_it_is_as_awss_if_it_must(self, target: Target) -> None:
        body = await _sent(target, make_delivery(), context(exact=True))
        payload = {"payload"} if target.carries else set()
        assert {*body} == {"requestContext", "responseContext", "version", "timestamp", "BatchInfo"} | payload

    async def test_a_success_arrives_with_its_result(self, target: Target) -> None:
        body = await _sent(target, make_delivery(outcome="success", result=b'{"total":7}', fault=None))
        assert body["requestContext"]["condition"] == "Success"
        assert body["responsePayload"] == {"total": 7}
        assert len(body["requestPayload"]["Records"]) == 2

    async def test_what_is_sent_twice_can_be_told_from_what_happened_twice(self, target: Target) -> None:
        other = "f" * 32
        destination = await target.open(context())
        try:
            for name in (make_delivery().id, make_delivery().id, other):
                await destination.send(make_delivery(name))
        finally:
            await destination.aclose()
        ids = [body["id"] for body in await target.bodies(2 if target.distinct else 3)]
        assert sorted(ids) == sorted([make_delivery().id] * (1 if target.distinct else 2) + [other])

    async def test_what_is_too_large_stays_where_it_is(self, target: Target) -> None:
        """And whoever gets the rest is told where."""
        large = make_delivery(records=(make_record("7", "x" * ((target.maximum_bytes or 6_000_000) + 1)),))
        body = await _sent(target, large)
        assert ("payload" in body) == (target.maximum_bytes is None)
        assert body.get("payloadIn") == (None if target.maximum_bytes is None else f"journal:{large.id}")
        assert body["error"]["message"] == large.entry.fault.message  # type: ignore[union-attr]

    async def test_what_is_too_large_goes_where_there_is_a_place_for_it(self, target: Target) -> None:
        placed = list[str]()

        async def spill(delivery: Delivery) -> str:
            placed.append(delivery.id)
            return "s3://failures/large"

        large = make_delivery(records=(make_record("7", "x" * ((target.maximum_bytes or 0) + 1)),))
        body = await _sent(target, large, context(spill=spill))
        if target.maximum_bytes is None:
            assert placed == []
        else:
            assert placed == [large.id]
            assert body["payloadIn"] == "s3://failures/large"

    async def test_text_arrives_as_it_was(self, target: Target) -> None:
        entry = make_delivery().entry
        odd = replace(entry.fault, message="no such order: \N{SNOWMAN} \u0085 ]]> & <b> \"' \x00") if entry.fault else None
        body = await _sent(target, make_delivery(fault=odd))
        assert odd is not None
        assert body["error"]["message"] == odd.message

    async def test_closing_twice_is_closing(self, target: Target) -> None:
        destination = await target.open(context())
        await destination.aclose()
        await destination.aclose()


async def _sent(target: Target, delivery: Delivery, given: DestinationContext | None = None) -> Any:
    """The one body that arrived."""
    destination = await target.open(given or context())
    try:
        await destination.send(delivery)
    finally:
        await destination.aclose()
    (body,) = await target.bodies(1)
    return body
