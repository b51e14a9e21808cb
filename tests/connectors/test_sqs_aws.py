"""The connector's client, against a loopback server that answers as told: requests, foreign errors, an assumed role."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from botocore import exceptions

from connectors.aws.credentials import mapped
from connectors.aws.json import host_and_path
from connectors.sqs import SqsOptions, connect_to_aws
from connectors.sqs.aws import AwsClient
from connectors.sqs.entries import entries, hidden
from poller.errors import NotConnected, SourceError
from tests.servers.loopback import Answer, Request, loopback

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_credentials")]


async def connected(url: str, **options: Any) -> Any:
    return await connect_to_aws(SqsOptions(**{"queue": "orders", "region": "us-east-1", "endpoint": url, **options}), 4)


async def test_what_is_asked() -> None:
    answers: dict[str, Any] = {
        "ReceiveMessage": {"Messages": [{"MessageId": "1", "Body": "b", "ReceiptHandle": "h"}]},
        "DeleteMessageBatch": {"Failed": [{"Id": "0", "Code": "X", "SenderFault": True}]},
        "ChangeMessageVisibilityBatch": {"Successful": [{"Id": "0"}]},
        "GetQueueUrl": {"QueueUrl": "http://q"},
        "GetQueueAttributes": {"Attributes": {"VisibilityTimeout": "30"}},
    }

    def answer(request: Request) -> Answer:
        return 200, json.dumps(answers[request[0]["x-amz-target"].removeprefix("AmazonSQS.")]).encode()

    async with loopback(answer) as server:
        client = await connected(server.url)
        assert await client.receive("http://q", 7, 5, 30) == answers["ReceiveMessage"]["Messages"]
        assert await client.delete("http://q", entries(["h"])) == answers["DeleteMessageBatch"]["Failed"]
        assert list(await client.change_visibility("http://q", hidden([("h", 9)]))) == []
        assert await client.queue_url("orders", "123456789012") == "http://q"
        assert await client.attributes("http://q") == {"VisibilityTimeout": "30"}
        await client.aclose()
        await client.aclose()
        assert server.asked == [
            (
                "ReceiveMessage",
                {
                    "QueueUrl": "http://q",
                    "MaxNumberOfMessages": 7,
                    "WaitTimeSeconds": 5,
                    "VisibilityTimeout": 30,
                    "MessageSystemAttributeNames": ["All"],
                    "MessageAttributeNames": ["All"],
                },
            ),
            ("DeleteMessageBatch", {"QueueUrl": "http://q", "Entries": [{"Id": "0", "ReceiptHandle": "h"}]}),
            (
                "ChangeMessageVisibilityBatch",
                {"QueueUrl": "http://q", "Entries": [{"Id": "0", "ReceiptHandle": "h", "VisibilityTimeout": 9}]},
            ),
            ("GetQueueUrl", {"QueueName": "orders", "QueueOwnerAWSAccountId": "123456789012"}),
            ("GetQueueAttributes", {"QueueUrl": "http://q", "AttributeNames": ["All"]}),
        ]


@pytest.mark.parametrize(
    ("status", "code", "expected", "permanent", "word"),
    [
        (400, "com.amazonaws.sqs#QueueDoesNotExist", NotConnected, True, "no such thing"),
        (400, "AWS.SimpleQueueService.NonExistentQueue", NotConnected, True, "no such thing"),
        (403, "AccessDenied", NotConnected, True, "sqs:ChangeMessageVisibility"),
        (403, "InvalidClientTokenId", NotConnected, True, "credentials"),
        (403, "OverLimit", NotConnected, False, "fewer requests"),
        (403, "SignatureDoesNotMatch", NotConnected, True, "clock"),
        (500, "InternalFailure", NotConnected, False, "InternalFailure"),
        (400, "UnsupportedOperation", SourceError, None, "never"),
    ],
)
async def test_what_sqs_answers_becomes_ours(status: int, code: str, expected: type[Exception], permanent: bool | None, word: str) -> None:
    async with loopback(lambda _: (status, json.dumps({"__type": code, "message": "told"}).encode())) as server:
        client = await connected(server.url)
        with pytest.raises(expected, match=word) as raised:
            await client.attributes("http://q")
        await client.aclose()
    for part in ("orders", "us-east-1", server.url):
        assert part in str(raised.value)
    assert getattr(raised.value, "permanent", None) is permanent


async def test_no_server_is_not_connected() -> None:
    async with loopback(lambda _: (200, b"")) as server:
        pass
    client = await connected(server.url)
    with pytest.raises(NotConnected) as raised:
        await client.receive("http://q", 1, 0, 30)
    await client.aclose()
    assert not raised.value.permanent


async def test_an_answer_that_is_no_sqs_is_not_connected() -> None:
    async with loopback(lambda _: (200, b"<html>a proxy</html>")) as server:
        client = await connected(server.url)
        for ask in (client.receive("http://q", 1, 0, 30), client.delete("http://q", entries(["h"]))):
            with pytest.raises(NotConnected, match="something else"):
                await ask
        await client.aclose()


@pytest.mark.parametrize(
    "moment", [(500, b'{"__type": "InternalFailure"}'), (503, b"busy"), (400, b'{"__type": "com.amazonaws.sqs#ServiceUnavailable"}')]
)
async def test_a_bad_moment_of_the_server_is_seen_by_nobody(moment: Answer) -> None:
    answers = [moment, (200, b'{"Attributes": {"VisibilityTimeout": "30"}}')]
    async with loopback(lambda _: answers.pop(0)) as server:
        client = await connected(server.url)
        assert await client.attributes("http://q") == {"VisibilityTimeout": "30"}
        await client.aclose()


@pytest.mark.parametrize(
    "moment", [(503, b'{"__type": "ServiceUnavailableException"}'), (500, b'{"__type": "a#InternalServerError:http://x"}')]
)
async def test_so_is_one_by_another_name(moment: Answer) -> None:
    answers = [moment, (200, b'{"QueueUrl": "http://q"}')]
    async with loopback(lambda _: answers.pop(0)) as server:
        client = await connected(server.url)
        assert await client.queue_url("q", None) == "http://q"
        await client.aclose()


async def test_what_is_not_there_may_be_null() -> None:
    """As in the answers of imitations that are written in Go."""
    message = b'{"MessageId": "1", "Body": "b", "MessageAttributes": null, "Attributes": {"SentTimestamp": "1"}}'
    answers = {
        "ReceiveMessage": [b'{"Messages": null}', b'{"Messages": [%s]}' % message],
        "DeleteMessageBatch": [b'{"Successful": [{"Id": "0"}], "Failed": null}', b'{"Successful": null, "Failed": null}'],
        "GetQueueUrl": [b'{"QueueUrl": null}'],
        "GetQueueAttributes": [b'{"Attributes": null}'],
    }

    def answer(request: Request) -> Answer:
        return 200, answers[request[0]["x-amz-target"].removeprefix("AmazonSQS.")].pop(0)

    async with loopback(answer) as server:
        client = await connected(server.url)
        assert list(await client.receive("http://q", 1, 0, 30)) == []
        (received,) = await client.receive("http://q", 1, 0, 30)
        assert received == {"MessageId": "1", "Body": "b", "Attributes": {"SentTimestamp": "1"}}
        assert list(await client.delete("http://q", entries(["h"]))) == []
        assert [refusal["Id"] for refusal in await client.delete("http://q", entries(["h"]))] == ["0"]
        assert await client.queue_url("q", None) == "" and await client.attributes("http://q") == {}
        await client.aclose()


async def test_a_clock_that_is_off_refuses_none_of_several_calls() -> None:
    """The first answer shows it; the others were signed by then."""
    theirs = datetime.now(UTC) + timedelta(hours=1)

    def answer(request: Request) -> Answer:
        signed = datetime.strptime(request[0]["x-amz-date"], "%Y%m%dT%H%M%S%z")
        return (403, b'{"__type": "SignatureDoesNotMatch"}') if abs(theirs - signed) > timedelta(minutes=5) else (200, b"{}")

    async with loopback(answer) as server:
        server.date = format_datetime(theirs, usegmt=True)
        client = await connected(server.url)
        assert await asyncio.gather(*(client.receive("http://q", 1, 0, 30) for _ in range(4))) == [[]] * 4
        assert len(server.requests) == 8
        await client.aclose()


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("http://127.0.0.1:9324/", ("127.0.0.1:9324", "/")),
        ("https://me:secret@sqs.eu-west-1.amazonaws.com:443/p/", ("sqs.eu-west-1.amazonaws.com", "/p/")),
        ("http://[::1]:80/", ("[::1]", "/")),
        ("https://h", ("h", "/")),
    ],
)
def test_the_host_that_is_signed_is_the_one_that_is_sent(url: str, sent: tuple[str, str]) -> None:
    assert host_and_path(url) == sent


async def test_a_proxys_page_is_shown() -> None:
    async with loopback(lambda _: (403, b"<html>who are you?" + b" " * 10_000)) as server:
        client = await connected(server.url)
        with pytest.raises(NotConnected, match=r"HTTP 403: <html>who are you\? {182}$"):
            await client.queue_url("q", None)
        await client.aclose()


async def test_what_is_asked_of_a_closed_client_is_not_connected() -> None:
    async with loopback(lambda _: (200, b"{}")) as server:
        client = await connected(server.url)
        await client._aws._json.aclose()
        with pytest.raises(NotConnected, match="closed"):
            await client.queue_url("q", None)
        await client.aclose()


async def test_half_of_a_surrogate_pair_is_received() -> None:
    async with loopback(lambda _: (200, rb'{"Messages": [{"Body": "\ud83d"}]}')) as server:
        client = await connected(server.url)
        assert await client.receive("http://q", 1, 0, 30) == [{"Body": "\ud83d"}]
        await client.aclose()


async def test_an_entry_that_the_answer_does_not_name_is_not_done() -> None:
    async with loopback(lambda _: (200, b'{"Successful": [{"Id": "1"}]}')) as server:
        client = await connected(server.url)
        refused = await client.delete("http://q", entries(["h0", "h1"]))
        assert [refusal["Id"] for refusal in refused] == ["0"]
        await client.aclose()


async def test_no_credentials_no_profile_no_region(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotConnected, match="no usable credentials"):
        await connected("http://127.0.0.1:1", profile="nobody")
    with pytest.raises(NotConnected, match="AWS_REGION"):
        await connect_to_aws(SqsOptions(queue="orders"), 4)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    client = await connected("http://127.0.0.1:1")
    with pytest.raises(NotConnected, match="no usable credentials") as raised:
        await client.receive("http://q", 1, 0, 30)
    assert raised.value.permanent
    await client.aclose()


@pytest.mark.parametrize(
    ("foreign", "ours", "permanent"),
    [
        (exceptions.ReadTimeoutError(endpoint_url="u"), NotConnected, False),
        (exceptions.ConnectionClosedError(endpoint_url="u"), NotConnected, False),
        (exceptions.CredentialRetrievalError(provider="p", error_msg="e"), NotConnected, True),
        (exceptions.ParamValidationError(report="r"), SourceError, None),
        (OSError("no route"), NotConnected, False),
    ],
)
def test_foreign_exceptions_become_ours(foreign: Exception, ours: type[Exception], permanent: bool | None) -> None:
    with pytest.raises(ours) as raised, mapped("SQS queue orders"):
        raise foreign
    assert getattr(raised.value, "permanent", None) is permanent
    assert raised.value.__cause__ is foreign


def test_a_bug_of_ours_stays_one() -> None:
    with pytest.raises(KeyError), mapped("SQS queue orders"):
        raise KeyError("ours")


async def test_a_role_is_assumed_and_assumed_again_before_it_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    assumed = 0

    def answer(request: Request) -> Answer:
        nonlocal assumed
        if b"Action=AssumeRole" not in request[1]:
            return 200, b'{"Attributes": {}}'
        assert "MINE" in request[0]["authorization"]
        assert b"role%2Fpoller" in request[1]
        assumed += 1
        # The first is about to expire: botocore refreshes well before the end.
        end = datetime.now(UTC) + timedelta(minutes=5 if assumed == 1 else 60)
        return (
            200,
            f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
            <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/poller/poller</Arn><AssumedRoleId>A:poller</AssumedRoleId>
            </AssumedRoleUser><Credentials><AccessKeyId>ROLE{assumed}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>
            <SessionToken>token</SessionToken><Expiration>{end:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>
            </AssumeRoleResult></AssumeRoleResponse>""".encode(),
        )

    async with loopback(answer) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        client = await connected(server.url, role_arn="arn:aws:iam::123456789012:role/poller")
        assert assumed == 0  # only when something is asked
        for _ in range(3):
            await client.attributes("http://q")
        await client.aclose()
    used = [headers["authorization"].split("Credential=")[1].split("/")[0] for headers, _ in server.requests if "x-amz-target" in headers]
    assert set(used) <= {"ROLE1", "ROLE2"}
    assert used[-1] == "ROLE2"
    assert assumed == 2


@pytest.mark.parametrize(
    ("status", "code", "permanent"), [(400, "Throttling", False), (503, "ServiceUnavailable", False), (403, "AccessDenied", True)]
)
async def test_a_role_that_cannot_be_had_now_may_be_had_in_a_moment(
    monkeypatch: pytest.MonkeyPatch, status: int, code: str, permanent: bool
) -> None:
    text = f"<ErrorResponse><Error><Type>X</Type><Code>{code}</Code><Message>told</Message></Error></ErrorResponse>"
    async with loopback(lambda _: (status, text.encode())) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        client = await connected(server.url, role_arn="arn:aws:iam::123456789012:role/poller")
        with pytest.raises(NotConnected, match="told") as raised:
            await client.attributes("http://q")
        await client.aclose()
    assert raised.value.permanent is permanent


async def test_repr_shows_the_state() -> None:
    client = AwsClient("SQS queue orders")
    assert repr(client) == "<AwsClient <AwsConnection SQS queue orders [closed]>>"
