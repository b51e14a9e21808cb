"""The inside of an environment. Run by path, in any CPython from 3.8 on, so the standard library only: one file, nothing of ours beside it.

`child.py <requests> <answers> <parent> <arn>`: two inherited pipes by number, the daemon's process id, the function's ARN; the rest is in
Lambda's variables. A request is REQUEST (length of the event, deadline in epoch seconds, length of the request id), request id, event; an
answer is 4 bytes of length, big-endian, then

    "i"                  loaded, ready for requests
    "r" or "p" + JSON    the function's result; "p": some of what was printed may still be in its pipe
    "f" + {"kind", "type", "message", "trace", "recordIndex"}    a Fault; after one of kind "init" the process ends

Only one request is under way at a time. The pipes are not stdin and stdout: what the function prints cannot break the protocol. Inline
handlers import the context, the loading and the faults from here, so that they are the same in both.
"""

from __future__ import annotations

import sys

if __name__ in ("__main__", "__mp_main__") and sys.path and sys.path[0] == __file__.rpartition("/")[0]:
    # Python put this file's folder first: the modules beside it would be importable by their bare names, before the function's own.
    del sys.path[0]

import fcntl
import importlib.util
import json
import linecache
import logging
import os
import select
import signal
import struct
import termios
import threading
import time
import traceback
from contextlib import suppress
from decimal import Decimal
from functools import lru_cache, partial
from importlib.machinery import PathFinder

TYPE_CHECKING = False  # typing itself would cost a cold start some milliseconds
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType, TracebackType
    from typing import Any, BinaryIO

    Function = Callable[[Any, Any], Any]

OURS = ("poller", "connectors", "handlers")
REQUEST = struct.Struct(">IdH")
MAXIMUM_RESULT_BYTES = 6_291_556  # 6 MiB + 100 bytes, as Lambda's runtime API
MAXIMUM_TEXT, MAXIMUM_INDEX = 256 * 1024, 1 << 20  # characters of an error's message; places that an event may have

_HERE = os.path.dirname(os.path.abspath(__file__))
_STANDARD = os.path.dirname(os.__file__)
_NOT_THE_FUNCTIONS = (_HERE + os.sep, os.path.join(_STANDARD, "importlib"), os.path.join(_STANDARD, "asyncio"), "<frozen importlib")


class Identity:
    """`context.identity`: always there and empty, as on Lambda when no Cognito user calls."""

    cognito_identity_id = None
    cognito_identity_pool_id = None


class Context:
    """Lambda's `context`. What is the same for every invocation of a function is on its own subclass (`context_class`)."""

    __slots__ = ("__dict__", "_deadline", "aws_request_id")  # __dict__: middleware puts things of its own here

    function_name = ""
    function_version = "$LATEST"
    invoked_function_arn = ""
    memory_limit_in_mb = "128"
    log_group_name = ""
    log_stream_name = ""
    client_context = None
    tenant_id = None
    identity = Identity()

    def __init__(self, request_id: str, deadline: float) -> None:
        self.aws_request_id = request_id
        self._deadline = deadline

    def get_remaining_time_in_millis(self) -> int:
        """Milliseconds until the deadline, never below 0."""
        return max(0, int((self._deadline - time.time()) * 1000))

    def log(self, message: object) -> None:
        """As Lambda's: to stdout, without a newline of its own."""
        sys.stdout.write(str(message))


def context_class(variables: Mapping[str, str], arn: str) -> type[Context]:
    """The context of one function, from Lambda's variables."""
    facts = {
        "__slots__": (),
        "function_name": variables["AWS_LAMBDA_FUNCTION_NAME"],
        "function_version": variables["AWS_LAMBDA_FUNCTION_VERSION"],
        "memory_limit_in_mb": variables["AWS_LAMBDA_FUNCTION_MEMORY_SIZE"],
        "log_group_name": variables["AWS_LAMBDA_LOG_GROUP_NAME"],
        "log_stream_name": variables["AWS_LAMBDA_LOG_STREAM_NAME"],
        "invoked_function_arn": arn,
    }
    return type("LambdaContext", (Context,), facts)


