"""What the AWS CLI answers about event source mappings and functions -> the same. Pure.

Sources: AWS Lambda API Reference, EventSourceMappingConfiguration (`list-event-source-mappings`, `get-`, `create-`,
`update-event-source-mapping`) and FunctionConfiguration (`list-functions`, `get-function-configuration`, `get-function`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poller.errors import ConfigError
from poller.importing.described import Described, Function, Polled, Remark, function_name

_SHAPES = (
    "what `aws lambda list-event-source-mappings` or `list-functions` answers, or a template of SAM or CloudFormation (with Resources)"
)


def described(document: Any, name: str) -> Described:
    """Raises ConfigError for what is none of these answers."""
    if isinstance(document, list):
        document = {"EventSourceMappings" if all(map(_is_mapping, document)) else "Functions": document}
    elif _is_mapping(document):
        document = {"EventSourceMappings": [document]}
    elif isinstance(document, dict) and isinstance(document.get("Configuration"), dict):
        document = {"Functions": [document["Configuration"]]}
    elif _is_function(document):
        document = {"Functions": [document]}
    if not isinstance(document, dict) or not document.keys() & {"EventSourceMappings", "Functions"}:
        raise ConfigError(f"{name}: found something else; allowed {_SHAPES}")
    listed, functions = document.get("EventSourceMappings", []), document.get("Functions", [])
    if not (
        isinstance(listed, list) and all(map(_is_mapping, listed)) and isinstance(functions, list) and all(map(_is_function, functions))
    ):
        raise ConfigError(f"{name}: an element of the list is no event source mapping, or no function; allowed {_SHAPES}")
    mappings, remarks = list[Polled](), list[Remark]()
    if document.get("NextMarker") or document.get("NextToken"):
        remarks.append(Remark(name, "this is one page of several: call the AWS CLI without --no-paginate and --max-items"))
    for each in listed:
        where = f"{name}: {each.get('UUID') or each['FunctionArn']}"
        if each.get("State") == "Deleting":
            remarks.append(Remark(where, "left out: it is being deleted"))
        else:
            mappings.append(Polled("", where, str(each["FunctionArn"]), each, listed=True))
    return Described({str(each["FunctionName"]): _function(each, name) for each in functions}, tuple(mappings), tuple(remarks))


def _is_mapping(document: Any) -> bool:
    return isinstance(document, dict) and isinstance(document.get("FunctionArn"), str) and document.keys() >= {"UUID"}


def _is_function(document: Any) -> bool:
    return (
        isinstance(document, dict)
        and isinstance(document.get("FunctionName"), str)
        and document.keys() & {"Handler", "PackageType"} != set()
    )


def _function(answer: Mapping[str, Any], name: str) -> Function:
    own = function_name(str(answer["FunctionName"]))[0]
    kept = {key: value for key, value in answer.items() if key in KEPT and value not in (None, [], {})}
    return Function(own, f"{name}: {own}", kept, lost={"Code": "AWS has it: `aws lambda get-function` tells where"})


KEPT = {
    "Architectures", "DeadLetterConfig", "Environment", "EphemeralStorage", "FileSystemConfigs", "Handler", "ImageConfigResponse", "Layers",
    "MemorySize", "PackageType", "Runtime", "Timeout", "VpcConfig",
}  # fmt: skip
"""What is the function's, of what the API answers: all else is about its deployment."""
