"""The clients of Kinesis and DynamoDB Streams, against a loopback server that answers as told: what no real server says when asked."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import formatdate
from typing import Any

import pytest

from connectors import dynamodb_streams, kinesis
from connectors.dynamodb_streams.client import DynamoDBClient
from connectors.dynamodb_streams.options import DynamoDBOptions
from connectors.kinesis.client import KinesisClient
from connectors.kinesis.options import KinesisOptions
from connectors.sharded.sequence import TRIM_HORIZON, Start
from connectors.sharded.shards import Expired, Gone, Page, Records, Shard, Throttled, Trimmed
from poller.errors import NotConnected, SourceError
from tests.servers.loopback import Answer, Request, loopback

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_credentials")]


async def streams_of(url: str, **options: Any) -> KinesisClient:
    return await kinesis.connect_to_aws(KinesisOptions(**{"stream": "orders", "region": "us-east-1", "endpoint": url, **options}))


async def changes_of(url: str, **options: Any) -> DynamoDBClient:
    given = {"table": "orders", "region": "us-east-1", "endpoint": url, **options}
    return await dynamodb_streams.connect_to_aws(DynamoDBOptions(**given))


def answers(by_operation: dict[str, Any]) -> Callable[[Request], Answer]:
    return lambda request: (200, json.dumps(by_operation[request[0]["x-amz-target"].rpartition(".")[2]]).encode())


def refusing(status: int, code: str, text: str = "told") -> Callable[[Request], Answer]:
    return lambda _: (status, json.dumps({"__type": code, "message": text}).encode())


RECORD = {"SequenceNumber": "5", "ApproximateArrivalTimestamp": 1.5, "Data": "eA==", "PartitionKey": "k"}


# --- what is asked --------------------------------------------------------------------------------------------------------------------


async def test_what_is_asked_of_kinesis() -> None:
    hashes = {"StartingHashKey": "0", "EndingHashKey": "9"}
    merged = {"ShardId": "s2", "ParentShardId": "s0", "AdjacentParentShardId": "s1", "HashKeyRange": hashes}
    closed = {"StartingSequenceNumber": "1", "EndingSequenceNumber": "3"}
    told = {
        "ListShards": {"Shards": [merged | {"SequenceNumberRange": closed}], "NextToken": "more"},
        "GetShardIterator": {"ShardIterator": "i"},
        "GetRecords": {"Records": [RECORD], "NextShardIterator": "j", "MillisBehindLatest": 2000},
    }
    arn = "arn:aws:kinesis:us-east-1:123456789012:stream/orders"
    async with loopback(answers(told)) as server:
        client = await streams_of(server.url)
        expected = Page((Shard("s2", ("s0", "s1"), "3"),), "more")
        assert await client.shards("orders") == await client.shards("orders", "more") == await client.shards(arn) == expected
        for start in (TRIM_HORIZON, Start("AT_TIMESTAMP", time=1.5), Start("AFTER_SEQUENCE_NUMBER", "5")):
            assert await client.iterator(arn, "s2", start) == "i"
        found = await client.records("i", "s2", 10)
        assert isinstance(found, Records)
        assert [(each.sequence, each.shard, each.data) for each in found.records] == [("5", "s2", "eA==")]
        assert (found.following, found.behind) == ("j", 2.0)
        await client.aclose()
        await client.aclose()
        shard = {"StreamARN": arn, "ShardId": "s2"}
        assert server.asked == [
            ("ListShards", {"StreamName": "orders"}),
            ("ListShards", {"NextToken": "more"}),
            ("ListShards", {"StreamARN": arn}),
            ("GetShardIterator", shard | {"ShardIteratorType": "TRIM_HORIZON"}),
            ("GetShardIterator", shard | {"ShardIteratorType": "AT_TIMESTAMP", "Timestamp": 1.5}),
            ("GetShardIterator", shard | {"ShardIteratorType": "AFTER_SEQUENCE_NUMBER", "StartingSequenceNumber": "5"}),
            ("GetRecords", {"ShardIterator": "i", "Limit": 10}),
        ]
        assert server.requests[-1][0]["content-type"] == "application/x-amz-json-1.1"
        assert "/us-east-1/kinesis/aws4_request" in server.requests[-1][0]["authorization"]


async def test_what_is_asked_of_dynamodb_streams() -> None:
    table = "arn:aws:dynamodb:us-east-1:123456789012:table/orders"
    older, newer, first, second = f"{table}/stream/2026-01", f"{table}/stream/2026-02", f"shardId-{1:020}-a", f"shardId-{2:020}-b"
    pages = iter([
        {"Streams": [{"StreamLabel": "2026-02", "StreamArn": newer}], "LastEvaluatedStreamArn": newer},
        {"Streams": [{"StreamLabel": "2026-01", "StreamArn": older}]},
    ])  # fmt: skip
    shards = [{"ShardId": second, "ParentShardId": first, "SequenceNumberRange": {"StartingSequenceNumber": "1"}}]
    keys = [{"AttributeName": "at", "KeyType": "RANGE"}, {"AttributeName": "id", "KeyType": "HASH"}]
    described = {"StreamStatus": "ENABLED", "StreamViewType": "NEW_IMAGE", "KeySchema": keys, "Shards": shards}
    told = {
        "DescribeStream": {"StreamDescription": described | {"LastEvaluatedShardId": second}},
        "GetShardIterator": {"ShardIterator": "i"},
        "GetRecords": {"Records": []},
    }
    number = "0" * 20 + "5"

    def answer(request: Request) -> Answer:
        listing = request[0]["x-amz-target"].endswith("ListStreams")
        return (200, json.dumps(next(pages)).encode()) if listing else answers(told)(request)

    async with loopback(answer) as server:
        client = await changes_of(server.url)
        assert await client.streams("orders") == [older, newer], "oldest first"
        page = await client.shards(newer, first)
        assert isinstance(page, Page)
        assert (page.shards, page.more) == ((Shard(second, (first,)),), second)
        assert (page.status, page.view, page.keys) == ("ENABLED", "NEW_IMAGE", ("id", "at"))
        assert await client.iterator(newer, second, Start("AT_SEQUENCE_NUMBER", number)) == "i"
        found = await client.records("i", second, 10)
        assert isinstance(found, Records)
        assert (found.records, found.following) == ([], None), "the end of the shard"
        await client.aclose()
        assert server.asked == [
            ("ListStreams", {"TableName": "orders"}),
            ("ListStreams", {"TableName": "orders", "ExclusiveStartStreamArn": newer}),
            ("DescribeStream", {"StreamArn": newer, "ExclusiveStartShardId": first}),
            (
                "GetShardIterator",
                {"StreamArn": newer, "ShardId": second, "ShardIteratorType": "AT_SEQUENCE_NUMBER", "SequenceNumber": number},
            ),
            ("GetRecords", {"ShardIterator": "i", "Limit": 10}),
        ]
        assert server.requests[-1][0]["content-type"] == "application/x-amz-json-1.0"
        assert "/us-east-1/dynamodb/aws4_request" in server.requests[-1][0]["authorization"]


# --- what is refused ------------------------------------------------------------------------------------------------------------------

Ask = Callable[[KinesisClient], Awaitable[Any]]
BOTH_WAYS: list[Ask] = [lambda client: client.records("i", "s", 1), lambda client: client.iterator("orders", "s", TRIM_HORIZON)]
"""Over our own signature, and over botocore."""


@pytest.mark.parametrize("ask", BOTH_WAYS, ids=["lean", "botocore"])
@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("ExpiredIteratorException", Expired),
        ("com.amazonaws.kinesis#ExpiredNextTokenException", Expired),
        ("ProvisionedThroughputExceededException", Throttled),
        ("LimitExceededException", Throttled),
        ("ThrottlingException", Throttled),
        ("KMSThrottlingException", Throttled),
        ("TrimmedDataAccessException", Trimmed),
        ("com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", Gone),
    ],
)
async def test_what_a_reader_must_act_upon_is_a_value(ask: Ask, code: str, expected: type[Any]) -> None:
    async with loopback(refusing(400, code)) as server:
        client = await streams_of(server.url)
        refused = await ask(client)
        await client.aclose()
    assert type(refused) is expected
    for part in ("orders", "us-east-1", server.url, "told"):
        assert part in refused.text
    assert getattr(refused, "after", 1.0) > 0


@pytest.mark.parametrize("ask", BOTH_WAYS, ids=["lean", "botocore"])
@pytest.mark.parametrize(
    ("status", "code", "expected", "permanent", "word"),
    [
        (400, "AccessDeniedException", NotConnected, True, "kinesis:GetRecords"),
        (400, "UnrecognizedClientException", NotConnected, True, "credentials"),
        (400, "KMSAccessDeniedException", NotConnected, True, "credentials"),
        (400, "KMSDisabledException", NotConnected, True, "key"),
        (400, "InvalidArgumentException", NotConnected, True, "told"),
        (500, "InternalFailure", NotConnected, False, "InternalFailure"),
        (400, "UnknownOperationException", SourceError, None, "endpoint"),
    ],
)
async def test_what_needs_time_or_a_person_is_raised(
    ask: Ask, status: int, code: str, expected: type[Exception], permanent: bool | None, word: str
) -> None:
    async with loopback(refusing(status, code)) as server:
        client = await streams_of(server.url)
        with pytest.raises(expected, match=word) as raised:
            await ask(client)
        await client.aclose()
    assert "orders" in str(raised.value)
    assert getattr(raised.value, "permanent", None) is permanent


CONSUMER = "arn:aws:kinesis:us-east-1:123456789012:stream/orders/consumer/fan-out:1545084650"


async def subscribed(client: KinesisClient) -> list[Any]:
    return [each async for each in client.subscribe(CONSUMER, "s", TRIM_HORIZON)]


@pytest.mark.parametrize(
    "ask",
    [
        *BOTH_WAYS,
        lambda client: client.stream("orders"),
        lambda client: client.shards("orders"),
        lambda client: client.describe_consumer(CONSUMER),
        subscribed,
    ],
    ids=["records", "iterator", "stream", "shards", "describe", "subscribe"],
)
async def test_a_page_of_a_proxy_is_no_answer(ask: Ask) -> None:
    async with loopback(lambda _: (200, b"<html>a proxy</html>")) as server:
        server.kind = b"text/html"
        client = await streams_of(server.url)
        with pytest.raises(NotConnected, match="endpoint"):
            await ask(client)
        server.answer = lambda _: (502, b"<html>bad gateway</html>")
        with pytest.raises(NotConnected):
            await ask(client)
        await client.aclose()


@pytest.mark.parametrize("ask", BOTH_WAYS, ids=["lean", "botocore"])
async def test_no_server_is_not_connected(ask: Ask) -> None:
    async with loopback(lambda _: (200, b"")) as server:
        pass
    client = await streams_of(server.url)
    with pytest.raises(NotConnected) as raised:
        await ask(client)
    await client.aclose()
    assert not raised.value.permanent


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.records("i", "s", 1),
        lambda client: client.streams("orders"),
        lambda client: client.shards("arn:aws:dynamodb:us-east-1:123456789012:table/orders/stream/2026"),
        lambda client: client.iterator(
            "arn:aws:dynamodb:us-east-1:123456789012:table/orders/stream/2026", f"shardId-{1:020}-a", TRIM_HORIZON
        ),
    ],
    ids=["records", "streams", "shards", "iterator"],
)
async def test_a_page_of_a_proxy_is_no_answer_of_dynamodb_either(ask: Callable[[DynamoDBClient], Awaitable[Any]]) -> None:
    async with loopback(lambda _: (200, b"<html>a proxy</html>")) as server:
        server.kind = b"text/html"
        client = await changes_of(server.url)
        with pytest.raises(NotConnected, match="endpoint"):
            await ask(client)
        await client.aclose()


async def test_an_endpoint_that_is_none_says_so() -> None:
    with pytest.raises(NotConnected, match="orders"):
        await streams_of("http://a b:1")


# --- the lean way ---------------------------------------------------------------------------------------------------------------------


async def test_a_connection_that_was_closed_meanwhile_is_no_failure() -> None:
    """A server closes what was idle for long; that shows only when it is used again."""
    asked = 0

    def answer(_: Request) -> Answer | None:
        nonlocal asked
        asked += 1
        return None if asked == 2 else (200, b'{"Records": []}')

    async with loopback(answer) as server:
        client = await streams_of(server.url)
        for _ in range(2):
            assert isinstance(await client.records("i", "s", 1), Records)
        assert asked == 3
        server.answer = lambda _: None
        with pytest.raises(NotConnected):
            await client.records("i", "s", 1)
        await client.aclose()


@pytest.mark.parametrize("hours", [-3, 3])
async def test_a_clock_that_is_off_is_corrected_once(hours: int) -> None:
    theirs = time.time() + hours * 3600

    def answer(request: Request) -> Answer:
        moment = datetime.strptime(request[0]["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
        if abs(moment - theirs) > 300:
            return refusing(400, "InvalidSignatureException", "Signature expired")(request)
        return 200, b'{"Records": []}'

    async with loopback(answer) as server:
        server.date = formatdate(theirs, usegmt=True)
        client = await streams_of(server.url)
        assert isinstance(await client.records("i", "s", 1), Records)
        assert len(server.requests) == 2
        assert isinstance(await client.records("i", "s", 1), Records)
        assert len(server.requests) == 3, "it stays corrected"
        server.answer = refusing(400, "InvalidSignatureException")
        with pytest.raises(NotConnected, match="credentials"):
            await client.records("i", "s", 1)
        assert len(server.requests) == 4, "a wrong key is not tried again"
        await client.aclose()


async def test_no_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    client = await streams_of("http://127.0.0.1:1")
    for ask in BOTH_WAYS:
        with pytest.raises(NotConnected, match="no usable credentials") as raised:
            await ask(client)
        assert raised.value.permanent
    await client.aclose()
    with pytest.raises(NotConnected, match="AWS_REGION"):
        await kinesis.connect_to_aws(KinesisOptions(stream="orders"))
    with pytest.raises(NotConnected, match="no usable credentials"):
        await streams_of("http://127.0.0.1:1", profile="nobody")


def assumed(number: int, end: datetime) -> bytes:
    return f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
        <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/poller/poller</Arn><AssumedRoleId>A:poller</AssumedRoleId>
        </AssumedRoleUser><Credentials><AccessKeyId>ROLE{number}</AccessKeyId><SecretAccessKey>s</SecretAccessKey>
        <SessionToken>token{number}</SessionToken><Expiration>{end:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>
        </AssumeRoleResult></AssumeRoleResponse>""".encode()


