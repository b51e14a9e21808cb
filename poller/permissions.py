"""What a mapping must be allowed by IAM: the least, with resources by their names. Pure.

Source: AWS Service Authorization Reference (which action takes which resource). A policy is a document of IAM's JSON policy grammar.

A connector, a kind of destination and a kind of store say what they need (`Grant`: actions, resources) and of whom (`role_arn`);
`policies` makes one document a role. A test compares the actions with the calls that stand in the connectors' sources, both ways.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from poller.settings import MappingSettings

VERSION = "2012-10-17"


@dataclass(frozen=True, slots=True)
class Somewhere:
    """What stands in an ARN where options do not tell: `*` if nobody knows."""

    region: str = "*"
    account: str = "*"

    def arn(self, service: str, rest: str, region: str | None = None, account: str | None = None) -> str:
        """Of a resource of which only parts are known."""
        where = region or self.region
        partition = "aws-cn" if where.startswith("cn-") else "aws-us-gov" if where.startswith("us-gov-") else "aws"
        return f"arn:{partition}:{service}:{where}:{account or self.account}:{rest}"


@dataclass(frozen=True, slots=True)
class Grant:
    """Actions that are allowed on each of these resources. `purpose`: letters, for the statement's Sid."""

    purpose: str
    actions: tuple[str, ...]
    resources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Needed:
    """`grants` to whoever asks: `role`, the ARN of a role that is assumed for it, or "" for the credentials of the environment (or of a
    profile). `remarks`: sentences about what IAM does not decide, or what could not be named."""

    grants: tuple[Grant, ...] = ()
    role: str = ""
    remarks: tuple[str, ...] = ()


@runtime_checkable
class SourcePermissions(Protocol):
    """A connector whose sources IAM guards."""

    def permissions(self, options: Any, settings: MappingSettings, place: Somewhere) -> Needed:
        """To poll the source, and to settle its records."""


@runtime_checkable
class ReturnPermissions(Protocol):
    """A connector whose sources IAM guards, and that takes their records back (`poller.feed.Returning`)."""

    def returning(self, options: Any, place: Somewhere) -> Needed:
        """To put records back into the source."""


@runtime_checkable
class DestinationPermissions(Protocol):
    """A kind of destination that IAM guards."""

    def permissions(self, to: str, options: Any, place: Somewhere) -> Needed:
        """To send to it."""


@runtime_checkable
class LetterPermissions(Protocol):
    """A kind of destination that IAM guards, and at whose addresses dead letters can be found (`poller.redrive.letters.Readable`)."""

    def reading(self, to: str, options: Any, source: Any, mapping: str, place: Somewhere) -> Needed:
        """To take what lies there. `source`: the options of the source of the mapping with this id, as `RedriveContext` has them."""


@runtime_checkable
class LedgerPermissions(Protocol):
    """A kind of store that IAM guards."""

    def permissions(self, url: str, mapping: str, place: Somewhere) -> Needed:
        """To keep the leases and progress of the mapping with this id."""


@dataclass(frozen=True, slots=True)
class Principal:
    """`role` as in `Needed`; `policy` as IAM takes it."""

    role: str
    policy: dict[str, Any]


def policies(needed: Iterable[Needed]) -> tuple[Principal, ...]:
    """One policy for each who asks: the credentials of the environment first, which may assume the roles."""
    grants: dict[str, list[Grant]] = {"": []}
    for each in needed:
        grants.setdefault(each.role, []).extend(each.grants)
    if roles := tuple(sorted(role for role in grants if role)):
        grants[""].append(Grant("Roles", ("sts:AssumeRole",), roles))
    return tuple(Principal(role, _policy(given)) for role, given in grants.items() if given)


def remarks(needed: Sequence[Needed]) -> tuple[str, ...]:
    """All of them, each once, and about every `*` that stands for what is not known."""
    said = [text for each in needed for text in each.remarks]
    named = [arn for each in needed for grant in each.grants for arn in grant.resources]
    for index, what in ((3, "region"), (4, "account")):
        if any(len(parts := arn.split(":", 5)) > index and parts[index] == "*" for arn in named):
            said.append(f"the {what} is not known, and * stands for it; give --{what}, or name the resource by its ARN")
    return tuple(dict.fromkeys(said))


def _policy(grants: Sequence[Grant]) -> dict[str, Any]:
    # What may do the same to several resources is one statement.
    resources: dict[tuple[str, ...], dict[str, None]] = {}
    for grant in grants:
        resources.setdefault(grant.actions, {}).update(dict.fromkeys(grant.resources))
    purposes = {grant.actions: grant.purpose for grant in reversed(grants)}
    return {
        "Version": VERSION,
        "Statement": [
            {"Sid": sid, "Effect": "Allow", "Action": [*actions], "Resource": [*resources[actions]]}
            for sid, actions in zip(_sids([purposes[actions] for actions in resources]), resources, strict=True)
        ],
    }


def _sids(purposes: Sequence[str]) -> list[str]:
    """Unique, and of letters and digits alone, as IAM wants them."""
    found = list[str]()
    for purpose in purposes:
        sid = re.sub(r"[^A-Za-z0-9]", "", purpose)
        number = 1
        while (name := sid if number == 1 else f"{sid}{number}") in found:
            number += 1
        found.append(name)
    return found
