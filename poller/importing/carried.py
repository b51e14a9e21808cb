"""What an import asks of connectors: which of AWS's documents are theirs, and what a source in them is as options of theirs. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias, runtime_checkable


@dataclass(frozen=True, slots=True)
class Resource:
    """What Ref and Fn::GetAtt give of one type of resource (AWS CloudFormation Template Reference, "Return values" of the type).

    `name` is the property that names it; a generated name ends as `endings` says of the properties that are true. `ref` and `attributes`
    are texts with `{name}`, `{partition}`, `{region}`, `{account}`, `{suffix}` (the domain of AWS's URLs) and other properties. `asked`:
    whether a generated name is of any interest here.
    """

    name: str
    ref: str = "{name}"
    attributes: Mapping[str, str] = field(default_factory=dict)
    endings: Mapping[str, str] = field(default_factory=dict)
    asked: bool = True


Properties: TypeAlias = Mapping[str, Any]
"""The properties of one event source mapping: plain values, under the names that `AWS::Lambda::EventSourceMapping` or the API has."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What one event source mapping polls, as options of a connector: `source`, without `type`. `name`: what a person calls it.

    `read`: the properties that this covers; what nobody reads is a remark. `mapping`: keys of the mapping that AWS treats otherwise than
    the document says. `remarks`: sentences about what a person must fill in, or what is different here.
    """

    source: Mapping[str, Any]
    name: str
    read: frozenset[str]
    mapping: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Importer:
    """`events`: event types of SAM's functions that are such sources -> property of the event -> where it stands among `Properties`, with
    dots. `resources`: the types of resources that such sources are made with. `carry`: None: another connector's; raises ConfigError for
    what is its own and cannot be polled here.
    """

    events: Mapping[str, Mapping[str, str]]
    resources: Mapping[str, Resource]
    carry: Callable[[Properties], Carried | None]


@runtime_checkable
class Importing(Protocol):
    """A connector whose sources event source mappings of AWS can have."""

    def importer(self) -> Importer:
        """Imports no vendor's library."""


def table_of(value: Any) -> Mapping[str, Any]:
    """A part of a document that should be a table; nothing where it is something else."""
    return value if isinstance(value, dict) else {}


def list_of(value: Any) -> list[Any]:
    """The same of a list."""
    return value if isinstance(value, list) else []
