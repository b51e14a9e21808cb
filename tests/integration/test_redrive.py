"""`poller replay --from`: dead letters of real queues and buckets, and records fetched again from real streams, through the command."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from click.testing import CliRunner, Result

from connectors.aws.options import SendOptions
from connectors.kafka import connector as kafka_connector
from connectors.kafka.destination import TopicOptions
from connectors.kafka.destination import kind as topic_kind
from connectors.kafka.format import KafkaFormat
from connectors.kinesis.batch_info import described as kinesis_info
from connectors.sqs import SqsConnector
from connectors.sqs.destination import kind as queue_kind
from poller.cli import program
from poller.config import load
from poller.errors import NotConnected
from poller.failures.entry import entry as failed
from poller.failures.invocation import record
from poller.failures.journal import Delivery, KeptRecord, Row, Selection
from poller.model import Failure, Fault
from poller.redrive.letters import GROUPS, DeadLetters, Letter, RedriveContext
from poller.redrive.taking import take
from poller.registry import Registry
from poller.stores.sqlite import open_store
from poller.testing.destinations import context
from poller.testing.journals import make_entry
from tests.servers.aws import ACCOUNT, REGION
from tests.servers.dynamodb.client import TablesClient
from tests.servers.kafka.broker import Kafka
from tests.servers.kafka.client import KafkaClient, Message
from tests.servers.kinesis.client import StreamsClient
from tests.servers.receivers import client

Outside: TypeAlias = Callable[[Coroutine[Any, Any, Any]], Any]

pytestmark = [pytest.mark.servers, pytest.mark.usefixtures("aws_credentials")]

FUNCTION = """
import json, pathlib

def handle(event, context):
    with open(pathlib.Path(__file__).parent / "handled", "a") as file:
        file.write(json.dumps(event) + "\\n")
"""
CONFIG = """
[poller]
store = "sqlite:poller.db"

[functions.orders]
handler = "app.py:handle"
inline = "thread"

[mappings.orders]
function = "orders"
on_failure = ON_FAILURE

[mappings.orders.source]
"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "app.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configure(site: Path, on_failure: str = "[]", **source: Any) -> None:
    lines = [f"{key} = {json.dumps(value)}" for key, value in source.items()]
    (site / "poller.toml").write_text(CONFIG.replace("ON_FAILURE", on_failure) + "\n".join(lines) + "\n")


def run(*arguments: str, code: int = 0) -> Result:
    call = ["replay", "--mapping", "orders", *arguments]
    result = CliRunner().invoke(program, call, env={"POLLER_CONFIG": None})
    assert result.exit_code == code, (result.output, result.exception)
    return result


def taken(*arguments: str, code: int = 0) -> dict[str, Any]:
    """What it says of what it took."""
    found: dict[str, Any] = json.loads(run(*arguments, "--json", code=code).stdout.splitlines()[0])
    return found


