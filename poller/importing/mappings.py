"""An event source mapping, as AWS describes it -> its table and its source's. Pure.

Whatever a mapping does not say stands in the file with AWS's default for such a source (CreateEventSourceMapping): the connector's traits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from poller.errors import ConfigError
from poller.importing.carried import Carried, Importing, list_of, table_of
from poller.importing.described import Polled
from poller.importing.functions import DEFAULT, NotCarried
from poller.importing.writing import Line
from poller.settings import Connector, Traits
from poller.units import show_duration

_ANSWERED = {
    "EventSourceMappingArn", "FilterCriteriaError", "FunctionArn", "FunctionName", "LastModified", "LastProcessingResult", "State",
    "StateTransitionReason", "UUID",
}  # fmt: skip
_READ = {
    "BatchSize", "BisectBatchOnFunctionError", "DestinationConfig", "Enabled", "FilterCriteria", "FunctionResponseTypes",
    "MaximumBatchingWindowInSeconds", "MaximumRecordAgeInSeconds", "MaximumRetryAttempts", "ParallelizationFactor", "ScalingConfig",
    "TumblingWindowInSeconds",
}  # fmt: skip
_BESIDE = {
    "KMSKeyArn": "filters stand in the file as they are",
    "KmsKeyArn": "filters stand in the file as they are",
    "LoggingConfig": "see log_level of [poller]",
    "MetricsConfig": "all metrics are always there",
    "ProvisionedPollerConfig": "there are no pollers to provide",
    "Tags": "nothing here has tags",
}
_DISABLED = {"Disabled", "Disabling"}


@dataclass(frozen=True, slots=True)
class MappingTable:
    """`lines` of `[mappings.NAME]` without its function; `source` of `[mappings.NAME.source]`; `called`: what a person calls the source."""

    lines: tuple[Line, ...]
    source: tuple[Line, ...]
    called: str
    remarks: tuple[str, ...] = field(default=())


def table(polled: Polled, connectors: Mapping[str, Connector]) -> MappingTable:
    """Raises NotCarried: no connector polls such a source, or not in this way."""
    given = {key: each for key, each in polled.properties.items() if each not in (None, {}, [])}
    kind, carried, traits = _source(given, connectors)
    reading = _Reading(polled, given, carried, traits)
    lines = tuple(reading.lines())
    source = (Line("type", kind), *(Line(key, each) for key, each in carried.source.items()))
    return MappingTable(lines, source, carried.name, (*reading.remarks, *carried.remarks))


def _source(given: Mapping[str, Any], connectors: Mapping[str, Connector]) -> tuple[str, Carried, Traits]:
    for kind, connector in connectors.items():
        if not isinstance(connector, Importing):
            continue
        try:
            carried = connector.importer().carry(given)
            if carried is not None:
                return kind, carried, connector.traits(msgspec.convert(dict(carried.source), connector.options))
        except ConfigError as error:
            raise NotCarried("; ".join(error.problems)) from None
        except msgspec.ValidationError as error:
            raise NotCarried(f"its source is not one that the connector {kind} takes: {error}") from None
    what = given.get("EventSourceArn") or "a source without an ARN"
    raise NotCarried(f"no installed connector reads {what}")


class _Reading:
    """Reads one mapping; what is to be said of it comes together in `remarks`."""

    def __init__(self, polled: Polled, given: Mapping[str, Any], carried: Carried, traits: Traits) -> None:
        self._polled = polled
        self._given = given
        self._carried = carried
        self._traits = traits
        self.remarks: list[str] = []

    def lines(self) -> Iterator[Line]:
        given, traits = self._given, self._traits
        if "UUID" in given:
            yield Line("id", str(given["UUID"]), "the UUID")
        yield Line("enabled", self._enabled())
        yield from self._integer("batch_size", "BatchSize", traits.default_batch_size)
        if not traits.fifo:
            window = traits.default_batching_window
            yield from self._seconds("maximum_batching_window", "MaximumBatchingWindowInSeconds", window)
        responses = [str(each) for each in list_of(given.get("FunctionResponseTypes"))]
        yield Line("function_response_types", responses, "" if responses else DEFAULT)
        yield from self._filters()
        yield from self._stream() if traits.kind == "stream" else self._queue()
        yield from self._destination()
        for key in sorted(given.keys() - _ANSWERED - _READ - self._carried.read):
            self.remarks.append(f"{key} is not carried over{f': {_BESIDE[key]}' if key in _BESIDE else ''}")

    def _enabled(self) -> bool:
        if (state := self._given.get("State")) is not None:
            return state not in _DISABLED
        return str(self._given.get("Enabled", True)).lower() != "false"

    def _filters(self) -> Iterator[Line]:
        criteria = table_of(self._given.get("FilterCriteria"))
        hidden = self._polled.listed and "KMSKeyArn" in self._given and not criteria
        if hidden or "FilterCriteriaError" in self._given:
            raise NotCarried("its filters are encrypted (KMSKeyArn): give what `aws lambda get-event-source-mapping --uuid UUID` answers")
        patterns = [table_of(each).get("Pattern") for each in list_of(criteria.get("Filters"))]
        if not all(isinstance(each, str) for each in patterns):
            raise NotCarried("a pattern of its FilterCriteria is no text")
        yield Line("filters", patterns, "" if patterns else DEFAULT)

    def _stream(self) -> Iterator[Line]:
        bisect = self._given.get("BisectBatchOnFunctionError")
        yield from self._integer("maximum_retry_attempts", "MaximumRetryAttempts", -1)
        yield from self._seconds("maximum_record_age", "MaximumRecordAgeInSeconds", -1)
        yield Line("bisect_batch_on_function_error", str(bisect).lower() == "true", "" if bisect is not None else DEFAULT)
        yield from self._integer("parallelization_factor", "ParallelizationFactor", 1)
        if self._traits.tumbling:
            yield from self._seconds("tumbling_window", "TumblingWindowInSeconds", 0)
        self._unused("ScalingConfig")

    def _queue(self) -> Iterator[Line]:
        most = table_of(self._given.get("ScalingConfig")).get("MaximumConcurrency")
        if most is not None:
            yield Line("maximum_concurrency", _whole("MaximumConcurrency", most))
        else:
            yield Line("maximum_concurrency", 5, "AWS: as many as the function may have; here too", off=True)
        yield Line("maximum_receive_count", 5, "AWS: what the queue's own redrive policy says; here too", off=True)
        for key in ("MaximumRetryAttempts", "BisectBatchOnFunctionError", "ParallelizationFactor", "TumblingWindowInSeconds"):
            self._unused(key)

    def _destination(self) -> Iterator[Line]:
        config = table_of(self._given.get("DestinationConfig"))
        destination = table_of(config.get("OnFailure")).get("Destination")
        if destination:
            yield Line("on_failure", str(destination))
            yield Line("aws_exact", True, "the invocation record as AWS sends it; false: with payload and error")
        if table_of(config.get("OnSuccess")).get("Destination"):
            self.remarks.append("OnSuccess is left out: AWS has it for asynchronous invocations only; here it would be on_success")

    def _unused(self, key: str) -> None:
        if key in self._given:
            self.remarks.append(f"{key} is not carried over: it means nothing for such a source")

    def _integer(self, key: str, property: str, default: int) -> Iterator[Line]:
        yield Line(key, *self._number(key, property, default))

    def _seconds(self, key: str, property: str, default: float) -> Iterator[Line]:
        seconds, note = self._number(key, property, default)
        yield Line(key, -1 if seconds == -1 else show_duration(seconds) if seconds else "0s", note)

    def _number(self, key: str, property: str, default: float) -> tuple[float, str]:
        """The value, and what is to be said of it."""
        if key in self._carried.mapping:
            return self._carried.mapping[key], "what AWS does for such a source"
        if property in self._given:
            return _whole(property, self._given[property]), ""
        return default, DEFAULT


def _whole(property: str, value: Any) -> int:
    """Parameters of templates are texts. Raises NotCarried."""
    try:
        if not isinstance(value, bool) and float(value) == int(float(value)):
            return int(float(value))
    except (TypeError, ValueError, OverflowError):
        pass
    raise NotCarried(f"its {property} is {value!r}, and no whole number")
