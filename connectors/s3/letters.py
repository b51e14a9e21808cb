"""Dead letters of a bucket: all objects below a prefix, in the order of their keys. They are read, and left as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from connectors.aws.sender import AwsSender
from poller.errors import NotConnected
from poller.redrive.letters import Letter

LARGEST = 64 * 1024 * 1024
"""No record of a failure is larger, in bytes: an event has 6 MB, and escaped as a text in a record at most six times as many."""


class BucketLetters:
    """See `poller.redrive.letters.DeadLetters`. Takes the sender over."""

    stays = "objects are left in the bucket, and recognised next time"
    behind = ""

    def __init__(self, sender: AwsSender, bucket: str, prefix: str) -> None:
        self._sender = sender
        self._bucket = bucket
        self._prefix = prefix
        self._listed: list[Mapping[str, Any]] = []
        self._more: str | None = ""

    def __repr__(self) -> str:
        return f"<BucketLetters {self._bucket}/{self._prefix}>"

    async def fetch(self, limit: int) -> Sequence[Letter]:
        while not self._listed and self._more is not None:
            await self._list()
        some, self._listed = self._listed[:limit], self._listed[limit:]
        return [await self._letter(each) for each in some]

    async def remove(self, letters: Sequence[Letter]) -> int:  # noqa: ARG002 -- the protocol's
        return 0

    async def aclose(self) -> None:
        await self._sender.aclose()

    async def _list(self) -> None:
        parameters = {"Bucket": self._bucket, "Prefix": self._prefix} | ({"ContinuationToken": self._more} if self._more else {})
        answer = await self._sender.call("ListObjectsV2", parameters)
        if "IsTruncated" not in answer:
            raise NotConnected(f"S3 bucket {self._bucket}: what answers is no S3; check `endpoint`, and proxies")
        self._listed += answer.get("Contents", ())
        self._more = answer.get("NextContinuationToken") if answer["IsTruncated"] else None

    async def _letter(self, listed: Mapping[str, Any]) -> Letter:
        key = str(listed["Key"])
        # What is too large to be one is named, and not read.
        small = int(listed["Size"]) <= LARGEST
        body = await self._sender.read("GetObject", {"Bucket": self._bucket, "Key": key}) if small else b""
        return Letter(f"s3://{self._bucket}/{key}", body, listed["LastModified"].timestamp())