def handled() -> list[dict[str, Any]]:
    path = Path("handled")
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Queues:
    """A queue and its dead-letter queue."""

    def __init__(self, sqs: Any, url: str, kind: str) -> None:
        self.sqs, self.url, self.fifo = sqs, url, kind == ".fifo"
        name = f"q-{uuid.uuid4().hex}"
        self.names = f"{name}{kind}", f"{name}-dlq{kind}"
        self.arn, self.dead = (f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}" for name in self.names)

    async def create(self) -> None:
        fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "true"} if self.fifo else {}
        self.dead_url = (await self.sqs.create_queue(QueueName=self.names[1], Attributes=fifo))["QueueUrl"]
        policy = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": self.dead, "maxReceiveCount": 1})}
        self.queue_url = (await self.sqs.create_queue(QueueName=self.names[0], Attributes=policy | fifo))["QueueUrl"]

    async def move(self, *bodies: str) -> None:
        """As its redrive policy does it: each was received once too often. Of a FIFO queue the first letter is the group."""
        for body in bodies:
            await self.sqs.send_message(QueueUrl=self.queue_url, MessageBody=body, **({"MessageGroupId": body[0]} if self.fifo else {}))
        for _ in range(2):
            for _ in bodies:
                await self.sqs.receive_message(QueueUrl=self.queue_url, VisibilityTimeout=0)

    async def send(self, body: str, group: str = "", **attributes: str) -> None:
        """Into the dead-letter queue itself."""
        told = {name: {"DataType": "String", "StringValue": value} for name, value in attributes.items()}
        grouped = {"MessageGroupId": group} if group else {}
        await self.sqs.send_message(QueueUrl=self.dead_url, MessageBody=body, MessageAttributes=told, **grouped)

    async def left(self) -> tuple[int, int]:
        """Messages that can be received, and hidden ones."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = (await self.sqs.get_queue_attributes(QueueUrl=self.dead_url, AttributeNames=names))["Attributes"]
        return int(found[names[0]]), int(found[names[1]])


@pytest.fixture
def outside() -> Iterator[Outside]:
    """Runs what a test does to servers: the command has a loop of its own, in this thread."""
    with asyncio.Runner() as runner:
        yield runner.run


@pytest.fixture
def closing(outside: Outside) -> Iterator[AsyncExitStack]:
    stack = AsyncExitStack()
    yield stack
    outside(stack.aclose())


async def queues(stack: AsyncExitStack, url: str, kind: str = "") -> Queues:
    made = Queues(await stack.enter_async_context(client("sqs", url)), url, kind)
    await made.create()
    return made


def rows(site: Path, outside: Outside) -> Sequence[Row]:
    async def read() -> Sequence[Row]:
        store = await open_store(site / "poller.db")
        try:
            return await store.journal.select(Selection(states=()))
        finally:
            await store.aclose()

    found: Sequence[Row] = outside(read())
    return found


def test_messages_of_a_dead_letter_queue_run_as_those_of_the_queue_once(
    site: Path, elasticmq: str, outside: Outside, closing: AsyncExitStack
) -> None:
    at = outside(queues(closing, elasticmq))
    configure(site, type="sqs", queue=at.arn, endpoint=elasticmq)
    outside(at.move("one", "two"))
    outside(at.send(json.dumps({"id": "a"}), RequestID="r-1", ErrorCode="200", ErrorMessage="it broke"))
    outside(at.send(recorded("f" * 32, function="another")))

    dry = taken("--from", at.dead, "--dry-run")
    assert (dry["taken"], dry["left_count"], dry["removed"]) == (3, 1, 0)
    assert "failed in function another" in dry["left"][0]["why"]
    assert outside(at.left()) == (4, 0), "nothing was taken, and nothing stays hidden"
    assert not (site / "poller.db").exists()

    told = run("--from", at.dead).stdout
    assert "took 3 failures with 3 records" in told
    assert "3 failures replayed" in told
    assert outside(at.left()) == (1, 0), "what is another function's is left, and given back"
    events = sorted(handled(), key=lambda event: "id" in event)
    assert sorted(event["Records"][0]["body"] for event in events[:2]) == ["one", "two"]
    assert {event["Records"][0]["eventSourceARN"] for event in events[:2]} == {at.arn}
    assert "DeadLetterQueueSourceArn" not in events[0]["Records"][0]["attributes"]
    assert events[2] == {"id": "a"}
    assert len(handled()) == 3
    found = rows(site, outside)
    assert {(row.state, row.entry.taken_from) for row in found} == {("replayed", at.dead)}
    assert sorted(row.entry.fault.message if row.entry.fault else "" for row in found) == ["", "", "it broke"]


def test_messages_of_a_dead_letter_queue_go_back_into_their_queue(
    site: Path, elasticmq: str, outside: Outside, closing: AsyncExitStack
) -> None:
    at = outside(queues(closing, elasticmq))
    configure(site, type="sqs", queue=at.arn, endpoint=elasticmq)
    outside(at.move("one", "two"))
    assert "2 failures sent" in run("--from", at.dead, "--to", "source").stdout
    assert (outside(at.left()), handled()) == ((0, 0), [])
    found = outside(at.sqs.receive_message(QueueUrl=at.queue_url, MaxNumberOfMessages=10))["Messages"]
    assert sorted(each["Body"] for each in found) == ["one", "two"]
    assert {row.state for row in rows(site, outside)} == {"replayed"}


def test_what_cannot_be_written_to_says_so_and_every_failure_stays(site: Path, outside: Outside) -> None:
    configure(site, type="dynamodb-streams", table="orders")

    async def fill() -> None:
        store = await open_store(site / "poller.db")
        await store.journal.append([make_entry("a" * 32, "1")])
        await store.aclose()

    outside(fill())
    said = run("--to", "source", code=2).stderr
    assert "of type 'dynamodb-streams', cannot be written to; name the address of a destination" in said
    assert [row.state for row in rows(site, outside)] == ["kept"]


def test_messages_of_a_fifo_dead_letter_queue_are_taken_in_the_order_of_their_groups(
    site: Path, elasticmq: str, outside: Outside, closing: AsyncExitStack
) -> None:
    at = outside(queues(closing, elasticmq, ".fifo"))
    configure(site, type="sqs", queue=at.arn, endpoint=elasticmq)
    bodies = [f"{group}{number:02}" for number in range(11) for group in "ab"]  # more of a group than one receive brings
    outside(at.move(*bodies))
    # As many failures of another function as one receive brings, and what stands behind them in their group.
    for number in range(10):
        outside(at.send(recorded(f"{number:032}", function="another"), group="c"))
    outside(at.send("behind", group="c"))

    dry = taken("--from", at.dead, "--dry-run")
    assert dry["taken"] < 22
    assert dry["remarks"] == [GROUPS], "a look alone does not see all of a group, and says so"
    assert outside(at.left()) == (33, 0)

    found = taken("--from", at.dead, "--concurrency", "1")
    assert (found["taken"], found["removed"], found["remarks"]) == (22, 22, [GROUPS])
    assert 1 <= found["left_count"] <= 10
    events = [event["Records"][0] for event in handled()]
    assert {each["eventSourceARN"] for each in events} == {at.arn}
    assert all(each["attributes"]["MessageGroupId"] == each["body"][0] for each in events)
    for group in "ab":
        assert [each["body"] for each in events if each["body"][0] == group] == [body for body in bodies if body[0] == group]
    # In the journal they have their groups as keys, and the queue's own identity.
    assert {(row.state, row.entry.source, row.entry.records[0].key) for row in rows(site, outside)} == {
        ("replayed", at.arn, group) for group in "ab"
    }
    assert outside(at.left()) == (11, 0)


def recorded(id: str, **fields: Any) -> str:
    """An invocation record of ours."""
    return record(Delivery(1, id, "d", "failure", make_entry(id, **fields)), context()).decode()


def of_stream(arn: str, *put: tuple[str, str], exact: bool, id: str = "c" * 32) -> str:
    """AWS's record of these records of a stream (shard, sequence number); `exact`: without its event."""
    elements: list[dict[str, Any]] = [
        {
            "kinesis": {"partitionKey": "k", "sequenceNumber": number, "data": "eA==", "approximateArrivalTimestamp": 1573691884.835},
            "eventID": f"{shard}:{number}",
            "eventSource": "aws:kinesis",
            "eventSourceARN": arn,
        }
        for shard, number in put
    ]
    kept = tuple(KeptRecord(each["eventID"], "k", 1573691884.835, json.dumps(each).encode()) for each in elements)
    batch = make_entry(id, function="orders", records=kept, lane=put[0][0], first=kept[0].id, last=kept[-1].id)
    return record(Delivery(1, id, "d", "failure", batch), context(kinesis_info, exact=exact)).decode()


