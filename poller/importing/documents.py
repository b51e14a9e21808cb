"""JSON and YAML texts as plain values, CloudFormation's short tags in their long form. Pure.

YAML as the AWS CLI reads it (awscli/customizations/cloudformation/yamlhelper.py): dates stay texts, `!Ref x` is `{"Ref": x}`, `!GetAtt a.b`
is `{"Fn::GetAtt": ["a", "b"]}`. PyYAML's safe loader makes plain values only; what aliases stand for is counted before anything is made of
it.
"""

from __future__ import annotations

import json
from typing import Any

import yaml

from poller.errors import ConfigError

LARGEST_BYTES = 4 * 1024 * 1024
"""Of one YAML text; CloudFormation takes 1 MB."""

MOST_NODES = 500_000
"""Of one YAML text, aliases written out."""


def read(text: str, name: str) -> Any:
    """`name` is for messages. Raises ConfigError, with the line where there is one."""
    try:
        if text.lstrip()[:1] in {"{", "["}:
            try:
                return json.loads(text)
            except ValueError:
                pass  # YAML's flow style begins so too
        return _yaml(text, name)
    except RecursionError:
        raise ConfigError(f"{name}: values are nested too deep") from None


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """PyYAML's safe one, in Python: libyaml's overruns the stack at what is nested too deep."""

    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict[str, Any]:
        """Names are texts, as in JSON: an account's number may be one."""
        return {str(key): value for key, value in super().construct_mapping(node, deep=deep).items()}


def _tagged(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(node, deep=True)
    if suffix == "GetAtt" and isinstance(value, str):
        value = value.split(".", 1)
    return {suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _tagged)
_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: str(loader.construct_scalar(node)))


def _yaml(text: str, name: str) -> Any:
    if len(text) > LARGEST_BYTES:
        raise ConfigError(f"{name}: longer than {LARGEST_BYTES // 1024 // 1024} MiB; what CloudFormation takes has at most 1 MB")
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is not None and _size(node, {}, set()) > MOST_NODES:
            raise ConfigError(f"{name}: more than {MOST_NODES:,} values once its aliases are written out")
        return None if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else f"{name}:{mark.line + 1}"
        raise ConfigError(f"{where}: neither JSON nor YAML: {error.problem or error.context}") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{name}: neither JSON nor YAML: {error}") from None
    finally:
        loader.dispose()


def _size(node: yaml.Node, known: dict[int, int], above: set[int]) -> int:
    """How many nodes this is with its aliases written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    key = id(node)
    if key in above:
        raise yaml.MarkedYAMLError(problem="an alias that holds itself", problem_mark=node.start_mark)
    if key not in known:
        above.add(key)
        children = node.value if isinstance(node, yaml.SequenceNode) else [each for pair in node.value for each in pair]
        known[key] = 1 + sum(_size(child, known, above) for child in children)
        above.discard(key)
    return known[key]
