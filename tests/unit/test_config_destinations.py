"""`on_failure` and `on_success`: what a mapping may name, what is refused, and what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from poller.config import load
from poller.errors import ConfigError
from poller.registry import Registry
from tests.unit.test_config_parts import ENVIRON, FUNCTION, Complain, Read, TopicOptions

TOPIC = "arn:aws:sqs:eu-west-1:123456789012:dead"
SECRET = "https://hooks.test/T0/secret"


def mapping(*lines: str, source: str = "arn:aws:sqs:eu-west-1:123456789012:orders") -> str:
    return "\n".join([FUNCTION, "[mappings.m]", 'function = "f"', *lines, f'source = {{ type = "sqs", queue = "{source}" }}\n'])


def test_a_mapping_names_one_or_several(read: Read) -> None:
    config = read(mapping(f'on_failure = ["{TOPIC}", {{ to = "acme:a", size = 3 }}]', 'on_success = { to = "acme:a", size = 3 }'))
    one = config.mappings["m"]
    assert one.settings.on_failure == (TOPIC, "acme:a") and one.settings.on_success == ("acme:a",)
    assert [(each.name, each.to, each.kind) for each in one.destinations] == [(TOPIC, TOPIC, "sqs"), ("acme:a", "acme:a", "acme")]
    assert one.destinations[1].options == TopicOptions(size=3)
    assert one.destinations[0].traits.maximum_bytes == 1024


def test_nothing_is_sent_anywhere_unasked(read: Read) -> None:
    settings = read(mapping()).mappings["m"].settings
    assert (settings.on_failure, settings.on_success, settings.aws_exact) == ((), (), False)
    assert read(mapping('defaults = "aws"')).mappings["m"].settings.aws_exact


def test_an_address_by_reference_goes_by_the_name_of_the_reference(read: Read) -> None:
    one = read(mapping('on_failure = { to = "env:HOOK", password = "file:secret.txt" }'), ENVIRON | {"HOOK": SECRET}).mappings["m"]
    (found,) = one.destinations
    assert (found.name, found.to, found.kind, found.options.password) == ("env:HOOK", SECRET, "https", "file-secret")
    assert one.settings.on_failure == ("env:HOOK",)
    assert "secret" not in repr(one).replace("secret file:secret.txt", "")


def test_file_is_a_kind_of_destination_and_no_reference(read: Read) -> None:
    assert read(mapping('on_failure = "file:dead.jsonl"')).mappings["m"].destinations[0].to == "file:dead.jsonl"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            'on_failure = "dead.jsonl"',
            'on_failure] found "dead.jsonl"; allowed a URL or an ARN of one of these kinds: acme, file, https, sqs',
        ),
        (
            'on_failure = "arn:aws:glue:eu-west-1:1:x"',
            'on_failure] found "arn:aws:glue:eu-west-1:1:x"; allowed a URL or an ARN of one of these kinds: acme, file, https, sqs',
        ),
        (
            "on_failure = { size = 1 }",
            "on_failure.to] found no key 'to'; allowed a URL or an ARN of one of these kinds: acme, file, https, sqs",
        ),
        (
            'on_failure = { to = "acme:a", sise = 1 }',
            'on_failure.sise] found an unknown key; allowed password, size, to; did you mean "size"?',
        ),
        ('on_success = [{ to = "acme:a", size = 10 }]', "on_success.0.size] size 10 is too large for acme:a"),
        ('on_failure = ["acme:a", "acme:a"]', 'on_failure.1] found the destination "acme:a" again; allowed each destination once'),
        (
            'on_failure = "env:NONE"',
            'on_failure] found "env:NONE", but the environment variable NONE is not set; '
            'allowed a variable that is set, or "literal:env:NONE" for this very text',
        ),
        (
            'on_failure = "arn:aws:sqs:eu-west-1:123456789012:orders"',
            'on_failure] found the destination "arn:aws:sqs:eu-west-1:123456789012:orders", which is the mapping\'s own source; '
            "allowed another: it would feed itself",
        ),
    ],
)
def test_what_cannot_be_a_destination_is_refused(complain: Complain, lines: str, sentence: str) -> None:
    assert complain(mapping(lines)) == [f"poller.toml:6: [mappings.m.{sentence}"]


def test_one_destination_has_one_set_of_options(complain: Complain) -> None:
    (problem,) = complain(mapping('on_failure = "acme:a"', 'on_success = { to = "acme:a", size = 2 }'))
    assert problem == (
        'poller.toml:7: [mappings.m.on_success] found the destination "acme:a" with other options; '
        "allowed the same options wherever a mapping names it"
    )


def test_a_password_in_an_address_is_not_shown(complain: Complain) -> None:
    (problem,) = complain(mapping('on_failure = "ftp://me:hunter2@host/"'))
    assert "hunter2" not in problem and "ftp://me:***@host/" in problem


def test_what_is_a_secret_of_an_address_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "poller.toml"
    twice = mapping('on_failure = ["https://hooks.test/T0/s3cret", "https://hooks.test/T0/s3cret"]')
    path.write_text(twice)
    with pytest.raises(ConfigError) as caught:
        load(path, Registry(), {})
    told = str(caught.value)
    assert 'found the destination "https://hooks.test/***0380b6" again' in told and "s3cret" not in told
