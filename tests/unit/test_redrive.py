"""Dead letters understood: what an invocation record tells makes the failure that it is of, whatever it came wrapped in."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from connectors.dynamodb_streams import DynamoDBConnector
from connectors.dynamodb_streams.client import Change, ChangeRecord
from connectors.dynamodb_streams.format import ChangeFormat
from connectors.dynamodb_streams.options import DynamoDBOptions
from connectors.file import FileOptions
from connectors.file import kind as files
from connectors.kinesis.client import LIMITS, KinesisRecord
from connectors.kinesis.format import KinesisFormat
from connectors.local import QueueOptions, StreamOptions, queue_connector, stream_connector
from connectors.local.destination import LocalQueueOptions
from connectors.local.destination import kind as embedded
from connectors.local.format import Entry as StreamRecord
from connectors.local.format import EntryFormat
from connectors.sharded import ranges
from connectors.sharded.dialect import Dialect
from connectors.sharded.sequence import Start
from connectors.sharded.shards import Page, Records
from connectors.sqs import SqsConnector, SqsOptions
from connectors.sqs.format import SqsFormat
from poller.cli import program
from poller.errors import NotConnected, SourceError
from poller.failures.entry import entry
from poller.failures.invocation import Form, record
from poller.failures.journal import Delivery, Entry, Selection
from poller.feed import Item
from poller.model import Failure, Fault
from poller.protocols import Format
from poller.redrive.entries import understood
from poller.redrive.letters import Letter, RangeGone, RedriveContext, Regaining
from poller.redrive.record import told
from poller.redrive.taking import take
from poller.settings import Batching, FailureSettings, MappingSettings
from poller.stores.memory import MemoryStore
from poller.testing.destinations import context

MAPPING = MappingSettings("orders", "orders", "handle", Batching(10), FailureSettings(), 1)
QUEUE, STREAM = "arn:aws:sqs:us-east-1:123456789012:orders", "arn:aws:kinesis:local:000000000000:stream/orders"
TABLE = "arn:aws:dynamodb:us-east-1:123456789012:table/orders"
NOW = 2_000_000_000.0

Kind = tuple[Regaining, Any, str, str]
"""A connector with its options, and its source's identity and lane."""

KINDS: dict[str, Kind] = {
    "queue": (SqsConnector(), SqsOptions(queue=QUEUE), QUEUE, "orders"),
    "table": (DynamoDBConnector(), DynamoDBOptions(table=TABLE), TABLE, "shardId-1"),
    "stream": (stream_connector, StreamOptions(name="orders"), "local-stream::orders", "shardId-000000000000"),
}

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@st.composite
def failures(draw: st.DrawFn) -> tuple[str, Entry]:
    """As the engine keeps them, of any kind of source."""
    name = draw(st.sampled_from(sorted(KINDS)))
    _, _, source, lane = KINDS[name]
    bodies = draw(st.lists(texts, min_size=1, max_size=3))
    records: Sequence[Any]
    shape: Format
    match name:
        case "queue":
            records, shape = [message(number, body) for number, body in enumerate(bodies)], SqsFormat(QUEUE, "us-east-1")
        case "table":
            records = [change(number, body) for number, body in enumerate(bodies)]
            shape = ChangeFormat(f"{TABLE}/stream/2026")
        case _:
            records = [StreamRecord(lane, number, 1.5, body, body.encode()) for number, body in enumerate(bodies)]
            shape = EntryFormat("orders")
    fault = draw(st.one_of(st.none(), st.builds(Fault, st.just("error"), texts, texts, st.lists(texts, max_size=2).map(tuple))))
    failure = Failure(records, "RetryAttemptsExhausted", 3, fault)
    return name, entry(failure, shape, mapping="orders", source=source, lane=lane, function="handle", now=1000.5, request_id="r-1")


