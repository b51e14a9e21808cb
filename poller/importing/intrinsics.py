"""What a template computes: parameters, conditions, mappings, intrinsic functions. Pure.

Source: AWS CloudFormation Template Reference, "Intrinsic functions", "Pseudo parameters", "Condition functions". What is known only once a
stack is made (a generated name, another stack's export) is given by the caller, stood in for (`Resolver.guesses`), or `Unknown`.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from string import Formatter
from typing import Any, Final

from poller.errors import ConfigError, PollerError
from poller.importing.carried import Resource, table_of
from poller.importing.loops import unrolled

LONGEST = 1_000_000
"""Characters of a computed text: names that hold one another twice double with each step."""

NO_VALUE: Final = object()
"""What `AWS::NoValue` gives: the property is not there."""

_STANDS_FOR = {"AWS::Region": "REGION", "AWS::AccountId": "ACCOUNT", "AWS::StackName": "STACK", "AWS::StackId": "STACK-ID"}
_FIXED = {"AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com", "AWS::NotificationARNs": []}
_PLACE = re.compile(r"\$\{(!?)\s*([^{}]+?)\s*\}")
_DYNAMIC = re.compile(r"\{\{resolve:([^}]*)\}\}")


class Unknown(PollerError):
    """Raised for a value that the documents do not hold; its text says which, and what to do."""


class Resolver:
    """The values of one template. `given`: what the caller knows, by the name of a parameter, pseudo parameter, resource (its physical
    name), `resource.attribute` or export. `guesses`: sentences about what was stood in for, in order."""

    def __init__(self, template: Mapping[str, Any], name: str, given: Mapping[str, str], resources: Mapping[str, Resource]) -> None:
        self._name = name
        self._given = given
        self._kinds = resources
        self._parameters = _section(template, "Parameters", name)
        self._mappings = _section(template, "Mappings", name)
        self._conditions = _section(template, "Conditions", name)
        self._path: list[str] = []
        self._known: dict[str, Any] = {}
        self.guesses: dict[str, None] = {}
        self._resources: dict[str, Any] = {}
        try:
            self._resources = unrolled(_section(template, "Resources", name), self.value, name)
        except Unknown as error:
            raise ConfigError(f"{name}: what Fn::ForEach goes over is not known: {error}") from None

    @property
    def resources(self) -> Mapping[str, Any]:
        """All of them, by their logical ids, loops written out."""
        return self._resources

    def value(self, expression: Any) -> Any:
        """What it comes to; `NO_VALUE` if nothing. Raises Unknown; ConfigError for what CloudFormation would refuse."""
        if isinstance(expression, dict):
            if len(expression) == 1 and (function := self._function(next(iter(expression)))) is not None:
                return function(next(iter(expression.values())))
            found = {key: self.value(each) for key, each in expression.items()}
            return {key: each for key, each in found.items() if each is not NO_VALUE}
        if isinstance(expression, list):
            return [value for each in expression if (value := self.value(each)) is not NO_VALUE]
        if isinstance(expression, str) and (dynamic := _DYNAMIC.search(expression)):
            raise Unknown(f"{{{{resolve:{dynamic[1]}}}}} is looked up when a stack is made")
        return expression

    def condition(self, name: str) -> bool:
        """Whether a condition holds. Raises as `value`."""
        if name not in self._conditions:
            raise self._wrong(f"there is no condition {name!r}")
        return bool(self._once(f"condition {name}", lambda: self._holds(self._conditions[name])))

    def attribute(self, resource: str, attribute: str | None) -> Any:
        """What Ref (None) or Fn::GetAtt gives of a resource."""
        label = resource if attribute is None else f"{resource}.{attribute}"
        return self._once(label, lambda: self._attribute(resource, attribute, label))

    def _function(self, name: str) -> Callable[[Any], Any] | None:
        plain: dict[str, Callable[[Any], Any]] = {
            "Ref": self._ref,
            "Fn::GetAtt": self._get_att,
            "Fn::Sub": self._sub,
            "Fn::Join": self._join,
            "Fn::Select": self._select,
            "Fn::Split": self._split,
            "Fn::If": self._if,
            "Fn::FindInMap": self._find_in_map,
            "Fn::ImportValue": self._import_value,
            "Fn::Base64": lambda value: base64.b64encode(self._text(value).encode()).decode(),
            "Fn::ToJsonString": lambda value: json.dumps(self.value(value), separators=(",", ":")),
            "Fn::Length": lambda value: len(self._list(value, "Fn::Length")),
        }
        if name in plain:
            return plain[name]
        if name in {"Fn::Equals", "Fn::And", "Fn::Or", "Fn::Not", "Condition"}:
            return lambda value: self._holds({name: value})
        if name.startswith("Fn::"):
            return lambda _: self._never(name)
        return None

    def _never(self, name: str) -> Any:
        raise Unknown(f"{name} is computed when a stack is made")

    # --- references ---------------------------------------------------------------------------------------------------------------

    def _ref(self, name: Any) -> Any:
        if not isinstance(name, str):
            raise self._wrong("Ref takes a name")
        if name == "AWS::NoValue":
            return NO_VALUE
        if name.startswith("AWS::"):
            return self._pseudo(name)
        if name in self._parameters:
            return self._parameter(name)
        if name in self._resources:
            return self.attribute(name, None)
        return self._elsewhere("Ref", name)

    def _elsewhere(self, function: str, label: str) -> str:
        """SAM makes resources of its own (`<function>Role`, `ServerlessRestApi`), which no template holds."""
        if label not in self._given:
            raise Unknown(f"{function} names {label!r}, which is not in the template; give --parameter {label}=VALUE")
        return self._given[label]

    def _pseudo(self, name: str) -> Any:
        if name in self._given:
            return self._given[name]
        if name in _FIXED:
            return _FIXED[name]
        if name not in _STANDS_FOR:
            raise self._wrong(f"there is no pseudo parameter {name!r}")
        self._guess(f"{name} is not known: {_STANDS_FOR[name]} stands for it; give --parameter {name}=VALUE")
        return _STANDS_FOR[name]

    def _parameter(self, name: str) -> Any:
        parameter = table_of(self._parameters[name])
        kind = str(parameter.get("Type", "String"))
        given = self._given.get(name)
        if str(parameter.get("NoEcho", "")).lower() == "true":
            raise Unknown(f"the parameter {name} is secret (NoEcho), and is not written here")
        if given is None and "Default" not in parameter:
            raise Unknown(f"the parameter {name} has no default; give --parameter {name}=VALUE")
        if given is None and kind.startswith("AWS::SSM::Parameter::"):
            raise Unknown(f"the parameter {name} is looked up in Systems Manager; give --parameter {name}=VALUE")
        value: Any = parameter["Default"] if given is None else given
        if "List" in kind and isinstance(value, str):
            return [each.strip() for each in value.split(",")]
        return value

    def _get_att(self, value: Any) -> Any:
        parts = value.split(".", 1) if isinstance(value, str) else value
        if not (isinstance(parts, list) and len(parts) == 2 and isinstance(parts[0], str)):
            raise self._wrong("Fn::GetAtt takes a resource and an attribute")
        if parts[0] not in self._resources:
            return self._elsewhere("Fn::GetAtt", ".".join(map(str, parts)))
        return self.attribute(parts[0], self._text(parts[1]))

    def _attribute(self, resource: str, attribute: str | None, label: str) -> Any:
        if label in self._given:
            return self._given[label]
        described = table_of(self._resources[resource])
        kind = self._kinds.get(str(described.get("Type")))
        form = None if kind is None else kind.ref if attribute is None else kind.attributes.get(attribute)
        if kind is None or form is None:
            asked = f"Ref {label}" if attribute is None else f"Fn::GetAtt {label}"
            raise Unknown(f"{asked} ({described.get('Type')}) is known only once the stack is made; give --parameter {label}=VALUE")
        # What the form has not is not asked for, and needs no guess.
        return form.format(**{part: self._part(part, resource, kind, described) for _, part, _, _ in Formatter().parse(form) if part})

    def _part(self, part: str, resource: str, kind: Resource, described: Mapping[str, Any]) -> Any:
        if part == "name":
            return self._physical(resource, kind, described)
        if part in _PARTS:
            return self._pseudo(_PARTS[part])
        if part not in (properties := table_of(described.get("Properties"))):
            raise self._wrong(f"{resource} has no {part}")
        return self._text(properties[part])

    def _physical(self, resource: str, kind: Resource, described: Mapping[str, Any]) -> str:
        if resource in self._given:
            return self._given[resource]
        properties = table_of(described.get("Properties"))
        if kind.name in properties and (value := self.value(properties[kind.name])) is not NO_VALUE:
            return self._text(value)
        if kind.asked:
            self._guess(f"the name of {resource} is made with the stack: its logical id stands for it; give --parameter {resource}=NAME")
        return resource + "".join(end for key, end in kind.endings.items() if _plain(self.value(properties.get(key))) == "true")

    def _import_value(self, value: Any) -> Any:
        name = self._text(value)
        if name not in self._given:
            raise Unknown(f"the export {name!r} is another stack's; give --parameter '{name}=VALUE'")
        return self._given[name]

    # --- texts and lists ----------------------------------------------------------------------------------------------------------

    def _sub(self, value: Any) -> str:
        text, variables = (value[0], value[1]) if isinstance(value, list) and len(value) == 2 else (value, {})
        if not isinstance(text, str) or not isinstance(variables, dict):
            raise self._wrong("Fn::Sub takes a text, or a list of a text and its variables")

        def replaced(match: re.Match[str]) -> str:
            literal, name = match[1], match[2]
            if literal:
                return f"${{{name}}}"
            if name in variables:
                return self._text(variables[name])
            return self._text({"Fn::GetAtt": name.split(".", 1)} if "." in name else {"Ref": name})

        return self._bounded(_PLACE.sub(replaced, text))

    def _join(self, value: Any) -> str:
        if not (isinstance(value, list) and len(value) == 2):
            raise self._wrong("Fn::Join takes a delimiter and a list")
        return self._bounded(self._text(value[0]).join(map(self._text, self._list(value[1], "Fn::Join"))))

    def _split(self, value: Any) -> list[str]:
        if not (isinstance(value, list) and len(value) == 2 and value[0]):
            raise self._wrong("Fn::Split takes a delimiter and a text")
        return self._text(value[1]).split(self._text(value[0]))

    def _select(self, value: Any) -> Any:
        if not (isinstance(value, list) and len(value) == 2):
            raise self._wrong("Fn::Select takes an index and a list")
        found, index = self._list(value[1], "Fn::Select"), self._text(value[0])
        if not index.isdecimal() or int(index) >= len(found):
            raise self._wrong(f"Fn::Select wants number {index} of {len(found)}")
        return found[int(index)]

    def _find_in_map(self, value: Any) -> Any:
        if not (isinstance(value, list) and len(value) in {3, 4}):
            raise self._wrong("Fn::FindInMap takes a mapping and two keys")
        keys = [self._text(each) for each in value[:3]]
        found: Any = self._mappings
        for key in keys:
            found = found.get(key, NO_VALUE) if isinstance(found, dict) else NO_VALUE
        if found is not NO_VALUE:
            return self.value(found)
        if len(value) == 4 and isinstance(value[3], dict) and "DefaultValue" in value[3]:
            return self.value(value[3]["DefaultValue"])
        # A key that is stood in for is in no mapping.
        if any(key in _STANDS_FOR.values() for key in keys):
            raise Unknown(f"Fn::FindInMap {'.'.join(keys)} hangs on a pseudo parameter; give it as --parameter")
        raise self._wrong(f"Fn::FindInMap finds no {'.'.join(keys)}")

    # --- conditions ---------------------------------------------------------------------------------------------------------------

    def _if(self, value: Any) -> Any:
        if not (isinstance(value, list) and len(value) == 3 and isinstance(value[0], str)):
            raise self._wrong("Fn::If takes a condition and two values")
        return self.value(value[1] if self.condition(value[0]) else value[2])

    def _holds(self, expression: Any) -> bool:
        if not (isinstance(expression, dict) and len(expression) == 1):
            raise self._wrong("a condition is one of Condition, Fn::Equals, Fn::And, Fn::Or and Fn::Not")
        (name, value), *_ = expression.items()
        if name == "Condition" and isinstance(value, str):
            return self.condition(value)
        if name == "Fn::Equals" and isinstance(value, list) and len(value) == 2:
            one, other = (self.value(each) for each in value)
            return bool(_plain(one) == _plain(other))
        if name == "Fn::Not" and isinstance(value, list) and len(value) == 1:
            return not self._holds(value[0])
        if name in {"Fn::And", "Fn::Or"} and isinstance(value, list) and value:
            return all(map(self._holds, value)) if name == "Fn::And" else any(map(self._holds, value))
        raise self._wrong(f"{name} is no condition, or not of this form")

    # --- what all of them need ----------------------------------------------------------------------------------------------------

    def _guess(self, sentence: str) -> None:
        self.guesses[sentence] = None

    def _once(self, label: str, compute: Callable[[], Any]) -> Any:
        if label not in self._known:
            with self._below(label):
                self._known[label] = compute()
        return self._known[label]

    @contextmanager
    def _below(self, label: str) -> Iterator[None]:
        if label in self._path:
            raise self._wrong(f"a loop: {' -> '.join([*self._path[self._path.index(label) :], label])}")
        self._path.append(label)
        try:
            yield
        finally:
            self._path.pop()

    def _text(self, expression: Any) -> str:
        value = self.value(expression)
        if isinstance(value, bool):
            return "true" if value else "false"
        if not isinstance(value, str | int | float):
            raise self._wrong(f"a text is wanted, and {json.dumps(expression, default=str)[:80]} is none")
        return str(value)

    def _list(self, expression: Any, what: str) -> Sequence[Any]:
        value = self.value(expression)
        if not isinstance(value, list):
            raise self._wrong(f"{what} takes a list")
        return value

    def _bounded(self, text: str) -> str:
        if len(text) > LONGEST:
            raise self._wrong(f"a text of more than {LONGEST:,} characters")
        return text

    def _wrong(self, sentence: str) -> ConfigError:
        where = f" ({self._path[-1]})" if self._path else ""
        return ConfigError(f"{self._name}{where}: {sentence}")


_PARTS = {"partition": "AWS::Partition", "region": "AWS::Region", "account": "AWS::AccountId", "suffix": "AWS::URLSuffix"}


def _plain(value: Any) -> Any:
    """Scalars compare as texts, for parameters are texts."""
    return str(value).lower() if isinstance(value, bool) else str(value) if isinstance(value, int | float) else value


def _section(template: Mapping[str, Any], key: str, name: str) -> dict[str, Any]:
    value = template.get(key) or {}
    if not isinstance(value, dict):
        raise ConfigError(f"{name}: {key} is no table of names")
    return value