def test_records_that_a_pointer_names_are_fetched_from_their_stream_while_it_has_them(
    site: Path, elasticmq: str, kinesis_local: str, outside: Outside, closing: AsyncExitStack
) -> None:
    at, streams = outside(queues(closing, elasticmq)), outside(closing.enter_async_context(StreamsClient(kinesis_local)))
    name = outside(streams.create())
    arn = outside(streams.summary(name))["StreamARN"]
    put = outside(streams.put(name, [("k", f"order {number}".encode()) for number in range(6)]))
    configure(site, type="kinesis", stream=arn, endpoint=kinesis_local)
    shard, first = put[0]
    outside(at.send(of_stream(arn, *put[1:4], exact=True)))
    outside(at.send(of_stream(arn, (shard, str(int(first) - 10)), put[0], exact=True)))  # it begins before all that is kept
    outside(at.send(of_stream(arn.replace(name, "another"), *put[1:3], exact=True)))
    origin = f'{{ to = "{at.dead}", endpoint = "{elasticmq}" }}'

    told = run("--from", origin, "--dry-run", code=1).stdout
    assert "would take 1 failure with 3 records" in told
    assert re.search(r"the records of 1 were fetched from their source, which keeps the first of them until 20", told)
    assert "LOST: the records of 1 are gone" in told
    assert "it is of another stream" in told

    found = taken("--from", origin, code=1)
    assert (found["taken"], found["fetched"], found["gone"], found["left_count"], found["removed"]) == (1, 1, 1, 2, 1)
    assert found["until"] - time.time() == pytest.approx(86_400, abs=120)
    assert outside(at.left()) == (2, 0), "what could not be fetched is not removed"
    (event,) = handled()
    assert [base64.b64decode(each["kinesis"]["data"]) for each in event["Records"]] == [b"order 1", b"order 2", b"order 3"]
    assert [each["eventID"] for each in event["Records"]] == [f"{shard}:{number}" for shard, number in put[1:4]]
    (row,) = rows(site, outside)
    assert (row.state, row.entry.lane) == ("replayed", shard)
    assert row.entry.source.startswith(f"{arn}@"), "as the mapping itself names it: its own failures of these records are the same row"


