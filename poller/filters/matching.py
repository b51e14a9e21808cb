"""Whether an event meets an alternative: terms compiled to closures over its tree of keys. Pure.

An event is what a JSON parser gives. Its values are reached by paths; arrays are looked through, also arrays in arrays. Three rules make
it what EventBridge does:

- *Arrays.* Terms whose paths lead through one array must be met in the same element of it.
- *Absence.* `exists: false` holds where the path leads to no value; an object, or an empty array, is none. Terms are met in the order of
  their paths, and it is the first one met by a value under an array that chooses the element: absence before it is looked for in the
  whole array, absence after it in the element alone.
- *Dots.* `{"a": {"b": 1}}` and `{"a.b": 1}` are one to a pattern, however either side is written.

The work grows with the pattern times the event (times the depth of arrays), never faster; the stack with the depth of the pattern alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from poller.filters.conditions import Condition, allows_absence, any_of, texts_alone
from poller.filters.syntax import Alternative, Term

Match: TypeAlias = Callable[[Any], bool]
"""Whether what stands at a place of an event (or MISSING) meets the terms below that place."""


class _Missing:
    def __repr__(self) -> str:
        return "MISSING"


MISSING: Final = _Missing()


class Place(NamedTuple):
    """Where a term looks. `hops[n]`: once n keys are behind, the keys an object may go on with (several joined by dots are one key to it),
    each with how many are behind then. `absent`: the term is met by no value."""

    hops: tuple[tuple[tuple[str, int], ...], ...]
    absent: bool


def place(term: Term) -> Place:
    """The place that a term asks about."""
    keys = term.path.split(".")
    hops = (_hops(keys, behind) for behind in range(len(keys)))
    return Place(tuple(map(tuple, hops)), allows_absence(term.conditions))


def _hops(keys: Sequence[str], behind: int) -> Iterator[tuple[str, int]]:
    whole = keys[behind]
    yield whole, behind + 1
    for end, key in enumerate(keys[behind + 1 :], behind + 2):
        whole = f"{whole}.{key}"
        yield whole, end


def values_at(value: Any, where: Place, behind: int = 0) -> Iterator[Any]:
    """Every value there, in the event's order. `value` stands where so many keys are behind."""
    length = len(where.hops)
    waiting = [(value, behind)]
    while waiting:
        found, behind = waiting.pop()
        if is_array(found):
            waiting.extend((element, behind) for element in reversed(found))
        elif is_object(found):
            if behind < length:
                waiting.extend((found[key], end) for key, end in reversed(where.hops[behind]) if key in found)
        elif behind == length:
            yield found


def is_object(value: Any) -> bool:
    return isinstance(value, dict | Mapping)


def is_array(value: Any) -> bool:
    return isinstance(value, list | tuple)


class _Node:
    """A key of the tree, with so many before it. `conditions`: of the term whose path ends here, or None."""

    def __init__(self, depth: int = 0) -> None:
        self.depth = depth
        self.children: dict[str, _Node] = {}
        self.conditions: tuple[Condition, ...] | None = None
        self.below: list[Place] = []
        """Of the terms that go on from here, in order."""

    def paths(self) -> Iterator[str]:
        """Every node below, as one key with dots."""
        for key, child in self.children.items():
            yield key
            yield from (f"{key}.{path}" for path in child.paths())


def compiled(alternative: Alternative) -> Match:
    """The alternative as a function of an event, which must be an object. Without terms, any is met."""
    root = _Node()
    for term in alternative:
        where = place(term)
        node = root
        for key in term.path.split("."):
            node.below.append(where)
            node = node.children.setdefault(key, _Node(node.depth + 1))
        node.conditions = term.conditions
    return _object(root)


def _match(node: _Node) -> Match:
    if not node.children:
        return _leaf(node.conditions or ())
    of_object = _object(node)  # once: every place that needs it would otherwise build the whole tree below again
    of_array = _array(node, of_object)
    below = _inner(node, of_object, of_array)
    return below if node.conditions is None else _mixed(node.conditions, below, of_array)


def _leaf(conditions: Sequence[Condition]) -> Match:
    holds, absent = any_of(conditions), allows_absence(conditions)

    def match(value: Any) -> bool:
        if isinstance(value, str):
            return holds(value)
        if is_array(value):
            found = False
            for array in _arrays(value):
                for leaf in _leaves(array):
                    if holds(leaf):
                        return True
                    found = True
            return absent and not found
        return absent if value is MISSING or is_object(value) else holds(value)

    return match


