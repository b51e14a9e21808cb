"""`[mappings.NAME]` -> `MappingConfig`: the source's options, the rules, the defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from poller import units
from poller.config.destinations import Destinations
from poller.config.lines import TomlPath
from poller.config.problems import Problems, shown
from poller.config.rules import UNREAD, Case, breaches
from poller.config.schema import BackoffTable, BreakerTable, Defaults, ErrorTable, MappingTable
from poller.config.secrets import Secrets
from poller.config.tables import Tables
from poller.config.tree import MappingConfig
from poller.errors import ConfigError, PluginError
from poller.quotas import MAXIMUM_STATE_BYTES
from poller.registry import CONNECTORS, Registry
from poller.settings import (
    Backoff,
    Batching,
    BreakerSettings,
    ErrorRule,
    FailureSettings,
    Filterable,
    FilterSettings,
    FunctionSettings,
    IdempotencySettings,
    MappingSettings,
    RedactionSettings,
    Surroundings,
    Traits,
)

SAFE_RETRIES = 10


class SourceConfig(NamedTuple):
    """A source that was read: its type, its connector's options and their traits."""

    type: str
    options: Any
    traits: Traits


class Mappings(msgspec.Struct, frozen=True):
    """Reads the mappings of one file. `functions` are those that could be read; `defaults` is what `[poller]` says."""

    tables: Tables
    problems: Problems
    registry: Registry
    secrets: Secrets
    functions: Mapping[str, FunctionSettings]
    defaults: Defaults

    def read(self, name: str, raw: Mapping[str, Any]) -> tuple[MappingConfig, Traits] | None:
        """None when the table cannot be used; every problem that was seen is reported."""
        path: TomlPath = ("mappings", name)
        table = self.tables.read(raw, MappingTable, path)
        source = self._source(raw["source"], (*path, "source")) if isinstance(raw.get("source"), dict) else None
        if table is None:
            return None
        kind, traits = (source.type, source.traits) if source else ("", UNREAD)
        case = Case(table, raw, kind, traits, safe=(table.defaults or self.defaults) == "safe")
        for breach in breaches(case):
            self.problems.add((*path, breach.key), breach.found, breach.allowed, breach.meant)
        self._errors(case, (*path, "errors"))
        filters = self._filters(table, (*path, "filters"), traits.filterable, kind)
        if source is None:
            return None
        for sentence in () if case.safe else traits.refused_by_aws:
            self.problems.say(_place(sentence, raw["source"], (*path, "source")), f'under defaults = "aws": {sentence}')
        self._warn(case, path)
        around = Surroundings(source.options, frozenset(self.functions))
        reader = Destinations(self.tables, self.problems, self.registry, self.secrets, source.traits.identity, around)
        failure, success = (reader.read(raw.get(key, []), (*path, key)) for key in ("on_failure", "on_success"))
        settings = replace(
            _settings(name, case, self.functions.get(table.function), filters),
            on_failure=tuple(each.name for each in failure),
            on_success=tuple(each.name for each in success),
            aws_exact=not case.safe if table.aws_exact is None else table.aws_exact,
            redaction=self._redaction(table.redact, (*path, "redact"), traits.filterable),
        )
        queue, destinations = source.traits.kind == "queue", reader.found
        return MappingConfig(settings, source.type, source.options, table.enabled, queue, destinations), source.traits

    def _source(self, raw: Mapping[str, Any], path: TomlPath) -> SourceConfig | None:
        kind = raw.get("type")
        known = ", ".join(self.registry.names(CONNECTORS))
        if not isinstance(kind, str):
            found = "no key 'type'" if kind is None else shown(kind)
            self.problems.add((*path, "type"), found, known or "none: no connector is installed")
            return None
        try:
            connector = self.registry.connector(kind)
        except PluginError as error:
            self.problems.say((*path, "type"), str(error))
            return None
        before = len(self.problems)
        resolved = self.tables.resolved({key: value for key, value in raw.items() if key != "type"}, path)
        options = self.tables.read(resolved, connector.options, path, ignore=frozenset({"type"}))
        if options is None:
            return None
        try:
            return SourceConfig(kind, options, connector.traits(options))
        except (ConfigError, ValueError) as error:
            # What options contradict may follow from the problem that was just reported: then only that one is said.
            if len(self.problems) == before:
                for problem in error.problems if isinstance(error, ConfigError) else [str(error)]:
                    self.problems.say(_place(problem, resolved, path), self.secrets.redact(problem))
            return None

    def _errors(self, case: Case, path: TomlPath) -> None:
        if not case.table.errors:
            return
        from poller.config.errors import error_breaches, undivided  # nor are error rules, which need the engine's own

        for number, breach in error_breaches(case):
            self.problems.add((*path, number, breach.key), breach.found, breach.allowed)
        for number, instead in undivided(case):
            found = shown(case.table.errors[number].match)
            sentence = f"an error that matches {found} gives up every record of its batch, the good ones too; {instead}"
            self.problems.warn((*path, number), sentence)

    def _filters(self, table: MappingTable, place: TomlPath, over: Filterable | None, source: str) -> FilterSettings | None:
        if not table.filters:
            return None
        from poller.config.filters import Filters  # the language is not read for those who use none of it

        return Filters(self.problems, place).read(table.filters, over, source, table.log_filtered)

    def _redaction(self, texts: Sequence[str], place: TomlPath, over: Filterable | None) -> RedactionSettings | None:
        if not texts:
            return None
        from poller.failures import redaction

        found = []
        for number, text in enumerate(texts):
            try:
                found.append(redaction.path(text))
            except ConfigError as error:
                self.problems.say((*place, number), str(error))
        return RedactionSettings(tuple(found), over) if found else None

    def _warn(self, case: Case, path: TomlPath) -> None:
        table = case.table
        if table.on_failure_order and case.traits.fifo and table.maximum_receive_count is None:
            self.problems.warn(
                (*path, "on_failure_order"),
                "what the queue itself moves to its dead-letter queue holds no key: set maximum_receive_count, to at most the queue's own",
            )
        if case.traits.kind == "stream" and _retries(case) is None and table.maximum_record_age in {None, -1}:
            why = "" if table.maximum_retry_attempts == -1 else ', as defaults = "aws" has it'
            self.problems.warn(
                (*path, "maximum_retry_attempts"),
                f"a batch that fails is retried for ever{why}: one bad record holds up everything behind it in its shard or partition "
                "until the source drops it; set maximum_retry_attempts, or maximum_record_age",
            )


