"""Secrets by reference: resolved where a string may stand, and shown nowhere."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from tests.unit.test_config_parts import (
    QUEUE,
    Complain,
    Read,
    mapping,
)


def test_references_are_resolved_wherever_a_string_may_stand(read: Read, folder: Path) -> None:
    config = read(
        mapping(
            "[mappings.m.source]",
            'type = "sqs"',
            'queue = "env:QUEUE"',
            'password = "file:secret.txt"',
            'endpoints = ["literal:env:X", "env:EMPTY"]',
            source="",
        )
        + f'environment = {{ A = "env:ORDERS_TOKEN", B = "file:{folder}/secret.txt", C = "literal:literal:x", D = "http://x" }}\n'
    )
    options = config.mappings["m"].options
    assert (options.queue, options.password, options.endpoints) == ("https://queue.test/orders", "file-secret", ["env:X", ""])
    assert [value for _, value in config.functions["f"].environment] == ["hunter2-token", "file-secret", "literal:x", "http://x"]
    assert json.loads(msgspec.json.encode([str(value) for _, value in config.functions["f"].environment]))[0] == "hunter2-token"


def test_values_of_references_are_in_no_repr(read: Read) -> None:
    config = read(
        mapping(
            "[mappings.m.source]",
            'type = "sqs"',
            'queue = "q"',
            'password = "file:secret.txt"',
            'endpoints = ["env:ORDERS_TOKEN"]',
            source="",
        )
        + 'environment = { A = "env:ORDERS_TOKEN" }\n'
    )
    text = repr(config)
    assert "hunter2" not in text and "file-secret" not in text
    assert text.count("<secret env:ORDERS_TOKEN>") == 2 and "<secret file:secret.txt>" in text


def test_values_of_references_are_in_no_problem(complain: Complain) -> None:
    problems = complain(
        mapping(
            'id = "env:ORDERS_TOKEN"',
            "[mappings.m.source]",
            'type = "sqs"',
            'queue = "env:ORDERS_TOKEN"',
            'wait = "never"',
            'password = "file:secret.txt"',
            source="",
        )
    )
    assert problems == [
        'poller.toml:3: [mappings.m.id] found the id "env:ORDERS_TOKEN"; allowed letters, digits, _ and -',
        "poller.toml:4: [mappings.m.source] and <secret file:secret.txt>",
        "poller.toml:7: [mappings.m.source.wait] wait 'never' does not fit <secret env:ORDERS_TOKEN> with <secret file:secret.txt>",
    ]


def test_a_reference_of_the_wrong_type_is_named_and_not_shown(complain: Complain) -> None:
    text = (
        '[functions.f]\nhandler = "x"\ntype = "acme"\noptions = { url = "u", retries = "env:ORDERS_TOKEN", password = 3 }\n'
        '[mappings.m]\nfunction = "f"\n' + QUEUE
    )
    assert complain(text) == [
        "poller.toml:4: [functions.f.options.password] found an unknown key; allowed retries, url",
        'poller.toml:4: [functions.f.options.retries] found the value of "env:ORDERS_TOKEN"; allowed a whole number',
    ]
    assert complain(mapping() + "environment = { PIN = 1234 }\n") == [
        "poller.toml:6: [functions.f.environment.PIN] found a number (not shown); allowed a string"
    ]


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        (
            "env:NOPE",
            'found "env:NOPE", but the environment variable NOPE is not set; allowed a variable that is set, or "literal:env:NOPE" for '
            "this very text",
        ),
        ("env:not a name", 'found "env:not a name"; allowed env: and the name of an environment variable'),
        (
            "file:nope.txt",
            'found "file:nope.txt", but there is no file nope.txt; allowed a file, or "literal:file:nope.txt" for this very text',
        ),
        ("file:pkg", 'found "file:pkg", but there is no file pkg; allowed a file, or "literal:file:pkg" for this very text'),
        ("file:binary", 'found "file:binary", but binary is not UTF-8 text'),
    ],
)
def test_a_reference_that_leads_nowhere_is_a_problem_of_its_line(complain: Complain, reference: str, sentence: str) -> None:
    assert complain(mapping() + f'[functions.f.environment]\nOK = "x"\nTOKEN = "{reference}"\n') == [
        f"poller.toml:8: [functions.f.environment.TOKEN] {sentence}"
    ]
