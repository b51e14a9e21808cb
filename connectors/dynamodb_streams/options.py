"""The options of the `dynamodb_streams` connector. Vendor-free: `check` reads them, and imports no client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from connectors.aws import naming
from connectors.aws.naming import Where
from poller.settings import Filterable

_ARN = re.compile(r"arn:([\w-]+):dynamodb:([\w-]+):(\w+):table/([\w.-]{1,255})(?:/stream/([\w:.-]+))?")
_NAME = re.compile(r"[\w.-]{1,255}", re.ASCII)

TURN_ON = "turn it on (StreamSpecification of UpdateTable), best with NEW_AND_OLD_IMAGES"
"""What a table without a stream needs."""

FILTERABLE = Filterable(
    ("eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "userIdentity", "eventSourceARN"),
    "dynamodb",
    text=False,
    encoding="json",
)
"""All of the element (AWS Lambda guide, "Using event filtering with a DynamoDB event source")."""


class DynamoDBOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The changes of a table of DynamoDB."""

    table: Annotated[
        str, Meta(description="The table's name or ARN: its stream, and the next one if it is turned off and on. Or the ARN of one stream.")
    ]
    region: Annotated[str | None, Meta(description="Default: of the ARN, else of the environment.")] = None
    profile: Annotated[str | None, Meta(description="A profile of the AWS configuration files.")] = None
    endpoint: Annotated[str | None, Meta(description="Another DynamoDB Streams than AWS's: its URL.")] = None
    role_arn: Annotated[str | None, Meta(description="A role to assume.")] = None
    starting_position: Annotated[Literal["TRIM_HORIZON", "LATEST"], Meta(description="Where to begin while there is no progress.")] = (
        "TRIM_HORIZON"
    )
    partial: Annotated[
        Literal["cut", "listed"],
        Meta(
            description='After a partial failure: `"cut"` retries from the first record on that the function named, as AWS; `"listed"` '
            "retries exactly those that it named."
        ),
    ] = "cut"


def where(table: str) -> Where:
    """Raises ValueError with a sentence for a person."""
    if arn := _ARN.fullmatch(table):
        return Where(arn[4], table, arn[2], arn[3])
    if _NAME.fullmatch(table):
        return Where(table)
    example = "arn:aws:dynamodb:<region>:<account>:table/<name>"
    raise ValueError(f"{table!r} is no DynamoDB table; write its name, its ARN ({example}), or the ARN of one of its streams")


def stream(options: DynamoDBOptions) -> str | None:
    """The ARN of the one stream that the options name; None: they name a table."""
    arn = where(options.table).arn
    return arn if arn is not None and "/stream/" in arn else None


def identity(options: DynamoDBOptions) -> str:
    """Which table or stream the options mean, however they spell it: equal only where it is the same for certain."""
    label = (stream(options) or "").partition("/stream/")[2]
    return f"{naming.identity(where(options.table), options)} {label}".rstrip()


def problems(options: DynamoDBOptions) -> Iterator[str]:
    """What is wrong with them, a sentence each."""
    try:
        named = where(options.table)
    except ValueError as error:
        yield f"table: {error}"
        yield from naming.target_problems(options)
    else:
        yield from naming.problems("the table", named, options)


def refused_by_aws(options: DynamoDBOptions) -> Iterator[str]:
    """What CreateEventSourceMapping has no word for (aws-esm: Parameters)."""
    if options.partial == "listed":
        yield 'partial = "listed" is not offered by AWS, which retries from the first named record on'


def place(options: DynamoDBOptions) -> str:
    """For messages."""
    return naming.place("stream of DynamoDB table", where(options.table), options)