def test_changes_that_a_pointer_names_are_fetched_from_their_stream(
    site: Path, elasticmq: str, dynamodb: str, outside: Outside, closing: AsyncExitStack
) -> None:
    at, tables = outside(queues(closing, elasticmq)), outside(closing.enter_async_context(TablesClient(dynamodb)))
    name = outside(tables.create())
    outside(tables.put(name, *({"id": {"S": str(number)}} for number in range(4))))
    arn = outside(tables.stream(name))
    configure(site, type="dynamodb-streams", table=name, endpoint=dynamodb, region=REGION)
    shard, numbers = outside(changes(closing, dynamodb, arn))
    outside(at.send(of_table(arn, shard, numbers[1:3])))
    outside(at.send(of_table(arn, "shardId-00000000000000000000-00000000", numbers[1:3])))  # a shard that is gone
    found = taken("--from", f'{{ to = "{at.dead}", endpoint = "{elasticmq}" }}', code=1)
    assert (found["taken"], found["records"], found["gone"], found["removed"]) == (1, 2, 1, 1)
    (event,) = handled()
    assert [each["dynamodb"]["Keys"]["id"]["S"] for each in event["Records"]] == ["1", "2"]
    assert {each["eventSourceARN"] for each in event["Records"]} == {arn}
    assert [row.entry.source for row in rows(site, outside)] == [arn.partition("/stream/")[0]]


async def changes(stack: AsyncExitStack, url: str, arn: str) -> tuple[str, list[str]]:
    """The one shard of a stream, and the sequence numbers in it."""
    streams = await stack.enter_async_context(client("dynamodbstreams", url))
    (shard,) = (await streams.describe_stream(StreamArn=arn))["StreamDescription"]["Shards"]
    begin = {"StreamArn": arn, "ShardId": shard["ShardId"], "ShardIteratorType": "TRIM_HORIZON"}
    iterator = (await streams.get_shard_iterator(**begin))["ShardIterator"]
    found = (await streams.get_records(ShardIterator=iterator))["Records"]
    return shard["ShardId"], [each["dynamodb"]["SequenceNumber"] for each in found]


def of_table(arn: str, shard: str, numbers: Sequence[str]) -> str:
    info = {"shardId": shard, "startSequenceNumber": numbers[0], "endSequenceNumber": numbers[-1], "batchSize": len(numbers)}
    told = json.loads(of_stream(arn, (shard, numbers[0]), exact=True))
    del told["KinesisBatchInfo"]
    return json.dumps(told | {"DDBStreamBatchInfo": info | {"streamArn": arn}})


