"""What the connector asks of SQS, as two small protocols. Vendor-free; `aws.py` implements them over aiobotocore.

Shapes are SQS's own (its JSON protocol: `MessageId`, `ReceiptHandle`, `Attributes`, ...), so that a client may hand on what it parsed.
Every call raises NotConnected, or SourceError, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

Message: TypeAlias = dict[str, Any]
"""A message as ReceiveMessage gives it, with all its attributes."""

Refusal: TypeAlias = Mapping[str, Any]
"""An entry of a batch that SQS refused: `Id`, `Code`, `SenderFault`, perhaps `Message`."""

MOST = 10
"""SQS's own limit of messages a receive, and of entries a batch."""

LONGEST = 43_200
"""SQS's own limit, in seconds, of a message's visibility timeout, counted from its receive: 12 hours."""


class Messages(Protocol):
    """The hot calls. `queue` is a queue URL; an entry's `Id` is unique in its batch, and a batch has at most `MOST` entries."""

    async def receive(self, queue: str, most: int, wait: int, visibility: int) -> Sequence[Message]:
        """At most `most` messages with all their attributes, after at most `wait` seconds, hidden for `visibility` seconds.

        Cancelling it may hide messages that nobody has.
        """

    async def delete(self, queue: str, entries: Sequence[Mapping[str, Any]]) -> Sequence[Refusal]:
        """DeleteMessageBatch of {Id, ReceiptHandle}: what was refused."""

    async def change_visibility(self, queue: str, entries: Sequence[Mapping[str, Any]]) -> Sequence[Refusal]:
        """ChangeMessageVisibilityBatch of {Id, ReceiptHandle, VisibilityTimeout}: what was refused."""


class Queues(Protocol):
    """The calls made once."""

    async def queue_url(self, name: str, owner: str | None) -> str:
        """The URL of the queue of that name in the account `owner`, or in one's own."""

    async def attributes(self, queue: str) -> Mapping[str, str]:
        """All attributes of the queue, by SQS's names, as strings."""


class SqsClient(Messages, Queues, Protocol):
    """All that the connector needs."""

    async def aclose(self) -> None:
        """Tolerated twice."""
