"""How destinations are opened and sent to: where what is too large goes, what their errors say, and functions as destinations."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from poller.config import DestinationConfig, MappingConfig
from poller.errors import HandlerError, NotConnected, PollerError, SourceError, StoreUnavailable
from poller.failures.delivery import Invoker, Opening, opened
from poller.failures.journal import Delivery
from poller.functions import Function
from poller.model import Busy, Fault, Response, Returned
from poller.settings import DestinationContext, DestinationTraits, FunctionSettings
from poller.testing.journals import make_entry
from poller.testing.postal import NoOptions, mapping, nobody, registry

DELIVERY = Delivery(1, "f1", "post:a", "failure", make_entry("f1", "m1"))


class Kind:
    """Destinations that spill all they get, or have places ("place" in the address), or raise `error`."""

    options = NoOptions
    actions: tuple[str, ...] = ()

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.log: list[str] = []

    def traits(self, to: str, options: NoOptions) -> DestinationTraits:
        return DestinationTraits()

    async def open(self, to: str, options: NoOptions, context: DestinationContext) -> Any:
        log, error = self.log, self.error
        log.append(f"open {to}")

        async def send(delivery: Delivery) -> None:
            if error is not None:
                raise error
            where = "" if context.spill is None else await context.spill(delivery)
            log.append(f"{to} gets {delivery.id} {where}".rstrip())

        async def aclose() -> None:
            log.append(f"close {to}")

        more = {"place": lambda delivery: f"there/{delivery.id}"} if "place" in to else {}
        return SimpleNamespace(send=send, aclose=aclose, **more)

    async def probe(self, to: str, options: NoOptions, context: DestinationContext) -> list[Any]:
        return []


def opening(kind: Kind) -> Opening:
    return Opening(registry(kind), Path(), Path(), lambda: 0.0, nobody)


def unlimited(one: MappingConfig) -> MappingConfig:
    return replace(one, destinations=tuple(replace(each, traits=DestinationTraits()) for each in one.destinations))


async def test_what_is_too_large_goes_to_the_one_with_places_first() -> None:
    kind = Kind()
    whole = unlimited(mapping("post:a", "post:b", "post:place"))
    async with opened(opening(kind), whole, whole.destinations[0]) as one:
        await one.send(DELIVERY)
        await one.send(DELIVERY)
    # b has no places, and is closed again; nothing is opened twice, and nothing that takes a place spills in its turn.
    assert kind.log == [
        *("open post:a", "open post:b", "close post:b", "open post:place"),
        *("post:place gets f1", "post:a gets f1 there/f1") * 2,
        *("close post:a", "close post:place"),
    ]


async def test_without_another_one_there_is_no_place() -> None:
    kind = Kind()
    whole = mapping("post:a", "post:b")  # b takes no body of any size
    async with opened(opening(kind), whole, whole.destinations[0]) as one:
        await one.send(DELIVERY)
    assert kind.log == ["open post:a", "post:a gets f1", "close post:a"]


@pytest.mark.parametrize(
    ("error", "permanent", "text"),
    [
        (NotConnected("no route to https://hooks/secret"), False, "no route to env:HOOK"),
        (NotConnected("gone", permanent=True), True, "gone"),
        (SourceError("https://hooks/secret may not be written"), True, "env:HOOK may not be written"),
        (StoreUnavailable("busy"), False, "busy"),
        (KeyError("a bug with https://hooks/secret"), False, "env:HOOK: KeyError"),
        (TimeoutError(), False, "env:HOOK: no answer within 60 s"),
    ],
)
async def test_whatever_a_kind_raises_is_tried_again_and_shows_no_secret(error: Exception, permanent: bool, text: str) -> None:
    config = DestinationConfig("env:HOOK", "https://hooks/secret", "post", NoOptions())
    async with opened(opening(Kind(error)), replace(mapping(), destinations=(config,)), config) as one:
        with pytest.raises(NotConnected) as caught:
            await one.send(DELIVERY)
    assert (str(caught.value), caught.value.permanent) == (text, permanent)


class Handled:
    """A handler that remembers what it was given, and answers or raises `answer`."""

    def __init__(self, answer: Response | PollerError) -> None:
        self.answer = answer
        self.given: list[Any] = []

    async def invoke(self, event: Any, call: Any) -> Response:
        self.given.append((event.mapping(), event.json(), list(event.identifiers()), event.parts()[0], len(call.request_id), call.deadline))
        if isinstance(self.answer, PollerError):
            raise self.answer
        return self.answer

    async def aclose(self) -> None: ...


async def test_a_function_is_invoked_as_any_other_and_holds_a_permit() -> None:
    handler = Handled(Returned(b"null"))
    function = Function(FunctionSettings("f", "app.py:handle", Path(), concurrency=1), handler)
    invoke = Invoker({"f": function}, lambda: 100.0, lambda: 7)
    assert await invoke("f", b'{"a":1}') == Returned(b"null")
    assert handler.given == [({"a": 1}, b'{"a":1}', [], b'{"a":1}', 36, 103.0)]
    assert isinstance(await invoke("gone", b"{}"), Busy)
    assert function.permits.take()
    waiting = asyncio.create_task(invoke("f", b"{}"))
    await asyncio.sleep(0)
    assert function.permits.waiting == 1
    function.permits.give()
    await waiting
    assert function.permits.in_use == 0
    handler.answer = HandlerError("no interpreter")
    assert isinstance(await invoke("f", b"{}"), Fault) and function.permits.in_use == 0
