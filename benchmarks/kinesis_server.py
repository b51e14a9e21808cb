"""A Kinesis of canned answers: a stream that always has records, or never, for measuring clients and not a server.

    python -m benchmarks.kinesis_server [--port 0] [--shards 8] [--answer 1000] [--size 200]

Every GetRecords brings `--answer` records of `--size` bytes (fewer if fewer are asked for), numbered without end, arrived now, with the
shard's head an hour away; with `--answer 0` it brings none, at the head. An iterator says what comes next, so any number of readers read
the same. Prints its URL when it is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from base64 import b64encode
from typing import Any

from benchmarks.canned import serve

STREAM = "canned"
ARN = f"arn:aws:kinesis:us-east-1:123456789012:stream/{STREAM}"
FIRST = 49590338271490256608559692538361571095921575989136588898
"""The sequence number of each shard's record number 0."""

_DIGITS = 10
_STEM, _FROM = divmod(FIRST, 10**_DIGITS)
_LAST_KEYS = 10_000
_BEHIND = 3_600_000
"""Milliseconds."""

_ITERATOR = "A" * 180
"""Real ones are long, too."""


def shard_name(number: int) -> str:
    return f"shardId-{number:012d}"


class Server:
    """How to answer."""

    def __init__(self, shards: int, answer: int, size: int) -> None:
        self._shards = shards
        self._answer = answer
        data = b64encode(json.dumps({"kind": "order", "text": "x" * (size - 29)}).encode()).decode()
        record = f'{{"ApproximateArrivalTimestamp":%s,"Data":"{data}","PartitionKey":"order-%d","SequenceNumber":"{_STEM}%0{_DIGITS}d"}}'
        self._record = record.encode()

    async def answer(self, operation: str, parameters: dict[str, Any], url: str) -> bytes:  # noqa: ARG002 (one that answers names it)
        match operation:
            case "GetRecords":
                return self._records(parameters["ShardIterator"], parameters["Limit"])
            case "GetShardIterator":
                told: dict[str, Any] = {"ShardIterator": _iterator(_shard(parameters["ShardId"]), _start(parameters))}
            case "ListShards":
                told = {"Shards": [_described(number) for number in range(self._shards)]}
            case "DescribeStreamSummary":
                told = {"StreamDescriptionSummary": self._summary()}
            case _:
                raise ValueError(f"{operation} has no canned answer")
        return json.dumps(told).encode()

    def _records(self, iterator: str, limit: int) -> bytes:
        stem, shard, first = iterator.split(":")
        assert stem == _ITERATOR
        count = min(self._answer, limit)
        following, behind = _iterator(int(shard), int(first) + count), _BEHIND if count else 0
        now = b"%.3f" % time.time()
        record, numbers = self._record, range(int(first), int(first) + count)
        records = b",".join([record % (now, number % _LAST_KEYS, _FROM + number) for number in numbers])
        return b'{"MillisBehindLatest":%d,"NextShardIterator":"%s","Records":[%s]}' % (behind, following.encode(), records)

    def _summary(self) -> dict[str, Any]:
        return {
            "StreamName": STREAM,
            "StreamARN": ARN,
            "StreamStatus": "ACTIVE",
            "RetentionPeriodHours": 24,
            "StreamCreationTimestamp": 1763686800.0,
            "EnhancedMonitoring": [{"ShardLevelMetrics": []}],
            "OpenShardCount": self._shards,
            "ConsumerCount": 0,
        }


def _described(number: int) -> dict[str, Any]:
    hashes = {"StartingHashKey": str(number * 1000), "EndingHashKey": str(number * 1000 + 999)}
    return {"ShardId": shard_name(number), "HashKeyRange": hashes, "SequenceNumberRange": {"StartingSequenceNumber": str(FIRST)}}


def _shard(name: str) -> int:
    return int(name.removeprefix("shardId-"))


def _iterator(shard: int, number: int) -> str:
    return f"{_ITERATOR}:{shard}:{number}"


def _start(parameters: dict[str, Any]) -> int:
    """Which record comes first; there is none before number 0."""
    after: bool = parameters["ShardIteratorType"] == "AFTER_SEQUENCE_NUMBER"
    return int(parameters.get("StartingSequenceNumber", FIRST)) - FIRST + after


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--answer", type=int, default=1000, help="records an answer")
    parser.add_argument("--size", type=int, default=200, help="bytes of a record, at least 30")
    arguments = parser.parse_args()
    await serve(Server(arguments.shards, arguments.answer, arguments.size).answer, "1.1", arguments.port)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