# --- faults, in Lambda's words ----------------------------------------------------------------------------------------------------
class Broken(Exception):
    """Raised when a function cannot be loaded, or its result cannot be put into JSON: `type` is Lambda's, `trace` one frame an entry."""

    def __init__(self, type_: str, message: str, trace: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.type = type_
        self.trace = tuple(trace)


def text_of(error: BaseException) -> str:
    """An error's message, fit for JSON: cut, and without lone surrogates, which not every parser takes."""
    try:
        text = str(error)
    except Exception:  # the function's own __str__
        text = f"<{type(error).__name__} without a message>"
    return text[:MAXIMUM_TEXT].encode("utf-8", "replace").decode("utf-8")


def frames(trace: TracebackType | None) -> tuple[str, ...]:
    """The function's own frames as Lambda shows them: what led to it (ours, importlib's, asyncio's) is left out."""
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_NOT_THE_FUNCTIONS):
        trace = trace.tb_next
    return _shown(tuple((each.f_code, line) for each, line in traceback.walk_tb(trace)))


@lru_cache(maxsize=64)
def _shown(places: tuple[tuple[CodeType, int], ...]) -> tuple[str, ...]:
    """A poison record fails a dozen times in the same place: to find the lines anew costs more than to call the function again."""
    linecache.checkcache()
    entries = [(code.co_filename, line, code.co_name, linecache.getline(code.co_filename, line).strip()) for code, line in places]
    return tuple(line.rstrip("\n").encode("utf-8", "replace").decode("utf-8") for line in traceback.format_list(entries))


def described(error: BaseException) -> tuple[str, str, tuple[str, ...], int | None]:
    """(type, message, trace, index) of what a function raised; index: its `record_index`, if that may be the place of a record."""
    if isinstance(error, Broken):
        return error.type, text_of(error), error.trace, None
    index = None
    with suppress(Exception):  # it may be the function's own code
        index = getattr(error, "record_index", None)
    index = index if type(index) is int and 0 <= index < MAXIMUM_INDEX else None
    return type(error).__name__, text_of(error), frames(error.__traceback__), index


def marshal(result: Any, dumps: Callable[[Any], bytes] | None) -> bytes:
    """A result as JSON. Raises Broken: Runtime.MarshalError, or Function.ResponseSizeTooLarge.

    Bytes are taken as they are, as on Lambda. What `dumps` (orjson) refuses goes to json: it knows decimals, and keys that are no strings.
    """
    payload = result if isinstance(result, bytes) else None
    if payload is None and dumps is not None:
        with suppress(Exception):  # json has the last word
            payload = dumps(result)
    if payload is None:
        try:
            payload = json.dumps(result, default=_number, allow_nan=False).encode("ascii")
        except Exception as error:  # ValueError, TypeError, RecursionError, or the result's own methods
            raise Broken("Runtime.MarshalError", f"Unable to marshal response: {text_of(error)}") from None
    if len(payload) > MAXIMUM_RESULT_BYTES:
        text = f"Response payload size exceeded maximum allowed payload size ({MAXIMUM_RESULT_BYTES} bytes)."
        raise Broken("Function.ResponseSizeTooLarge", text)
    return payload


def _number(value: Any) -> float:
    if isinstance(value, Decimal) and value.is_finite():
        return int(value) if value == value.to_integral_value() else float(value)
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


def orjson_dumps(orjson: Any) -> Callable[[Any], bytes]:
    """orjson's `dumps`, with what Lambda's encoder would refuse (dates, dataclasses) left to be refused."""
    return partial(orjson.dumps, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS)


# --- loading ----------------------------------------------------------------------------------------------------------------------
def load(handler: str, by_file: Callable[[str], ModuleType], by_name: Callable[[str], ModuleType]) -> Function:
    """The function that `handler` names: `file.py:name`, or Lambda's `module.name`. Raises Broken, or what its module code raises."""
    separator, find = (":", by_file) if ":" in handler else (".", by_name)
    module, _, name = handler.rpartition(separator)
    if not module or not name:
        raise Broken("Runtime.MalformedHandlerName", f"Bad handler '{handler}': it is neither 'file.py:name' nor 'module.name'")
    if find is by_name and module.split(".")[0] in sys.builtin_module_names:
        raise Broken("Runtime.BuiltInModuleConflict", f"Cannot use built-in module {module} as a handler module")
    try:
        found = find(module)
    except ImportError as error:
        text = f"Unable to import module '{module}': {text_of(error)}"
        raise Broken("Runtime.ImportModuleError", text, frames(error.__traceback__)) from error
    except SyntaxError as error:
        trace = f'  File "{error.filename}" Line {error.lineno}\n    {(error.text or "").rstrip()}'
        raise Broken("Runtime.UserCodeSyntaxError", f"Syntax error in module '{module}': {text_of(error)}", (trace,)) from error
    if not hasattr(found, name):
        raise Broken("Runtime.HandlerNotFound", f"Handler '{name}' missing on module '{module}'")
    return getattr(found, name)  # type: ignore[no-any-return]