def test_objects_of_a_bucket_are_left_and_recognised(
    site: Path, kinesis_local: str, aws_services: str, outside: Outside, closing: AsyncExitStack
) -> None:
    s3 = outside(closing.enter_async_context(client("s3", aws_services)))
    bucket, arn = f"b-{uuid.uuid4().hex}", f"arn:aws:kinesis:{REGION}:{ACCOUNT}:stream/orders"
    outside(s3.create_bucket(Bucket=bucket))
    ours, exact = of_stream(arn, ("shardId-0", "7"), exact=False, id="a" * 32), json.loads(of_stream(arn, ("shardId-0", "8"), exact=True))
    exact["payload"] = json.loads(of_stream(arn, ("shardId-0", "8"), exact=False))["payload"]  # as AWS writes it to a bucket
    for key, body in {"aws/lambda/1": ours, "aws/lambda/2": json.dumps(exact), "aws/lambda/3": "hello", "other": ours}.items():
        outside(s3.put_object(Bucket=bucket, Key=key, Body=body.encode()))
    pointers = [
        json.loads(of_stream(arn, ("shardId-0", "9"), exact=True)) | {"payloadIn": f"s3://{bucket}/{key}"} for key in ("large", "gone")
    ]
    (site / "pointers.jsonl").write_text("".join(json.dumps(each) + "\n" for each in pointers))
    outside(s3.put_object(Bucket=bucket, Key="large", Body=of_stream(arn, ("shardId-0", "9"), exact=False).encode()))
    # The stream is gone; what lies in objects can be run all the same.
    on_failure = f'{{ to = "s3://{bucket}/aws/", endpoint = "{aws_services}" }}'
    configure(site, on_failure, type="kinesis", stream=arn, endpoint=kinesis_local)

    told = run("--from", f"s3://{bucket}/aws/").stdout
    assert "took 2 failures with 2 records" in told
    assert f"s3://{bucket}/aws/lambda/3: it is no invocation record" in told
    assert "objects are left in the bucket" in told
    assert sorted(each["kinesis"]["sequenceNumber"] for event in handled() for each in event["Records"]) == ["7", "8"]
    again = taken("--from", f"s3://{bucket}/aws/")
    assert (again["taken"], again["handled"], again["left_count"], again["rows"]) == (0, 2, 1, [])
    assert len(handled()) == 2

    pointed = taken("--from", "file:pointers.jsonl")
    assert (pointed["taken"], [each["why"] for each in pointed["left"]]) == (
        1,
        [f"its event should be at s3://{bucket}/gone, where nothing is"],
    )
    assert handled()[2]["Records"][0]["kinesis"]["sequenceNumber"] == "9"


async def kafka_at(stack: AsyncExitStack, bootstrap: str) -> KafkaClient:
    return await stack.enter_async_context(KafkaClient(bootstrap))


async def dead_letters(kafka: Kafka, client: KafkaClient, topic: str, dead: str, path: Path) -> None:
    """Four records failed: one in a topic as AWS has it, one raw, and two in a file, as AWS points to them."""
    read = await client.read(topic, 4)
    names: dict[str, Any] = {"mapping": "orders", "source": "s", "lane": f"{topic}-0", "function": "orders"}
    fault, shape = Fault("error", "E", "no"), KafkaFormat(kafka.bootstrap, topic, 0)
    kept = [
        failed(Failure(some, "RetryAttemptsExhausted", 3, fault), shape, now=time.time(), **names)
        for some in (read[:1], read[1:2], read[2:])
    ]
    for number, options in enumerate((TopicOptions(), TopicOptions(raw=True))):
        destination = await topic_kind.open(f"kafka://{kafka.bootstrap}/{dead}", options, context(kafka_connector.describe))
        await destination.send(Delivery(1, kept[number].id, "", "failure", kept[number]))
        await destination.aclose()
    await client.produce(dead, [b"hello"])
    told = json.loads(record(Delivery(1, kept[2].id, "", "failure", kept[2]), context(kafka_connector.describe, exact=True)))
    gone = json.loads(json.dumps(told).replace(f'"{read[3].offset}"', '"99"'))
    path.write_text(f"{json.dumps(told)}\n{json.dumps(gone)}\n[]\n" + json.dumps(told))


