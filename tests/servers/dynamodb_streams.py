"""A DynamoDB Streams of the tests' own, for what DynamoDB Local never does: shards that roll over and are trimmed, calls that are refused.

    async with scripted_streams() as world:
        arn = world.create("orders")
        world.put("orders", {"id": {"S": "1"}})
        world.roll(arn, world.open_shards(arn)[0])

It answers ListStreams, DescribeStream, GetShardIterator and GetRecords in the JSON protocol; what it knows is changed from the test,
between two requests. Errors are AWS's: codes from the service's model ("Errors" of each operation in its API reference), texts as AWS or
DynamoDB Local say them. Where both can, it answers as DynamoDB Local does: tests/integration/test_dynamodb_streams_server.py.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.servers.loopback import Answer, Request, loopback

REGION = "us-east-1"
ACCOUNT = "123456789012"
PAGE = 100
"""AWS's own limit of shards a page, and of streams."""
MOST = 1_000
"""AWS's own limit of records a read."""

_DYNAMODB = "com.amazonaws.dynamodb.v20120810#"
_VALIDATION = "com.amazon.coral.validate#ValidationException"


class Refusal(Exception):
    """An answer with an error. `kind` as AWS writes it into `__type`."""

    def __init__(self, kind: str, text: str, status: int = 400) -> None:
        super().__init__(text)
        self.kind, self.text, self.status = kind, text, status

    @property
    def body(self) -> dict[str, str]:
        # Errors of the service itself have a small letter, those of the frame around it a capital one.
        return {"__type": self.kind, "message" if self.kind.startswith(_DYNAMODB) else "Message": self.text}


def missing(what: str) -> Refusal:
    return Refusal(f"{_DYNAMODB}ResourceNotFoundException", f"Requested resource not found: {what}")


def invalid(text: str) -> Refusal:
    return Refusal(_VALIDATION, text)


TRIMMED = Refusal(f"{_DYNAMODB}TrimmedDataAccessException", "The data you are trying to access has been trimmed")
EXPIRED = Refusal(f"{_DYNAMODB}ExpiredIteratorException", "Iterator expired")
THROTTLED = Refusal(f"{_DYNAMODB}LimitExceededException", "Too many operations for a given subscriber.")
INTERNAL = Refusal(f"{_DYNAMODB}InternalServerError", "The server encountered an internal error trying to fulfill the request.", 500)


def forbidden(operation: str) -> Refusal:
    """As an IAM policy that lacks the permission."""
    text = f"User: arn:aws:iam::{ACCOUNT}:user/poller is not authorized to perform: dynamodb:{operation} on resource: *"
    return Refusal("com.amazon.coral.service#AccessDeniedException", text)


@dataclass
class Fault:
    """Requests that are refused: `times` of them (None: until it is removed), if they hold all of `given`."""

    operation: str
    refusal: Refusal
    times: int | None = None
    given: Mapping[str, str] = field(default_factory=dict)

    def strikes(self, operation: str, asked: Mapping[str, Any]) -> bool:
        if self.times == 0 or operation != self.operation or any(asked.get(name) != value for name, value in self.given.items()):
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class ScriptedShard:
    """`records`: (sequence number, record). Sequence numbers below `horizon` are trimmed."""

    name: str
    parent: str | None
    first: int
    last: int | None = None
    horizon: int = 0
    records: list[tuple[int, dict[str, Any]]] = field(default_factory=list)

    def described(self) -> dict[str, Any]:
        numbers = {"StartingSequenceNumber": _number(self.first)}
        if self.last is not None:
            numbers["EndingSequenceNumber"] = _number(self.last)
        parent = {} if self.parent is None else {"ParentShardId": self.parent}
        return {"ShardId": self.name, "SequenceNumberRange": numbers, **parent}


@dataclass
class ScriptedStream:
    arn: str
    table: str
    label: str
    view: str
    key: str
    status: str = "ENABLED"
    shards: dict[str, ScriptedShard] = field(default_factory=dict)


