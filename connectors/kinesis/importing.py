"""Event source mappings of Kinesis's streams, as AWS's documents have them -> options of ours. Pure.

Sources: CreateEventSourceMapping (EventSourceArn: a stream's or a consumer's); AWS SAM, "Kinesis" event; AWS::Kinesis::Stream, "Return
values".
"""

from __future__ import annotations

import re

from connectors.starting import imported_start
from poller.importing.carried import Carried, Importer, Properties, Resource

_STREAM = re.compile(r"(arn:[\w-]+:kinesis:[\w-]+:\w+:stream/([\w.-]+))(/consumer/.+)?")


def carry(properties: Properties) -> Carried | None:
    match = _STREAM.fullmatch(str(properties.get("EventSourceArn", "")))
    if match is None:
        return None
    start = imported_start(properties)
    consumer = {"consumer_arn": match[0]} if match[3] else {}
    return Carried({"stream": match[1], **consumer, **start.options}, match[2], start.read | {"EventSourceArn"}, remarks=start.remarks)


IMPORTER = Importer(
    events={"Kinesis": {"Stream": "EventSourceArn"}},
    resources={
        "AWS::Kinesis::Stream": Resource("Name", "{name}", {"Arn": "arn:{partition}:kinesis:{region}:{account}:stream/{name}"}),
    },
    carry=carry,
)