async def test_credentials_of_a_role_are_renewed_and_their_token_is_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def answer(request: Request) -> Answer:
        nonlocal count
        if b"Action=AssumeRole" not in request[1]:
            return 200, b'{"Records": []}'
        count += 1
        # The first is about to expire: botocore renews well before the end.
        return 200, assumed(count, datetime.now(UTC) + timedelta(minutes=5 if count == 1 else 60))

    async with loopback(answer) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        client = await streams_of(server.url, role_arn="arn:aws:iam::123456789012:role/poller")
        assert count == 0  # only when something is asked
        for _ in range(3):
            assert isinstance(await client.records("i", "s", 1), Records)
        await client.aclose()
    used = [headers for headers, _ in server.requests if "x-amz-target" in headers]
    assert count == 2
    assert used[-1]["x-amz-security-token"] == "token2"
    assert "Credential=ROLE2/" in used[-1]["authorization"]
    assert all("x-amz-security-token" in each["authorization"] for each in used), "it is among the signed headers"


async def test_a_role_that_may_not_be_assumed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    denied = b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>not you</Message></Error></ErrorResponse>"
    async with loopback(lambda _: (403, denied)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", server.url)
        client = await streams_of(server.url, role_arn="arn:aws:iam::123456789012:role/poller")
        for ask in BOTH_WAYS:
            with pytest.raises(NotConnected, match="role_arn") as raised:
                await ask(client)
            assert raised.value.permanent
        await client.aclose()


async def test_nothing_shows_a_secret() -> None:
    client = await streams_of("http://127.0.0.1:1")
    assert "open" in repr(client)
    assert "MINE" not in repr(client)
    await client.aclose()
    assert "closed" in repr(client)