def import_file(root: str, file: str, prefix: str = "") -> ModuleType:
    """The module that lives in `file` under `root`: under its own name where that name leads there, else under a private one.

    So `import app` elsewhere in the function gives the same module, and a file called like a standard module is still the one meant.
    """
    path = os.path.join(root, file)
    if not os.path.isfile(path):
        raise ModuleNotFoundError(f"there is no file {path}")
    stem = os.path.splitext(os.path.normpath(file))[0]
    name = prefix + stem.replace(os.sep, ".")
    spec = importlib.util.find_spec(name) if "." not in stem and name not in sys.modules else None
    if spec is not None and spec.origin is not None and os.path.realpath(spec.origin) == os.path.realpath(path):
        return importlib.import_module(name)
    private = prefix + "_poller_user_" + stem.replace(os.sep, "_").replace(".", "_")
    if (spec := importlib.util.spec_from_file_location(private, path)) is None or spec.loader is None:
        raise ModuleNotFoundError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[private] = module
    spec.loader.exec_module(module)
    return module


class Elsewhere:
    """Finds our three names everywhere but in our own installation.

    `handlers` is the commonest folder name in Lambda projects. The order of the path is not enough: a folder without `__init__.py` loses
    against a regular package anywhere on it, and a process of ours may have our packages on its path.
    """

    def __init__(self, installation: str) -> None:
        self._installation = os.path.realpath(installation)

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if path is not None or name not in OURS:
            return None
        spec = PathFinder.find_spec(name, [entry for entry in sys.path if os.path.realpath(entry or ".") != self._installation], target)
        if spec is None:
            # None would hand the question on to finders that know our installation.
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return spec


def step_aside(root: str) -> None:
    """Nothing of ours can be imported from here on. A checkout leaves the path as well, or its `tests` and `examples` would be found."""
    installation = os.path.dirname(_HERE)
    sys.meta_path.insert(0, Elsewhere(installation))
    if os.path.basename(installation) not in ("site-packages", "dist-packages") and os.path.realpath(root) != installation:
        sys.path[:] = [entry for entry in sys.path if os.path.realpath(entry or ".") != os.path.realpath(installation)]


