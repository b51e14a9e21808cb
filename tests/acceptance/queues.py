"""Queues as a test needs them: one on a real SQS, or a local one, filled and looked at from outside the daemon."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import botocore.session

from poller.feed import Item
from tests.acceptance.harness import CREDENTIALS, Site

REGION = "us-east-1"


class Sqs:
    """The queues of one test on one SQS. The client is made once the server answers."""

    def __init__(self, url: str) -> None:
        self.url = url
        credentials = {name.lower(): value for name, value in CREDENTIALS.items()}
        self.client: Any = botocore.session.get_session().create_client("sqs", region_name=REGION, endpoint_url=url, **credentials)

    def create(self, *, fifo: bool = False, name: str = "", redrive: tuple[str, int] | None = None, visibility: int = 30) -> str:
        """A queue; returns its name. `redrive`: the name of the dead-letter queue, and the receive count."""
        name = name or f"q{uuid.uuid4().hex}{'.fifo' if fifo else ''}"
        attributes = {"VisibilityTimeout": str(visibility)}
        if fifo:
            attributes |= {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
        if redrive is not None:
            arn = f"arn:aws:sqs:{REGION}:123456789012:{redrive[0]}"
            attributes["RedrivePolicy"] = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": str(redrive[1])})
        self.client.create_queue(QueueName=name, Attributes=attributes)
        return name

    def source(self, queue: str) -> dict[str, object]:
        """The table of a mapping's source."""
        return {"type": "sqs", "queue": queue, "region": REGION, "endpoint": self.url, "wait_time": "1s"}

    def send(self, queue: str, bodies: Sequence[str], groups: Sequence[str] = ()) -> None:
        entries: list[dict[str, str]] = [{"Id": str(n % 10), "MessageBody": body} for n, body in enumerate(bodies)]
        for entry, group in zip(entries, groups, strict=False):
            entry["MessageGroupId"] = group
        for start in range(0, len(entries), 10):
            answer = self.client.send_message_batch(QueueUrl=self._url(queue), Entries=entries[start : start + 10])
            assert not answer.get("Failed")

    def counts(self, queue: str) -> tuple[int, int]:
        """Visible, in flight."""
        answer = self.client.get_queue_attributes(QueueUrl=self._url(queue), AttributeNames=["All"])
        found = answer["Attributes"]
        return int(found["ApproximateNumberOfMessages"]), int(found["ApproximateNumberOfMessagesNotVisible"])

    def take(self, queue: str) -> list[str]:
        """The bodies of all messages that are visible; they stay hidden from then on."""
        taken: list[str] = []
        while True:
            answer = self.client.receive_message(QueueUrl=self._url(queue), MaxNumberOfMessages=10, VisibilityTimeout=600)
            if not (messages := answer.get("Messages", [])):
                return taken
            taken += [message["Body"] for message in messages]

    def empty(self, queue: str) -> bool:
        return self.counts(queue) == (0, 0)

    def _url(self, queue: str) -> str:
        return f"{self.url}/123456789012/{queue}"

    def close(self) -> None:
        self.client.close()


class SqsQueue:
    """A queue of a real SQS, as the source of the mapping "orders"."""

    def __init__(self, site: Site, sqs: Sqs, *, fifo: bool = False, visibility: int = 30) -> None:
        self._site, self._sqs = site, sqs
        self.name = sqs.create(fifo=fifo, visibility=visibility)
        self.source = sqs.source(self.name)

    def fill(self, bodies: Sequence[str], groups: Sequence[str] = ()) -> None:
        """Call it after the configuration was written."""
        self._sqs.send(self.name, bodies, groups)

    def left(self) -> int:
        """How many messages it holds, hidden or not."""
        return sum(self._sqs.counts(self.name))


class LocalQueue:
    """The same in the site's own database."""

    def __init__(self, site: Site, *, fifo: bool = False, visibility: int = 30) -> None:
        self._site = site
        self.source: dict[str, object] = {
            "type": "local-queue",
            "name": "orders",
            "fifo": fifo,
            "visibility_timeout": f"{visibility}s",
        }

    def fill(self, bodies: Sequence[str], groups: Sequence[str] = ()) -> None:
        keys: Sequence[str | None] = groups or [None] * len(bodies)
        self._site.put("orders", *(Item(body.encode(), key=key) for body, key in zip(bodies, keys, strict=True)))

    def left(self) -> int:
        return int(self._site.holds("orders").split()[-2])


Queue = SqsQueue | LocalQueue
