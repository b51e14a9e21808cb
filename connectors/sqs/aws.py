"""The connector's client over aiobotocore. Imported only when a source opens: the vendor's library takes 300 ms to import.

No exception of botocore leaves this module: `_mapped` is the one place where they become ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from typing import Any

from aiobotocore.config import AioConfig
from botocore import exceptions

from connectors.aws.credentials import mapped, session_for
from connectors.sqs.client import Message, Refusal
from poller.errors import NotConnected, SourceError

_THROTTLED = {"OverLimit", "RequestThrottled", "RequestThrottledException", "Throttling", "ThrottlingException", "KmsThrottled"}
_MISSING = {"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist", "NonExistentQueue"}
_FORBIDDEN = {
    "AccessDenied", "AccessDeniedException", "ExpiredToken", "ExpiredTokenException", "InvalidClientTokenId", "InvalidSecurity",
    "KmsAccessDenied", "MissingAuthenticationToken", "SignatureDoesNotMatch", "UnrecognizedClientException",
}  # fmt: skip
_IMPOSSIBLE = {"UnsupportedOperation", "AWS.SimpleQueueService.UnsupportedOperation", "InvalidAddress"}


def _refused(error: exceptions.ClientError, place: str) -> NotConnected | SourceError:
    """What an answer of SQS (or of STS) with an error code means."""
    details: Mapping[str, Any] = error.response.get("Error", {})
    code, text = str(details.get("Code", "")), str(details.get("Message", ""))
    # STS answers for the role, SQS for the queue; both end here.
    if code in _THROTTLED:
        return NotConnected(f"{place}: SQS asks for fewer requests ({code})", retry_after=1.0)
    if code in _MISSING:
        return NotConnected(f"{place}: there is no such queue; check its name, region and account, or create it", permanent=True)
    if code in _FORBIDDEN:
        return NotConnected(
            f"{place}: {error.operation_name} was refused ({code}: {text}); check the credentials, and that they allow"
            " sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility, sqs:GetQueueUrl and sqs:GetQueueAttributes",
            permanent=True,
        )
    if code in _IMPOSSIBLE:
        return SourceError(f"{place}: {error.operation_name} can never work ({code}: {text})")
    return NotConnected(f"{place}: {error.operation_name} failed ({code}: {text})")


@contextmanager
def _mapped(place: str) -> Iterator[None]:
    """Foreign exceptions become ours. `place` names queue, region and endpoint for the person who reads the message."""
    with mapped(place):
        try:
            yield
        except exceptions.ClientError as error:
            raise _refused(error, place) from error


def _refusals(entries: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> Sequence[Refusal]:
    """Done is what SQS says is done: an entry that it does not name at all is refused too."""
    refused: list[Refusal] = answer.get("Failed", [])
    if len(answer.get("Successful", ())) + len(refused) < len(entries):
        named = {each["Id"] for each in (*answer.get("Successful", ()), *refused)}
        silent = [entry["Id"] for entry in entries if entry["Id"] not in named]
        return [*refused, *({"Id": id_, "Code": "NotAnswered", "SenderFault": False} for id_ in silent)]
    return refused


class AwsClient:
    """SQS over aiobotocore."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._stack = AsyncExitStack()
        self._sqs: Any = None

    def __repr__(self) -> str:
        return f"<AwsClient {self._place} [{'closed' if self._sqs is None else 'open'}]>"

    async def connect(self, region: str | None, profile: str | None, endpoint: str | None, role: str | None, connections: int) -> None:
        """Read the credentials' settings; SQS itself is not asked yet."""
        with _mapped(self._place):
            session = await session_for(profile, role, region)
            config = AioConfig(
                max_pool_connections=connections,
                connect_timeout=5,
                read_timeout=30,  # above the longest long poll (20 s)
                # One retry hides a kept connection that the server had closed; more is the engine's, or tenacity's, to do.
                retries={"mode": "standard", "total_max_attempts": 2},
            )
            client = session.create_client("sqs", region_name=region, endpoint_url=endpoint, config=config)
            self._sqs = await self._stack.enter_async_context(client)

    async def receive(self, queue: str, most: int, wait: int, visibility: int) -> Sequence[Message]:
        answer = await self._ask(
            "receive_message",
            QueueUrl=queue,
            MaxNumberOfMessages=most,
            WaitTimeSeconds=wait,
            VisibilityTimeout=visibility,
            MessageSystemAttributeNames=["All"],
            MessageAttributeNames=["All"],
        )
        messages: Sequence[Message] = answer.get("Messages", ())
        return messages

    async def delete(self, queue: str, entries: Sequence[Mapping[str, Any]]) -> Sequence[Refusal]:
        return _refusals(entries, await self._ask("delete_message_batch", QueueUrl=queue, Entries=list(entries)))

    async def change_visibility(self, queue: str, entries: Sequence[Mapping[str, Any]]) -> Sequence[Refusal]:
        return _refusals(entries, await self._ask("change_message_visibility_batch", QueueUrl=queue, Entries=list(entries)))

    async def queue_url(self, name: str, owner: str | None) -> str:
        account = {} if owner is None else {"QueueOwnerAWSAccountId": owner}
        answer = await self._ask("get_queue_url", QueueName=name, **account)
        return str(answer.get("QueueUrl", ""))

    async def attributes(self, queue: str) -> Mapping[str, str]:
        answer = await self._ask("get_queue_attributes", QueueUrl=queue, AttributeNames=["All"])
        found: Mapping[str, str] = answer.get("Attributes", {})
        return found

    async def _ask(self, operation: str, **parameters: Any) -> Mapping[str, Any]:
        with _mapped(self._place):
            answer: Mapping[str, Any] = await getattr(self._sqs, operation)(**parameters)
        # botocore takes a proxy's page for an empty answer: a queue that is always empty, deletes that never fail.
        kind = answer["ResponseMetadata"]["HTTPHeaders"].get("content-type", "")
        if "json" not in kind:
            raise NotConnected(
                f"{self._place}: what answers is no SQS (it sent {kind or 'no content type'}); check `endpoint`, and proxies"
            )
        return answer

    async def aclose(self) -> None:
        await self._stack.aclose()
        self._sqs = None
