"""Laws of the filters, for ours and for matchers that break them; the reference is slow, and written from what EventBridge documents.

1. What matches agrees with the reference.
2. How an event spells its paths, nested or with dots, changes nothing.
3. An explanation agrees with the match: the event matches if an alternative does, and an alternative that matches has no term that fails.
4. A pattern as text is the same pattern.
5. No event makes a match raise.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from ipaddress import ip_address, ip_network
from itertools import product
from random import Random
from typing import Any, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from poller.errors import ConfigError
from poller.filters import Explanation, compile_pattern
from poller.testing.oracle import Broken
from poller.testing.strategies import SHARE, counter_test, laws

Matcher: TypeAlias = Callable[[Any, Any], bool]
Field: TypeAlias = tuple[str, Any, dict[int, int]]
"""Path, value, and the elements it is in: number of the array -> number of the element."""

EXAMPLES = 300
REACHED = Counter[tuple[str, bool]]()
"""How often a law came across a match, and none."""


# --- the reference ------------------------------------------------------------------------------------------------------------------------


def fields(value: Any, path: str, inside: dict[int, int], arrays: Iterator[int]) -> Iterator[Field]:
    """Every value of an event with its path. A value directly in an array is in no element of it."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from fields(inner, f"{path}.{key}" if path else key, inside, arrays)
    elif isinstance(value, list):
        number = next(arrays)
        for place, inner in enumerate(value):
            yield from fields(inner, path, {**inside, number: place} if isinstance(inner, dict | list) else inside, arrays)
    else:
        yield path, value, inside


def rules(pattern: Mapping[str, Any], path: str = "") -> list[dict[str, list[Any]]]:
    """One for each choice of branches. The later says what is asked of a path."""
    found: list[dict[str, list[Any]]] = [{}]
    for key, inner in pattern.items():
        here = f"{path}.{key}" if path else key
        if key == "$or":
            ways = [rule for branch in inner for rule in rules(branch, path)]
        else:
            ways = rules(inner, here) if isinstance(inner, dict) else [{here: inner}]
        found = [{**before, **way} for way, before in product(ways, found)]
    return found


def holds(condition: Any, value: Any) -> bool:
    if not isinstance(condition, dict):
        if isinstance(condition, str) and isinstance(value, str):
            return condition == value or same_address(condition, value)
        if any(isinstance(each, bool) or each is None for each in (condition, value)):
            return condition is value
        return type(condition) is not str and type(value) is not str and bool(condition == value)
    ((operator, operand),) = condition.items()
    if operator == "exists":
        return bool(operand)
    if operator == "anything-but":
        if isinstance(operand, dict):
            ((inner, operands),) = operand.items()
            return not any(holds({inner: each}, value) for each in (operands if isinstance(operands, list) else [operands]))
        wanted = operand if isinstance(operand, list) else [operand]
        return not any(type(value) is not bool and value is not None and each == value for each in wanted)
    if operator == "numeric":
        signs = {"=": "__eq__", "<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__"}
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        pairs = zip(operand[::2], operand[1::2], strict=True)
        return all(getattr(float(value), signs[sign])(float(limit)) is True for sign, limit in pairs)
    return isinstance(value, str) and of_text(operator, operand, value)


def of_text(operator: str, operand: Any, value: str) -> bool:
    if isinstance(operand, dict):
        return of_text(operator, operand["equals-ignore-case"].lower(), value.lower())
    text = str(operand)
    match operator:
        case "prefix":
            return value[: len(text)] == text
        case "suffix":
            return len(text) <= len(value) and value[len(value) - len(text) :] == text
        case "equals-ignore-case":
            return value.lower() == text.lower()
        case "wildcard":
            return wild(text, value)
        case "cidr":
            return is_address(value) and ip_address(value) in ip_network(text, strict=False)
    raise AssertionError(operator)


def wild(text: str, value: str) -> bool:
    """Every way to cut the value."""
    if not text:
        return not value
    if text[0] == "*":
        return any(wild(text[1:], value[cut:]) for cut in range(len(value) + 1))
    literal, rest = (text[1], text[2:]) if text[0] == "\\" else (text[0], text[1:])
    return value[:1] == literal and wild(rest, value[1:])


def is_address(text: str) -> bool:
    try:
        return bool(ip_address(text))
    except ValueError:
        return False


