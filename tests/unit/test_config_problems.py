"""Bad files and what is said about them: exact sentences, exact lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from poller.config import load
from poller.errors import ConfigError
from poller.registry import Registry
from tests.unit.test_config_parts import (
    ENVIRON,
    FIFO,
    FUNCTION,
    QUEUE,
    STREAM,
    Complain,
    Read,
    entry_points,
    mapping,
)

KEYS = (
    "aws_exact, batch_size, bisect_batch_on_function_error, circuit_breaker, defaults, enabled, errors, filters, function, "
    "function_response_types, id, idempotency_maximum_records, idempotency_window, log_filtered, maximum_batching_window, "
    "maximum_concurrency, maximum_parked_keys, maximum_receive_count, maximum_record_age, maximum_retry_attempts, on_failure, "
    "on_failure_order, on_success, parallelization_factor, redact, retry_backoff, source, tumbling_window"
)

BAD_KEYS = [
    ("batchsize = 1", f'.batchsize] found an unknown key; allowed {KEYS}; did you mean "batch_size"?'),
    ("BatchSize = 1", f'.BatchSize] found an unknown key; allowed {KEYS}; did you mean "batch_size"?'),
    (
        "MaximumBatchingWindowInSeconds = 1",
        f'.MaximumBatchingWindowInSeconds] found an unknown key; allowed {KEYS}; did you mean "maximum_batching_window"?',
    ),
    ("filters = [1]", ".filters.0] found 1; allowed a string or a table"),
    ("log_filtered = 0", ".log_filtered] found 0; allowed a whole number, at least 1"),
    ("on_failure = [1]", ".on_failure] found a list; allowed a string or a table or a list, each a string or a table"),
    ("window = 1", f".window] found an unknown key; allowed {KEYS}"),
    ("batch_size = 0", ".batch_size] found 0; allowed a whole number, at least 1"),
    ("batch_size = true", ".batch_size] found true; allowed a whole number, at least 1"),
    ('batch_size = "10"', '.batch_size] found "10"; allowed a whole number, at least 1; did you mean 10?'),
    ("batch_size = 10001", ".batch_size] found 10001; allowed 1 to 10000"),
    (
        "maximum_batching_window = 5",
        '.maximum_batching_window] found 5, a number without a unit; allowed a duration such as "30s"; did you mean "5s"?',
    ),
    (
        "maximum_batching_window = 0.5",
        '.maximum_batching_window] found 0.5, a number without a unit; allowed a duration such as "30s"; did you mean "500ms"?',
    ),
    (
        "maximum_batching_window = inf",
        '.maximum_batching_window] found inf, a number without a unit; allowed a duration such as "30s"',
    ),
    ('maximum_batching_window = "5"', '.maximum_batching_window] found "5"; allowed a duration such as "30s"; did you mean "5s"?'),
    ('maximum_batching_window = "5 min"', '.maximum_batching_window] found "5 min"; allowed a duration such as "30s"'),
    ('maximum_batching_window = "301s"', '.maximum_batching_window] found "301s"; allowed "0s" to "300s"'),
    ("maximum_concurrency = 0", ".maximum_concurrency] found 0; allowed a whole number, at least 1"),
    ("maximum_receive_count = 0", ".maximum_receive_count] found 0; allowed a whole number, at least 1"),
    ("enabled = 'false'", '.enabled] found "false"; allowed true or false; did you mean false?'),
    ('defaults = "AWS"', '.defaults] found "AWS"; allowed "safe" or "aws"; did you mean "aws"?'),
    (
        'function_response_types = ["ReportBatchItemFailure"]',
        '.function_response_types.0] found "ReportBatchItemFailure"; allowed "ReportBatchItemFailures"; '
        'did you mean "ReportBatchItemFailures"?',
    ),
    (
        'function_response_types = "ReportBatchItemFailures"',
        '.function_response_types] found "ReportBatchItemFailures"; allowed a list, each "ReportBatchItemFailures"',
    ),
    (
        "retry_backoff = { initial = 1 }",
        '.retry_backoff.initial] found 1, a number without a unit; allowed a duration such as "30s"; did you mean "1s"?',
    ),
    ('retry_backoff = { initial = "2m" }', '.retry_backoff] found initial "2m" above maximum "60s"; allowed initial up to maximum'),
    (
        'retry_backoff = { maxmum = "2m" }',
        '.retry_backoff.maxmum] found an unknown key; allowed initial, maximum; did you mean "maximum"?',
    ),
    ("retry_backoff = 3", ".retry_backoff] found 3; allowed a table"),
    ("id = 3", '.id] found 3; allowed a string; did you mean "3"?'),
    ('id = "a b"', '.id] found the id "a b"; allowed letters, digits, _ and -'),
]

BAD_STREAM_KEYS = [
    ("maximum_retry_attempts = -2", ".maximum_retry_attempts] found -2; allowed a whole number, at least -1"),
    (
        "maximum_record_age = 3600",
        '.maximum_record_age] found 3600, a number without a unit; allowed a duration such as "30s" or -1; did you mean "1h"?',
    ),
    ('maximum_record_age = "-1"', '.maximum_record_age] found "-1"; allowed a duration such as "30s" or -1; did you mean -1?'),
    (
        "tumbling_window = 60",
        '.tumbling_window] found 60, a number without a unit; allowed a duration such as "30s"; did you mean "1m"?',
    ),
    ('maximum_record_age = "0s"', '.maximum_record_age] found "0s"; allowed more than nothing, or -1 for any age'),
    ("maximum_record_age = true", '.maximum_record_age] found true; allowed a duration such as "30s" or -1'),
]


@pytest.mark.parametrize(("line", "sentence"), BAD_KEYS)
def test_a_bad_key_of_a_queue(complain: Complain, line: str, sentence: str) -> None:
    assert complain(mapping("enabled = true" if "enabled" not in line else "", line)) == [f"poller.toml:5: [mappings.m{sentence}"]


@pytest.mark.parametrize(("line", "sentence"), BAD_STREAM_KEYS)
def test_a_bad_key_of_a_stream(complain: Complain, line: str, sentence: str) -> None:
    assert complain(mapping(line, source=STREAM)) == [f"poller.toml:4: [mappings.m{sentence}"]


BAD_FUNCTIONS = [
    (
        'handler = "app.py:handle"\nhandlr = "x"',
        3,
        "handlr] found an unknown key; allowed code, concurrency, environment, handler, inline, "
        'memory, options, python, timeout, type; did you mean "handler"?',
    ),
    ('timeout = "3s"', 1, "] found no key 'handler'; allowed a string"),
    (
        'handler = "ap.py:handle"',
        2,
        'handler] found "ap.py:handle", but there is no file ap.py; allowed "file.py:name" or "module.name"; did you mean "app.py:handle"?',
    ),
    (
        'handler = "zzzzz.py:handle"',
        2,
        'handler] found "zzzzz.py:handle", but there is no file zzzzz.py; allowed "file.py:name" or "module.name"',
    ),
    (
        'handler = "ap.handle"',
        2,
        'handler] found "ap.handle", but there is no module \'ap\' in <folder>; allowed "file.py:name" or '
        '"module.name"; did you mean "app.handle"?',
    ),
    (
        'handler = "app:handle"',
        2,
        'handler] found "app:handle"; allowed "file.py:name" or "module.name", found in <folder>; did you mean "app.py:handle"?',
    ),
    ('handler = "handle"', 2, 'handler] found "handle"; allowed "file.py:name" or "module.name", found in <folder>'),
    ('handler = "app.py:handle"\ncode = "src"', 3, 'code] found "src", but src does not exist; allowed a folder, relative to this file'),
    (
        'handler = "app.py:handle"\ncode = "app.py"',
        3,
        'code] found "app.py", but app.py is no folder; allowed a folder, relative to this file',
    ),
    ('handler = "app.py:handle"\ntimeout = "0s"', 3, 'timeout] found "0s"; allowed more than nothing'),
    (
        'handler = "app.py:handle"\nmemory = 512',
        3,
        'memory] found 512, a number without a unit; allowed a size such as "512MiB"; did you mean "512MiB"?',
    ),
    ('handler = "app.py:handle"\nmemory = "0B"', 3, 'memory] found "0B"; allowed more than nothing'),
    (f'handler = "app.py:handle"\nmemory = "{"9" * 400}GB"', 3, f'memory] found "{"9" * 59}...; allowed a size such as "512MiB"'),
    ('handler = "app.py:handle"\nconcurrency = 0', 3, "concurrency] found 0; allowed a whole number, at least 1"),
    ('handler = "app.py:handle"\ninline = "lop"', 3, 'inline] found "lop"; allowed "loop" or "thread"; did you mean "loop"?'),
    (
        'handler = "../app.py:handle"',
        2,
        'handler] found "../app.py:handle", which is outside <folder>; allowed "file.py:name" or "module.name" inside code, the task root',
    ),
    (
        'handler = "app.py:handle"\ninline = "loop"\nenvironment = { A = "b" }',
        4,
        'environment] found environment beside inline = "loop"; allowed environment for a process of its own (no inline)',
    ),
    (
        'handler = "app.py:handle"\ninline = "loop"\nmemory = "1GiB"',
        4,
        'memory] found memory beside inline = "loop"; allowed memory for a process of its own (no inline)',
    ),
    (
        'handler = "app.py:handle"\ninline = "loop"\npython = "/bin/sh"',
        4,
        'python] found python beside inline = "loop"; allowed python for a process of its own (no inline)',
    ),
    (
        'handler = "app.py:handle"\npython = "nope/venv"',
        3,
        'python] found "nope/venv", but nope/venv does not exist; allowed a path to an '
        "interpreter, or to a virtual environment, relative to this file",
    ),
    (
        'handler = "app.py:handle"\npython = "app.py"',
        3,
        'python] found "app.py", but app.py is no program; allowed a path to an '
        "interpreter, or to a virtual environment, relative to this file",
    ),
    (
        'handler = "app.py:handle"\ntype = "pyhton"',
        3,
        'type] found the handler "pyhton", which does not exist; allowed acme, inline, python; did you mean "python"?',
    ),
    (
        'handler = "app.py:handle"\ntype = "python"\ninline = "loop"',
        3,
        'type] found type = "python" beside inline = "loop"; allowed one of the two',
    ),
    ('handler = "app.py:handle"\ntype = "inline"', 3, 'type] found type = "inline"; allowed inline = "loop" or inline = "thread" instead'),
    (
        'handler = "app.py:handle"\noptions = {}',
        3,
        'options] found options for the kind "python", which has none; allowed options of another kind, with its type',
    ),
    (
        'handler = "x"\ntype = "acme"\noptions = { url = "u", type = "t" }',
        4,
        "options.type] found an option of the name of the kind itself; allowed type beside options, not in it",
    ),
    ('handler = "x"\ntype = "acme"', 1, "options] found no key 'url'; allowed a string"),
    (
        'handler = "app.py:handle"\nenvironment = { "A=B" = "x" }',
        3,
        'environment."A=B"] found a name that no environment variable can have; allowed a name without = and NUL',
    ),
    (
        'handler = "app.py:handle"\nenvironment = { A = "a\\u0000b" }',
        3,
        "environment.A] found a value with a NUL character; allowed text without it",
    ),
    (
        'handler = "handlers.orders.handle"\ninline = "loop"',
        2,
        "handler] found the module 'handlers.orders', whose name 'handlers' is one of "
        'poller\'s own packages in this process; allowed "handlers/orders.py:handle", which is loaded by file, or a process of its own '
        "(no inline)",
    ),
]


@pytest.mark.parametrize(("lines", "line", "sentence"), BAD_FUNCTIONS)
def test_a_bad_function(complain: Complain, lines: str, line: int, sentence: str) -> None:
    problems = complain(f'[functions.f]\n{lines}\n[mappings.m]\nfunction = "f"\n{QUEUE}')
    first, *rest = problems
    dot = "" if sentence.startswith("]") else "."
    assert first == f"poller.toml:{line}: [functions.f{dot}{sentence}"
    # A kind of the wrong name has no options that could be read, and no other problem hides behind the first.
    assert [problem for problem in rest if "functions.f.options" not in problem and ".type]" not in problem] == []


def test_an_interpreter_by_name_is_looked_up_for_the_suggestion(complain: Complain, folder: Path) -> None:
    (folder / "bin").mkdir()
    (folder / "bin" / "python3.99").symlink_to("/bin/sh")
    (problem,) = complain(mapping() + 'python = "python3.99"\n', {"PATH": str(folder / "bin")})
    assert problem.endswith('relative to this file; did you mean "bin/python3.99"?')


BAD_SOURCES = [
    (
        'type = "sqss"\nqueue = "q"',
        4,
        '.type] found the connector "sqss", which does not exist; allowed local-stream, sqs; did you mean "sqs"?',
    ),
    ('queue = "q"', 3, ".type] found no key 'type'; allowed local-stream, sqs"),
    ("type = 3", 4, ".type] found 3; allowed local-stream, sqs"),
    ('type = "sqs"', 3, "] found no key 'queue'; allowed a string"),
    (
        'type = "sqs"\nqueu = "q"',
        5,
        '.queu] found an unknown key; allowed endpoints, password, queue, region, type, wait; did you mean "queue"?',
    ),
    ('type = "sqs"\nqueue = "q"\nwait = 5', 6, '.wait] found 5; allowed a string; did you mean "5"?'),
    ('type = "sqs"\nqueue = "q"\nendpoints = [\n  "a",\n  4,\n]', 8, '.endpoints.1] found 4; allowed a string; did you mean "4"?'),
    ('type = "local-stream"\nstream = "s"\nmode = "odd"', 3, "] mode 'odd' needs an even stream"),
]


@pytest.mark.parametrize(("lines", "line", "sentence"), BAD_SOURCES)
def test_a_bad_source(complain: Complain, lines: str, line: int, sentence: str) -> None:
    text = f'[mappings.m]\nfunction = "f"\n[mappings.m.source]\n{lines}\n{FUNCTION}'
    assert complain(text) == [f"poller.toml:{line}: [mappings.m.source{sentence}"]


BAD_DAEMON = [
    (
        'Log = "json"',
        'Log] found an unknown key; allowed defaults, journal, journal_maximum_size, journal_retention, leases, listen, log, log_level, shutdown_grace, store, workers; did you mean "log"?',  # noqa: E501
    ),
    ('log = "xml"', 'log] found "xml"; allowed "auto" or "text" or "json"'),
    (
        "processes = 2",
        "processes] found an unknown key; allowed defaults, journal, journal_maximum_size, journal_retention, leases, listen, log, log_level, shutdown_grace, store, workers",  # noqa: E501
    ),
    ("workers = 0", 'workers] found 0; allowed a whole number, at least 1 or "auto"'),
    ('workers = "2"', 'workers] found "2"; allowed a whole number, at least 1 or "auto"'),
    (
        'workers = 2\nstore = "memory:"',
        'workers] found 2 workers with store = "memory:", which each of them would have for itself; allowed one worker, or a store in a file',  # noqa: E501
    ),
    ("shutdown_grace = 25", 'shutdown_grace] found 25, a number without a unit; allowed a duration such as "30s"; did you mean "25s"?'),
    (
        'listen = "8780"',
        'listen] found "8780"; allowed host:port, such as "127.0.0.1:8780" or "[::1]:8780"; did you mean "127.0.0.1:8780"?',
    ),
    ('listen = "host:99999"', 'listen] found "host:99999"; allowed host:port, such as "127.0.0.1:8780" or "[::1]:8780"'),
    (
        'store = "p.db"',
        'store] found "p.db"; allowed "sqlite:.poller/poller.db", "sqlite:///absolute/path", "memory:", or a URL of fleet; did you mean "sqlite:p.db"?',  # noqa: E501
    ),
    (
        'store = "redis://x"',
        'store] found "redis://x"; allowed "sqlite:.poller/poller.db", "sqlite:///absolute/path", "memory:", or a URL of fleet',
    ),
    (
        'leases = "mysql://poller:hunter2@db/poller?password=hunter2"',
        'leases] found "mysql://poller:***@db/poller?password=***"; allowed "sqlite:.poller/poller.db", "sqlite:///absolute/path", "memory:", '  # noqa: E501
        "or a URL of fleet",
    ),
    (
        'journal = "env:NOWHERE"',
        'journal] found "env:NOWHERE", but the environment variable NOWHERE is not set; '
        'allowed a variable that is set, or "literal:env:NOWHERE" for this very text',
    ),
    (
        'store = "sqlite:pkg"',
        'store] found "sqlite:pkg", a folder; allowed a file; its folder is made when it is missing; did you mean "sqlite:pkg/poller.db"?',
    ),
]


@pytest.mark.parametrize(("line", "sentence"), BAD_DAEMON)
def test_a_bad_key_of_the_daemon(complain: Complain, line: str, sentence: str) -> None:
    assert complain(f"[poller]\n{line}\n" + mapping()) == [f"poller.toml:2: [poller.{sentence}"]


WHOLE_FILES = [
    ("", "1: found no mapping; allowed at least one [mappings.NAME] table, with its function and its [mappings.NAME.source]"),
    (FUNCTION, "1: found no mapping; allowed at least one [mappings.NAME] table, with its function and its [mappings.NAME.source]"),
    ("\n[mapping.x]\n", '2: [mapping] found an unknown key; allowed functions, mappings, poller; did you mean "mappings"?'),
    ("a = [1,\n2\n", "2: not TOML: Unclosed array (end of the file)"),
    ("a = 1\nb = \n", "2: not TOML: Invalid value (column 5)"),
    ("a = 1\na = 2\n", "2: not TOML: Cannot overwrite a value (column 6)"),
    (
        mapping().replace('function = "f"', 'function = "g"'),
        '2: [mappings.m.function] found the function "g", which does not exist; allowed f',
    ),
    (
        '[mappings.m]\nfunction = "f"\n' + QUEUE,
        '2: [mappings.m.function] found the function "f", which does not exist; allowed none: there is no [functions.NAME] table',
    ),
    ('[mappings."a b"]\nfunction = "f"\n' + QUEUE + FUNCTION, '1: [mappings."a b"] found the name "a b"; allowed letters, digits, _ and -'),
    (mapping("[mappings]\nn = 3"), "5: [mappings.n] found 3; allowed a table: [mappings.NAME]"),
    (mapping(source=""), "1: [mappings.m] found no key 'source'; allowed a table"),
    (mapping(source='source = "sqs"\n'), '3: [mappings.m.source] found "sqs"; allowed a table'),
    (mapping().replace('function = "f"', ""), "1: [mappings.m] found no key 'function'; allowed a string"),
    ("poller = 3\n" + mapping(), "1: [poller] found 3; allowed a table: [poller]"),
    ("functions = 3\nmappings = 4", None),
]


@pytest.mark.parametrize(("text", "problem"), WHOLE_FILES)
def test_a_bad_file(complain: Complain, text: str, problem: str | None) -> None:
    problems = complain(text)
    if problem is None:
        assert problems[:2] == [
            "poller.toml:1: [functions] found 3; allowed tables: [functions.NAME]",
            "poller.toml:2: [mappings] found 4; allowed tables: [mappings.NAME]",
        ]
    else:
        assert problems == [f"poller.toml:{problem}"]


def test_two_mappings_of_one_id(complain: Complain) -> None:
    other = '[mappings.n]\nfunction = "f"\nid = "m"\n' + STREAM
    assert complain(mapping() + other) == [
        'poller.toml:8: [mappings.n.id] found the id "m", which is that of [mappings.m] (line 1) too; allowed an id of its own'
    ]


def test_one_queue_twice_to_one_function_is_a_conflict_as_on_aws(read: Read, complain: Complain) -> None:
    other = '[mappings.n]\nfunction = "f"\n'
    assert complain(mapping() + other + QUEUE) == [
        'poller.toml:8: [mappings.n.source] found the queue and the function "f" of [mappings.m] (line 1) again; allowed one mapping of a '
        "queue to a function: raise its maximum_concurrency instead"
    ]
    assert len(read(mapping() + other + FIFO).mappings) == 2
    assert len(read(mapping(source=STREAM) + other + STREAM).mappings) == 2
    assert len(read(mapping() + FUNCTION.replace("functions.f", "functions.g") + other.replace('"f"', '"g"') + QUEUE).mappings) == 2


def test_one_stream_twice_to_one_function_is_a_conflict_on_aws_alone(read: Read, complain: Complain) -> None:
    def twice(defaults: str, function: str = "f") -> str:
        return mapping(f'defaults = "{defaults}"', source=STREAM) + f'[mappings.n]\nfunction = "{function}"\ndefaults = "aws"\n{STREAM}'

    (problem,) = complain(twice("aws"))
    assert 'the stream and the function "f" of [mappings.m] (line 1) again; allowed under defaults = "aws": one mapping' in problem
    assert len(read(twice("safe")).mappings) == 2
    assert len(read(FUNCTION.replace("functions.f", "functions.g") + twice("aws", "g")).mappings) == 2


def test_one_queue_spelt_in_two_ways_is_one_queue(complain: Complain, read: Read) -> None:
    """The connector knows what its options name."""
    other = '[mappings.n]\nfunction = "f"\n'
    one, same = (f'source = {{ type = "sqs", queue = "arn:q", wait = "{wait}" }}\n' for wait in ("5s", "6s"))
    (problem,) = complain(mapping(source=one) + other + same)
    assert 'the queue and the function "f" of [mappings.m] (line 1) again' in problem
    assert len(read(mapping(source=one) + other + same.replace("arn:q", "arn:r")).mappings) == 2
    unknown = same.replace("arn:q", "q")
    assert len(read(mapping() + other + unknown).mappings) == 2, "of a name nobody can say what it is"


def test_all_problems_come_at_once_in_the_order_of_the_file(complain: Complain) -> None:
    problems = complain(
        '[poller]\nlog = "x"\n[mappings.m]\nfunction = "ff"\nbatch_size = 20000\nfilters = [1]\n[mappings.m.source]\ntype = "sqs"\n'
        'queue = "env:NOPE"\nregoin = "x"\nwait = "never"\nendpoints = [1]\n[functions.f]\nhandler = "x.py:h"\ntimeout = 3\n[extra]\n'
    )
    assert [problem.split(" found")[0] for problem in problems] == [
        "poller.toml:2: [poller.log]",
        "poller.toml:4: [mappings.m.function]",
        "poller.toml:5: [mappings.m.batch_size]",
        "poller.toml:6: [mappings.m.filters.0]",
        "poller.toml:9: [mappings.m.source.queue]",
        "poller.toml:10: [mappings.m.source.regoin]",
        "poller.toml:12: [mappings.m.source.endpoints.0]",
        "poller.toml:14: [functions.f.handler]",
        "poller.toml:15: [functions.f.timeout]",
        "poller.toml:16: [extra]",
    ]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def problem(path: Path) -> str:
        with pytest.raises(ConfigError) as caught:
            load(path, Registry(entry_points), {})
        return str(caught.value).replace(f"{tmp_path}/", "").replace(str(tmp_path), "<folder>")

    assert problem(tmp_path / "no.toml") == "no.toml: no such file; name the configuration, or write a first one with `poller init`"
    assert problem(tmp_path) == "<folder>: cannot be read: Is a directory"
    (tmp_path / "latin.toml").write_bytes(b'a = "b"\nc = "\xe4"\n')
    assert problem(tmp_path / "latin.toml") == "latin.toml:2: found a byte that is not UTF-8; allowed UTF-8 text, as TOML is"
    (tmp_path / "long.toml").write_text("a = " + "1" * 5000)
    assert problem(tmp_path / "long.toml").startswith("long.toml: not TOML: Exceeds the limit")
    (tmp_path / "deep.toml").write_text("a = " + "[" * 5000 + "]" * 5000)
    assert problem(tmp_path / "deep.toml") == "deep.toml: not TOML: values are nested too deep"


JUNK = st.sampled_from(
    [
        '""',
        '"x"',
        "0",
        "-1",
        "3",
        "true",
        "[]",
        "[1]",
        '["x"]',
        "{}",
        "{ a = 1 }",
        '"1s"',
        '"5"',
        "1.5",
        "nan",
        "1979-05-27",
        '"env:X"',
        '"env:EMPTY"',
    ]
)
JOURNAL_KEYS = ["journal", "journal_retention", "journal_maximum_size"]
DAEMON_KEYS = ["store", "leases", *JOURNAL_KEYS, "listen", "defaults", "shutdown_grace", "log", "log_level", "workers", "x"]
FUNCTION_KEYS = ["handler", "code", "timeout", "memory", "concurrency", "environment", "inline", "python", "type", "options", "x"]
MAPPING_KEYS = [*KEYS.split(", "), "x"]


def table_of(name: str, keys: list[str]) -> st.SearchStrategy[str]:
    entries = st.dictionaries(st.sampled_from(keys), JUNK, max_size=4)
    return entries.map(lambda pairs: f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in pairs.items()))


@given(
    st.lists(
        st.one_of(
            table_of("poller", DAEMON_KEYS),
            table_of("functions.f", FUNCTION_KEYS),
            table_of("mappings.m", MAPPING_KEYS),
            table_of("mappings.n.source", ["type", "queue", "wait"]),
        ),
        unique_by=lambda text: text.partition("\n")[0],
    )
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_a_file_says_the_answer_is_a_config_or_problems_with_lines(folder: Path, tables: list[str]) -> None:
    text = "".join(tables)
    (folder / "poller.toml").write_text(text)
    try:
        load(folder / "poller.toml", Registry(entry_points), ENVIRON)
    except ConfigError as error:
        rows = text.split("\n")
        for problem in error.problems:
            line = int(problem.removeprefix(f"{folder}/poller.toml:").partition(":")[0])
            assert 1 <= line <= len(rows)
            assert " found " in problem, problem
