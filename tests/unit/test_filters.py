"""Patterns, by tables: what matches, what is refused and how it is said, what is bounded; and what was recorded, where it is at hand."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from poller.errors import ConfigError
from poller.filters import Filters, compile_filters, compile_pattern
from poller.filters.syntax import DEEPEST, MOST_ALTERNATIVES, MOST_TERMS

FOLDER = os.environ.get("POLLER_CASES")
RECORDED: dict[str, list[dict[str, Any]]] = json.loads((Path(FOLDER) / "event-patterns.json").read_text()) if FOLDER else {}
NEEDS_CASES = pytest.mark.skipif(not FOLDER, reason="POLLER_CASES names no folder of recorded cases")


def matches(pattern: Any, event: Any) -> bool:
    return compile_pattern(pattern).matches(event)


def refused(pattern: Any) -> list[str]:
    with pytest.raises(ConfigError) as found:
        compile_pattern(pattern)
    return found.value.problems


# --- what was recorded --------------------------------------------------------------------------------------------------------------------


@NEEDS_CASES
@pytest.mark.parametrize("case", RECORDED.get("cases", []), ids=lambda case: case["name"])
def test_it_matches_what_was_recorded(case: dict[str, Any]) -> None:
    event = json.loads(case["event_text"]) if "event_text" in case else case["event"]
    pattern = case["pattern_text"] if "pattern_text" in case else case["pattern"]
    texts = [pattern] if isinstance(pattern, str) else [pattern, json.dumps(pattern)]
    for each in texts:
        compiled = compile_pattern(each)
        assert compiled.matches(event) is case["matches"]
        assert compiled.explain(event).matches is case["matches"]
    for key in event.keys() - compile_pattern(pattern).keys:
        if "." not in key:
            assert matches(pattern, {name: value for name, value in event.items() if name != key}) is case["matches"]


@NEEDS_CASES
@pytest.mark.parametrize("case", RECORDED.get("invalid_patterns", []), ids=lambda case: case["name"])
def test_it_refuses_what_was_refused(case: dict[str, Any]) -> None:
    problems = refused(case["pattern_text"] if "pattern_text" in case else case["pattern"])
    assert all(": " in problem for problem in problems)


@NEEDS_CASES
def test_all_that_was_recorded_is_run() -> None:
    assert (len(RECORDED["cases"]), len(RECORDED["invalid_patterns"])) == (911, 140)


# --- one value ----------------------------------------------------------------------------------------------------------------------------

ORDER = "order"

VALUES: list[tuple[Any, list[Any], list[Any]]] = [
    (ORDER, [ORDER, ["x", ORDER], [["x"], [ORDER]]], ["Order", "orders", "", None, {}, [], 1, {"order": 1}]),
    ("", [""], [None, " ", [], {}]),
    ("1", ["1"], [1, True]),
    (300, [300, 300.0, 3e2], ["300", 301, True]),
    (1, [1, 1.0], [True, "1"]),
    (0, [0, -0.0], [False, None, ""]),
    (2**63 + 1, [2**63 + 1], [2**63, float(2**63)]),
    (0.1, [0.1], [0.1 + 1e-16, 0.10000000000000002]),
    (None, [None, [None]], ["null", "", False, 0, [], {}]),
    (True, [True], [1, "true", False]),
    (False, [False], [0, None, "", True]),
    ({"prefix": "or"}, ["or", ORDER], ["Order", "o", 0, None]),
    ({"prefix": ""}, ["", ORDER], [1, None, []]),
    ({"prefix": {"equals-ignore-case": "oR"}}, ["Order", "ORDER"], ["xorder", "o", 0]),
    ({"suffix": "er"}, ["er", ORDER], ["ER", "r", 0]),
    ({"suffix": {"equals-ignore-case": "Er"}}, [ORDER, "ORDER", "xER"], ["ere", "r", None]),
    ({"equals-ignore-case": "Order"}, [ORDER, "ORDER"], ["orders", 1]),
    ({"equals-ignore-case": "straße"}, ["STRASSE", "straße", "Straße"], ["strasse "]),
    ({"equals-ignore-case": "k"}, ["k", "K"], ["\N{KELVIN SIGN}"]),
    ({"suffix": {"equals-ignore-case": "ß"}}, ["spaSS", "Spaß"], ["S", "s"]),
    ({"wildcard": "a*c"}, ["ac", "abc", "abcc", "a\nc"], ["a", "ab", "xac", "aC", 1]),
    ({"wildcard": "*"}, ["", "x"], [1, None]),
    ({"wildcard": "ab*ba"}, ["abba", "ab-ba"], ["aba"]),
    ({"wildcard": "a*bc*c"}, ["abcc", "a-bc-c"], ["abc"]),
    ({"wildcard": "*a*a*"}, ["aa", "xaxa"], ["a", "xa"]),
    ({"wildcard": "a\\*\\\\*"}, ["a*\\", "a*\\x"], ["ax\\", "a*"]),
    ({"wildcard": ""}, [""], ["x"]),
    ({"cidr": "10.0.0.77/24"}, ["10.0.0.0", "10.0.0.255", "010.0.0.7"], ["10.0.1.0", "10.0.0.256", "10.0.0", "x", 1, "10.0.0.1/24", "::1"]),
    ({"cidr": "2001:db8::/32"}, ["2001:db8::1", "2001:0DB8:0:0::"], ["2001:db9::1", "10.0.0.1", ":", "1::2::3"]),
    ({"cidr": "0.0.0.0/0"}, ["1.2.3.4", "::ffff:102:304"], ["::", ""]),
    ("10.0.0.1", ["10.0.0.1", "10.0.00.1", "::ffff:a00:1"], ["10.0.0.2"]),
    ("::0", ["::", "0:0:0:0:0:0:0:0", "::0"], ["::1", "0.0.0.0"]),
    ({"numeric": ["=", 300]}, [300, 300.0], ["300", 301, None, True]),
    ({"numeric": ["<", 1]}, [0, 0.9, -(10**400)], [1, "0", False, math.nan]),
    ({"numeric": ["<=", 1]}, [1, 1.0, 0], [1.1, True]),
    ({"numeric": [">", 1]}, [1.5, 10**400, math.inf], [1, math.nan, "2"]),
    ({"numeric": [">=", 1, "<", 2]}, [1, 1.9], [0.9, 2]),
    ({"anything-but": "x"}, ["y", 1, None, True, ["x", "y"]], ["x", [], {}, ["x"]]),
    ({"anything-but": ["x", "y"]}, ["z", 0], ["x", "y"]),
    ({"anything-but": 1}, [2, "1", True, None], [1, 1.0]),
    ({"anything-but": [1, 2]}, [3, "2"], [1, 2.0]),
    ({"anything-but": {"prefix": "x"}}, ["yx", 1, None, ""], ["x", "xy"]),
    ({"anything-but": {"prefix": ["x", "y"]}}, ["z"], ["x", "yx"]),
    ({"anything-but": {"suffix": "x"}}, ["xy"], ["x", "yx"]),
    ({"anything-but": {"suffix": ["x", "y"]}}, ["z"], ["zx", "y"]),
    ({"anything-but": {"equals-ignore-case": "x"}}, ["xx", 1], ["x", "X"]),
    ({"anything-but": {"equals-ignore-case": ["x", "Y"]}}, ["z"], ["X", "y"]),
    ({"anything-but": {"wildcard": "*x*"}}, ["y", 1], ["x", "axb"]),
    ({"anything-but": {"wildcard": ["x*", "*x"]}}, ["axb"], ["xa", "ax"]),
    ({"anything-but": "10.0.0.1"}, ["10.0.00.1"], ["10.0.0.1"]),
    ({"exists": True}, ["", None, 0, False, [None], [[1]], b"bytes"], [[], {}, {"x": 1}, [{}], [{"x": 1}]]),
    ({"exists": False}, [[], {}, {"x": 1}, [[]], [{"x": 1}]], ["", None, 0, [None]]),
    ({"exactly": "x"}, ["x"], ["X", None]),
]


@pytest.mark.parametrize(("condition", "met", "not_met"), VALUES, ids=lambda part: json.dumps(part) if not isinstance(part, list) else "")
def test_a_condition(condition: Any, met: list[Any], not_met: list[Any]) -> None:
    for pattern in ({"k": [condition]}, json.dumps({"k": [condition]}), {"k": ["~", condition]}):
        assert [value for value in met if not matches(pattern, {"k": value})] == []
        assert [value for value in not_met if matches(pattern, {"k": value})] == []


@pytest.mark.parametrize("condition", [condition for condition, _, _ in VALUES if condition != {"exists": False}], ids=json.dumps)
def test_where_there_is_no_value_only_absence_is_met(condition: Any) -> None:
    assert not matches({"k": [condition]}, {"other": 1})
    assert matches({"k": [condition, {"exists": False}]}, {"other": 1})


# --- several fields -----------------------------------------------------------------------------------------------------------------------

ABSENT = [{"exists": False}]
PEOPLE = {"p": [{"n": "Anna", "s": "Lee"}, {"n": "Ben", "s": "Moe", "x": 1}]}

EVENTS: list[tuple[Any, Any, bool]] = [
    ({"a": [1], "b": [2]}, {"a": 1, "b": 2, "c": 3}, True),
    ({"a": [1], "b": [2]}, {"a": 1}, False),
    ({"a": {"b": {"c": [1]}}}, {"a": {"b": {"c": 1}}}, True),
    ({"a": {"b": [1]}}, {"a": 1}, False),
    ({"a": {"b": [1]}}, {"a": '{"b": 1}'}, False),
    ({"a": [1]}, {"a": {"b": 1}}, False),
    # arrays: all in one element
    ({"p": {"n": ["Anna"], "s": ["Lee"]}}, PEOPLE, True),
    ({"p": {"n": ["Anna"], "s": ["Moe"]}}, PEOPLE, False),
    ({"p": {"n": ["Anna"], "s": ["Moe"]}}, {"p": [[PEOPLE["p"]], {"n": "Anna", "s": "Moe"}]}, True),
    ({"p": {"q": {"n": [1], "s": [2]}}}, {"p": [{"q": [{"n": 1}]}, {"q": [{"s": 2}]}]}, False),
    ({"p": {"q": {"n": [1]}, "r": {"s": [2]}}}, {"p": {"q": [{"n": 0}, {"n": 1}], "r": [{"s": 2}]}}, True),
    ({"p": {"t": ["x"], "n": [1]}}, {"p": {"t": ["y", "x"], "n": 1}}, True),
    # absence: in the chosen element; in the whole array as long as none is chosen
    ({"p": {"n": ["Anna"], "x": ABSENT}}, PEOPLE, True),
    ({"p": {"n": ["Ben"], "x": ABSENT}}, PEOPLE, False),
    ({"p": {"x": ABSENT}}, PEOPLE, False),
    ({"p": {"a": ABSENT, "n": ["Anna"]}}, {"p": [{"n": "Anna"}, {"a": 1}]}, False),
    ({"p": {"a": ABSENT, "n": ABSENT}}, {"p": [{"m": 1}, {}]}, True),
    ({"p": {"a": ["y", {"exists": False}], "n": ["Anna"]}}, {"p": [{"n": "Anna"}, {"a": "y"}]}, False),
    ({"p": {"a": ["y", {"exists": False}], "n": ["Anna"]}}, {"p": [{"n": "Anna"}, {"a": "y", "n": "Anna"}]}, True),
    ({"a": ABSENT, "b": ABSENT}, {}, True),
    # dots
    ({"a.b": [1]}, {"a": {"b": 1}}, True),
    ({"a": {"b": [1]}}, {"a.b": 1}, True),
    ({"a.b.c": [1]}, {"a.b": {"c": 1}}, True),
    ({"a": {"b": {"c": [1]}}}, {"a": {"b.c": 1}}, True),
    ({"a": {"b": {"c": [1]}}}, {"a": {"b.d": 1}}, False),
    ({"service": ["x"], "service.name": ["y"]}, {"service": "x", "service.name": "y"}, True),
    ({"a": {"x": [1], "y": [2]}}, {"a": {"x": 1}, "a.y": 2}, True),
    ({"a": {"x": [1], "y": [2]}}, {"a": [{"x": 0}, {"x": 1}], "a.y": 2}, True),
    ({"a": {"b": {"p": [1], "q": [2]}}}, {"a": {"b": {"p": 1}}, "a.b": {"q": 2}}, True),
    ({"a": {"b": [2]}}, {"a": {"b": 1}, "a.b": 2}, True),
    ({"a": {"b": {"c": [1]}}}, {"a": {"b": {"c": 1}}, "a.b": 5}, True),
    ({"a": {"b": {"c": [1]}}, "a.b": [5]}, {"a": {"b": 5}, "a.b": {"c": 1}}, True),
    ({"a": {"b": ABSENT}}, {"a.b": 2}, False),
    # a value and fields under one key
    ({"a": [1], "a.b": [2]}, {"a": [1, {"b": 2}]}, True),
    ({"a": [1], "a.b": [2]}, {"a": [[1], {"b": 2}]}, False),
    ({"a": [1], "a.b": ABSENT}, {"a": 1}, True),
    ({"a": ABSENT, "a.b": [2]}, {"a": {"b": 2}}, True),
    ({"a": ABSENT, "a.b": [2]}, {"a": [{"b": 2}]}, True),
    ({"a": ABSENT, "a.b": [2]}, {"a": [[3], {"b": 2}]}, False),
    # $or
    ({"a": [1], "$or": [{"b": [2]}, {"c": [3]}]}, {"a": 1, "c": 3}, True),
    ({"a": [1], "$or": [{"b": [2]}, {"c": [3]}]}, {"b": 2, "c": 3}, False),
    ({"a": {"$or": [{"b": [2]}, {"c": [3], "d": [4]}]}}, {"a": {"c": 3}}, False),
    ({"a": {"$or": [{"b": [2]}, {"c": {"$or": [{"d": [4]}, {"e": [5]}]}}]}}, {"a": {"c": {"e": 5}}}, True),
    ({"p": {"n": [1], "$or": [{"s": [2]}, {"t": [3]}]}}, {"p": [{"n": 1}, {"s": 2}, {"t": 3}]}, False),
    ({"a": [1], "$or": [{"a": [2]}, {"b": [3]}]}, {"a": 2}, True),
    ({"$or": [{"a": [2]}, {"b": [3]}], "a": [1]}, {"a": 2}, False),
    # as text: keys that stand twice
    ('{"a": [1], "a": [2]}', {"a": 1}, False),
    ('{"a": [1], "a": [2]}', {"a": 2}, True),
    ('{"a": {"b": [1]}, "a": {"c": [2]}}', {"a": {"c": 2}}, False),
    ('{"a": {"b": [1]}, "a": {"c": [2]}}', {"a": {"b": 1, "c": 2}}, True),
]


@pytest.mark.parametrize(("pattern", "event", "expected"), EVENTS)
def test_an_event(pattern: Any, event: Any, expected: bool) -> None:
    assert matches(pattern, event) is expected
    told = compile_pattern(pattern).explain(event)
    assert told.matches is expected


@pytest.mark.parametrize("event", [None, 1, "a", [], [{"a": 1}]])
def test_what_is_no_object_matches_nothing(event: Any) -> None:
    for pattern in ({"a": [1]}, {"a": ABSENT}):
        assert not matches(pattern, event)
        assert not compile_pattern(pattern).explain(event).matches


def test_any_mapping_is_an_object_and_a_tuple_an_array() -> None:
    event = MappingProxyType({"a": MappingProxyType({"b": ({"c": 1}, 2)}), "d.e": 3})
    assert matches({"a": {"b": {"c": [1]}}, "d": {"e": [3]}}, event)
    assert matches({"a": {"b": [2]}}, event)


# --- what is refused ----------------------------------------------------------------------------------------------------------------------

REFUSALS: list[tuple[Any, str]] = [
    ("x", "pattern: not valid JSON: "),
    ("[]", "pattern: an object is needed here, not []"),
    ('{"a": [NaN]}', "pattern: not valid JSON: NaN is no JSON"),
    ({}, "pattern: an empty object is not allowed"),
    ({"a": {}}, "a: an empty object is not allowed"),
    ({"a": 1}, "a: a list of what is allowed, or an object, is needed here; write [1]"),
    ({"a": []}, "a: an empty list is not allowed"),
    ({"a": [[1]]}, "a[0]: a text, a number, true, false, null or an operator is needed here, not [1]"),
    ({1: ["x"]}, '"1": a key is a text'),
    ({"a b": {"c-d": ["x", {"Prefix": "x"}]}}, '"a b".c-d[1]: unknown operator "Prefix"; there are anything-but, '),
    ({"a": [{"prefix": "x", "suffix": "y"}]}, "a[0]: exactly one operator is needed in an object here, not 2"),
    ('{"a": [{"prefix": "x", "prefix": "y"}]}', "a[0]: exactly one operator is needed in an object here, not 2"),
    ({"a": [{}]}, "a[0]: exactly one operator is needed in an object here, not 0"),
    ({"a": [{"prefix": 1}]}, "a[0].prefix: a text is needed here, not 1"),
    ({"a": [{"prefix": {"suffix": "x"}}]}, 'a[0].prefix: allowed here is equals-ignore-case, not "suffix"'),
    ({"a": [{"suffix": {"equals-ignore-case": 1}}]}, "a[0].suffix.equals-ignore-case: a text is needed here, not 1"),
    ({"a": [{"exists": 1}]}, "a[0].exists: true or false is needed here, not 1"),
    ({"a": [{"wildcard": "x**"}]}, "a[0].wildcard: two wildcards in a row, at character 2"),
    ({"a": [{"wildcard": "x\\y"}]}, "a[0].wildcard: a backslash stands before '*' or another backslash only; the one at character 2"),
    ({"a": [{"wildcard": "x\\"}]}, "a[0].wildcard: a backslash"),
    ({"a": [{"wildcard": "*/*/*/*/*/x"}]}, "a[0].wildcard: too complex"),
    ({"a": [{"cidr": "10.0.0.0"}]}, "a[0].cidr: needs exactly one '/'"),
    ({"a": [{"cidr": "10.0.0.0/33"}]}, "a[0].cidr: at most 32 bits can be fixed, not 33"),
    ({"a": [{"cidr": "10.0.0/8"}]}, "a[0].cidr: '10.0.0' is no IP address"),
    ({"a": [{"cidr": "::1/x"}]}, "a[0].cidr: the part after '/' is a number of bits, not 'x'"),
    ({"a": [{"numeric": [">"]}]}, 'a[0].numeric: [">"] is no comparison; allowed are ["=", n]'),
    ({"a": [{"numeric": [1, 2]}]}, "a[0].numeric: [1, 2] is no comparison"),
    ({"a": [{"numeric": ["<", 1, ">", 0]}]}, "a[0].numeric: no such comparison: < and >"),
    ({"a": [{"numeric": ["!=", 1]}]}, "a[0].numeric: no such comparison: !="),
    ({"a": [{"numeric": [">", 0, "<", "1"]}]}, 'a[0].numeric[3]: a number is needed here, not "1"'),
    ({"a": [{"numeric": [">", 1, "<", 1]}]}, "a[0].numeric: the range is empty: 1 is not below 1"),
    ('{"a": [{"numeric": ["<", 1e400]}]}', "a[0].numeric[1]: 1e400 cannot be compared"),
    ('{"a": [1e-400]}', "a[0]: 1e-400 cannot be compared"),
    ('{"a": [' + "9" * 400 + "]}", "a[0]: 9999999"),
    ({"a": [10**400]}, "a[0]: 1000"),
    ({"a": [math.nan]}, "a[0]: NaN cannot be compared"),
    ({"a": [{"anything-but": []}]}, "a[0].anything-but: an empty list is not allowed"),
    ({"a": [{"anything-but": True}]}, "a[0].anything-but: a text or a number is needed here, not true"),
    ({"a": [{"anything-but": [None]}]}, "a[0].anything-but[0]: a text or a number is needed here, not null"),
    ({"a": [{"anything-but": ["x", 1]}]}, "a[0].anything-but: a list holds either texts or numbers, not both"),
    ({"a": [{"anything-but": {"prefix": ["x", ""]}}]}, "a[0].anything-but.prefix[1]: an empty text is not allowed here"),
    ({"a": [{"anything-but": {"numeric": ["=", 1]}}]}, "a[0].anything-but: allowed in anything-but are equals-ignore-case, prefix, "),
    ({"$or": {"a": [1]}}, "$or: $or needs a list of at least two objects, not an object"),
    ({"$or": [{"a": [1]}]}, "$or: $or needs a list of at least two objects, not a list"),
    ({"a": {"$or": [{"b": [1]}, 2]}}, "a.$or[1]: an object is needed here, not 2"),
    ({"$or": [{"a": [1]}, {"b": {"prefix": ["x"]}}]}, "$or[1].b.prefix: is the name of an operator"),
]


@pytest.mark.parametrize(("pattern", "problem"), REFUSALS, ids=[problem for _, problem in REFUSALS])
def test_a_refusal_says_where_and_why(pattern: Any, problem: str) -> None:
    (found,) = refused(pattern)
    assert found.startswith(problem)
    assert len(found) < 300


def test_all_problems_are_told_at_once() -> None:
    problems = refused({"a": 1, "b": [{"prefix": 2}, {"x": 1}], "$or": [{"c": []}, {"d": {}}]})
    assert [problem.split(":")[0] for problem in problems] == ["a", "b[0].prefix", "b[1]", "$or[0].c", "$or[1].d"]


def test_filters_say_which_of_them_is_wrong() -> None:
    with pytest.raises(ConfigError) as found:
        compile_filters(['{"a": [1]}', {"b": 1}, "x"])
    assert [problem.split(":")[0] for problem in found.value.problems] == ["[1] b", "[2] pattern"]


# --- several patterns ---------------------------------------------------------------------------------------------------------------------


def test_one_of_several_patterns_is_enough() -> None:
    filters = compile_filters([{"a": [number]} for number in range(20)])
    assert filters.matches({"a": 0})
    assert filters.matches({"a": 19})
    assert not filters.matches({"a": 20})
    assert not Filters(()).matches({})


def test_keys_are_the_first_of_each_path() -> None:
    pattern = compile_pattern({"value": {"a": [1]}, "topic.x": [2], "$or": [{"key": ABSENT}, {"value": {"b": [1]}}]})
    assert pattern.keys == {"value", "topic", "key"}
    assert compile_filters([{"a": [1]}, '{"b": {"c": [1]}}']).keys == {"a", "b"}
    assert compile_filters([]).keys == frozenset()


def test_patterns_are_equal_when_they_ask_the_same() -> None:
    assert compile_pattern({"a": {"b": [1, "x"]}, "c": [2]}) == compile_pattern('{"c": [2.0], "a.b": [1, "x"]}')
    assert compile_pattern({"a": [1]}) != compile_pattern({"a": ["1"]})
    assert compile_pattern({"a": [1]}) != compile_pattern({"a": [True]})
    assert len({compile_pattern({"a": [1]}), compile_pattern({"a": [1.0]}), compile_pattern({"a": [None]})}) == 2


# --- what is bounded ----------------------------------------------------------------------------------------------------------------------


def nested(depth: int, inner: Any) -> Any:
    for _ in range(depth):
        inner = {"a": inner}
    return inner


def test_a_pattern_as_deep_as_allowed_works_and_a_deeper_one_is_refused() -> None:
    pattern = compile_pattern(nested(DEEPEST, ["x", {"exists": False}]))
    assert pattern.matches(nested(DEEPEST, "x"))
    assert not pattern.matches(nested(DEEPEST, "y"))
    assert pattern.matches(json.loads(json.dumps(nested(DEEPEST, "x")).replace("{", "[{").replace("}", "}]"))[0])
    assert pattern.matches(nested(DEEPEST - 1, "y"))
    assert refused(nested(DEEPEST + 1, ["x"]))[0].endswith(f"more than {DEEPEST} keys deep")
    assert refused(nested(50_000, ["x"]))[0].endswith(f"more than {DEEPEST} keys deep")
    assert refused('{"a":' * 50_000 + "[1]" + "}" * 50_000) == ["pattern: nested too deeply to be read"]


def test_combinations_of_ors_are_counted_before_they_are_made() -> None:
    two = [{"x": [1]}, {"y": [1]}]
    assert "2 combinations" not in refused({str(key): {"$or": two} for key in range(60)})[0]
    assert refused({str(key): {"$or": two} for key in range(60)})[0].endswith(f"at most {MOST_ALTERNATIVES:,} are allowed")
    assert len(compile_pattern({str(key): {"$or": two} for key in range(9)}).alternatives) == 512
    many = {f"f{key}": [1] for key in range(MOST_TERMS // 100)}
    assert refused({"$or": [{"x": [key]} for key in range(200)], **many})[0].endswith(f"at most {MOST_TERMS:,} are allowed")
    deep: Mapping[str, Any] = {"x": [1]}
    for _ in range(DEEPEST + 1):
        deep = {"$or": [deep, {"y": [1]}]}
    assert refused(deep)[0].endswith(f"more than {DEEPEST} $or within each other")


def test_arrays_in_arrays_need_no_stack() -> None:
    array: list[Any] = [{"b": 1}]
    for _ in range(50_000):
        array = [array]
    for pattern in ({"a": {"b": [1]}}, {"a": {"b": [1], "c": ABSENT}}, {"a": ABSENT, "a.b": [1]}):
        assert compile_pattern(pattern).matches({"a": array})
        assert compile_pattern(pattern).explain({"a": array}).matches
    assert not matches({"a": [1]}, {"a": array})


def test_keys_with_dots_beside_deep_objects_need_no_stack() -> None:
    pattern = compile_pattern(nested(60, ["x"]))
    event: Any = "y"
    for _ in range(3_000):
        event = {"a": event, "a.a": {"a": "y", "b": event}}
    assert not pattern.matches(event)


def test_wildcards_try_every_place_once() -> None:
    """With a second try for each of the twelve pieces this would take longer than the machine lasts."""
    pattern = compile_pattern({"k": [{"wildcard": "a*ba*bba*cba*dba*b"}, {"anything-but": {"wildcard": "a*ba*bba*cba*dba*c"}}]})
    assert pattern.matches({"k": "ab" * 200_000})
    assert not matches({"k": [{"wildcard": "*a*ba*ca*da*x"}]}, {"k": "a" * 400_000})
