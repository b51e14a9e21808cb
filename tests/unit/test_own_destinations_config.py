"""Destinations that are not AWS's in a configuration, as the file is read with what is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from poller.admin.overview import destination_statuses
from poller.config import Config, load
from poller.errors import ConfigError
from poller.failures.journal import Waiting
from poller.registry import Registry

FILE = """
[functions.work]
handler = "app.handler"
code = "."

[functions.audit]
handler = "app.handler"
code = "."

[mappings.m]
function = "work"
on_failure = {failure}
source = {source}
"""
QUEUE = '{ type = "local-queue", name = "orders" }'
STREAM = '{ type = "local-stream", name = "orders" }'
KAFKA = '{ type = "kafka", bootstrap_servers = ["b1:9092"], topic = "orders", client_id = "ours" }'


def read(folder: Path, failure: str, source: str = QUEUE) -> Config:
    (folder / "app.py").touch()
    (folder / "poller.toml").write_text(FILE.format(failure=failure, source=source))
    return load(folder / "poller.toml", Registry(), {})


@pytest.mark.parametrize(
    ("failure", "source", "kind"),
    [
        ('"file:failures.jsonl"', QUEUE, "file"),
        ('"function:audit"', QUEUE, "function"),
        ('{ to = "https://h/x", headers = { Authorization = "literal:Bearer x" }, timeout = "5s" }', QUEUE, "https"),
        ('"http://h/x"', QUEUE, "http"),
        ('"local-queue:dead"', QUEUE, "local-queue"),
        ('"local-queue:orders"', STREAM, "local-queue"),
        ('"kafka://orders-dlq"', KAFKA, "kafka"),
        ('{ to = "kafka://dlq", bootstrap_servers = ["b1:9092"], raw = true }', QUEUE, "kafka"),
    ],
)
def test_what_may_be_named(failure: str, source: str, kind: str, tmp_path: Path) -> None:
    (found,) = read(tmp_path, failure, source).mappings["m"].destinations
    assert found.kind == kind


@pytest.mark.parametrize(
    ("failure", "source", "text"),
    [
        ('"function:audi"', QUEUE, "found the function 'audi', which [functions] does not have; allowed audit, work"),
        ('"local-queue:orders"', QUEUE, "which is the mapping's own source"),
        ('"kafka://orders"', KAFKA, "is the mapping's own source"),
        ('"kafka://dlq"', QUEUE, "bootstrap_servers: give them"),
        ('{ to = "file:x", keep = 0 }', QUEUE, "on_failure.keep] keep = 0: must be 1 to 1000"),
        ('{ to = "https://h", timeout = "5 parsecs" }', QUEUE, "on_failure.timeout]"),
        ('"https://h#x"', QUEUE, "the address has a fragment"),
        ('"local-queue:a b"', QUEUE, "a name has 1 to 128 letters"),
    ],
)
def test_what_is_refused(failure: str, source: str, text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, failure, source)
    assert text in str(caught.value)


def test_a_topic_takes_cluster_and_login_from_the_mappings_source(tmp_path: Path) -> None:
    (found,) = read(tmp_path, '"kafka://orders-dlq"', KAFKA).mappings["m"].destinations
    assert (found.options.bootstrap_servers, found.options.client_id) == (["b1:9092"], "ours")


def test_an_address_that_may_hold_a_secret_is_on_no_page_and_in_no_log(tmp_path: Path) -> None:
    config = read(tmp_path, '["https://h/T0/secret", "https://h/T1/secret", "https://me:secret@h", "https://h"]')
    left = Waiting("m", "https://h/T2/secret", 1, 1.0, 0, "")
    names = [each.name for each in destination_statuses(config, [left], Registry())]
    assert "secret" not in "".join(names) and len({*names}) == 5  # metrics tell them apart by their names
    assert names[3] == "https://h" and all(name.startswith("https://h/***") for name in (*names[:3], names[4]))
    (first, *_) = config.mappings["m"].destinations
    assert first.redacted("https://h/T0/secret: answered 500") == f"{names[0]}: answered 500"
