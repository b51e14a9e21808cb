"""CloudFormation and SAM templates -> functions and event source mappings. Pure.

Sources: AWS CloudFormation Template Reference (AWS::Lambda::EventSourceMapping, AWS::Lambda::Function); AWS SAM specification
(AWS::Serverless::Function, "EventSource", "Globals section": tables are merged, lists appended, all else overridden).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from poller.importing.carried import Importer, Resource, table_of
from poller.importing.described import Described, Function, Polled, Remark, function_name
from poller.importing.intrinsics import NO_VALUE, Resolver, Unknown

MAPPING = "AWS::Lambda::EventSourceMapping"
FUNCTION = "AWS::Lambda::Function"
SERVERLESS = "AWS::Serverless::Function"

_FUNCTION = Resource("FunctionName", "{name}", {"Arn": "arn:{partition}:lambda:{region}:{account}:function:{name}"}, asked=False)

RESOURCES = {
    FUNCTION: _FUNCTION,
    SERVERLESS: _FUNCTION,
    # A version has a number that only AWS knows, and that nothing here depends on.
    "AWS::Lambda::Alias": Resource("Name", "{FunctionName}:{name}"),
    "AWS::Lambda::Version": Resource("FunctionName", "{FunctionName}:version"),
    "AWS::SNS::Topic": Resource(
        "TopicName",
        "arn:{partition}:sns:{region}:{account}:{name}",
        {"TopicArn": "arn:{partition}:sns:{region}:{account}:{name}", "TopicName": "{name}"},
        {"FifoTopic": ".fifo"},
    ),
    "AWS::S3::Bucket": Resource("BucketName", "{name}", {"Arn": "arn:{partition}:s3:::{name}"}),
    "AWS::Events::EventBus": Resource("Name", "{name}", {"Arn": "arn:{partition}:events:{region}:{account}:event-bus/{name}"}),
}
"""What mappings name besides their sources."""

NESTED = {"AWS::CloudFormation::Stack", "AWS::Serverless::Application"}

_BESIDE = {"DestinationConfig", "KmsKeyArn", "KMSKeyArn", "LoggingConfig", "MetricsConfig", "ProvisionedPollerConfig", "Tags"}
"""Properties that decide nothing about which records the function gets: one that is not known is left out."""

_NOT_OF_THE_FUNCTION = {"Code", "CodeUri", "Environment", "Events", "FunctionName", "ImageUri", "InlineCode"}


def is_template(document: Any) -> bool:
    return isinstance(document, dict) and "Resources" in document


def described(document: Mapping[str, Any], name: str, folder: str, importers: Iterable[Importer], given: Mapping[str, str]) -> Described:
    """`folder`: where the template is, as seen from our file; paths in it start there. `given`: see `Resolver`. Raises ConfigError for what
    CloudFormation would refuse."""
    return _Template(document, name, folder, tuple(importers), given).described()


class _Template:
    def __init__(
        self, document: Mapping[str, Any], name: str, folder: str, importers: tuple[Importer, ...], given: Mapping[str, str]
    ) -> None:
        self._name = name
        self._folder = folder
        kinds = {**RESOURCES, **{kind: each for importer in importers for kind, each in importer.resources.items()}}
        self._resolver = Resolver(document, name, given, kinds)
        self._events = {kind: each for importer in importers for kind, each in importer.events.items()}
        resources = self._resolver.resources.items()
        self._resources = {key: each for key, each in resources if isinstance(each, dict) and isinstance(each.get("Type"), str)}
        self._globals = table_of(table_of(document.get("Globals")).get("Function"))
        self._remarks: list[Remark] = []

    def described(self) -> Described:
        there = {key: each for key, each in self._resources.items() if self._is_made(key, each)}
        mappings = [each for key, resource in there.items() for each in self._mappings(key, resource)]
        wanted = {function_name(each.function)[0] for each in mappings}
        functions = dict[str, Function]()
        for key, resource in there.items():
            if resource.get("Type") in {FUNCTION, SERVERLESS} and (named := self._name_of(key)) in wanted:
                functions[named] = self._function(key, named, resource)
        for key, resource in there.items():
            if resource.get("Type") in NESTED:
                self._say(key, "its own template is not read: import that as well")
        for key in self._resolver.resources:
            if key.startswith("Fn::"):
                self._say(key, "what a macro makes is not known here: import the template that `aws cloudformation get-template` answers")
        guesses = [Remark(self._name, text) for text in self._resolver.guesses]
        return Described(functions, tuple(mappings), (*guesses, *self._remarks))

    def _say(self, key: str, text: str) -> None:
        self._remarks.append(Remark(f"{self._name}: {key}", text))

    def _name_of(self, function: str) -> str:
        """What it is called on AWS, or here where nobody knows: then a mapping that names it is not carried over either."""
        try:
            return str(self._resolver.attribute(function, None))
        except Unknown:
            return function

    def _is_made(self, key: str, resource: Mapping[str, Any]) -> bool:
        condition = resource.get("Condition")
        try:
            if not isinstance(condition, str) or self._resolver.condition(condition):
                return True
            why = f"its condition {condition} does not hold"
        except Unknown as error:
            why = f"its condition {condition} is not known: {error}"
        if resource["Type"] in {MAPPING, FUNCTION, SERVERLESS}:
            self._say(key, f"left out: {why}")
        return False

    # --- event source mappings ----------------------------------------------------------------------------------------------------

    def _mappings(self, key: str, resource: Mapping[str, Any]) -> Iterator[Polled]:
        kind, properties = resource.get("Type"), table_of(resource.get("Properties"))
        if kind == MAPPING:
            yield from self._mapping(key, properties)
        elif kind == SERVERLESS:
            for event, described in table_of(properties.get("Events")).items():
                yield from self._event(key, event, table_of(described))

    def _mapping(self, key: str, properties: Mapping[str, Any]) -> Iterator[Polled]:
        try:
            found = self._properties(key, properties)
        except Unknown as error:
            self._say(key, f"not carried over: {error}")
            return
        yield Polled(key, f"{self._name}: {key}", str(found.pop("FunctionName", "")), found)

    def _event(self, function: str, event: str, described: Mapping[str, Any]) -> Iterator[Polled]:
        kind, label = str(described.get("Type")), f"{function}.{event}"
        if kind not in self._events:
            self._say(label, f"not carried over: no installed connector reads events of the type {kind}")
            return
        try:
            found = self._properties(label, table_of(described.get("Properties")))
        except Unknown as error:
            self._say(label, f"not carried over: {error}")
            return
        moved = dict[str, Any]()
        for name, value in found.items():
            _put(moved, self._events[kind].get(name, name).split("."), value)
        self._destination(label, moved)
        yield Polled(f"{function}-{event}", f"{self._name}: {label}", self._name_of(function), moved)

    def _properties(self, label: str, properties: Mapping[str, Any]) -> dict[str, Any]:
        """Those of an event source mapping. Raises Unknown."""
        found = dict[str, Any]()
        for name, expression in properties.items():
            try:
                value = self._resolver.value(expression)
            except Unknown as error:
                if name not in _BESIDE:
                    raise Unknown(f"{name}: {error}") from None
                self._say(label, f"{name} is left out: {error}")
                continue
            if value is not NO_VALUE:
                found[name] = value
        return found

    def _destination(self, label: str, properties: dict[str, Any]) -> None:
        """SAM's `OnFailure` has a type beside the destination, and makes one where none is named."""
        failed = table_of(table_of(properties.get("DestinationConfig")).get("OnFailure"))
        if failed and "Destination" not in failed:
            self._say(
                label, f"DestinationConfig is left out: SAM makes a destination of the type {failed.get('Type')}; name it as on_failure"
            )
            del properties["DestinationConfig"]

    # --- functions ----------------------------------------------------------------------------------------------------------------

    def _function(self, key: str, name: str, resource: Mapping[str, Any]) -> Function:
        raw = table_of(resource.get("Properties"))
        if resource.get("Type") == SERVERLESS:
            raw = _merged(self._globals, raw)
        found, lost = self._one_by_one({each: value for each, value in raw.items() if each not in _NOT_OF_THE_FUNCTION})
        variables, unset = self._one_by_one(table_of(table_of(raw.get("Environment")).get("Variables")))
        return Function(
            name, f"{self._name}: {key}", {**found, "Environment": {"Variables": variables}}, self._code(raw, lost), lost, unset
        )

    def _one_by_one(self, table: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """The values that are known, and why the others are not."""
        found, lost = dict[str, Any](), dict[str, str]()
        for name, expression in table.items():
            try:
                if (value := self._resolver.value(expression)) is not NO_VALUE:
                    found[name] = value
            except Unknown as error:
                lost[name] = str(error)
        return found, lost

    def _code(self, raw: Mapping[str, Any], lost: dict[str, str]) -> str:
        """The folder or archive that the template names on this machine; its own folder where it names none, or it is elsewhere."""
        if isinstance(code := raw.get("CodeUri"), str) and not code.startswith("s3://"):
            return posixpath.normpath(posixpath.join(self._folder, code))
        # `aws cloudformation package` takes a path where a bucket will be.
        if isinstance(code := raw.get("Code"), str):
            return posixpath.normpath(posixpath.join(self._folder, code))
        if "InlineCode" in raw or "ZipFile" in table_of(raw.get("Code")):
            lost["Code"] = "it stands in the template itself (index.py of the function's folder)"
        elif "ImageUri" in raw or "ImageUri" in table_of(raw.get("Code")):
            lost["Code"] = "it is a container image"
        elif "CodeUri" in raw or "Code" in raw:
            lost["Code"] = "it is in a bucket"
        return self._folder or "."


def _put(table: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        table = table.setdefault(part, {})
    table[path[-1]] = value


def _merged(general: Any, own: Any) -> Any:
    if isinstance(general, dict) and isinstance(own, dict) and not _computed(general) and not _computed(own):
        return {**general, **{key: _merged(general[key], each) if key in general else each for key, each in own.items()}}
    return [*general, *own] if isinstance(general, list) and isinstance(own, list) else own


def _computed(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and next(iter(value)).startswith(("Fn::", "Ref"))