def _place(problem: str, options: Mapping[str, Any], path: TomlPath) -> TomlPath:
    """The key that a connector's sentence begins with ("wait_time: ...", "redrive.queue = ..."), if it does; else the table."""
    place: Any = options
    for key in problem.partition(" ")[0].strip("`'\":,").split("."):
        if not isinstance(place, dict) or key not in place:
            break
        path, place = (*path, key), place[key]
    return path


def _retries(case: Case) -> int | None:
    """None is for ever."""
    if case.table.maximum_retry_attempts is None:
        return SAFE_RETRIES if case.safe else None
    return None if case.table.maximum_retry_attempts == -1 else case.table.maximum_retry_attempts


def _settings(name: str, case: Case, function: FunctionSettings | None, filters: FilterSettings | None) -> MappingSettings:
    table = case.table
    age = table.maximum_record_age
    bisect = table.bisect_batch_on_function_error
    if case.traits.kind == "queue":
        width = table.maximum_concurrency or (function.concurrency if function else 1)
    else:
        width = table.parallelization_factor or 1
    return MappingSettings(
        id=table.id or name,
        name=name,
        function=table.function,
        batching=_batching(case),
        failure=FailureSettings(
            maximum_retry_attempts=_retries(case),
            maximum_record_age=units.duration(age) if isinstance(age, str) else None,
            bisect=case.safe if bisect is None else bisect,
            reporting=bool(table.function_response_types),
            maximum_receive_count=table.maximum_receive_count,
            backoff=_backoff(table.retry_backoff),
            backoff_set=table.retry_backoff is not None,
            errors=tuple(map(_rule, table.errors)),
        ),
        width=width,
        safe=case.safe,
        filters=filters,
        tumbling_window=round(case.tumbling),
        breaker=_breaker(table.circuit_breaker, case.safe),
        idempotency=_idempotency(table),
        on_failure_order=table.on_failure_order or "",
        maximum_parked_keys=table.maximum_parked_keys,
    )


def _batching(case: Case) -> Batching:
    batching = Batching(size=case.size, window=case.window)
    # The state goes with every batch, and must find room in its event.
    return replace(batching, maximum_bytes=batching.maximum_bytes - MAXIMUM_STATE_BYTES) if case.tumbling else batching


def _backoff(table: BackoffTable | None) -> Backoff:
    return Backoff() if table is None else Backoff(units.duration(table.initial), units.duration(table.maximum))


def _rule(table: ErrorTable) -> ErrorRule:
    backoff = None if table.retry_backoff is None else _backoff(table.retry_backoff)
    attempts, receives, bisect = table.maximum_retry_attempts, table.maximum_receive_count, table.bisect_batch_on_function_error
    return ErrorRule(table.match, table.action, attempts, receives, backoff, bisect)


def _idempotency(table: MappingTable) -> IdempotencySettings | None:
    if table.idempotency_window is None:
        return None
    window = units.duration(table.idempotency_window)
    limit = table.idempotency_maximum_records
    return IdempotencySettings(window) if limit is None else IdempotencySettings(window, limit)


def _breaker(table: bool | BreakerTable | None, safe: bool) -> BreakerSettings | None:
    """AWS has none."""
    if isinstance(table, BreakerTable):
        return BreakerSettings(*map(units.duration, (table.initial, table.maximum, table.patience)))
    return BreakerSettings() if (safe if table is None else table) else None