# --- the process ------------------------------------------------------------------------------------------------------------------
def die_with(parent: int, requests: int) -> None:
    """End when the daemon ends, however it ends: in the middle of an invocation too, where nobody reads the pipe."""
    try:
        import ctypes

        prctl = ctypes.CDLL(None).prctl
        watched = prctl(1, ctypes.c_ulong(signal.SIGKILL), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)) == 0
    except Exception:  # no ctypes in this interpreter, no prctl in this system
        watched = False
    if not watched:
        threading.Thread(target=_hang_up, args=(requests,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(1)  # it died before we asked to be told


def _hang_up(requests: int) -> None:
    poll = select.poll()
    poll.register(requests, 0)  # only hang-up and errors are reported
    poll.poll()
    os.killpg(os.getpgrp(), signal.SIGKILL)


def disown(*pipes: int) -> None:
    """In a process that the function forked: it must neither answer for us nor hold our pipes open."""
    null = os.open(os.devnull, os.O_RDWR)
    for pipe in pipes:
        os.dup2(null, pipe, inheritable=False)
    os.close(null)


class LogLines(logging.Handler):
    """What Lambda puts on the root logger: `[LEVEL]<tab>time<tab>request id<tab>message` to stdout."""

    def __init__(self) -> None:
        super().__init__()
        self.request_id = ""
        form = "[%(levelname)s]\t%(asctime)s.%(msecs)03dZ\t%(aws_request_id)s\t%(message)s\n"
        self.setFormatter(logging.Formatter(form, "%Y-%m-%dT%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        record.aws_request_id = self.request_id
        sys.stdout.write(self.format(record))


def flush(output: int) -> bool:
    """All that was printed is in its pipe before an answer is. Whether any of it is still there: as a rule the daemon need not look."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):  # the function may have closed or replaced it
            stream.flush()
    with suppress(OSError):  # the function has closed it
        return sys.platform != "linux" or any(fcntl.ioctl(output, termios.FIONREAD, bytes(4)))
    return True


def send(answers: int, kind: bytes, body: bytes = b"") -> None:
    frame = memoryview(b"".join(((len(body) + 1).to_bytes(4, "big"), kind, body)))
    while frame:
        frame = frame[os.write(answers, frame) :]


def fault_of(kind: str, error: BaseException) -> bytes:
    fault = dict(zip(("kind", "type", "message", "trace", "recordIndex"), (kind, *described(error))))  # noqa: B905 (Python 3.10's)
    return json.dumps(fault).encode("ascii")


def runner(function: Function) -> Function:
    """The function as a plain call. A coroutine function runs on one loop, which is kept: clients made on it stay usable."""
    import inspect

    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))):  # noqa: B004
        return function
    import asyncio

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return lambda event, context: loop.run_until_complete(function(event, context))


def serve(requests: BinaryIO, answers: int, output: int, function: Function, context: type[Context], log: LogLines, orjson: Any) -> None:
    """Until the daemon closes the pipe. What is no Exception (SystemExit) ends the process: the daemon sees the exit status."""
    home = os.getpid()
    loads, dumps = (orjson.loads, orjson_dumps(orjson)) if orjson else (json.loads, None)
    while True:
        head = requests.read(REQUEST.size)
        if len(head) < REQUEST.size:
            return
        size, deadline, id_size = REQUEST.unpack(head)
        log.request_id = request_id = requests.read(id_size).decode("utf-8")
        event = loads(requests.read(size))
        try:
            result = function(event, context(request_id, deadline))
            kind, answer = b"r", b"null" if result is None else marshal(result, dumps)
        except Exception as error:
            large = isinstance(error, Broken) and error.type == "Function.ResponseSizeTooLarge"
            kind, answer = b"f", fault_of("large" if large else "error", error)
        printed = flush(output)
        if os.getpid() != home:
            os._exit(0)  # a process that the function forked came back from it: the answer is not its to give
        send(answers, b"p" if printed and kind == b"r" else kind, answer)
        event = result = None  # a big event is not held while we wait


def own_orjson(root: str) -> Any:
    """This interpreter's orjson, unless the function brings its own: that one is for the function to import, or not."""
    try:
        return None if PathFinder.find_spec("orjson", [root]) else importlib.import_module("orjson")
    except Exception:  # not installed, or built for another interpreter
        return None


def main(requests: int, answers: int, parent: int, arn: str) -> None:
    for pipe in (requests, answers):
        os.set_inheritable(pipe, False)
    die_with(parent, requests)
    output = os.dup(1)  # the function may put something else in its place
    os.register_at_fork(after_in_child=lambda: disown(requests, answers))
    root, handler = os.environ["LAMBDA_TASK_ROOT"], os.environ["_HANDLER"]
    os.environ.setdefault("AWS_EXECUTION_ENV", "AWS_Lambda_python{}.{}".format(*sys.version_info[:2]))
    orjson = own_orjson(root)
    sys.argv[:] = [handler]
    sys.path.insert(0, root)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)  # type: ignore[union-attr]
    logging.Formatter.converter = time.gmtime
    log = LogLines()
    logging.getLogger().addHandler(log)
    try:
        function = runner(load(handler, lambda file: import_file(root, file), lambda name: importlib.import_module(name.replace("/", "."))))
    except Exception as error:
        flush(output)
        send(answers, b"f", fault_of("init", error))
        os._exit(1)
    flush(output)
    send(answers, b"i")
    with os.fdopen(requests, "rb", buffering=1 << 16) as reader:
        serve(reader, answers, output, function, context_class(os.environ, arn), log, orjson)
    os.killpg(os.getpgrp(), signal.SIGKILL)  # the daemon is gone: nothing that the function started may go on


if __name__ in ("__main__", "__mp_main__"):
    step_aside(os.environ.get("LAMBDA_TASK_ROOT", ""))
    if __name__ == "__main__":
        main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
