"""The log: text on a terminal, one JSON object a line elsewhere; nothing of a record unless asked for.

Times are ISO 8601 in UTC with milliseconds. A line carries the fields below and no others, whatever else is in `extra`, so that nothing
gets into the log that its writer has not thought of.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections import OrderedDict
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TextIO, TypeAlias

import orjson

FIELDS = ("worker", "mapping", "lane", "destination", "batch", "function", "request_id", "repeated")
"""`worker`: of several, the one that says it. `repeated`: so many lines that said the same were left out before this one."""

LINE_LIMIT = 256 * 1024
"""Characters of one line of a function's output that are kept: what CloudWatch kept of one."""

Mode: TypeAlias = Literal["auto", "text", "json"]

_OURS = ("poller", "connectors", "handlers")
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_function_log = logging.getLogger("poller.function")
_shown: set[str] = set()  # "payloads", once `setup` was asked for them


def setup(mode: Mode = "auto", level: str | int = "INFO", stream: TextIO | None = None, *, payloads: bool = False, worker: int = 0) -> None:
    """Send all logging to `stream` (default: stderr). Called again, it replaces what it set up before, and nothing else.

    `level` is for our own lines; libraries are heard from WARNING on, at DEBUG from INFO on. `payloads`: show what `Payload` wraps.
    `worker`: the number that is on every line; 0: none. Raises ValueError for a level that is none.
    """
    chosen = logging.getLevelName(level.upper()) if isinstance(level, str) else level
    if not isinstance(chosen, int):
        raise ValueError(f"{level!r} is no log level; use debug, info, warning or error")
    target = sys.stderr if stream is None else stream
    output = Output(target, worker)
    output.setFormatter(TextFormatter() if mode == "text" or (mode == "auto" and target.isatty()) else JsonFormatter())
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, Output)]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(output)
    root.setLevel(max(chosen, logging.INFO if chosen <= logging.DEBUG else logging.WARNING))
    for name in _OURS:
        logging.getLogger(name).setLevel(chosen)
    logging.captureWarnings(True)
    _shown.clear()
    if payloads:
        _shown.add("payloads")


