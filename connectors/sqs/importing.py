"""Event source mappings of queues, as AWS's documents have them -> options of ours. Pure.

Sources: CreateEventSourceMapping; AWS SAM, "SQS" event; AWS::SQS::Queue, "Return values".
"""

from __future__ import annotations

import re

from poller.importing.carried import Carried, Importer, Properties, Resource

_QUEUE = re.compile(r"arn:[\w-]+:sqs:[\w-]+:\w+:([\w.-]+)")

_ARN = "arn:{partition}:sqs:{region}:{account}:{name}"


def carry(properties: Properties) -> Carried | None:
    match = _QUEUE.fullmatch(str(properties.get("EventSourceArn", "")))
    if match is None:
        return None
    return Carried({"queue": match[0]}, match[1], frozenset({"EventSourceArn"}))


IMPORTER = Importer(
    events={"SQS": {"Queue": "EventSourceArn"}},
    resources={
        "AWS::SQS::Queue": Resource(
            "QueueName",
            "https://sqs.{region}.{suffix}/{account}/{name}",
            {"Arn": _ARN, "QueueName": "{name}", "QueueUrl": "https://sqs.{region}.{suffix}/{account}/{name}"},
            {"FifoQueue": ".fifo"},
        )
    },
    carry=carry,
)