def message(number: int, body: str) -> dict[str, Any]:
    attributes = {"SentTimestamp": "1500", "ApproximateReceiveCount": "3", "MessageGroupId": "g"}
    return {"MessageId": f"m-{number}", "ReceiptHandle": "h", "Body": body, "Attributes": attributes, "MD5OfBody": "0"}


def change(number: int, body: str) -> ChangeRecord:
    keys = msgspec.Raw(json.dumps({"id": {"S": body}, "n": {"N": "1.00"}}).encode())
    return ChangeRecord(
        "e", "INSERT", Change(created=1.0, keys=keys, sequence=f"{number:021d}"), shard="shardId-1", stream=f"{TABLE}/stream/2026"
    )


def about(name: str) -> RedriveContext:
    return RedriveContext(MAPPING, KINDS[name][1], Path("/nowhere"), Path("/nowhere"), lambda: NOW)


async def read(body: bytes, name: str = "queue", **attributes: str) -> Entry:
    connector, options, *_ = KINDS[name]
    letter = Letter("l-1", body, 5.0, attributes)
    return (await understood(letter, about(name), connector.regainer(options, about(name)), "somewhere")).entry


def described(name: str) -> Any:
    connector: Any = KINDS[name][0]
    return connector.describe


@given(failures(), st.sampled_from(["text", "object"]))
async def test_a_record_of_a_failure_makes_it_again(failed: tuple[str, Entry], form: Form) -> None:
    """Law: the same row, by its id; and the same event, byte for byte."""
    name, had = failed
    made = await read(record(Delivery(1, had.id, "", "failure", had), context(described(name)), form=form), name)
    assert made == replace(had, time=made.time, taken_from="somewhere")
    assert made.time == pytest.approx(had.time)


def failed_message(number: int = 1, queue: str = QUEUE) -> Entry:
    names: dict[str, Any] = {"mapping": "orders", "source": queue, "lane": queue.rpartition(":")[2], "function": "handle"}
    failure = Failure([message(number, "x")], "RetryAttemptsExhausted", 3)
    return entry(failure, SqsFormat(queue, "us-east-1"), now=1000.0, request_id="r-1", **names)


async def test_a_record_comes_out_of_what_it_was_wrapped_in() -> None:
    had = failed_message()
    body = record(Delivery(1, had.id, "", "failure", had), context(described("queue")))
    event = {"detail-type": "Lambda Function Invocation Result - Failure", "detail": json.loads(body)}
    notice = {"Type": "Notification", "MessageId": "1", "TopicArn": "t", "Message": body.decode(), "Timestamp": "2026-01-01T00:00:00Z"}
    for wrapped in (event, notice):
        assert await read(json.dumps(wrapped).encode()) == replace(had, taken_from="somewhere")


async def test_aws_records_of_asynchronous_invocations_hold_any_event() -> None:
    """AWS Lambda guide, "Capturing records of Lambda asynchronous invocations": its example."""
    body = {
        "version": "1.0",
        "timestamp": "2019-11-14T18:16:05.568Z",
        "requestContext": {
            "requestId": "e4b46cbf-b738-xmpl-8880-a18cdf61200e",
            "functionArn": "arn:aws:lambda:us-east-2:123456789012:function:my-function:$LATEST",
            "condition": "RetriesExhausted",
            "approximateInvokeCount": 3,
        },
        "requestPayload": {"ORDER_IDS": ["9e07af03", 12345678901234567890123]},
        "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", "functionError": "Unhandled"},
        "responsePayload": {"errorMessage": "RequestId: ... Process exited before completing request"},
    }
    made = await read(json.dumps(body).encode())
    assert (made.head, made.tail, len(made.records)) == (b"", b"", 1)
    assert json.loads(made.records[0].json) == body["requestPayload"]
    assert b"12345678901234567890123" in made.records[0].json
    assert (made.reason, made.attempts, made.time) == ("RetryAttemptsExhausted", 3, 1573755365.568)
    assert made.fault == Fault("error", "Unhandled", "RequestId: ... Process exited before completing request")


