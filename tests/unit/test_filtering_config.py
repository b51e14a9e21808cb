"""The key `filters` of a mapping: what is read, what is refused, and where the problem is said to be."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors.fields import MESSAGE, RECORD
from poller.config import load
from poller.errors import ConfigError
from poller.filtering import Filtering
from poller.registry import Registry
from poller.settings import FilterSettings, MappingSettings
from poller.testing.fakes import FILTERABLE, FORMAT, FakeRecord
from tests.unit.test_config_parts import complainer, furnished, mapping

QUEUE = '{ type = "local-queue", name = "q" }'
STREAM = '{ type = "local-stream", name = "s" }'

Read = Callable[..., MappingSettings]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """The settings of a mapping with these lines, from line 4 on."""

    def make(*lines: str, source: str = QUEUE) -> MappingSettings:
        (tmp_path / "app.py").write_text("def handle(event, context): ...\n")
        head = f'[mappings.m]\nfunction = "f"\nsource = {source}\n'
        (tmp_path / "poller.toml").write_text(head + "".join(f"{line}\n" for line in lines) + '[functions.f]\nhandler = "app.py:handle"\n')
        return load(tmp_path / "poller.toml", Registry(), {"PATH": os.defpath}).mappings["m"].settings

    return make


@pytest.fixture
def complain(read: Read) -> Callable[..., list[str]]:
    """The problems, without the file's folder."""

    def make(*lines: str, source: str = QUEUE) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            read(*lines, source=source)
        return [problem[problem.index("poller.toml:") :] for problem in caught.value.problems]

    return make


def test_no_filters_are_no_filters(read: Read) -> None:
    assert read().filters is None
    assert read("filters = []").filters is None
    assert read("log_filtered = 5").filters is None


def test_patterns_are_text_or_tables(read: Read) -> None:
    filters = read(
        """filters = ['{"body": {"kind": ["order"]}}', { body = { total = [{ numeric = [">", 300] }] } }]""", "log_filtered = 9"
    ).filters
    assert filters == FilterSettings(('{"body": {"kind": ["order"]}}', '{"body": {"total": [{"numeric": [">", 300]}]}}'), MESSAGE, logged=9)


def test_a_table_may_be_written_as_a_header(read: Read) -> None:
    filters = read(
        "[[mappings.m.filters]]", 'data.kind = ["order", "bill"]', "[[mappings.m.filters]]", 'partitionKey = ["ö"]', source=STREAM
    ).filters
    assert filters is not None
    assert [json.loads(text) for text in filters.patterns] == [{"data": {"kind": ["order", "bill"]}}, {"partitionKey": ["ö"]}]
    assert (filters.over, filters.logged) == (RECORD, 0)


def test_there_may_be_more_than_five(read: Read) -> None:
    filters = read("filters = [" + ", ".join(f"""'{{"body": {{"n": [{n}]}}}}'""" for n in range(50)) + "]").filters
    assert filters is not None and len(filters.patterns) == 50


def test_a_changed_filter_is_a_reason_to_restart_the_mapping(read: Read, tmp_path: Path) -> None:
    def digest(*lines: str) -> str:
        read(*lines)
        return load(tmp_path / "poller.toml", Registry(), {"PATH": os.defpath}).mappings["m"].digest

    one = """filters = ['{"body": ["a"]}']"""
    assert digest(one) == digest(one)
    assert len({digest(), digest(one), digest("""filters = ['{"body": ["b"]}']"""), digest(one, "log_filtered = 1")}) == 4


REFUSED = [
    # JSON, and the language
    ("'simple string'", ".filters.0] pattern: not valid JSON"),
    ("'null'", ".filters.0] pattern: an object is needed here, not null"),
    (
        """'{"body": {"kind": "order"}}'""",
        ".filters.0] body.kind: a list of what is allowed, or an object, is needed here",
    ),
    ("""{ body = { kind = [{ prefiks = "a" }] } }""", '.filters.0] body.kind[0]: unknown operator "prefiks"'),
    ("""'{"body": {"a": ["x"]}}', '{"body": {"b": []}}'""", ".filters.1] body.b: an empty list is not allowed"),
    ("{}", ".filters.0] pattern: an empty object is not allowed"),
    # TOML that JSON has not
    ("{ body = { at = [2026-01-31] } }", ".filters.0] found a date, a time, inf or nan; allowed what JSON has"),
    ("{ body = { n = [inf] } }", ".filters.0] found a date, a time, inf or nan; allowed what JSON has"),
    # what no record has
    ("""'{"bdy": {"kind": ["order"]}}'""", '.filters.0] found the key "bdy", which no record has; allowed messageId, receiptHandle, body,'),
    ("""'{"bdy": ["x"]}'""", 'awsRegion; did you mean "body"?'),
    ("""'{"data": {"kind": ["order"]}}'""", '.filters.0] found the key "data", which no record has'),
    ("""'{"$or": [{"body": ["x"]}, {"headers": ["y"]}]}'""", '.filters.0] found the key "headers", which no record has'),
    ("""{ Pattern = { body = ["x"] } }""", '.filters.0] found the key "Pattern", which no record has'),
    # what plain text never is
    (
        """'{"body": [300]}'""",
        "null as body, which is compared as plain text here; allowed texts,",
    ),
    ("""'{"body": ["300", null]}'""", ".filters.0] found a number, true, false or null as body"),
    ("""'{"body": [{"numeric": [">", 3]}]}'""", ".filters.0] found a number, true, false or null as body"),
    ("""'{"body": [{"anything-but": [300]}]}'""", ".filters.0] found a number, true, false or null as body"),
    ("""'{"$or": [{"messageId": ["x"]}, {"body": [true]}]}'""", ".filters.0] found a number, true, false or null as body"),
]


