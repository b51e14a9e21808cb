"""The options of every destination on AWS, and how its address names it. Vendor-free: `check` reads them, and imports no client."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

import msgspec
from msgspec import Meta

from connectors.aws.naming import target_problems
from poller.errors import ConfigError
from poller.units import duration


class SendOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A destination on AWS, besides its address."""

    region: Annotated[str | None, Meta(description="Default: of the ARN, else of the environment.")] = None
    profile: Annotated[str | None, Meta(description="A profile of the AWS configuration files.")] = None
    endpoint: Annotated[str | None, Meta(description="Another service than AWS's: its URL.")] = None
    role_arn: Annotated[str | None, Meta(description="A role to assume.")] = None
    timeout: Annotated[str, Meta(description="How long an answer may take.", extra={"unit": "duration"})] = "30s"


@dataclass(frozen=True, slots=True)
class Address:
    """What an ARN names. `name` is the end of it; `region` and `account` are "" where it has none."""

    arn: str
    partition: str
    region: str
    account: str
    name: str

    @property
    def fifo(self) -> bool:
        return self.name.endswith(".fifo")


def address(to: str, pattern: str, example: str) -> Address:
    """`pattern`: a regular expression of service, region, account and the rest, with the groups `region`, `account` and `name`; it comes
    after `arn:<partition>:`. Raises ConfigError."""
    found = re.fullmatch(rf"arn:(?P<partition>[\w-]+):{pattern}", to, re.ASCII)
    if found is None:
        raise ConfigError(f"{to!r} is no address of this kind; write an ARN such as {example}")
    parts = found.groupdict()
    return Address(to, parts["partition"], parts.get("region") or "", parts.get("account") or "", parts["name"])


def checked(named: Address, options: SendOptions) -> float:
    """The timeout in seconds. Raises ConfigError for options that contradict each other, or the address."""
    problems = list(target_problems(options))
    if options.region is not None and named.region not in {"", options.region}:
        problems.append(f"region is {options.region!r}, but {named.arn} is in {named.region!r}; leave region out")
    seconds = 0.0
    try:
        seconds = duration(options.timeout)
    except ValueError as error:
        problems.append(f"timeout: {error}")
    else:
        if not 0.1 <= seconds <= 900:
            problems.append(f"timeout is {options.timeout!r}; allowed are 100ms to 15m")
    if problems:
        raise ConfigError(problems)
    return seconds
