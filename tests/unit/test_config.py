"""Good files and the tree that they become; what a reload compares; the reference."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from poller.config import Address, MappingConfig, handler_kind, load
from poller.config.reference import render
from poller.config.schema import BackoffTable, BreakerTable, ErrorTable, FunctionTable, MappingTable, PollerTable
from poller.quotas import MAXIMUM_EVENT_BYTES
from poller.registry import Registry
from poller.settings import Backoff, Batching, BreakerSettings, FailureSettings, FunctionSettings, MappingSettings
from tests.unit.test_config_parts import (
    ENVIRON,
    FIFO,
    FUNCTION,
    QUEUE,
    STREAM,
    QueueOptions,
    Read,
    StreamOptions,
    entry_points,
    mapping,
)


def test_the_file_of_the_design_becomes_plain_values(read: Read, folder: Path) -> None:
    config = read(
        """
[poller]
store = "sqlite:state/p.db"
listen = "[::1]:9000"
shutdown_grace = "1m"
log = "json"
log_level = "debug"

[functions.orders]
handler = "app.py:handle"
timeout = "30s"
memory = "512MiB"
concurrency = 8
environment = { TABLE = "orders", TOKEN = "env:ORDERS_TOKEN" }

[mappings.orders]
id = "orders-1"
function = "orders"
batch_size = 200
maximum_batching_window = "500ms"
maximum_retry_attempts = 5
bisect_batch_on_function_error = false
maximum_record_age = "1h"
function_response_types = ["ReportBatchItemFailures"]
parallelization_factor = 4
retry_backoff = { initial = "2s", maximum = "1m" }