def _object(node: _Node) -> Match:
    """For an object: every child must be met."""
    children = [(key, {f"{key}.{path}": path for path in child.paths()}, _match(child)) for key, child in node.children.items()]
    if len(children) == 1 and not children[0][1]:  # nearly always, and every record pays for it
        only, _, meets = children[0]
        leaf = node.children[only]
        texts = texts_alone(leaf.conditions) if leaf.conditions and not leaf.children else None
        if texts is None:
            return lambda value: meets(value.get(only, MISSING))
        return lambda value: found in texts if type(found := value.get(only, MISSING)) is str else meets(found)

    def match(value: Any) -> bool:
        for key, dotted, child in children:
            found = value.get(key, MISSING)
            if dotted and not value.keys().isdisjoint(dotted):
                found = _united(found, {path: value[whole] for whole, path in dotted.items() if whole in value})
            if not child(found):
                return False
        return True

    return match


def _inner(node: _Node, of_object: Match, of_array: Match) -> Match:
    """For whatever stands where an object is meant."""
    absent = all(where.absent for where in node.below)

    def match(value: Any) -> bool:
        if type(value) is dict:
            return of_object(value)
        if is_array(value):
            return of_array(value)
        return of_object(value) if is_object(value) else absent

    return match


def _array(node: _Node, of_object: Match) -> Match:
    """For an array where an object is meant: one element must meet all terms that it is asked about."""
    depth, places = node.depth, node.below
    if not any(where.absent for where in places):
        return lambda value: any(of_object(element) for element in _objects(value))

    def match(value: Any) -> bool:
        first = next((where for where in places if not (where.absent and _is_empty(value, where, depth))), None)
        if first is None:
            return True
        # The first term that absence does not meet chooses the element, so it must be met by a value of that element.
        return any(not (first.absent and _is_empty(element, first, depth)) and of_object(element) for element in _objects(value))

    return match


def _mixed(conditions: Sequence[Condition], below: Match, of_array: Match) -> Match:
    """Where a term ends and others go on: `{"a": [1], "a.b": [2]}`. Only an array (or a key with dots) can meet both by values."""
    own, absent, holds = _leaf(conditions), allows_absence(conditions), any_of(conditions)

    def match(value: Any) -> bool:
        if not is_array(value):
            return own(value) and below(value)
        if absent and all(not any(True for _ in _leaves(array)) for array in _arrays(value)):
            return of_array(value)
        # A value chooses the elements of the arrays around its own array, and leaves its own to the others.
        return any(any(map(holds, _leaves(array))) and of_array(array) for array in _arrays(value))

    return match


def _is_empty(value: Any, where: Place, behind: int) -> bool:
    return next(values_at(value, where, behind), MISSING) is MISSING


def _arrays(value: Any) -> Iterator[Any]:
    """The array itself, and every array directly in it."""
    waiting = [value]
    while waiting:
        array = waiting.pop()
        yield array
        waiting.extend(element for element in array if is_array(element))


def _leaves(array: Any) -> Iterator[Any]:
    return (element for element in array if not is_array(element) and not is_object(element))


def _objects(value: Any) -> Iterator[Any]:
    return (element for array in _arrays(value) for element in array if is_object(element))


def _united(value: Any, more: Mapping[str, Any]) -> Any:
    """What stands at a key, together with what stands beside it under keys with dots.

    What is beside an array belongs to none of its elements, so it goes with each of them.
    """
    if value is MISSING:
        return more
    if is_object(value):
        return _merged(value, more)
    if not is_array(value):
        return [value, more]
    leaves = [leaf for array in _arrays(value) for leaf in _leaves(array)]
    objects = [_merged(element, more) for element in _objects(value)]
    return [*leaves, *(objects or [more])]


def _merged(value: Mapping[str, Any], more: Mapping[str, Any]) -> Mapping[str, Any]:
    """Both; where both have a key, an object's fields move beside it, under keys with dots. Only one level deep: the rest is united when
    it is reached."""
    merged = dict(value)
    waiting = list(more.items())
    while waiting:
        key, found = waiting.pop()
        there = merged.get(key, MISSING)
        if there is MISSING:
            merged[key] = found
        elif is_object(found):
            waiting.extend((f"{key}.{inner}", each) for inner, each in found.items())
        elif is_object(there):
            merged[key] = found
            waiting.extend((f"{key}.{inner}", each) for inner, each in there.items())
        else:
            merged[key] = [*(there if is_array(there) else [there]), *(found if is_array(found) else [found])]
    return merged