@pytest.mark.parametrize(("patterns", "sentence"), REFUSED)
def test_a_pattern_that_can_never_do_what_it_says(complain: Callable[..., list[str]], patterns: str, sentence: str) -> None:
    (problem,) = complain(f"filters = [{patterns}]")
    assert problem.startswith("poller.toml:4: [mappings.m.filters.")
    assert sentence in problem


ALLOWED = [
    """'{"body": ["300", "", {"prefix": "a"}, {"anything-but": ["b"]}, {"exists": true}]}'""",
    """'{"body": {"n": [300, null, true, {"numeric": [">", 3]}]}}'""",
    """'{"attributes": {"SenderId": ["x"]}, "body.kind": ["order"]}'""",
    """'{"$or": [{"body": ["x"]}, {"body": {"kind": ["order"]}}]}'""",
]


@pytest.mark.parametrize("pattern", ALLOWED)
def test_a_pattern_that_may_match(read: Read, pattern: str) -> None:
    assert read(f"filters = [{pattern}]").filters is not None


def test_every_problem_of_every_pattern_is_said_at_its_line(complain: Callable[..., list[str]]) -> None:
    problems = complain("filters = [", """  '{"body": {"a": [], "b": 1}}',""", """  '{"bdy": ["x"]}',""", "  { body = { c = {} } },", "]")
    assert [problem.split("; ")[0] for problem in problems] == [
        "poller.toml:5: [mappings.m.filters.0] body.a: an empty list is not allowed",
        "poller.toml:5: [mappings.m.filters.0] body.b: a list of what is allowed, or an object, is needed here",
        'poller.toml:6: [mappings.m.filters.1] found the key "bdy", which no record has',
        "poller.toml:7: [mappings.m.filters.2] body.c: an empty object is not allowed",
    ]


def test_a_stream_has_no_plain_text_as_on_aws(complain: Callable[..., list[str]], read: Read) -> None:
    (problem,) = complain("""filters = ['{"data": ["order"]}']""", source=STREAM)
    assert problem == (
        'poller.toml:4: [mappings.m.filters.0] found a pattern for plain text as data; allowed a table of JSON\'s own keys, as in {"data": '
        '{"kind": ["order"]}}'
    )
    assert read("""filters = ['{"data": {"kind": ["order"]}}']""", source=STREAM).filters is not None


def test_the_language_is_checked_even_where_the_source_cannot_be_read(complain: Callable[..., list[str]]) -> None:
    problems = complain("""filters = ['{"x": []}', '{"anything": ["goes"]}']""", source='{ type = "local-queue" }')
    assert len(problems) == 2 and "no key 'name'" in problems[0]
    assert problems[1].startswith("poller.toml:4: [mappings.m.filters.0] x: an empty list")


def test_a_source_whose_records_cannot_be_filtered(tmp_path: Path) -> None:
    """Someone else's connector need not know of filters."""
    complain = complainer(furnished(tmp_path))
    assert complain(mapping("""filters = ['{"body": ["x"]}']""")) == [
        'poller.toml:4: [mappings.m.filters] found filters, and the source type "sqs" has no records that can be filtered'
    ]
    assert complain(mapping("""filters = ['{"body": 1}']"""))[1].startswith("poller.toml:4: [mappings.m.filters.0] body: a list")


def test_a_filter_is_read_as_its_text_says(read: Read) -> None:
    """Tables lose nothing on their way: texts of any kind, whole and broken numbers, nesting."""
    wanted = FakeRecord(1, 'ö "quoted" \\ \u2028', None, 0.0)
    filters = read("""filters = [{ messageId = ["ö \\"quoted\\" \\\\ \\u2028"] }]""").filters
    assert filters is not None
    text = filters.patterns[0].replace("messageId", "id")
    assert Filtering(FilterSettings((text,), FILTERABLE)).split(FORMAT, [wanted]) == ([wanted], ())


# --- recorded on AWS ----------------------------------------------------------------------------------------------------------------------

CASES: list[dict[str, Any]] = (
    json.loads((Path(folder) / "esm-observed-on-aws.json").read_text())["cases"] if (folder := os.environ.get("POLLER_CASES")) else []
)
INVALID = [pytest.param(case, id=case["name"]) for case in CASES if "/create/invalid-filter/" in case["name"]]


@pytest.mark.parametrize("case", INVALID)
def test_a_pattern_that_aws_refused(read: Read, case: dict[str, Any]) -> None:
    assert (case["expect"]["code"], case["expect"]["http_status"]) == ("InvalidParameterValueException", 400)
    patterns = [each["Pattern"] for each in case["config"]["FilterCriteria"]["Filters"]]
    with pytest.raises(ConfigError, match=r"\[mappings\.m\.filters\.0\] "):
        read(f"filters = {json.dumps(patterns)}")


@pytest.mark.skipif(not CASES, reason="POLLER_CASES does not name the folder of the recorded cases")
def test_an_empty_list_that_aws_took_for_none(read: Read) -> None:
    (case,) = [each for each in CASES if each["name"].startswith("api/create_event_filter_criteria_validation/")]
    assert case["expect"]["http_status"] == 202 and "FilterCriteria" not in case["observed"]
    assert read("filters = []").filters is None
