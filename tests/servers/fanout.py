"""Enhanced fan-out of the tests' own, before a Kinesis that polls: SubscribeToShard as AWS answers it, with the records of that server.

kinesis-local pushes once a second, never says that a shard has ended, and refuses for seconds after a subscriber has gone; and none of it
ends when a test wants it to. Here each subscription reads with the server's own GetShardIterator and GetRecords, and what it reads is
framed as AWS frames it (`vnd.amazon.eventstream`, CRC32s), so that botocore's own parser reads it. All other calls pass as they are.

As AWS (API reference, SubscribeToShard): a call within `apart` seconds of one that succeeded is refused with ResourceInUseException, a
later one takes the shard over and ends the one before it; the end of a shard is an event with its children and without a continuation.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from aiohttp import ClientSession, ClientTimeout, TCPConnector, web

from tests.servers.kinesis.proxy import INITIAL, frame

_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", "date", "server"}
_TARGET = "Kinesis_20131202."


@dataclass(frozen=True)
class Refusal:
    """An answer with an error, or an event that is one."""

    code: str
    text: str
    status: int = 400

    def body(self) -> bytes:
        return json.dumps({"__type": self.code, "message": self.text}).encode()


IN_USE = Refusal("ResourceInUseException", "Another active subscription exists for this consumer")
GONE = Refusal("ResourceNotFoundException", "Consumer not found")
DENIED = Refusal("AccessDeniedException", "User is not authorized to perform: kinesis:SubscribeToShard")


@dataclass(eq=False)
class Subscription:
    """One that is answered. `end`: set to end it, with `error`, or as after five minutes."""

    shard: str
    asked: Mapping[str, Any]
    end: asyncio.Event = field(default_factory=asyncio.Event)
    error: Refusal | None = None


class FanOutServer:
    """`refusal`: what every call is answered with. `piece`: records an event, at most. `lasts`: events with records a subscription brings
    before it ends (None: no such end). `cuts`: so many of the next events with records are cut off in their middle, with their line."""

    def __init__(self, behind: str) -> None:
        self.url = ""
        self.refusal: Refusal | None = None
        self.piece = 1_000
        self.lasts: int | None = None
        self.cuts = 0
        self.apart = 0.0
        self.running: dict[str, Subscription] = {}
        self.begun: list[Mapping[str, Any]] = []
        """StartingPosition of each subscription, in order."""
        self.asked: Counter[str] = Counter()
        self.pushed = 0
        """Records that went out."""
        self._behind = behind
        self._began: dict[str, float] = {}
        self._session: ClientSession | None = None

    def end(self, error: Refusal | None = None) -> None:
        """All subscriptions, as after five minutes, or with an error."""
        for subscription in self.running.values():
            subscription.error = error
            subscription.end.set()

    # --- answers ----------------------------------------------------------------------------------------------------------------------

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        operation = request.headers.get("X-Amz-Target", "").rpartition(".")[2]
        self.asked[operation] += 1
        body = await request.read()
        if operation == "SubscribeToShard":
            return await self._subscribe(request, json.loads(body))
        status, headers, answer = await self._pass(request, request.headers.get("X-Amz-Target", ""), body)
        passed = web.Response(status=status, body=answer)
        passed.headers.update({name: value for name, value in headers.items() if name.lower() not in _HOP})
        return passed

    async def _pass(self, request: web.BaseRequest, target: str, body: bytes) -> tuple[int, Mapping[str, str], bytes]:
        assert self._session is not None
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _HOP}
        headers |= {"Host": request.headers["Host"], "X-Amz-Target": target}
        async with self._session.post(self._behind + "/", headers=headers, data=body) as answer:
            return answer.status, dict(answer.headers), await answer.read()

    async def _call(self, request: web.BaseRequest, operation: str, **asked: Any) -> dict[str, Any]:
        given = json.dumps({name: value for name, value in asked.items() if value is not None}).encode()
        status, _, body = await self._pass(request, _TARGET + operation, given)
        if status != 200:
            raise _Refused(status, body)
        answer: dict[str, Any] = json.loads(body)
        return answer

    async def _subscribe(self, request: web.BaseRequest, asked: Mapping[str, Any]) -> web.StreamResponse:
        shard, start = asked["ShardId"], asked["StartingPosition"]
        loop = asyncio.get_running_loop()
        refusal = self.refusal
        if refusal is None and loop.time() - self._began.get(shard, float("-inf")) < self.apart:
            refusal = IN_USE
        if refusal is not None:
            return web.Response(status=refusal.status, body=refusal.body(), content_type="application/x-amz-json-1.1")
        try:
            made = await self._call(
                request,
                "GetShardIterator",
                StreamARN=asked["ConsumerARN"].partition("/consumer/")[0],
                ShardId=shard,
                ShardIteratorType=start["Type"],
                StartingSequenceNumber=start.get("SequenceNumber"),
                Timestamp=start.get("Timestamp"),
            )
        except _Refused as refused:
            return web.Response(status=refused.status, body=refused.body, content_type="application/x-amz-json-1.1")
        self._began[shard] = loop.time()
        self.begun.append(start)
        if (before := self.running.get(shard)) is not None:
            before.error = IN_USE
            before.end.set()
        response = web.StreamResponse(headers={"content-type": "application/vnd.amazon.eventstream"})
        await response.prepare(request)
        subscription = self.running[shard] = Subscription(shard, asked)
        try:
            await response.write(INITIAL)
            await self._push(request, response, subscription, made["ShardIterator"], start.get("SequenceNumber", "0"))
            await response.write_eof()
        except ConnectionError:
            pass  # whoever asked has hung up
        finally:
            if self.running.get(shard) is subscription:
                del self.running[shard]
        return response

    async def _push(
        self, request: web.BaseRequest, response: web.StreamResponse, subscription: Subscription, iterator: str | None, reached: str
    ) -> None:
        events = 0
        while not subscription.end.is_set():
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError
            read = await self._call(request, "GetRecords", ShardIterator=iterator, Limit=self.piece)
            records, iterator = read["Records"], read.get("NextShardIterator")
            ended = iterator is None
            reached = records[-1]["SequenceNumber"] if records else reached
            told = {"Records": records, "MillisBehindLatest": read.get("MillisBehindLatest", 0)}
            told |= {"ChildShards": read.get("ChildShards", [])} if ended else {"ContinuationSequenceNumber": reached}
            message = event(told)
            if records and self.cuts > 0:
                self.cuts -= 1
                await response.write(message[: len(message) // 2])
                assert request.transport is not None
                request.transport.close()
                raise ConnectionResetError
            await response.write(message)
            self.pushed += len(records)
            events += bool(records)
            if ended or events == self.lasts:
                return
            if not records:
                await _either(subscription.end, 0.05)
        if subscription.error is not None:
            headers = {":exception-type": subscription.error.code, ":content-type": "application/json", ":message-type": "exception"}
            await response.write(frame(headers, json.dumps({"message": subscription.error.text}).encode()))


class _Refused(Exception):
    """The server behind says no."""

    def __init__(self, status: int, body: bytes) -> None:
        super().__init__(body.decode())
        self.status, self.body = status, body


def event(told: Mapping[str, Any]) -> bytes:
    """A SubscribeToShardEvent as it goes over the line."""
    headers = {":event-type": "SubscribeToShardEvent", ":content-type": "application/json", ":message-type": "event"}
    return frame(headers, json.dumps(told).encode())


async def _either(event: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


@asynccontextmanager
async def fan_out_server(behind: str) -> AsyncIterator[FanOutServer]:
    """On loopback, on the loop of the test. `behind`: the URL of the server."""
    served = FanOutServer(behind)
    async with ClientSession(connector=TCPConnector(limit=0), timeout=ClientTimeout(total=60), auto_decompress=False) as session:
        served._session = session
        answer: Callable[[Any], Any] = served.answer
        runner = web.ServerRunner(web.Server(answer), shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        served.url = f"http://{host}:{port}"
        try:
            yield served
        finally:
            served.end()
            await runner.cleanup()
