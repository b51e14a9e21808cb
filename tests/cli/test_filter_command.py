"""`poller filter test`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from poller.cli import program

PATTERN = '{"value": {"kind": ["order", {"prefix": "refund-"}], "amount": [{"numeric": [">", 100]}]}}'


def run(pattern: str, event: str, *more: str, input: str | bytes | None = None) -> Result:
    return CliRunner().invoke(program, ["filter", "test", "--pattern", pattern, "--event", event, *more], input=input)


def test_a_match_ends_with_0_and_says_what_was_met() -> None:
    result = run(PATTERN, '{"value": {"kind": "refund-7", "amount": 100.5}}')
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        "match",
        '  yes  value.amount: 100.5 meets {"numeric": [">", 100]}',
        '  yes  value.kind: "refund-7" meets {"prefix": "refund-"}',
    ]


def test_no_match_ends_with_1_and_says_why_term_by_term() -> None:
    result = run(PATTERN, '{"value": {"kind": "Order"}}')
    assert (result.exit_code, result.stderr) == (1, "")
    assert result.stdout.splitlines() == [
        "no match",
        '  no   value.amount: there is no value; wanted {"numeric": [">", 100]}',
        '  no   value.kind: "Order" does not meet "order" or {"prefix": "refund-"}',
    ]


@pytest.mark.parametrize(
    ("pattern", "event", "said"),
    [
        ('{"a": ["x"]}', '{"a": ["p", "q"]}', '  no   a: "p" and "q" do not meet "x"'),
        ('{"a": [0]}', '{"a": [1, 2, 3, 4, 5, 6, 7]}', "  no   a: 1, 2, 3, 4, 5 and 2 more do not meet 0"),
        ('{"a": [{"exists": false}]}', '{"a": null}', '  no   a: null does not meet {"exists": false}'),
        ('{"a": [{"exists": false}]}', "{}", "  yes  a: there is no value, as wanted"),
        ('{"a": {"b": [1], "c": [2]}}', '{"a": [{"b": 1}, {"c": 2}]}', "  no   each holds, but not all in the same element of an array"),
        ('{"$or": [{"a": [1]}, {"b": [2]}]}', '{"b": 2}', "  combination 2 of 2: match"),
        ('{"a": ["x"]}', json.dumps({"a": "y" * 300}), f'  no   a: "{"y" * 196}... does not meet "x"'),
        ('{"a": ["x"]}', '{"a": "\\u001b[2J \\ud800"}', '  no   a: "\\u001b[2J �" does not meet "x"'),
        ('{"a\\ud800\\u0007": ["x"]}', "{}", '  no   a�\\x07: there is no value; wanted "x"'),
    ],
)
def test_it_says(pattern: str, event: str, said: str) -> None:
    assert said in run(pattern, event).stdout.splitlines()


def test_json_is_one_object() -> None:
    result = run('{"a": ["x", {"exists": false}], "b": [1]}', '{"b": [1, 2]}', "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "matches": True,
        "alternatives": [
            {
                "matches": True,
                "terms": [
                    {
                        "path": "a",
                        "wanted": ['"x"', '{"exists": false}'],
                        "found": [],
                        "more": False,
                        "holds": True,
                        "reason": "there is no value, as wanted",
                    },
                    {"path": "b", "wanted": ["1"], "found": ["1", "2"], "more": False, "holds": True, "reason": "1 meets 1"},
                ],
                "together": "",
            }
        ],
    }


def test_both_may_be_files_and_the_event_may_come_from_stdin(tmp_path: Path) -> None:
    pattern, event = tmp_path / "pattern.json", tmp_path / "event.json"
    pattern.write_text('{"a": ["ä"]}', encoding="utf-8")
    event.write_text('\ufeff{"a": "ä"}', encoding="utf-8")
    assert run(f"@{pattern}", f"@{event}").exit_code == 0
    assert run(f"@{pattern}", "-", input='{"a": "ä"}'.encode()).exit_code == 0
    assert run(f"@{pattern}", "-", input=b'{"a": "a"}').exit_code == 1


@pytest.mark.parametrize(
    ("pattern", "event", "said"),
    [
        ('{"a": 1, "b": [{"prefix": 2}]}', "{}", "a: a list of what is allowed, or an object, is needed here; write [1]"),
        ('{"a": 1, "b": [{"prefix": 2}]}', "{}", "b[0].prefix: a text is needed here, not 2"),
        ("{", "{}", "pattern: not valid JSON: "),
        ('{"a": [1]}', "{", "event: not valid JSON: "),
        ('{"a": [1]}', '{"a": NaN}', "event: not valid JSON: NaN is no JSON"),
        ('{"a": [1]}', "[1]", "event: an object is needed"),
        ('{"a": [1]}', '{"a":' * 5000, "event: not valid JSON: "),
        ("@missing.json", "{}", "--pattern @missing.json: cannot be read: "),
        ('{"a": [1]}', "@missing.json", "--event @missing.json: cannot be read: "),
    ],
)
def test_bad_input_ends_with_2_and_a_sentence(pattern: str, event: str, said: str) -> None:
    result = run(pattern, event)
    assert (result.exit_code, result.stdout) == (2, "")
    assert any(line.startswith(said) for line in result.stderr.splitlines())


def test_bytes_that_are_no_text_end_with_2() -> None:
    result = run('{"a": [1]}', "-", input=b"\xff\xfe{")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("event: not valid JSON: ")


def test_both_are_needed() -> None:
    result = CliRunner().invoke(program, ["filter", "test", "--pattern", "{}"])
    assert result.exit_code == 2
    assert "--event" in result.stderr
