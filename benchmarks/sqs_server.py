"""An SQS that always has messages: canned answers in the JSON protocol, for measuring clients and not a server.

    python -m benchmarks.sqs_server [--port 9400] [--messages 1000000] [--size 200]

Every ReceiveMessage brings ten messages of `--size` bytes, each with a receipt handle of its own, until `--messages` were given out; after
that it waits its WaitTimeSeconds and brings none. Every delete and every change of visibility succeeds. Prints its URL when it is ready.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from itertools import count
from typing import Any

from benchmarks.canned import serve

ARN = "arn:aws:sqs:us-east-1:123456789012:canned"
TEN = 10


class Server:
    """What was given out, and how to answer."""

    def __init__(self, messages: int, size: int) -> None:
        self.left = messages
        self.received = 0
        self.deleted = 0
        self._numbers = count(1)
        body = json.dumps({"kind": "order", "text": "x" * (size - 29)})
        shown = {
            "MessageId": "00000000-0000-4000-8000-%012d",
            "ReceiptHandle": "AQEB" + "x" * 180 + "%016d",
            "MD5OfBody": hashlib.md5(body.encode(), usedforsecurity=False).hexdigest(),
            "Body": body,
            "Attributes": {
                "SenderId": "AIDAIENQZJOLO23YVJ4VO",
                "ApproximateFirstReceiveTimestamp": "1763686800002",
                "ApproximateReceiveCount": "1",
                "SentTimestamp": "1763686800001",
            },
        }
        self._message = json.dumps(shown, separators=(",", ":")).encode()

    async def answer(self, action: str, parameters: dict[str, Any], url: str) -> bytes:
        match action:
            case "ReceiveMessage":
                return await self._receive(min(TEN, parameters.get("MaxNumberOfMessages", 1)), parameters.get("WaitTimeSeconds", 0))
            case "DeleteMessageBatch":
                self.deleted += len(parameters["Entries"])
                return self._all(parameters)
            case "ChangeMessageVisibilityBatch":
                return self._all(parameters)
            case "GetQueueUrl":
                return json.dumps({"QueueUrl": f"{url}/123456789012/canned"}).encode()
            case "GetQueueAttributes":
                return json.dumps({"Attributes": {"QueueArn": ARN, "VisibilityTimeout": "30"}}).encode()
        raise ValueError(f"{action} has no canned answer")

    async def _receive(self, most: int, wait: int) -> bytes:
        given = min(most, self.left)
        if not given:
            await asyncio.sleep(wait)
            return b"{}"
        self.left -= given
        self.received += given
        numbers = [next(self._numbers) for _ in range(given)]
        return b'{"Messages":[' + b",".join([self._message % (n, n) for n in numbers]) + b"]}"

    @staticmethod
    def _all(parameters: dict[str, Any]) -> bytes:
        return json.dumps({"Successful": [{"Id": entry["Id"]} for entry in parameters["Entries"]], "Failed": []}).encode()


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=0, help="0: a free one")
    parser.add_argument("--messages", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=200, help="bytes of a body, at least 30")
    arguments = parser.parse_args()
    await serve(Server(arguments.messages, arguments.size).answer, "1.0", arguments.port)


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        pass
