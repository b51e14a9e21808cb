"""The pages of the admin server: /livez, /readyz, /metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

import msgspec

from poller.admin.http import Answer, Page
from poller.metrics import CONTENT_TYPE, exposition
from poller.status import DaemonStatus, judged


def pages(status: Callable[[], Awaitable[DaemonStatus]], clock: Callable[[], float]) -> dict[str, Page]:
    """`/livez`: the event loop runs, nothing more; it asks nobody. `/readyz`: 200 or 503, with the reasons as JSON, and what
    is paused, or does not arrive at its destination: that is no reason. `/metrics`: Prometheus.

    `clock` is epoch seconds.
    """

    async def livez() -> Answer:
        return Answer(b"ok\n")

    async def readyz() -> Answer:
        verdict = judged(await status(), clock())
        paused = [mapping.name for mapping in verdict.mappings if mapping.paused is not None]
        late = [
            {"mapping": each.mapping, "destination": each.name, "waiting": each.waiting, "oldest": each.oldest}
            | ({"damaged": each.damaged} if each.damaged else {})
            for each in verdict.destinations
            if each.attempts or each.damaged
        ]
        more = ({"paused": paused} if paused else {}) | ({"destinations": late} if late else {})
        body = msgspec.json.encode({"ready": verdict.ready, "reasons": verdict.reasons} | more)
        code = HTTPStatus.OK if verdict.ready else HTTPStatus.SERVICE_UNAVAILABLE
        return Answer(body + b"\n", code, "application/json")

    async def metrics() -> Answer:
        return Answer(exposition(judged(await status(), clock())).encode(errors="replace"), content_type=CONTENT_TYPE)

    return {"/livez": livez, "/readyz": readyz, "/metrics": metrics}
