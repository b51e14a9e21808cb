"""What each destination on AWS does beside the contract, and what is said when its service does not take what it is sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest

from connectors.aws.options import SendOptions
from connectors.awslambda import kind as functions
from connectors.eventbridge import kind as buses
from connectors.s3 import kind as buckets
from connectors.sns import kind as topics
from connectors.sqs.destination import kind as queues
from poller.errors import NotConnected
from poller.failures.invocation import key, record
from poller.failures.protocols import Placing
from poller.settings import DestinationKind
from poller.testing.destinations import MAPPING, SHARD, context, make_delivery, make_record
from tests.servers.aws import ACCOUNT, REGION
from tests.servers.receivers import CLOSED, SILENT, Queue, Scripted, bucket_at, bus_at, queue_at, topic_at

pytestmark = pytest.mark.usefixtures("aws_credentials")

NOT_THERE: dict[str, tuple[DestinationKind, str]] = {
    "sqs": (queues, f"arn:aws:sqs:{REGION}:{ACCOUNT}:missing"),
    "sns": (topics, f"arn:aws:sns:{REGION}:{ACCOUNT}:missing"),
    "s3": (buckets, "s3://missing-bucket"),
    "events": (buses, f"arn:aws:events:{REGION}:{ACCOUNT}:event-bus/missing"),
    "lambda": (functions, f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:missing"),
}
KINDS = pytest.mark.parametrize(("kind", "to"), NOT_THERE.values(), ids=NOT_THERE)

ACTIONS: dict[DestinationKind, str] = {
    queues: "sqs:SendMessage",
    topics: "sns:Publish",
    buckets: "s3:PutObject",
    buses: "events:PutEvents",
    functions: "lambda:InvokeFunction",
}

XML = {"content-type": "text/xml"}
JSON = {"content-type": "application/x-amz-json-1.1"}


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


@pytest.fixture
async def server() -> AsyncIterator[Scripted]:
    async with Scripted() as server:
        yield server


def refusal(kind: DestinationKind, status: int, code: str, text: str = "as the test says") -> tuple[int, bytes, dict[str, str]]:
    """An answer with this error, as the service writes it."""
    if kind is topics:
        return status, f"<ErrorResponse><Error><Code>{code}</Code><Message>{text}</Message></Error></ErrorResponse>".encode(), XML
    if kind is buckets:
        return status, f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode(), XML
    return status, json.dumps({"__type": code, "message": text}).encode(), {**JSON, "x-amzn-errortype": code}


async def refused(kind: DestinationKind, to: str, url: str, timeout: str = "30s", **more: Any) -> NotConnected:
    """What sending there raises."""
    destination = await kind.open(to, SendOptions(region=REGION, endpoint=url, timeout=timeout), context())
    try:
        with pytest.raises(NotConnected) as raised:
            await destination.send(make_delivery(**more))
    finally:
        await destination.aclose()
    return raised.value


# --- what each does -------------------------------------------------------------------------------------------------------------------


@pytest.mark.servers
@pytest.mark.parametrize("where", ["queue", "topic"])
async def test_a_fifo_destination_keeps_the_order_of_a_lane_and_knows_what_comes_twice(
    where: str, stack: AsyncExitStack, elasticmq: str, aws_services: str
) -> None:
    target: Queue
    if where == "queue":
        target = await queue_at(stack, elasticmq, queues, fifo=True)
    else:
        target = await topic_at(stack, aws_services, topics, queues, fifo=True)
    destination = await target.open(context())
    names = [f"{number:032x}" for number in (1, 2, 2, 1, 3)]
    for name in names:
        await destination.send(make_delivery(name))
    await destination.aclose()
    messages = await target.messages(3)
    assert [json.loads(message["Body"])["id"] for message in messages] == [names[0], names[1], names[4]]
    assert {message["Attributes"]["MessageGroupId"] for message in messages} == {SHARD}
    assert [message["Attributes"]["MessageDeduplicationId"] for message in messages] == [names[0], names[1], names[4]]


@pytest.mark.servers
@pytest.mark.parametrize("prefix", ["", "failures/orders"])
async def test_an_object_is_where_the_bucket_says_whole_and_as_on_aws(stack: AsyncExitStack, aws_services: str, prefix: str) -> None:
    target = await bucket_at(stack, aws_services, buckets, prefix)
    destination = await target.open(context(exact=True))
    assert isinstance(destination, Placing)
    large = make_delivery(records=(make_record("7", "x" * 2_000_000),))
    await destination.send(large)
    await destination.aclose()
    name = f"{prefix}/{key(large, MAPPING.id)}".lstrip("/")
    assert name.endswith(f"aws/lambda/{MAPPING.id}/{SHARD}/2019/11/14/2019-11-14T00.38.06-01234567-89ab-cdef-0123-456789abcdef")
    assert destination.place(large) == f"s3://{target.to.rpartition(':')[2].removeprefix('//').partition('/')[0]}/{name}"
    assert await target.objects() == {name: json.loads(record(large, context(exact=True), carried=True))}


@pytest.mark.servers
@pytest.mark.parametrize("outcome", ["failure", "success"])
async def test_an_event_is_as_lambda_sends_it(stack: AsyncExitStack, aws_services: str, outcome: Any) -> None:
    target = await bus_at(stack, aws_services, buses, queues)
    destination = await target.open(context())
    delivery = make_delivery(outcome=outcome, result=b"7")
    await destination.send(delivery)
    await destination.aclose()
    (event,) = [json.loads(message["Body"]) for message in await target.messages(1)]
    assert event["source"] == "lambda"
    assert event["detail-type"] == f"Lambda Function Invocation Result - {outcome.title()}"
    assert event["time"] == "2019-11-14T00:38:06Z"
    assert event["resources"] == [target.to, f"arn:aws:lambda:us-east-1:000000000000:function:{delivery.entry.function}:$LATEST"]
    assert event["detail"] == json.loads(record(delivery, context()))


async def test_a_body_that_a_queue_does_not_take_is_made_smaller(server: Scripted) -> None:
    """Its owner may have set less than SQS allows."""
    server.script = [refusal(queues, 400, "InvalidParameterValue", "Reason: Message must be shorter than 262144 bytes.")] * 2
    server.script += [(200, b'{"MessageId":"1"}', JSON)] * 3
    destination = await queues.open(f"arn:aws:sqs:{REGION}:{ACCOUNT}:q", SendOptions(endpoint=server.url), context())
    large = make_delivery(records=(make_record("7", "x" * 300_000),))
    await asyncio.gather(destination.send(large), destination.send(large))
    await destination.send(large)
    await destination.aclose()
    bodies = [json.loads(json.loads(body)["MessageBody"]) for _, _, body in server.requests]
    assert ["payload" in body for body in bodies] == [True, True, False, False, False], "and it is remembered"
    assert bodies[2]["payloadIn"] == f"journal:{large.id}"


async def test_a_body_that_is_refused_as_small_as_it_can_be_needs_a_person(server: Scripted) -> None:
    server.script = [refusal(queues, 400, "InvalidParameterValue", "Reason: Message must be shorter than 1024 bytes.")] * 4
    error = await refused(queues, f"arn:aws:sqs:{REGION}:{ACCOUNT}:q", server.url, records=(make_record("7", "x" * 300_000),))
    assert error.permanent
    assert len(server.requests) == 2


# --- what is said when it does not work -----------------------------------------------------------------------------------------------


@pytest.mark.servers
@KINDS
async def test_what_is_not_there_needs_a_person(
    kind: DestinationKind, to: str, elasticmq: str, aws_services: str, server: Scripted
) -> None:
    server.script = [refusal(functions, 404, "ResourceNotFoundException", "Function not found")] * 2
    url = {queues: elasticmq, functions: server.url}.get(kind, aws_services)
    error = await refused(kind, to, url)
    assert error.permanent
    assert "missing" in str(error)
    assert "create it, or check its name, region and account" in str(error)
    (finding,) = await kind.probe(to, SendOptions(region=REGION, endpoint=url), context())
    assert (finding.level, "missing" in finding.text) == ("error", True)


@KINDS
async def test_what_is_forbidden_needs_a_person(kind: DestinationKind, to: str, server: Scripted) -> None:
    server.script = [refusal(kind, 403, "AuthorizationError" if kind is topics else "AccessDenied")] * 2
    error = await refused(kind, to, server.url)
    assert error.permanent
    assert f"check the credentials, that they allow {ACTIONS[kind]}" in str(error)
    assert "order 7" not in str(error), "no payloads in errors"
    (finding,) = await kind.probe(to, SendOptions(region=REGION, endpoint=server.url), context())
    # Who may not look may send all the same; but Lambda is asked the very question.
    assert finding.level == ("error" if kind is functions else "warning")
    assert ACTIONS[kind] in finding.text


THROTTLED = {buckets: (503, "SlowDown"), functions: (429, "TooManyRequestsException"), topics: (400, "Throttled")}


@KINDS
async def test_what_is_throttled_is_tried_again(kind: DestinationKind, to: str, server: Scripted) -> None:
    server.script = [refusal(kind, *THROTTLED.get(kind, (400, "ThrottlingException")))]
    error = await refused(kind, to, server.url)
    assert (error.permanent, error.retry_after) == (False, 1.0)


@KINDS
async def test_what_does_not_answer_is_tried_again(kind: DestinationKind, to: str, server: Scripted) -> None:
    server.script = [SILENT]
    error = await refused(kind, to, server.url, timeout="100ms")
    assert not error.permanent
    assert "ReadTimeout" in str(error)
    assert "missing" in str(error)


@KINDS
async def test_a_kept_connection_that_was_closed_is_no_failure(kind: DestinationKind, to: str, server: Scripted) -> None:
    server.script = [CLOSED, refusal(kind, 500, "InternalFailure")]
    assert "InternalFailure" in str(await refused(kind, to, server.url))
    assert len(server.requests) == 2


@KINDS
async def test_a_service_in_trouble_is_tried_again(kind: DestinationKind, to: str, server: Scripted) -> None:
    server.script = [refusal(kind, 500, "InternalFailure")]
    assert not (await refused(kind, to, server.url)).permanent


@KINDS
async def test_a_proxys_page_is_no_success(kind: DestinationKind, to: str, server: Scripted) -> None:
    """What is taken for an answer that is none is a loss."""
    server.script = [(200, b"<html>please log in</html>", {"content-type": "text/html"})]
    assert "endpoint" in str(await refused(kind, to, server.url))


@pytest.mark.parametrize(
    ("code", "permanent"), [("ThrottlingException", False), ("InternalException", False), ("NotAuthorizedForSourceException", True)]
)
async def test_an_event_that_fails_in_a_call_that_does_not(code: str, permanent: bool, server: Scripted) -> None:
    answer = {"FailedEntryCount": 1, "Entries": [{"ErrorCode": code, "ErrorMessage": "as the test says"}]}
    server.script = [(200, json.dumps(answer).encode(), JSON)]
    error = await refused(*NOT_THERE["events"], server.url)
    assert error.permanent is permanent
    assert code in str(error)


async def test_no_credentials_need_a_person(monkeypatch: pytest.MonkeyPatch, server: Scripted, tmp_path: Any) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    error = await refused(*NOT_THERE["sns"], server.url)
    assert error.permanent
    assert "no usable credentials" in str(error)
    assert server.requests == []


async def test_a_role_that_may_not_be_assumed_needs_a_person(monkeypatch: pytest.MonkeyPatch, server: Scripted) -> None:
    server.script = [refusal(topics, 403, "AccessDenied", "not authorized to perform sts:AssumeRole")]
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
    kind, to = NOT_THERE["sns"]
    options = SendOptions(endpoint=server.url, role_arn=f"arn:aws:iam::{ACCOUNT}:role/sender")
    destination = await kind.open(to, options, context())
    with pytest.raises(NotConnected, match="check `role_arn`, and who may assume it") as raised:
        await destination.send(make_delivery())
    await destination.aclose()
    assert raised.value.permanent
    assert len(server.requests) == 1


@pytest.mark.servers
async def test_what_is_there_is_found_and_nothing_sent(stack: AsyncExitStack, elasticmq: str, aws_services: str, server: Scripted) -> None:
    server.script = [(204, b"", {})]
    queue = await queue_at(stack, elasticmq, queues)
    targets = [
        queue,
        await topic_at(stack, aws_services, topics, queues),
        bucket := await bucket_at(stack, aws_services, buckets, "some/where"),
        await bus_at(stack, aws_services, buses, queues),
    ]
    for target in targets:
        (finding,) = await target.kind.probe(target.to, target.options, context())
        assert (finding.level, finding.text.endswith("is there (sending was not tried)")) == ("ok", True)
    assert await bucket.objects() == {}
    (finding,) = await functions.probe(NOT_THERE["lambda"][1], SendOptions(endpoint=server.url), context())
    assert finding.text.endswith("is there (we may send to it)")
    assert [headers["X-Amz-Invocation-Type"] for _, headers, _ in server.requests] == ["DryRun"]