def same_address(one: str, other: str) -> bool:
    return is_address(one) and is_address(other) and ip_address(one) == ip_address(other)


def reference(pattern: Mapping[str, Any], event: Any) -> bool:
    """Tries every value for every path, in the order of the paths; what is chosen must be in the same elements."""
    found = list(fields(event, "", {}, iter(range(10**6))))
    return any(met(sorted(rule.items()), found, {}) for rule in rules(pattern))


def met(terms: list[tuple[str, list[Any]]], found: list[Field], inside: dict[int, int]) -> bool:
    if not terms:
        return True
    (path, conditions), *rest = terms
    here = [field for field in found if field[0] == path and all(inside.get(array, place) == place for array, place in field[2].items())]
    if not here and {"exists": False} in conditions and met(rest, found, inside):
        return True
    return any(
        met(rest, found, {**inside, **elements})
        for _, value, elements in here
        if any(holds(condition, value) for condition in conditions if condition != {"exists": False})
    )


# --- what is drawn ------------------------------------------------------------------------------------------------------------------------

KEYS = ("a", "b", "c")
TEXTS = ("", "x", "X", "xy", "yx", "xyx", "1", "*", "\\", "10.0.0.1", "::1", "0::1", "null")
NUMBERS = (0, -0.0, 1, 1.0, 2, 2.5, -3, 10**20)
LEAVES = (*TEXTS, *NUMBERS, True, False, None)
BLOCKS = ("10.0.0.0/24", "10.0.0.77/8", "11.0.0.0/8", "::/64")
ABSENT = {"exists": False}

seeds = st.integers(0, 2**64)
"""What a law is about comes of a seed: so it has the shape that the law needs, which is rare among all patterns and events."""


def one_or_some(rng: Random, values: Sequence[Any]) -> Any:
    return rng.choice(values) if rng.random() < 0.5 else rng.sample(values, rng.randint(1, 2))


def wild_text(rng: Random) -> str:
    return re.sub(r"\*+", "*", "".join(rng.choices(("x", "y", "*"), k=rng.randint(0, 4)))) + rng.choice(("", "", "\\*", "\\\\"))


def operator(rng: Random) -> dict[str, Any]:
    affix = rng.choice(("prefix", "suffix"))
    low, high = sorted(rng.sample((-3, 0, 1, 2, 2.5, 10**20), 2))
    between = [rng.choice((">", ">=")), low, rng.choice(("<", "<=")), high]
    made: list[dict[str, Any]] = [
        {"exists": rng.random() < 0.5},
        ABSENT,
        {affix: rng.choice(TEXTS)},
        {affix: {"equals-ignore-case": rng.choice(TEXTS)}},
        {"equals-ignore-case": rng.choice(TEXTS)},
        {"wildcard": wild_text(rng)},
        {"cidr": rng.choice(BLOCKS)},
        {"numeric": between if rng.random() < 0.3 else [rng.choice(("=", "<", "<=", ">", ">=")), rng.choice(NUMBERS)]},
        {"anything-but": one_or_some(rng, rng.choice((TEXTS, NUMBERS)))},
        {"anything-but": {affix: one_or_some(rng, TEXTS[1:])}},
        {"anything-but": {"equals-ignore-case": one_or_some(rng, TEXTS)}},
        {"anything-but": {"wildcard": rng.choice((wild_text(rng), [wild_text(rng), "x*"]))}},
    ]
    return rng.choice(made)


def conditions(rng: Random) -> list[Any]:
    return [rng.choice(LEAVES) if rng.random() < 0.4 else operator(rng) for _ in range(rng.choice((1, 1, 2, 3)))]


def pattern_of(rng: Random, depth: int = 3, ors: bool = True) -> dict[str, Any]:
    """Fields, fields of fields, dotted keys, and sometimes $or; few keys, so that they meet."""
    found: dict[str, Any] = {}
    for key in rng.sample(KEYS, rng.randint(1, 2 if depth > 2 else 3)):
        kind = rng.random()
        if depth > 1 and kind < 0.6:
            found[key] = pattern_of(rng, depth - 1, ors)
        elif kind > 0.9:
            found[f"{key}.{rng.choice(KEYS)}"] = conditions(rng)
        else:
            found[key] = conditions(rng)
    if ors and rng.random() < 0.2:
        found["$or"] = [pattern_of(rng, 1, False) for _ in range(rng.randint(2, 3))]
    return dict(rng.sample(list(found.items()), len(found)))