[mappings.orders.source]
type = "local-stream"
stream = "orders"
"""
    )
    settings_ = MappingSettings(
        id="orders-1",
        name="orders",
        function="orders",
        batching=Batching(size=200, window=0.5, maximum_bytes=MAXIMUM_EVENT_BYTES),
        failure=FailureSettings(
            maximum_retry_attempts=5,
            maximum_record_age=3600.0,
            bisect=False,
            reporting=True,
            maximum_receive_count=None,
            backoff=Backoff(2.0, 60.0),
            backoff_set=True,
        ),
        width=4,
        breaker=BreakerSettings(),
        safe=True,
    )
    made = config.mappings["orders"]
    assert made == MappingConfig(settings_, "local-stream", StreamOptions(stream="orders"), True)
    assert config.functions["orders"] == FunctionSettings(
        name="orders",
        handler="app.py:handle",
        code=folder,
        timeout=30.0,
        memory=512 * 1024**2,
        concurrency=8,
        environment=(("TABLE", "orders"), ("TOKEN", "hunter2-token")),
    )
    assert (config.path, config.base) == (folder / "poller.toml", folder)
    assert (config.store_url, config.state) == (f"sqlite://{folder}/state/p.db", folder / "state")
    assert (config.listen, str(config.listen)) == (Address("::1", 9000), "[::1]:9000")
    assert (config.shutdown_grace, config.log, config.log_level, config.warnings) == (60.0, "json", "debug", ())


def test_what_is_not_said_has_the_documented_default(read: Read, folder: Path) -> None:
    config = read(FUNCTION + '[functions.g]\nhandler = "app.handle"\ninline = "loop"\n' + '[mappings.m]\nfunction = "g"\n' + QUEUE)
    assert config.functions["f"] == FunctionSettings("f", "app.py:handle", folder, 3.0, None, 2 * len(os.sched_getaffinity(0)))
    assert (config.functions["g"].concurrency, config.functions["g"].inline) == (64, "loop")
    assert (config.store_url, config.state) == (f"sqlite://{folder}/.poller/poller.db", folder / ".poller")
    assert (str(config.listen), config.shutdown_grace, config.log, config.log_level) == ("127.0.0.1:8780", 25.0, "auto", "info")
    made = config.mappings["m"].settings
    assert (made.id, made.width, made.batching, made.safe) == ("m", 64, Batching(10), True)
    assert made.failure.maximum_receive_count is None, "the connector decides: it knows whether the queue has a redrive policy"


@pytest.mark.parametrize(("defaults", "retries", "bisect"), [("safe", 10, True), ("aws", None, False)])
@pytest.mark.parametrize("place", ["poller", "mapping"])
def test_defaults_are_chosen_for_all_or_for_one(
    read: Read, place: str, defaults: str, retries: int | None, bisect: bool, folder: Path
) -> None:
    line = f'defaults = "{defaults}"'
    config = read(mapping(line, source=STREAM) if place == "mapping" else f"[poller]\n{line}\n" + mapping(source=STREAM))
    made = config.mappings["m"].settings
    assert (made.failure.maximum_retry_attempts, made.failure.bisect, made.failure.maximum_record_age) == (retries, bisect, None)
    assert (made.safe, made.width) == (defaults == "safe", 1)
    line_of_m = 1 if place == "mapping" else 3
    assert config.warnings == (
        ()
        if defaults == "safe"
        else (
            f"{folder}/poller.toml:{line_of_m}: [mappings.m.maximum_retry_attempts] a batch that fails is retried for ever, as "
            'defaults = "aws" has it: one bad record holds up everything behind it in its shard or partition until the source drops it; '
            "set maximum_retry_attempts, or maximum_record_age",
        )
    )


def test_retrying_for_ever_is_allowed_with_a_warning_unless_age_ends_it(read: Read) -> None:
    (warning,) = read(mapping("maximum_retry_attempts = -1", source=STREAM)).warnings
    assert ":4: [mappings.m.maximum_retry_attempts] a batch that fails is retried for ever: " in warning
    config = read(mapping("maximum_retry_attempts = -1", 'maximum_record_age = "1h"', source=STREAM))
    assert config.warnings == ()
    assert config.mappings["m"].settings.failure.maximum_retry_attempts is None
    assert len(read(mapping("maximum_retry_attempts = -1", "maximum_record_age = -1", source=STREAM)).warnings) == 1


def test_a_timeout_beyond_the_grace_of_a_stop_is_a_warning(read: Read) -> None:
    config = read(mapping() + 'timeout = "90s"\n')
    (warning,) = config.warnings
    assert ":6: [functions.f.timeout] the timeout 90s is longer than [poller] shutdown_grace 25s: a stop may end" in warning


def test_safe_allows_what_only_aws_forbids(read: Read) -> None:
    made = read(mapping("batch_size = 10000", 'maximum_batching_window = "0s"', "maximum_concurrency = 1")).mappings["m"].settings
    assert (made.batching.size, made.batching.window, made.width) == (10_000, 0.0, 1)
    config = read(
        mapping(
            'maximum_record_age = "500ms"',
            "maximum_retry_attempts = 20000",
            "parallelization_factor = 100",
            'maximum_batching_window = "1ms"',
            source=STREAM,
        )
    )
    assert config.mappings["m"].settings.failure.maximum_record_age == 0.5


def test_a_fifo_queue_has_its_own_limits_as_defaults(read: Read) -> None:
    assert read(mapping(source=FIFO)).mappings["m"].settings.batching == Batching(10, 0.0)


def test_a_window_that_the_source_has_anyway_may_be_written_under_aws(read: Read) -> None:
    source = 'source = { type = "local-stream", stream = "s", mode = "kafka" }\n'
    lines = ('defaults = "aws"', "maximum_retry_attempts = 1")
    assert read(mapping(*lines, source=source)).mappings["m"].settings.batching.window == 0.5
    assert read(mapping(*lines, 'maximum_batching_window = "500ms"', source=source)).mappings["m"].settings.batching.window == 0.5


@pytest.mark.parametrize(
    ("url", "stored", "state"),
    [
        ("sqlite:///var/lib/p.db", "sqlite:///var/lib/p.db", "/var/lib"),
        ("sqlite:p.db", "sqlite://<folder>/p.db", "<folder>"),
        ("sqlite://a/p.db", "sqlite://<folder>/a/p.db", "<folder>/a"),
        ("sqlite:/var/p.db", "sqlite:///var/p.db", "/var"),
        ("memory:", "memory:", "<folder>/.poller"),
    ],
)
def test_a_store_is_a_place_relative_to_the_file(read: Read, folder: Path, url: str, stored: str, state: str) -> None:
    config = read(f'[poller]\nstore = "{url}"\n' + mapping())
    assert (config.store_url.replace(str(folder), "<folder>"), str(config.state).replace(str(folder), "<folder>")) == (stored, state)
    assert len(config.warnings) == (url == "memory:")


@pytest.mark.parametrize("handler", ["app.py:handle", "app.handle", "pkg.handle", "pkg/__init__.handle", "pkg/__init__.py:handle"])
def test_every_form_of_handler_that_is_there(read: Read, handler: str) -> None:
    assert read(mapping().replace("app.py:handle", handler)).functions["f"].handler == handler


def test_an_interpreter_keeps_its_links(read: Read, folder: Path) -> None:
    (folder / "venv" / "bin").mkdir(parents=True)
    (folder / "venv" / "bin" / "python").symlink_to("/bin/sh")
    for python in ("venv", "venv/bin/python"):
        assert read(mapping() + f'python = "{python}"\n').functions["f"].python == str(folder / "venv/bin/python")


def test_another_kind_of_handler_has_options_and_its_own_sense_of_handler(read: Read) -> None:
    text = '[functions.f]\nhandler = "POST /x"\ntype = "acme"\noptions = { url = "env:QUEUE" }\n[mappings.m]\nfunction = "f"\n' + QUEUE
    function = read(text).functions["f"]
    assert function.options == (("type", "acme"), ("retries", 3), ("url", "https://queue.test/orders"))
    assert "queue.test" not in repr(function)
    assert handler_kind(function) == "acme"
    assert handler_kind(read(mapping()).functions["f"]) == "python"
    assert handler_kind(read(mapping() + 'inline = "thread"\n').functions["f"]) == "inline"


def test_the_current_folder_does_not_matter(read: Read, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "poller.toml").write_text(mapping())
    monkeypatch.chdir(folder)
    config = load(Path("poller.toml"), Registry(entry_points), ENVIRON)
    assert (config.path, config.functions["f"].code) == (folder / "poller.toml", folder)


def test_a_digest_changes_with_what_the_mapping_runs_by_and_with_nothing_else(read: Read, folder: Path) -> None:
    lines = ["batch_size = 5", 'source = { type = "sqs", queue = "env:QUEUE" }']

    def digest(text: str, environ: Mapping[str, str] = ENVIRON) -> str:
        return read(text, environ).mappings["m"].digest

    first = digest(mapping(*lines, source=""))
    assert digest("# moved\n\n" + mapping(*reversed(lines), source="")) == first
    assert digest(mapping(*lines, source="") + 'timeout = "9s"\n') == first
    assert digest('[poller]\nlog = "json"\n' + mapping(*lines, source="")) == first
    changed = [
        digest(mapping("batch_size = 6", lines[1], source="")),
        digest(mapping(*lines, "enabled = false", source="")),
        digest(mapping(*lines, "maximum_concurrency = 3", source="")),
        digest(mapping(*lines, 'defaults = "aws"', source="")),
        digest(mapping(*lines, source=""), ENVIRON | {"QUEUE": "rotated"}),
        digest(mapping(lines[0], lines[1].replace("env:QUEUE", 'q", region = "us'), source="")),
        digest(mapping(*lines, source="") + "concurrency = 7\n"),  # the width of a queue's mapping
    ]
    assert len({first, *changed}) == len(changed) + 1


def test_functions_compare_by_what_they_run_with(read: Read) -> None:
    base = mapping() + 'environment = { A = "1", B = "env:ORDERS_TOKEN" }\n'
    first = read(base).functions["f"]
    assert read("\n" + base.replace('A = "1", B = "env:ORDERS_TOKEN"', 'B = "env:ORDERS_TOKEN", A = "1"')).functions["f"] == first
    assert read(base, ENVIRON | {"ORDERS_TOKEN": "rotated"}).functions["f"] != first
    assert read(base + 'memory = "1GiB"\n').functions["f"] != first


def test_the_reference_lists_every_key_with_its_sentence() -> None:
    text = render({"sqs": QueueOptions})
    rows = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in text.split("\n") if row.startswith("| `")]
    keys = [cells[0].strip("`") for cells in rows]
    tables = (PollerTable, FunctionTable, MappingTable, BackoffTable, BreakerTable, ErrorTable, QueueOptions)
    assert keys == [name for table in tables for name in table.__struct_fields__]
    for cells in rows[: -len(QueueOptions.__struct_fields__)]:
        assert len(cells) == 4 and all(cells), cells
        assert cells[3].endswith("."), cells
    assert '### `[mappings.NAME.source]`, `type = "sqs"`\n\nA queue.\n' in text
    assert '| `region` | a string | `"eu-central-1"` |  |' in text