async def test_a_dead_letter_of_a_topics_subscription_runs_as_what_its_subscriber_would_have_got() -> None:
    notice = {
        "Type": "Notification", "MessageId": "m-1", "TopicArn": "arn:aws:sns:us-east-1:1:t", "Message": "hello", "SignatureVersion": "1",
        "Timestamp": "2026-01-01T00:00:00Z", "SigningCertURL": "https://c", "UnsubscribeURL": "https://u/?Action=U&SubscriptionArn=arn:s",
    }  # fmt: skip
    dead = {"RequestID": "r-1", "ErrorCode": "403", "ErrorMessage": "not authorized"}
    made = await read(json.dumps(notice).encode(), "stream", **dead)
    (element,) = json.loads(made.records[0].json)["Records"]
    assert (element["EventSource"], element["EventSubscriptionArn"]) == ("aws:sns", "arn:s")
    assert (element["Sns"]["Message"], element["Sns"]["SigningCertUrl"], element["Sns"]["Subject"]) == ("hello", "https://c", None)
    assert made.fault == Fault("error", "ErrorCode 403", "not authorized")


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"hello", "no invocation record"),
        (b"[]", "no invocation record"),
        (b'{"version": "1.0", "requestContext": {"condition": "Success"}, "requestPayload": {}}', "a success"),
        (b'{"version": "1.0", "requestContext": {}, "payload": "{}"}', "no list of Records"),
        (b'{"version": "1.0", "requestContext": {}, "payload": "{\\"Records\\": []}"}', "final invocation"),
        (b'{"version": "1.0", "requestContext": {}, "payload": "{\\"Records\\": [{}]}"}', "KeyError"),
        (b'{"version": "1.0", "requestContext": {}, "payloadIn": "s3://b/k"}', "s3://b/k"),
        (b'{"version": "1.0", "requestContext": {}, "KinesisBatchInfo": {}}', "cannot be received again"),
    ],
)
async def test_what_is_no_failure_of_this_mapping_is_refused_with_a_reason(body: bytes, why: str) -> None:
    with pytest.raises(SourceError, match=why):
        await read(body)


async def test_another_queues_failures_are_refused() -> None:
    had = failed_message(queue=QUEUE.replace("orders", "others"))
    with pytest.raises(SourceError, match="of another queue"):
        await read(record(Delivery(1, had.id, "", "failure", had), context(described("queue"))))


def test_an_id_that_is_none_names_no_row() -> None:
    """It would be a prefix, of others' failures."""
    found = told(b'{"version": "1.0", "requestContext": {}, "id": "ab", "payload": {}}')
    assert found is not None
    assert found.id == ""


class Box:
    """`DeadLetters` in memory, whose removal fails when it is told to."""

    stays = ""
    behind = ""

    def __init__(self, *letters: Letter) -> None:
        self.letters = list(letters)
        self.journal = MemoryStore().journal
        self._next = 0
        self.kept_first = True

    async def fetch(self, limit: int) -> Sequence[Letter]:
        found = self.letters[self._next : self._next + limit]
        self._next += len(found)
        return found

    async def remove(self, letters: Sequence[Letter]) -> int:
        rows = await self.journal.select(Selection(states=()))
        self.kept_first &= len(rows) >= len(letters)
        return len(letters)

    async def aclose(self) -> None: ...


async def test_what_is_in_the_journal_is_neither_kept_nor_run_twice() -> None:
    failed = map(failed_message, range(150))
    bodies = [record(Delivery(1, had.id, "", "failure", had), context(described("queue"))) for had in failed]
    box = Box(*(Letter(f"l-{n}", body, 5.0) for n, body in enumerate(bodies)))
    regainer = SqsConnector().regainer(SqsOptions(queue=QUEUE), about("queue"))
    first = await take(box, regainer, box.journal, about("queue"), "a", most=120)
    assert (first.taken, first.removed, first.more, len(first.rows)) == (120, 120, True, 120)
    assert box.kept_first, "nothing is removed that is not in the journal"
    done = [*first.rows][:20]
    await box.journal.mark(done, "claimed", 1.0, "me", 9.0)
    await box.journal.mark(done, "replayed", 1.0, "me")
    box._next = 0
    second = await take(box, regainer, box.journal, about("queue"), "a", dry=True)
    assert (second.taken, second.known, second.handled, second.removed, second.more) == (30, 100, 20, 0, False)
    assert await box.journal.count(Selection(states=())) == 120, "a dry run keeps nothing"
    assert not {*done} & {*second.rows}


