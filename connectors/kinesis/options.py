"""The options of the `kinesis` connector. Vendor-free: `check` reads them, and imports no client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from connectors.aws import naming
from connectors.aws.naming import Where
from connectors.starting import Position, contradictions

_ARN = re.compile(r"arn:([\w-]+):kinesis:([\w-]+):(\w+):stream/([\w.-]{1,128})")
_CONSUMER = re.compile(r"arn:([\w-]+):kinesis:([\w-]+):(\w+):stream/([\w.-]{1,128})/consumer/([\w.-]{1,128}):(\d+)")
_NAME = re.compile(r"[\w.-]{1,128}", re.ASCII)


class KinesisOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stream of Kinesis Data Streams."""

    stream: Annotated[str, Meta(description="The stream's name or ARN.")]
    region: Annotated[str | None, Meta(description="Default: of the ARN, else of the environment.")] = None
    profile: Annotated[str | None, Meta(description="A profile of the AWS configuration files.")] = None
    endpoint: Annotated[str | None, Meta(description="Another Kinesis than AWS's: its URL.")] = None
    role_arn: Annotated[str | None, Meta(description="A role to assume.")] = None
    starting_position: Annotated[Position, Meta(description="Where to begin while there is no progress.")] = "TRIM_HORIZON"
    starting_position_timestamp: Annotated[
        str | float | None, Meta(description='With `"AT_TIMESTAMP"`: ISO 8601, or epoch seconds.', extra={"default": ""})
    ] = None
    consumer_arn: Annotated[
        str | None, Meta(description="A consumer of the stream: its records are pushed, with a bandwidth of its own (enhanced fan-out).")
    ] = None
    deaggregate: Annotated[
        bool,
        Meta(
            description="Take aggregated records of the Kinesis Producer Library apart, so that the function gets the records that were "
            "aggregated. AWS hands on the aggregate."
        ),
    ] = False
    partial: Annotated[
        Literal["cut", "listed"],
        Meta(
            description='After a partial failure: `"cut"` retries from the first record on that the function named, as AWS; `"listed"` '
            "retries exactly those that it named."
        ),
    ] = "cut"


def where(stream: str) -> Where:
    """Raises ValueError with a sentence for a person."""
    if arn := _ARN.fullmatch(stream):
        return Where(arn[4], stream, arn[2], arn[3])
    if _CONSUMER.fullmatch(stream):
        raise ValueError(f"{stream!r} is a consumer; write the stream's own ARN here, and the consumer's as consumer_arn")
    if _NAME.fullmatch(stream):
        return Where(stream)
    raise ValueError(f"{stream!r} is no Kinesis stream; write its name or its ARN (arn:aws:kinesis:<region>:<account>:stream/<name>)")


def identity(options: KinesisOptions) -> str:
    """Which stream the options mean, however they spell it: equal only where it is the same stream for certain."""
    return naming.identity(where(options.stream), options)


def problems(options: KinesisOptions) -> list[str]:
    """What is wrong with them, a sentence each."""
    return [*_place(options), *_consumer(options), *contradictions(options.starting_position, options.starting_position_timestamp)]


def refused_by_aws(options: KinesisOptions) -> Iterator[str]:
    """What CreateEventSourceMapping has no word for (aws-esm: Parameters)."""
    if options.deaggregate:
        yield "deaggregate is not offered by AWS, which hands on aggregated records as they are"
    if options.partial == "listed":
        yield 'partial = "listed" is not offered by AWS, which retries from the first named record on'


def place(options: KinesisOptions) -> str:
    """For messages."""
    return naming.place("Kinesis stream", where(options.stream), options)


def _place(options: KinesisOptions) -> Iterator[str]:
    try:
        named = where(options.stream)
    except ValueError as error:
        yield f"stream: {error}"
        yield from naming.target_problems(options)
    else:
        yield from naming.problems("the stream", named, options)


def _consumer(options: KinesisOptions) -> Iterator[str]:
    if options.consumer_arn is None:
        return
    consumer = _CONSUMER.fullmatch(options.consumer_arn)
    if consumer is None:
        example = "arn:aws:kinesis:<region>:<account>:stream/<name>/consumer/<name>:<time>"
        yield f"consumer_arn is {options.consumer_arn!r}; write the ARN of a registered consumer ({example})"
        return
    try:
        named = where(options.stream)
    except ValueError:
        return
    whole = options.consumer_arn.partition("/consumer/")[0]
    if named.name != consumer[4] or named.arn not in {None, whole}:
        yield f"consumer_arn is a consumer of {whole}, but the stream is {options.stream!r}"
    elif options.region not in {None, consumer[2]}:
        yield f"region is {options.region!r}, but the consumer is in {consumer[2]!r}; leave region out"