def test_letters_of_a_topic_and_a_file_run_as_the_records_they_were(
    site: Path, kafka: Kafka, outside: Outside, closing: AsyncExitStack
) -> None:
    client = outside(kafka_at(closing, kafka.bootstrap))
    topic, dead = outside(client.create_topic()), outside(client.create_topic())
    orders = [Message(f"order {number}".encode(), b"k\xff", headers=(("trace", b"\x80"),)) for number in range(4)]
    outside(client.produce(topic, orders))
    outside(dead_letters(kafka, client, topic, dead, site / "dead.jsonl"))
    configure(site, type="kafka", topic=topic, bootstrap_servers=[kafka.bootstrap])

    found = taken("--from", f"kafka://{dead}")
    assert (found["taken"], found["left_count"]) == (2, 1)
    assert found["left"][0]["name"] == f"{dead}-0@2"
    committed = outside(client.committed("poller-redrive-orders"))
    assert {place.topic: each.offset for place, each in committed.items()}[dead] == 2, "what could not be understood is read again"
    elements = [each for event in handled() for each in event["records"][f"{topic}-0"]]
    assert sorted((each["offset"], base64.b64decode(each["value"]), base64.b64decode(each["key"])) for each in elements) == [
        (number, f"order {number}".encode(), b"k\xff") for number in range(2)
    ]
    assert [each["headers"] for each in elements] == [[{"trace": [-128]}]] * 2
    assert {(row.entry.fault.type, row.entry.fault.message) for row in rows(site, outside) if row.entry.fault} == {("E", "no")}
    assert (taken("--from", f"kafka://{dead}")["found"], len(handled())) == (1, 2)

    found = taken("--from", "file:dead.jsonl", code=1)
    assert (found["found"], found["taken"], found["records"], found["gone"], found["left_count"]) == (3, 1, 2, 1, 2)
    elements = [each for event in handled()[2:] for each in event["records"][f"{topic}-0"]]
    assert [each["offset"] for each in elements] == [2, 3]
    assert (taken("--from", "file:dead.jsonl", code=1)["handled"], len(handled())) == (1, 3)


class Dying:
    """Dead letters whose taker dies before they are removed."""

    def __init__(self, letters: DeadLetters) -> None:
        self._letters = letters
        self.stays, self.behind, self.fetch, self.aclose = letters.stays, letters.behind, letters.fetch, letters.aclose

    async def remove(self, letters: Sequence[Letter]) -> int:
        raise NotConnected("killed")


def test_who_is_killed_before_it_removes_takes_no_letter_twice(
    site: Path, elasticmq: str, outside: Outside, closing: AsyncExitStack
) -> None:
    at = outside(queues(closing, elasticmq))
    configure(site, type="sqs", queue=at.arn, endpoint=elasticmq)
    outside(at.move("one", "two"))
    mapping = load(site / "poller.toml", Registry(), {}).mappings["orders"]
    about = RedriveContext(mapping.settings, mapping.options, site, site, time.time)

    async def killed() -> None:
        store, connector = await open_store(site / "poller.db"), SqsConnector()
        letters, regainer = await queue_kind.letters(at.dead, SendOptions(), about), connector.regainer(mapping.options, about)
        with pytest.raises(NotConnected, match="killed"):
            await take(Dying(letters), regainer, store.journal, about, at.dead)
        for each in (letters, regainer, store):
            await each.aclose()

    outside(killed())
    assert len(rows(site, outside)) == 2
    assert outside(at.left()) == (2, 0)
    found = taken("--from", at.dead)
    assert (found["taken"], found["known"], found["removed"]) == (0, 2, 2)
    assert sorted(event["Records"][0]["body"] for event in handled()) == ["one", "two"]
    assert len(rows(site, outside)) == 2
    assert outside(at.left()) == (0, 0)
