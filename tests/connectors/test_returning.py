"""What is asked of AWS to put records back, and what becomes of refusals that no server here makes on request."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import pytest

from connectors.aws.refusals import Place
from connectors.aws.rejections import rejection
from connectors.aws.sender import AwsSender
from connectors.kinesis.returning import KEYS, StreamReturner
from connectors.sqs.queue import where
from connectors.sqs.returning import QueueReturner
from poller.errors import NotConnected
from poller.failures.journal import KeptRecord
from poller.feed import Returner

PLACE = Place("SQS queue q (region eu-west-1, AWS)", "sqs:SendMessage")


class Service:
    """Answers as it is told; what it was asked stands in `asked`."""

    def __init__(self, answer: Callable[[str, Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self._answer = answer

    async def call(self, operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        self.asked.append((operation, parameters))
        return self._answer(operation, parameters)


def queue(service: Service, named: str = "https://sqs.eu-west-1.amazonaws.com/123456789012/q") -> QueueReturner:
    return QueueReturner(cast("AwsSender", service), PLACE, where(named))


def stream(service: Service) -> StreamReturner:
    return StreamReturner(cast("AwsSender", service), PLACE, {"StreamName": "s"})


def messages(count: int, **attributes: str) -> list[KeptRecord]:
    return [
        KeptRecord(f"m{n}", None, 0.0, json.dumps({"messageId": f"m{n}", "body": f"b{n}", "attributes": attributes}).encode())
        for n in range(count)
    ]


def records(*keys: str) -> list[KeptRecord]:
    data = base64.b64encode(b"x").decode()
    elements = [{"kinesis": {"partitionKey": key, "data": data}} for key in keys]
    return [KeptRecord(f"r{n}", None, 0.0, json.dumps(element).encode()) for n, element in enumerate(elements)]


def accepted(parameters: Mapping[str, Any], *refused: str, fault: bool = False) -> Mapping[str, Any]:
    """Of SendMessageBatch: all but these bodies."""
    entries = parameters["Entries"]
    failed = [
        {"Id": each["Id"], "Code": "InvalidMessageContents" if fault else "InternalError", "SenderFault": fault, "Message": "no"}
        for each in entries
        if each["MessageBody"] in refused
    ]
    return {"Successful": [{"Id": each["Id"]} for each in entries if each["MessageBody"] not in refused], "Failed": failed}


async def insist(returner: Returner, kept: Sequence[KeptRecord]) -> int:
    """As the engine does; how often it was refused."""
    refusals = 0
    while kept:
        try:
            kept = kept[await returner.put(kept) :]
        except NotConnected as error:
            if error.permanent:
                raise
            refusals += 1
    return refusals


async def test_what_is_refused_again_and_again_makes_no_others_come_again_and_again() -> None:
    left = 19

    def answer(_: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        nonlocal left
        refused = any(each["MessageBody"] == "b3" for each in parameters["Entries"]) and left > 0
        left -= refused
        return accepted(parameters, *["b3"] * refused)

    service = Service(answer)
    assert await insist(queue(service), messages(12)) == 18
    put = [each["MessageBody"] for _, parameters in service.asked for each in parameters["Entries"]]
    assert {body: put.count(body) for body in put} == {f"b{n}": 20 if n == 3 else 2 if 3 < n < 10 else 1 for n in range(12)}


async def test_a_refusal_that_is_the_messages_own_fault_is_for_good() -> None:
    with pytest.raises(NotConnected, match="InvalidMessageContents: no") as caught:
        await queue(Service(lambda _, parameters: accepted(parameters, "b0", fault=True))).put(messages(1))
    assert caught.value.permanent


async def test_a_queue_by_its_name_is_asked_for_once_it_answers() -> None:
    lost = [True]

    def answer(operation: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if operation != "GetQueueUrl":
            return accepted(parameters)
        assert parameters == {"QueueName": "q", "QueueOwnerAWSAccountId": "123456789012"}
        if lost:
            lost.clear()
            raise NotConnected("no answer")
        return {"QueueUrl": "https://queue"}

    service = Service(answer)
    assert await insist(queue(service, "arn:aws:sqs:eu-west-1:123456789012:q"), messages(11)) == 1
    assert [operation for operation, _ in service.asked] == ["GetQueueUrl", "GetQueueUrl", "SendMessageBatch", "SendMessageBatch"]
    assert service.asked[-1][1]["QueueUrl"] == "https://queue"


async def test_the_trace_header_and_the_group_go_back_too() -> None:
    service = Service(lambda _, parameters: accepted(parameters))
    await queue(service).put(messages(1, AWSTraceHeader="Root=1", MessageGroupId="g", SenderId="nobody"))
    ((_, parameters),) = service.asked
    assert parameters["Entries"] == [
        {
            "Id": "0",
            "MessageBody": "b0",
            "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1"}},
            "MessageGroupId": "g",
        }
    ]


@pytest.mark.parametrize("answer", [{}, {"Successful": []}, {"Successful": [{"Id": "0"}, {"Id": "1"}]}])
async def test_what_answers_and_is_no_queue_is_told(answer: Mapping[str, Any]) -> None:
    with pytest.raises(NotConnected, match="what answers is no AWS"):
        await queue(Service(lambda *_: answer)).put(messages(1))


async def test_each_record_of_a_key_is_to_stand_behind_the_one_before_it_also_after_a_refusal() -> None:
    refused = [False, False, True]

    def answer(_: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        if refused and refused.pop(0):
            raise rejection(PLACE, "PutRecord", "ProvisionedThroughputExceededException", "Rate exceeded")
        return {"SequenceNumber": f"after {parameters.get('SequenceNumberForOrdering')}"}

    service = Service(answer)
    assert await insist(stream(service), records("a", "b", "a", "a")) == 1
    asked = [(parameters["PartitionKey"], parameters.get("SequenceNumberForOrdering")) for _, parameters in service.asked]
    assert asked == [("a", None), ("b", None), *[("a", "after None")] * 2, ("a", "after after None")]


async def test_of_many_keys_the_newest_are_remembered() -> None:
    returner = stream(Service(lambda *_: {"SequenceNumber": "1"}))
    for number in range(KEYS + 1):
        await returner.put(records(f"k{number}" if number != KEYS - 1 else "k0"))
    assert len(returner._last) == KEYS - 1 + 1 and list(returner._last)[-2:] == ["k0", f"k{KEYS}"]


@pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "KMS.ThrottlingException", "RequestThrottled", "SlowDown"])
def test_who_is_asked_too_often_is_asked_again(code: str) -> None:
    error = rejection(PLACE, "PutRecord", code, "")
    assert not error.permanent and error.retry_after is not None