class ScriptedStreams:
    """What there is, and what a test may do to it. Calls come back when it is so."""

    def __init__(self) -> None:
        self.url = ""
        self.streams: dict[str, ScriptedStream] = {}
        self.faults: list[Fault] = []
        self.asked: Counter[str] = Counter()
        """Requests, by operation; those refused included."""
        self.page = PAGE
        self._sequence = 100
        self._made = 0
        self._generation = 0

    # --- what a test does -------------------------------------------------------------------------------------------------------------

    def create(self, table: str, shards: int = 1, view: str = "NEW_AND_OLD_IMAGES", key: str = "id") -> str:
        """A table with a stream, or the next stream of a table; returns its ARN."""
        self._made += 1
        label = f"2026-01-{self._made:02}T00:00:00.000"
        stream = ScriptedStream(f"arn:aws:dynamodb:{REGION}:{ACCOUNT}:table/{table}/stream/{label}", table, label, view, key)
        self.streams[stream.arn] = stream
        for _ in range(shards):
            self._shard(stream, None)
        return stream.arn

    def put(self, table: str, *items: Mapping[str, Any], shard: str | None = None) -> list[str]:
        """Inserted into the table: records of its newest open shard, or of `shard`. Returns their sequence numbers."""
        stream = self._enabled(table)
        written = stream.shards[shard if shard is not None else self.open_shards(stream.arn)[-1]]
        assert written.last is None, f"{written.name} is closed"
        for item in items:
            self._sequence += 1
            change = {
                "ApproximateCreationDateTime": float(int(time.time())),
                "Keys": {stream.key: item[stream.key]},
                "NewImage": item,
                "SequenceNumber": _number(self._sequence),
                "SizeBytes": len(json.dumps(item)),
                "StreamViewType": stream.view,
            }
            record = {"eventID": f"{self._sequence:032x}", "eventName": "INSERT", "eventVersion": "1.1", "eventSource": "aws:dynamodb"}
            written.records.append((self._sequence, record | {"awsRegion": REGION, "dynamodb": change}))
        return [_number(self._sequence - n) for n in reversed(range(len(items)))]

    def roll(self, stream: str, shard: str) -> str:
        """As AWS does about every four hours: the shard is closed, and gets a child; returns its name."""
        self._close(self.streams[stream].shards[shard])
        return self._shard(self.streams[stream], shard)

    def trim(self, stream: str, shard: str, count: int) -> None:
        """The oldest records are too old; `count` is how many."""
        trimmed = self.streams[stream].shards[shard]
        gone, trimmed.records = trimmed.records[:count], trimmed.records[count:]
        trimmed.horizon = gone[-1][0] + 1

    def trim_shard(self, stream: str, shard: str) -> None:
        """All of it is too old: it is listed no more."""
        del self.streams[stream].shards[shard]

    def expire(self) -> None:
        """All iterators given so far are older than fifteen minutes."""
        self._generation += 1

    def disable(self, table: str) -> None:
        """The stream is closed, and readable until it is trimmed."""
        stream = self._enabled(table)
        stream.status = "DISABLED"
        for shard in stream.shards.values():
            self._close(shard)

    def refuse(self, operation: str, refusal: Refusal, times: int | None = None, **given: str) -> Fault:
        """Until `allow`, or so many times; only requests with these parameters."""
        fault = Fault(operation, refusal, times, given)
        self.faults.append(fault)
        return fault

    def allow(self, fault: Fault) -> None:
        self.faults.remove(fault)

    def open_shards(self, stream: str) -> list[str]:
        """Oldest first."""
        return [shard.name for shard in self.streams[stream].shards.values() if shard.last is None]

    def _enabled(self, table: str) -> ScriptedStream:
        (stream,) = [each for each in self.streams.values() if (each.table, each.status) == (table, "ENABLED")]
        return stream

    def _shard(self, stream: ScriptedStream, parent: str | None) -> str:
        self._sequence += 1
        name = f"shardId-{self._sequence:020}-{self._sequence:08x}"
        stream.shards[name] = ScriptedShard(name, parent, self._sequence)
        return name

    def _close(self, shard: ScriptedShard) -> None:
        if shard.last is None:
            self._sequence += 1
            shard.last = self._sequence

    # --- what it answers --------------------------------------------------------------------------------------------------------------

    def answer(self, request: Request) -> Answer:
        headers, body = request
        operation, asked = headers["x-amz-target"].rpartition(".")[2], json.loads(body)
        self.asked[operation] += 1
        try:
            for fault in self.faults:
                if fault.strikes(operation, asked):
                    raise fault.refusal
            match operation:
                case "ListStreams":
                    answer = self._list_streams(asked)
                case "DescribeStream":
                    answer = self._describe_stream(asked)
                case "GetShardIterator":
                    answer = self._get_shard_iterator(asked)
                case "GetRecords":
                    answer = self._get_records(asked)
                case _:
                    raise Refusal(f"{_DYNAMODB}UnknownOperationException", "An unknown operation was requested.")
        except Refusal as refusal:
            return refusal.status, json.dumps(refusal.body).encode()
        return 200, json.dumps(answer).encode()

    def _list_streams(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        after = asked.get("ExclusiveStartStreamArn", "")
        found = [each for each in self.streams.values() if each.table == asked.get("TableName", each.table) and each.arn > after]
        page = found[: min(self.page, asked.get("Limit", PAGE))]
        last = {"LastEvaluatedStreamArn": page[-1].arn} if len(page) < len(found) else {}
        return {"Streams": [{"StreamArn": each.arn, "TableName": each.table, "StreamLabel": each.label} for each in page], **last}

    def _describe_stream(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        stream = self._stream(asked)
        after = asked.get("ExclusiveStartShardId", "")
        found = [each for each in stream.shards.values() if each.name > after]
        page = found[: min(self.page, asked.get("Limit", PAGE))]
        description = {
            "StreamArn": stream.arn,
            "StreamLabel": stream.label,
            "StreamStatus": stream.status,
            "StreamViewType": stream.view,
            "CreationRequestDateTime": 1767225600.0,
            "TableName": stream.table,
            "KeySchema": [{"AttributeName": stream.key, "KeyType": "HASH"}],
            "Shards": [each.described() for each in page],
        }
        return {"StreamDescription": description | ({"LastEvaluatedShardId": page[-1].name} if len(page) < len(found) else {})}

    def _get_shard_iterator(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        stream = self._stream(asked)
        shard = stream.shards.get(asked["ShardId"])
        if shard is None:
            raise missing("Shard does not exist")
        kind, number = asked["ShardIteratorType"], asked.get("SequenceNumber")
        if kind not in {"TRIM_HORIZON", "LATEST", "AT_SEQUENCE_NUMBER", "AFTER_SEQUENCE_NUMBER"}:
            raise invalid("Invalid ShardIteratorType.")
        prefix = "One or more parameter values were invalid: "
        if kind in {"TRIM_HORIZON", "LATEST"}:
            if number is not None:
                raise invalid(f"{prefix}SequenceNumber should not be passed for this iterator type")
            at = shard.horizon if kind == "TRIM_HORIZON" else self._sequence + 1
        else:
            if number is None:
                raise invalid(f"{prefix}Invalid SequenceNumber")
            if int(number) < shard.first:
                raise invalid("Invalid SequenceNumber for the shard")
            at = int(number) + (kind == "AFTER_SEQUENCE_NUMBER")
            if int(number) < shard.horizon:
                raise TRIMMED
        return {"ShardIterator": self._iterator(stream.arn, shard.name, at)}

    def _get_records(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        if asked.get("Limit", MOST) > MOST:
            raise Refusal(THROTTLED.kind, "GetRecords was called with a value of more than 1000 for the limit request parameter.")
        try:
            arn, _, rest = asked["ShardIterator"].split("|")
            generation, name, at = json.loads(bytes.fromhex(rest))
        except ValueError as error:
            raise invalid("Invalid ShardIterator") from error
        if generation != self._generation:
            raise EXPIRED
        shard = self._stream({"StreamArn": arn}).shards.get(name)
        if shard is None:
            raise missing("Shard does not exist")
        if at < shard.horizon:
            raise TRIMMED
        found = [(number, record) for number, record in shard.records if number >= at]
        page = found[: asked.get("Limit", MOST)]
        ended = shard.last is not None and len(page) == len(found)
        following = {} if ended else {"NextShardIterator": self._iterator(arn, name, page[-1][0] + 1 if page else at)}
        return {"Records": [record for _, record in page], **following}

    def _stream(self, asked: Mapping[str, Any]) -> ScriptedStream:
        stream = self.streams.get(asked["StreamArn"])
        if stream is None:
            raise missing(f"Stream: {asked['StreamArn']} not found")
        return stream

    def _iterator(self, arn: str, shard: str, at: int) -> str:
        return f"{arn}|1|{json.dumps([self._generation, shard, at]).encode().hex()}"


def _number(sequence: int) -> str:
    return f"{sequence:021}"


@asynccontextmanager
async def scripted_streams() -> AsyncIterator[ScriptedStreams]:
    """On loopback, on the loop of the test."""
    world = ScriptedStreams()
    async with loopback(world.answer) as server:
        world.url = server.url
        yield world
