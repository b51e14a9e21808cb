"""Which rows of the journal a pattern selects: those that hold a record which it would let in as a filter of their mapping. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from poller.failures.journal import Entry
from poller.failures.payload import document, loaded
from poller.filtering import Filtering
from poller.filters import compile_pattern
from poller.model import Document
from poller.replay.format import ReplayFormat, ReplayRecord, records_of
from poller.settings import Filterable, FilterSettings


def matching(pattern: str, over: Callable[[str], Filterable | None]) -> Callable[[Entry], bool]:
    """Whether a row has a record that the pattern matches, as a filter of its mapping would. `over`: of a mapping's id.

    Raises ConfigError for what is no pattern."""
    plain = compile_pattern(pattern)
    known: dict[str, Callable[[Entry], bool]] = {}

    def of_mapping(mapping: str) -> Callable[[Entry], bool]:
        filterable = over(mapping)
        if filterable is None:
            return lambda entry: any(plain.matches(loaded(record.json)) for record in entry.records)
        filtering, documents = Filtering(FilterSettings((pattern,), filterable)), _Documents(filterable)
        return lambda entry: bool(filtering.split(documents, records_of(entry))[0])

    def matches(entry: Entry) -> bool:
        if entry.mapping not in known:
            known[entry.mapping] = of_mapping(entry.mapping)
        return known[entry.mapping](entry)

    return matches


class _Documents(ReplayFormat):
    """As a filter of the mapping sees records of the journal."""

    def __init__(self, over: Filterable) -> None:
        self._over = over

    def documents(self, records: Sequence[ReplayRecord], keys: Collection[str]) -> Iterable[Document]:  # noqa: ARG002 (all are there)
        return [document(record.kept.json, self._over) for record in records]