FITTING = {"prefix": "{}y", "suffix": "y{}", "wildcard": "{}", "equals-ignore-case": "{}"}


def near(rng: Random, wanted: list[Any]) -> Any:
    """A value that the conditions have an opinion about."""
    condition = rng.choice(wanted)
    if not isinstance(condition, dict):
        return condition
    ((name, operand),) = condition.items()
    while isinstance(operand, dict):
        ((name, operand),) = operand.items()
    operand = rng.choice(operand) if isinstance(operand, list) else operand
    if name in FITTING and isinstance(operand, str):
        text = FITTING[name].format(operand.replace("*", rng.choice(("", "x", "yx")), 1))
        return rng.choice((text, text.swapcase()))
    return rng.choice(LEAVES) if name in ("exists", "cidr") else operand


def event_of(rng: Random, pattern: Mapping[str, Any], arrays: float) -> dict[str, Any]:
    """An object that has most of what the pattern asks for, or nearly so; with arrays where objects and values are meant, so often."""
    found: dict[str, Any] = {}
    for key, inner in pattern.items():
        if key == "$or":
            found.update(event_of(rng, rng.choice(inner), arrays))
        elif rng.random() < 0.85:
            make = partial(event_of, rng, inner, arrays) if isinstance(inner, dict) else partial(near, rng, inner)
            if rng.random() < arrays:
                array: list[Any] = [make() for _ in range(rng.randint(0, 3))]
                found[key] = rng.choice((array, array, [*array, [make(), make()]], [[*array], rng.choice(LEAVES)]))
            else:
                found[key] = rng.choice(LEAVES) if rng.random() < 0.1 else make()
    return found


