"""Event source mappings of tables' streams, as AWS's documents have them -> options of ours. Pure.

Sources: CreateEventSourceMapping; AWS SAM, "DynamoDB" event and AWS::Serverless::SimpleTable; AWS::DynamoDB::Table and GlobalTable, "Return
values". The ARN of a stream holds the moment when it was turned on, which no template knows: `StreamArn` is the table's here, and follows
the stream that is on.
"""

from __future__ import annotations

import re

from connectors.starting import imported_start
from poller.importing.carried import Carried, Importer, Properties, Resource

_TABLE = re.compile(r"arn:[\w-]+:dynamodb:[\w-]+:\w+:table/([\w.-]+)(?:/stream/.+)?")

_ARN = "arn:{partition}:dynamodb:{region}:{account}:table/{name}"
_RESOURCE = Resource("TableName", "{name}", {"Arn": _ARN, "StreamArn": _ARN})


def carry(properties: Properties) -> Carried | None:
    match = _TABLE.fullmatch(str(properties.get("EventSourceArn", "")))
    if match is None:
        return None
    start = imported_start(properties)
    return Carried({"table": match[0], **start.options}, match[1], start.read | {"EventSourceArn"}, remarks=start.remarks)


IMPORTER = Importer(
    events={"DynamoDB": {"Stream": "EventSourceArn"}},
    resources={
        "AWS::DynamoDB::Table": _RESOURCE,
        "AWS::DynamoDB::GlobalTable": _RESOURCE,
        "AWS::Serverless::SimpleTable": _RESOURCE,
    },
    carry=carry,
)