async def test_the_copy_of_a_dead_letter_becomes_a_failure_when_the_message_is_taken() -> None:
    """Else the message would be removed, and its copy left out of every replay."""
    had = failed_message()
    box = Box(Letter("l-1", record(Delivery(1, had.id, "", "failure", had), context(described("queue"))), 5.0))
    await box.journal.append([replace(had, kept="queue-dlq")])
    regainer = SqsConnector().regainer(SqsOptions(queue=QUEUE), about("queue"))
    found = await take(box, regainer, box.journal, about("queue"), "a")
    assert (found.taken, found.known, [*found.rows]) == (1, 0, [had.id])
    assert [row.entry.kept for row in await box.journal.select(Selection())] == ["failure"]


async def test_an_embedded_queues_dead_letters_are_received_once_and_deleted(tmp_path: Path) -> None:
    options = QueueOptions(name="dead", fifo=True)
    place = replace(about("queue"), state=tmp_path, source=QueueOptions(name="orders"))
    bodies = [b"1", b"2", b'{"version": "1.0", "requestContext": {"condition": "Success"}}', b"4"]
    await queue_connector.put(options, place, [Item(body, key=group) for body, group in zip(bodies, "aabb", strict=True)])
    regainer, journal = queue_connector.regainer(QueueOptions(name="orders"), place), MemoryStore().journal
    letters = await embedded.letters("local-queue:dead", LocalQueueOptions(), place)
    first = await take(letters, regainer, journal, place, "local-queue:dead")
    await letters.aclose()
    assert (first.taken, first.removed, first.left_count) == (3, 3, 1)
    rows = await journal.select(Selection())
    assert [json.loads(row.entry.records[0].json)["body"] for row in rows] == ["1", "2", "4"]
    assert {row.entry.records[0].key for row in rows} == {"a", "b"}
    again = await embedded.letters("local-queue:dead", LocalQueueOptions(), place)
    second = await take(again, regainer, journal, place, "local-queue:dead")
    await again.aclose()
    await again.aclose()
    assert (second.found, second.left_count) == (1, 1), "what was left was given back at once"
    with pytest.raises(NotConnected, match="there is no local queue 'gone'"):
        await embedded.letters("local-queue:gone", LocalQueueOptions(), place)


async def test_lines_of_a_file_and_of_those_it_was_rotated_to_are_read_oldest_first(tmp_path: Path) -> None:
    for name, text in {"f.1": "c\n", "f.2": "a\nb\n", "f.x": "no\n", "f": "d\nhalf"}.items():
        (tmp_path / name).write_text(text)
    letters = await files.letters("file:f", FileOptions(), replace(about("queue"), base=tmp_path))
    found = [*await letters.fetch(3), *await letters.fetch(3)]
    assert await letters.fetch(3) == []
    await letters.aclose()
    assert [each.body for each in found] == [b"a\n", b"b\n", b"c\n", b"d\n"]
    assert found[1].name == f"{tmp_path}/f.2:2"
    with pytest.raises(NotConnected, match="there is no such file"):
        await (await files.letters("file:gone/f", FileOptions(), replace(about("queue"), base=tmp_path))).fetch(3)


