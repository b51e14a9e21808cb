"""The options of the `dynamodb_streams` connector. Vendor-free: `check` reads them, and imports no client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from connectors.kinesis.options import target_problems
from poller.settings import Filterable

_ARN = re.compile(r"arn:([\w-]+):dynamodb:([\w-]+):(\w+):table/([\w.-]{1,255})(?:/stream/([\w:.-]+))?")
_NAME = re.compile(r"[\w.-]{1,255}", re.ASCII)

FILTERABLE = Filterable(
    ("eventID", "eventName", "eventVersion", "eventSource", "awsRegion", "dynamodb", "userIdentity", "eventSourceARN"),
    "dynamodb",
    text=False,
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


@dataclass(frozen=True, slots=True)
class Where:
    """A table as an option names it. `region` and `account` only if it was an ARN, `stream` only if that was a stream's: its own ARN."""

    name: str
    region: str | None = None
    account: str | None = None
    stream: str | None = None


def where(table: str) -> Where:
    """Raises ValueError with a sentence for a person."""
    if arn := _ARN.fullmatch(table):
        return Where(arn[4], arn[2], arn[3], table if arn[5] is not None else None)
    if _NAME.fullmatch(table):
        return Where(table)
    example = "arn:aws:dynamodb:<region>:<account>:table/<name>"
    raise ValueError(f"{table!r} is no DynamoDB table; write its name, its ARN ({example}), or the ARN of one of its streams")


def identity(options: DynamoDBOptions) -> str:
    """Which table or stream the options mean, however they spell it: equal only where it is the same for certain."""
    named = where(options.table)
    credentials = f"{options.profile or ''} {options.role_arn or ''}"
    region = named.region or options.region or f"region of {credentials}"
    label = "" if named.stream is None else named.stream.partition("/stream/")[2]
    return " ".join(((options.endpoint or "").rstrip("/"), region, named.account or credentials, named.name, label)).rstrip()


def problems(options: DynamoDBOptions) -> Iterator[str]:
    """What is wrong with them, a sentence each."""
    try:
        named = where(options.table)
    except ValueError as error:
        yield f"table: {error}"
    else:
        if options.region is not None and named.region not in {None, options.region}:
            yield f"region is {options.region!r}, but the table is in {named.region!r}; leave region out"
    yield from target_problems(options.role_arn, options.endpoint)


def refused_by_aws(options: DynamoDBOptions) -> Iterator[str]:
    """What CreateEventSourceMapping has no word for (aws-esm: Parameters)."""
    if options.partial == "listed":
        yield 'partial = "listed" is not offered by AWS, which retries from the first named record on'


def place(options: DynamoDBOptions) -> str:
    """For messages."""
    named = where(options.table)
    region = options.region or named.region or "of the environment"
    return f"stream of DynamoDB table {named.name} (region {region}, {options.endpoint or 'AWS'})"
