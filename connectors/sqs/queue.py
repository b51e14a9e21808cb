"""A queue: how an option names it, and what its own attributes say. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import msgspec

from poller.errors import SourceError

FALLBACK_VISIBILITY = 30
"""Seconds that a message is hidden when its queue hides it for none: at 0 it would come again while its function runs."""


class Where(msgspec.Struct, frozen=True):
    """A queue as an option names it: by name, URL or ARN. `url` only if it was a URL; `region` and `owner` if they could be read."""

    name: str
    url: str | None = None
    region: str | None = None
    owner: str | None = None

    @property
    def fifo(self) -> bool:
        return self.name.endswith(".fifo")


_ARN = re.compile(r"arn:[\w-]+:sqs:([\w-]+):(\w+):([\w.-]+)")
_URL = re.compile(r"https?://([^/]+)/(?:.*/)?([\w.-]+)")
_ACCOUNT = re.compile(r"https?://[^/]+/(\d{12})/[\w.-]+")
_HOST = re.compile(r"(?:sqs\.([\w-]+)|([\w-]+)\.queue)\.[\w.-]+(?::\d+)?")
_NAME = re.compile(r"[\w-]{1,80}|[\w-]{1,75}\.fifo")


def where(queue: str) -> Where:
    """Raises ValueError with a sentence for a person."""
    if arn := _ARN.fullmatch(queue):
        return Where(arn[3], region=arn[1], owner=arn[2])
    if url := _URL.fullmatch(queue):
        host = _HOST.fullmatch(url[1])
        return Where(url[2], url=queue, region=(host[1] or host[2]) if host else None)
    if _NAME.fullmatch(queue):
        return Where(queue)
    raise ValueError(f"{queue!r} is no SQS queue; write its name, its URL or its ARN (arn:aws:sqs:<region>:<account>:<name>)")


def identity(named: Where, region: str | None, profile: str | None, endpoint: str | None, role: str | None) -> str:
    """Which queue the options mean, however they spell it: equal only where it is the same queue for certain.

    A name is of the credentials' account, which only AWS can tell: it equals the same name under the same credentials, and no ARN.
    """
    account = named.owner or (found[1] if named.url and (found := _ACCOUNT.fullmatch(named.url)) else None)
    # Of a URL that is not AWS's own, the host says which service is meant.
    place = endpoint or (named.url.removesuffix(named.name) if named.url and named.region is None else "")
    credentials = f"{profile or ''} {role or ''}"
    return " ".join((place.rstrip("/"), named.region or region or f"region of {credentials}", account or credentials, named.name))


class Queue(msgspec.Struct, frozen=True):
    """What is known of a queue once it was asked. `visibility` in seconds; `redrive_count` None: no redrive policy."""

    url: str
    arn: str
    visibility: int
    redrive_count: int | None = None
    dead_letter: str = ""

    @property
    def name(self) -> str:
        return self.arn.rpartition(":")[2]

    @property
    def region(self) -> str:
        return self.arn.split(":")[3]

    @property
    def fifo(self) -> bool:
        return self.name.endswith(".fifo")

    @property
    def hidden(self) -> int:
        """Seconds that a message is hidden when we receive it, and again at every heartbeat."""
        return self.visibility or FALLBACK_VISIBILITY


def queue(url: str, attributes: Mapping[str, str]) -> Queue:
    """Raises SourceError for what no SQS answers."""
    try:
        arn = attributes["QueueArn"]
        visibility = int(attributes["VisibilityTimeout"])
        redrive = json.loads(attributes.get("RedrivePolicy") or "{}")
        count = int(redrive["maxReceiveCount"]) if "maxReceiveCount" in redrive else None
        if arn.count(":") != 5:
            raise ValueError(arn)
    except (KeyError, ValueError, TypeError) as error:
        raise SourceError(f"{url} did not answer like an SQS queue ({type(error).__name__}: {error}); check `endpoint`") from error
    return Queue(url, arn, visibility, count, str(redrive.get("deadLetterTargetArn", "")))