async def test_a_range_that_begins_or_ends_outside_of_what_is_kept_is_gone() -> None:
    records = [KinesisRecord(str(number), 1.0, "k", "eA==", "s") for number in range(10, 20)]
    assert [each.sequence for each in await fetched(records, "12", "15")] == ["12", "13", "14", "15"]
    for first, last, why in (("9", "15", "older than what the stream keeps"), ("12", "25", "the shard ends before")):
        with pytest.raises(RangeGone, match=why):
            await fetched(records, first, last)


async def fetched(records: Sequence[KinesisRecord], first: str, last: str) -> list[KinesisRecord]:
    """From a shard that has these, three a read, and that begins at its first where it is asked for what is older (as Kinesis does)."""
    limits = replace(LIMITS, reads=1000.0, records=3)
    dialect = Dialect("a stream", Scripted(records), KinesisFormat(STREAM, "role"), limits)
    return await ranges.fetched(dialect, "stream", ranges.Range(STREAM, "s", first, last, 4))


class Scripted:
    """`ShardReading` of one shard; an iterator is a place in it."""

    def __init__(self, records: Sequence[KinesisRecord]) -> None:
        self._records = records

    async def shards(self, stream: str, more: str | None = None) -> Page:
        raise AssertionError

    async def iterator(self, stream: str, shard: str, start: Start) -> str:
        return str(sum(int(each.sequence) < int(start.sequence or 0) for each in self._records))

    async def records(self, iterator: str, shard: str, limit: int) -> Records[KinesisRecord]:
        end = int(iterator) + limit
        return Records(self._records[int(iterator) : end], str(end), 0.0 if end >= len(self._records) else 1.0)

    def heard(self) -> None: ...


COMMAND = """
[poller]
store = "sqlite:poller.db"

[functions.handle]
handler = "app.py:handle"
inline = "thread"

[mappings.orders]
function = "handle"
on_failure = "http://127.0.0.1:1/failures"

[mappings.orders.source]
type = "local-queue"
name = "orders"
"""


def command(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(program, ["replay", *arguments], env={"POLLER_CONFIG": None})
    assert result.exit_code == code, (result.output, result.exception)
    return result.output


def test_the_command_takes_and_replays_and_says_what_it_cannot_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    function = "import pathlib\ndef handle(event, context):\n    pathlib.Path('handled').write_text(event['Records'][0]['body'])\n"
    (tmp_path / "app.py").write_text(function)
    (tmp_path / "poller.toml").write_text(COMMAND)
    monkeypatch.chdir(tmp_path)
    place = replace(about("queue"), state=tmp_path, clock=time.time)
    asyncio.run(queue_connector.put(QueueOptions(name="dead"), place, [Item(b"1")]))
    assert "would take 1 failure with 1 record from local-queue:dead" in command(
        "--from", "local-queue:dead", "--mapping", "orders", "--dry-run"
    )
    told = command("--from", "local-queue:dead", "--mapping", "orders", "--name", "dead")
    assert "took 1 failure" in told
    assert "1 failure replayed" in told
    assert (tmp_path / "handled").read_text() == "1"
    assert "took 0 failures" in command("--from", "local-queue:dead", "--mapping", "orders")
    for arguments, why in (
        (("--from", "local-queue:dead"), "--from needs --mapping NAME"),
        (("--from", "local-queue:dead", "--mapping", "x"), "there is no mapping 'x'; there are orders"),
        (("--from", "local-queue:dead", "--mapping", "orders", "abc"), "leave out the ids"),
    ):
        assert why in command(*arguments, code=2)
    for origin, why in (
        ("http://127.0.0.1:1/failures", "nothing can be read from there; it can from an address of file, kafka, local-queue, s3, sqs"),
        ("ftp://x", "no such kind of address"),
        ('{ to = "file:x", wrong = 1 }', "unknown field `wrong`"),
        ("{ to = ", "not TOML"),
        ("{ a = 1 }", "it has no key 'to'"),
        ("kafka://dead", "bootstrap_servers: give them"),
        ("file:gone", "there is no such file"),
    ):
        assert why in command("--from", origin, "--mapping", "orders", code=2 if "such file" not in why else 1)