class Fields(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds fields to every line; those of a single call win."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs

    def bound(self, **fields: object) -> Fields:
        """With these fields besides."""
        return Fields(self.logger, {**(self.extra or {}), **fields})


def bound(name: str, **fields: object) -> Fields:
    """The logger `name` with these FIELDS on every line: `log = bound(__name__, mapping="orders")`."""
    return Fields(logging.getLogger(name), fields)


def function_log(function: str, request_id: str, line: str) -> None:
    """A line of a function's output (settings.FunctionLog)."""
    if len(line) > LINE_LIMIT:
        line = f"{line[:LINE_LIMIT]} ... ({len(line) - LINE_LIMIT} characters more)"
    # Not as the format: a user's line may hold a % sign.
    _function_log.info("%s", line, extra={"function": function, "request_id": request_id})


class Payload:
    """A user's data as an argument of a log line: its size, or itself if `setup` was asked to show payloads."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes | str) -> None:
        self._data = data

    def __str__(self) -> str:
        if not _shown:
            return f"<{len(self._data)} {'bytes' if isinstance(self._data, bytes) else 'characters'}>"
        return self._data.decode(errors="backslashreplace") if isinstance(self._data, bytes) else self._data

    __repr__ = __str__


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, FIELDS that are there, and `error` and `trace` of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "time": _time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **dict(_fields(record)),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["trace"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str).decode()
        except TypeError:  # a lone surrogate, or an integer of more than 64 bits: rare, and no reason to lose the line
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """For a person: time, level, where, message; what follows the first line is indented. Control characters cannot reach the terminal."""

    def format(self, record: logging.LogRecord) -> str:
        fields = dict(_fields(record))
        where = "/".join(str(fields.pop(name)) for name in ("mapping", "lane") if name in fields)
        rest = " ".join(f"{name}={value}" for name, value in fields.items() if name != "repeated")
        parts = [record.getMessage(), f"[{rest}]" if rest else "", f"({fields['repeated']} times more)" if "repeated" in fields else ""]
        text = f"{_time(record.created)} {record.levelname:<7} {where + ': ' if where else ''}{' '.join(part for part in parts if part)}"
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + self.formatException(record.exc_info)
        return _CONTROLS.sub(lambda match: match[0].encode("unicode_escape").decode(), text).replace("\n", "\n    ")


@dataclass(slots=True)
class _Minute:
    """What one key has said since `began`: `held` lines were left out, the last of which is `last`."""

    began: float
    held: int = 0
    last: logging.LogRecord | None = None


class Repeats:
    """Lets a warning or error through once a minute for each key, and counts the others. Time is the records' own.

    The key is `extra={"key": ...}`, or level, text, mapping, lane and function together. A warning's text is its format: "trying again in
    %.1f s" says the same each time; an error's is the line itself. When a key's minute is over, the last line that was left out is
    written, with the count, as soon as anything is logged.
    """

    def __init__(self, seconds: float = 60.0, keys: int = 1000) -> None:
        self._seconds = seconds
        self._keys = keys
        self._minutes: OrderedDict[object, _Minute] = OrderedDict()  # by `began`: every minute is equally long

    def passed(self, record: logging.LogRecord) -> Iterator[logging.LogRecord]:
        """What to write now, on the arrival of `record`."""
        limited = logging.WARNING <= record.levelno < logging.CRITICAL
        key = _key(record) if limited else None
        minute = self._minutes.get(key) if limited else None
        if minute is not None and minute.began <= record.created < minute.began + self._seconds:
            minute.held += 1
            minute.last = record
            yield from self._over(record.created)
            return
        if minute is not None:  # its minute is over: this line speaks for those that were left out, too
            del self._minutes[key]
            if minute.held:
                record.__dict__["repeated"] = minute.held
        yield from self._over(record.created)
        yield record
        if limited:
            self._minutes[key] = _Minute(record.created)
            if len(self._minutes) > self._keys:
                yield from _counted(self._minutes.popitem(last=False)[1])

    def rest(self) -> Iterator[logging.LogRecord]:
        """What is still held back."""
        while self._minutes:
            yield from _counted(self._minutes.popitem(last=False)[1])

    def _over(self, now: float) -> Iterator[logging.LogRecord]:
        while self._minutes:
            key, minute = next(iter(self._minutes.items()))
            if minute.began <= now < minute.began + self._seconds:
                return
            del self._minutes[key]
            if minute.held:
                yield from _counted(minute)
                self._minutes[key] = _Minute(now)  # that was this key's line for the minute that begins now


class Output(logging.StreamHandler[TextIO]):
    """The one handler of the daemon's log."""

    def __init__(self, stream: TextIO, worker: int = 0) -> None:
        super().__init__(stream)
        self._worker = worker
        self._repeats = Repeats()

    def emit(self, record: logging.LogRecord) -> None:
        if self._worker:
            record.__dict__["worker"] = self._worker
        # Called under the handler's lock, so that lines from threads are counted right.
        for passed in self._repeats.passed(record):
            super().emit(passed)

    def close(self) -> None:
        self.acquire()
        try:
            for record in self._repeats.rest():
                super().emit(record)
        finally:
            self.release()
        super().close()


def _counted(minute: _Minute) -> Iterator[logging.LogRecord]:
    if minute.last is not None:
        if minute.held > 1:
            minute.last.__dict__["repeated"] = minute.held - 1
        yield minute.last


def _key(record: logging.LogRecord) -> object:
    given = record.__dict__.get("key")
    if given is not None:
        return given
    text = record.msg if record.levelno < logging.ERROR and record.msg != "%s" else record.getMessage()
    return (record.levelno, text, *(record.__dict__.get(name) for name in ("mapping", "lane", "destination", "function")))


def _fields(record: logging.LogRecord) -> Iterator[tuple[str, object]]:
    for name in FIELDS:
        value = record.__dict__.get(name)
        if value is not None and value != "":
            yield name, value


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
