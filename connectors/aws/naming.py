"""How options name something of AWS's: by its name or its ARN, with who is asked for it. Vendor-free."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Where:
    """What an option names. `arn`, `region` and `account` only if it was an ARN."""

    name: str
    arn: str | None = None
    region: str | None = None
    account: str | None = None


class Asked(Protocol):
    """The options that say who is asked."""

    @property
    def region(self) -> str | None: ...
    @property
    def profile(self) -> str | None: ...
    @property
    def endpoint(self) -> str | None: ...
    @property
    def role_arn(self) -> str | None: ...


def identity(named: Where, asked: Asked) -> str:
    """What the options mean, however they spell it: equal only where it is the same for certain."""
    credentials = f"{asked.profile or ''} {asked.role_arn or ''}"
    region = named.region or asked.region or f"region of {credentials}"
    return " ".join(((asked.endpoint or "").rstrip("/"), region, named.account or credentials, named.name))


class Named(Protocol):
    """What an option, or an address, names. `region`: None or "" where it does not tell."""

    @property
    def name(self) -> str: ...
    @property
    def region(self) -> str | None: ...


def place(what: str, named: Named, asked: Asked) -> str:
    """For messages; `what`: "Kinesis stream"."""
    return f"{what} {named.name} (region {asked.region or named.region or 'of the environment'}, {asked.endpoint or 'AWS'})"


def problems(what: str, named: Where, asked: Asked) -> Iterator[str]:
    """What is wrong with who is asked for it, a sentence each; `what`: "the stream"."""
    if asked.region is not None and named.region not in {None, asked.region}:
        yield f"region is {asked.region!r}, but {what} is in {named.region!r}; leave region out"
    yield from target_problems(asked)


def target_problems(asked: Asked) -> Iterator[str]:
    """What is wrong with who is asked."""
    if asked.role_arn is not None and not asked.role_arn.startswith("arn:"):
        yield f"role_arn is {asked.role_arn!r}; write the role's ARN (arn:aws:iam::<account>:role/<name>)"
    if asked.endpoint is not None and not asked.endpoint.startswith(("http://", "https://")):
        yield f"endpoint is {asked.endpoint!r}; write a URL (http://127.0.0.1:4567)"