def respelt(rng: Random, value: Any, often: float) -> Any:
    """Objects under a key become keys with dots, so often."""
    if isinstance(value, list):
        return [respelt(rng, inner, often) for inner in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, inner in value.items():
        new = respelt(rng, inner, often)
        moves = isinstance(new, dict) and rng.random() < often
        found.update({f"{key}.{name}": each for name, each in new.items()} if moves else {key: new})
    return found


Pair: TypeAlias = tuple[dict[str, Any], dict[str, Any]]
"""A pattern, and an event that is about the same."""


def of_leaves(rng: Random) -> Pair:
    """One value, and what is asked of it."""
    wanted = conditions(rng)
    return {"a": wanted}, {"a": rng.choice((*LEAVES, [])) if rng.random() < 0.5 else near(rng, wanted)}


FEW: tuple[list[Any], ...] = (["x"], ["x"], [ABSENT], ["x", ABSENT], [{"exists": True}], [{"anything-but": "x"}])


def element(rng: Random, depth: int = 2) -> Any:
    """Of an array: mostly an object, whose values may be arrays of such."""
    kind = rng.random()
    if kind < 0.1:
        return rng.choice("xy")
    if kind < 0.2:
        return [element(rng, depth) for _ in range(rng.randint(0, 2))]
    inner = (lambda: [element(rng, depth - 1) for _ in range(rng.randint(0, 2))]) if depth > 1 else (lambda: rng.choice("xy"))
    return {key: inner() if rng.random() < 0.4 else rng.choice("xy") for key in rng.sample(KEYS, rng.randint(0, 3))}


def of_elements(rng: Random) -> Pair:
    """Fields of the elements of one array, and sometimes a value of that array itself."""
    some = lambda: {key: rng.choice(FEW) for key in rng.sample(KEYS, rng.randint(1, 2))}  # noqa: E731
    inner = {key: some() if rng.random() < 0.3 else rng.choice(FEW) for key in rng.sample(KEYS, rng.randint(1, 3))}
    pattern = {"a": inner} | ({"a.b.c": rng.choice(FEW)} if rng.random() < 0.3 else {})
    return pattern, {"a": [element(rng) for _ in range(rng.randint(0, 3))]}


def of_arrays(rng: Random) -> Pair:
    pattern = pattern_of(rng)
    return pattern, respelt(rng, event_of(rng, pattern, 0.4), 0.2)


def of_dots(rng: Random) -> Pair:
    """Any path spelt in any way, in several ways at once too. Without arrays: what an array and a key with dots that leads into it mean
    together is promised for values, and not for their absence."""
    pattern = pattern_of(rng)
    return pattern, {**respelt(rng, event_of(rng, pattern, 0), 0.5), **respelt(rng, event_of(rng, pattern, 0), 0.5)}


PAIRS = {"leaves": of_leaves, "elements": of_elements, "arrays": of_arrays, "dots": of_dots}


def ours(pattern: Any, event: Any) -> bool:
    return compile_pattern(pattern).matches(event)


def require(met: bool, text: str) -> None:
    if not met:
        raise Broken(text)


def law_of_agreement(matcher: Matcher, pairs: str, examples: int) -> None:
    @laws(examples)
    @given(seeds)
    def law(seed: int) -> None:
        pattern, event = PAIRS[pairs](Random(seed))
        expected = reference(pattern, event)
        REACHED[pairs, expected] += 1
        require(matcher(pattern, event) == expected, f"law 1: {expected} is expected for {pattern} and {event}")

    law()


@pytest.mark.parametrize("pairs", PAIRS)
def test_ours_agrees_with_the_reference(pairs: str) -> None:
    law_of_agreement(ours, pairs, EXAMPLES)
    assert min(REACHED[pairs, True], REACHED[pairs, False]) > EXAMPLES * SHARE / 20


# --- broken matchers ----------------------------------------------------------------------------------------------------------------------


def any_element(pattern: Any, event: Any) -> bool:
    """Forgets in which element it found something."""
    found: list[Field] = [(path, value, {}) for path, value, _ in fields(event, "", {}, iter(range(10**6)))]
    return any(met(sorted(rule.items()), found, {}) for rule in rules(pattern))


def absence_by_element(pattern: Any, event: Any) -> bool:
    """Looks for absence last, and so always in the chosen element alone."""
    found = list(fields(event, "", {}, iter(range(10**6))))
    last = lambda term: ({"exists": False} in term[1], term[0])  # noqa: E731
    return any(met(sorted(rule.items(), key=last), found, {}) for rule in rules(pattern))


def both_conditions(pattern: Any, event: Any) -> bool:
    """Where a branch of $or asks something else of a path, wants both."""
    rest = {key: inner for key, inner in pattern.items() if key != "$or"}
    branches = pattern.get("$or")
    return (not rest or reference(rest, event)) and (branches is None or any(reference(branch, event) for branch in branches))


def as_text(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: as_text(inner) for key, inner in value.items()}
    return [as_text(inner) for inner in value] if isinstance(value, list) else "1" if value is True or value == 1 else value


def numbers_as_texts(pattern: Any, event: Any) -> bool:
    return ours(pattern, as_text(event))


def without_case(pattern: Any, event: Any) -> bool:
    return ours(pattern, json.loads(json.dumps(event).replace("X", "x")))


def without_dots(pattern: Any, event: Any) -> bool:
    return ours(pattern, {key: inner for key, inner in event.items() if "." not in key})


def parents_exist(pattern: Any, event: Any) -> bool:
    """Takes an empty object or array for a value."""
    filled = json.loads(json.dumps(event).replace("{}", "null").replace("[]", "null"))
    return ours(pattern, filled if isinstance(filled, dict) else {})


@pytest.mark.parametrize(
    ("broken", "pairs"),
    [
        (any_element, "elements"),
        (absence_by_element, "elements"),
        (parents_exist, "elements"),
        (both_conditions, "arrays"),
        (numbers_as_texts, "leaves"),
        (without_case, "leaves"),
        (without_dots, "dots"),
    ],
    ids=lambda part: getattr(part, "__name__", part),
)
@pytest.mark.counterpart
def test_the_law_of_agreement_finds_out(broken: Matcher, pairs: str) -> None:
    with pytest.raises(Broken, match="law 1"), counter_test():
        law_of_agreement(broken, pairs, 20 * EXAMPLES)


# --- spelling -----------------------------------------------------------------------------------------------------------------------------


def law_of_spelling(matcher: Matcher, examples: int) -> None:
    @laws(examples)
    @given(seeds)
    def law(seed: int) -> None:
        rng = Random(seed)
        pattern = pattern_of(rng)
        event = event_of(rng, pattern, 0.4)
        other = respelt(rng, event, 0.5)
        require(matcher(pattern, event) == matcher(pattern, other), f"law 2: {event} and {other} differ for {pattern}")

    law()


def test_spelling_changes_nothing() -> None:
    law_of_spelling(ours, EXAMPLES)


@pytest.mark.counterpart
def test_the_law_of_spelling_finds_out() -> None:
    with pytest.raises(Broken, match="law 2"), counter_test():
        law_of_spelling(without_dots, 20 * EXAMPLES)


# --- explanations -------------------------------------------------------------------------------------------------------------------------


def law_of_explanations(explain: Callable[[Any, Any], Explanation], examples: int) -> None:
    @laws(examples)
    @given(st.sampled_from(sorted(PAIRS)), seeds)
    def law(pairs: str, seed: int) -> None:
        pattern, event = PAIRS[pairs](Random(seed))
        told = explain(pattern, event)
        require(told.matches == reference(pattern, event), f"law 3: {pattern} and {event} are explained as {told.matches}")
        require(told.matches == any(each.matches for each in told.alternatives), "law 3: the alternatives say something else")
        for each in told.alternatives:
            whole = all(term.holds for term in each.terms)
            require(whole or not each.matches, f"law 3: a term fails, and yet {pattern} matches {event}")
            require(bool(each.together) == (whole and not each.matches), f"law 3: nothing says why {pattern} does not match {event}")
        json.dumps(told.as_dict())
        require(told.lines()[0] == ("match" if told.matches else "no match"), "law 3: the first line says something else")

    law()


def test_an_explanation_agrees_with_the_match() -> None:
    law_of_explanations(lambda pattern, event: compile_pattern(pattern).explain(event), EXAMPLES)


def term_by_term(pattern: Any, event: Any) -> Explanation:
    """Believes that terms which hold hold together."""
    told = compile_pattern(pattern).explain(event)
    return Explanation(any(all(term.holds for term in each.terms) for each in told.alternatives), told.alternatives)


@pytest.mark.counterpart
def test_the_law_of_explanations_finds_out() -> None:
    with pytest.raises(Broken, match="law 3"), counter_test():
        law_of_explanations(term_by_term, 20 * EXAMPLES)


# --- texts, and anything at all -----------------------------------------------------------------------------------------------------------


def law_of_text(dumps: Callable[[Any], str], examples: int) -> None:
    @laws(examples)
    @given(seeds)
    def law(seed: int) -> None:
        pattern = pattern_of(Random(seed))
        one, other = compile_pattern(pattern), compile_pattern(dumps(pattern))
        require(one == other and hash(one) == hash(other), f"law 4: {pattern} is another one as text")
        require(one.keys == other.keys, "law 4: other keys")

    law()


def test_a_pattern_as_text_is_the_same_pattern() -> None:
    law_of_text(json.dumps, EXAMPLES)


@pytest.mark.counterpart
def test_the_law_of_text_finds_out() -> None:
    with pytest.raises(Broken, match="law 4"), counter_test():
        law_of_text(lambda pattern: json.dumps(pattern).replace('"x"', '"y"'), EXAMPLES)


keys = st.sampled_from((*KEYS, "a.a", "a.b", "b.c", "a.b.c"))
odd = st.one_of(
    st.sampled_from(LEAVES),
    st.floats(),
    st.integers(),
    st.complex_numbers(),
    st.binary(max_size=3),
    st.decimals(),
    st.text(max_size=5),
    st.sets(st.integers(), max_size=2),
)
odd_values = st.recursive(odd, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8)


@laws(EXAMPLES)
@given(seeds, st.dictionaries(keys, odd_values, max_size=3))
def test_no_event_makes_a_match_raise(seed: int, event: Any) -> None:
    compiled = compile_pattern(pattern_of(Random(seed)))
    assert compiled.explain(event).matches == compiled.matches(event)


def test_any_text_is_a_pattern_or_a_sentence() -> None:
    @laws(EXAMPLES)
    @given(seeds)
    def law(seed: int) -> None:
        rng = Random(seed)
        text = json.dumps(pattern_of(rng))
        start, length = rng.randrange(len(text)), rng.randint(0, 4)
        broken = text[:start] + rng.choice(("", "[", "{", '"', ",", "0", "null", "$or", ".")) + text[start + length :]
        try:
            compile_pattern(broken)
        except ConfigError as error:
            REACHED["text", False] += 1
            require(all(": " in problem for problem in error.problems), f"no place is named in {error}")

    law()
    assert REACHED["text", False] > EXAMPLES / 10
