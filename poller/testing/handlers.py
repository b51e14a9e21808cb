"""What every handler of Python functions must hold, by property; a test module runs it for each way, with declared features.

    class TestThread(HandlerContract):
        features = Features(connect, inline="thread")

`processes.py` has what only a process of its own can promise. The functions are written into the test's folder, as a user would.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any, ClassVar, Literal

import pytest

from poller.errors import HandlerError
from poller.model import Call, Fault, Response, Returned
from poller.protocols import Handler
from poller.settings import FunctionSettings, HandlerKind
from poller.testing.events import DocumentEvent

LIMIT = 20.0
"""Seconds any single wait of the suite may take; reached only by a failure."""


@dataclass(frozen=True)
class Features:
    """What a handler declares of itself. `interrupts`: a sync function's invocation ends at its deadline."""

    connect: HandlerKind
    inline: Literal["loop", "thread"] | None = None

    @property
    def interrupts(self) -> bool:
        return self.inline != "loop"


@dataclass
class Bench:
    """One function under test, and the lines it printed: (request id, line)."""

    handler: Handler
    folder: Path
    lines: list[tuple[str, str]] = field(default_factory=list)

    async def invoke(self, document: Any = None, *, timeout: float = LIMIT, request_id: str = "") -> Response:
        call = Call(request_id or str(uuid.uuid4()), time.time() + timeout, timeout)
        async with asyncio.timeout(LIMIT):
            return await self.handler.invoke(DocumentEvent({} if document is None else document), call)

    async def result(self, document: Any = None, *, timeout: float = LIMIT) -> Any:
        """The result as an object; fails the test unless the function returned."""
        response = await self.invoke(document, timeout=timeout)
        assert isinstance(response, Returned), response
        return json.loads(response.payload)

    async def fault(self, document: Any = None, *, timeout: float = LIMIT, request_id: str = "") -> Fault:
        response = await self.invoke(document, timeout=timeout, request_id=request_id)
        assert isinstance(response, Fault), response
        return response


def write(folder: Path, files: Mapping[str, str]) -> Path:
    """The files of a function, indented as the test has them."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
    return folder


class HandlerContract:
    """Inherit it under a name that begins with `Test`, and say what `features` are."""

    features: ClassVar[Features]

    def settings(self, folder: Path, handler: str, **more: Any) -> FunctionSettings:
        return FunctionSettings("orders", handler, folder, inline=self.features.inline, **more)

    @asynccontextmanager
    async def bench(
        self, folder: Path, files: Mapping[str, str] | str, handler: str = "app.py:handle", **more: Any
    ) -> AsyncIterator[Bench]:
        """A function of these files (or of one, `app.py`), closed in the end."""
        write(folder, {"app.py": files} if isinstance(files, str) else files)
        lines: list[tuple[str, str]] = []
        handler_ = self.features.connect(
            self.settings(folder, handler, **more), lambda _, request_id, line: lines.append((request_id, line))
        )
        try:
            yield Bench(handler_, folder, lines)
        finally:
            await handler_.aclose()

    # --- results ------------------------------------------------------------------------------------------------------------------

    async def test_gives_the_function_its_event_and_returns_its_result(self, tmp_path: Path) -> None:
        document = {"Records": [{"body": "ä\u2028", "n": 2**53, "f": 0.1, "no": None, "list": [True, {}]}]}
        async with self.bench(tmp_path, "def handle(event, context): return {'got': event}") as bench:
            assert await bench.result(document) == {"got": document}

    async def test_none_is_null(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "def handle(event, context): pass") as bench:
            assert await bench.invoke() == Returned(b"null")

    async def test_takes_lambda_s_form_of_a_handler(self, tmp_path: Path) -> None:
        files = {"src/orders.py": "def handle(event, context): return __name__.split('.')[-1]"}
        async with self.bench(tmp_path, files, "src.orders.handle") as bench:
            assert await bench.result() == "orders"

    async def test_keeps_globals_from_one_invocation_to_the_next(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "seen = []\ndef handle(event, context):\n    seen.append(1)\n    return len(seen)") as bench:
            assert [await bench.result() for _ in range(3)] == [1, 2, 3]

    async def test_puts_into_json_what_lambda_does(self, tmp_path: Path) -> None:
        source = """
            from decimal import Decimal
            def handle(event, context):
                return {1: Decimal('1.5'), 'big': 2**70, 'n': Decimal(3), 'half': '\\ud800'} if event['kind'] == 'odd' else b'{"raw": 1}'
        """
        async with self.bench(tmp_path, source) as bench:
            assert await bench.result({"kind": "odd"}) == {"1": 1.5, "big": 2**70, "n": 3, "half": "\ud800"}
            assert await bench.result({"kind": "bytes"}) == {"raw": 1}

    @pytest.mark.parametrize("result", ["{1, 2}", "object()", "__import__('datetime').datetime.now()", "(lambda l: l.append(l) or l)([])"])
    async def test_an_unserialisable_result_is_a_marshal_error(self, tmp_path: Path, result: str) -> None:
        async with self.bench(tmp_path, f"def handle(event, context): return {result}") as bench:
            fault = await bench.fault()
        assert (fault.kind, fault.type) == ("error", "Runtime.MarshalError")
        assert fault.message.startswith("Unable to marshal response: ")

    async def test_a_result_over_lambda_s_limit_fails_and_the_next_is_answered(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "def handle(event, context): return 'x' * event['size']") as bench:
            assert len(await bench.result({"size": 6_291_554})) == 6_291_554
            fault = await bench.fault({"size": 6_291_555})
            assert (fault.kind, fault.type) == ("large", "Function.ResponseSizeTooLarge")
            assert fault.message == "Response payload size exceeded maximum allowed payload size (6291556 bytes)."
            assert await bench.result({"size": 1}) == "x"

    async def test_takes_the_largest_event(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "def handle(event, context): return len(event['body'])") as bench:
            assert await bench.result({"body": "x" * (6 * 1024 * 1024 - 11)}) == 6 * 1024 * 1024 - 11

    # --- errors of the function ---------------------------------------------------------------------------------------------------

    async def test_an_exception_is_told_in_lambda_s_words(self, tmp_path: Path) -> None:
        source = """\
            def check(record):
                raise ValueError(f"bad {record}")
            def handle(event, context):
                check(event["record"])
        """
        async with self.bench(tmp_path, source) as bench:
            fault = await bench.fault({"record": 7})
        app = next(line for line in fault.trace).split('"')[1]
        assert Path(app).name == "app.py"
        assert fault == Fault(
            "error",
            "ValueError",
            "bad 7",
            (
                f'  File "{app}", line 4, in handle\n    check(event["record"])',
                f'  File "{app}", line 2, in check\n    raise ValueError(f"bad {{record}}")',
            ),
        )

    async def test_an_error_that_cannot_be_printed_is_still_told(self, tmp_path: Path) -> None:
        source = """
            class Odd(Exception):
                def __str__(self): raise RuntimeError
            def handle(event, context):
                raise Odd if event["odd"] else ValueError("half a pair \\ud800")
        """
        async with self.bench(tmp_path, source) as bench:
            assert (await bench.fault({"odd": True})).message == "<Odd without a message>"
            assert (await bench.fault({"odd": False})).message == "half a pair ?"

    async def test_an_error_may_name_its_record(self, tmp_path: Path) -> None:
        source = """
            def handle(event, context):
                error = ValueError("bad")
                error.record_index = eval(event)
                raise error
        """
        async with self.bench(tmp_path, source) as bench:
            said = [(await bench.fault(index)).record_index for index in ("7", "0", "-1", "True", "'7'", "1.0", "10**5000")]
        assert said == [7, 0, None, None, None, None, None]

    async def test_a_function_that_takes_no_context_fails_by_type_error(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "def handle(event): pass") as bench:
            fault = await bench.fault()
        assert (fault.kind, fault.type, fault.trace) == ("error", "TypeError", ())

    @pytest.mark.parametrize(
        ("handler", "source", "type_", "message"),
        [
            ("app.py:handle", "import missing_here", "Runtime.ImportModuleError", "Unable to import module 'app.py': No module named"),
            ("gone.handle", "", "Runtime.ImportModuleError", "Unable to import module 'gone': No module named 'gone'"),
            ("app.handle", "def handle(:", "Runtime.UserCodeSyntaxError", "Syntax error in module 'app': "),
            ("app.py:other", "handle = 1", "Runtime.HandlerNotFound", "Handler 'other' missing on module 'app.py'"),
            ("app", "", "Runtime.MalformedHandlerName", "Bad handler 'app': "),
            ("sys.exit", "", "Runtime.BuiltInModuleConflict", "Cannot use built-in module sys as a handler module"),
            ("app.handle", "{}['table']", "KeyError", "'table'"),
        ],
    )
    async def test_what_cannot_be_loaded_fails_each_invocation(
        self, tmp_path: Path, handler: str, source: str, type_: str, message: str
    ) -> None:
        async with self.bench(tmp_path, source, handler) as bench:
            fault = await bench.fault()
            assert (fault.kind, fault.type) == ("init", type_)
            assert fault.message.startswith(message)
            assert all("importlib" not in line and "child.py" not in line for line in fault.trace)
            assert (await bench.fault()).type == type_

    async def test_module_code_that_exits_is_an_exit_error(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "import sys; sys.exit(3)") as bench:
            fault = await bench.fault(request_id="r-1")
        assert (fault.kind, fault.type) == ("init", "Runtime.ExitError")
        assert fault.message == "RequestId: r-1 Error: Runtime exited with error: exit status 3"

    async def test_a_function_that_was_repaired_is_loaded_again(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, {"app.py": "from settings import TABLE\ndef handle(event, context): return TABLE"}) as bench:
            assert (await bench.fault()).type == "Runtime.ImportModuleError"
            write(tmp_path, {"settings.py": "TABLE = 'orders'"})
            assert await bench.result() == "orders"

    async def test_sys_exit_in_the_function_is_an_exit_error(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "import sys\ndef handle(event, context): sys.exit(event.get('status'))") as bench:
            fault = await bench.fault({"status": 4}, request_id="r-2")
            assert (fault.kind, fault.type) == ("exit", "Runtime.ExitError")
            assert fault.message == "RequestId: r-2 Error: Runtime exited with error: exit status 4"
            fault = await bench.fault({}, request_id="r-3")
            assert fault.message == "RequestId: r-3 Error: Runtime exited without providing a reason"

    # --- context and time ---------------------------------------------------------------------------------------------------------

    async def test_the_context_is_lambda_s(self, tmp_path: Path) -> None:
        source = """
            def handle(event, context):
                context.mine = 1
                return [context.aws_request_id, context.function_name, context.function_version, context.invoked_function_arn,
                        context.memory_limit_in_mb, context.log_group_name, context.identity.cognito_identity_id, context.client_context,
                        context.mine, context.log_stream_name, context.get_remaining_time_in_millis()]
        """
        async with self.bench(tmp_path, source) as bench:
            await bench.invoke()  # what starting takes is not the invocation's time
            response = await bench.invoke(request_id="r-4", timeout=5.0)
        assert isinstance(response, Returned)
        *facts, stream, remaining = json.loads(response.payload)
        arn = "arn:aws:lambda:us-east-1:000000000000:function:orders"
        assert facts == ["r-4", "orders", "$LATEST", arn, "128", "/aws/lambda/orders", None, None, 1]
        assert "/[$LATEST]" in stream
        assert 3000 < remaining <= 5000

    async def test_runs_coroutine_functions_on_a_loop_that_is_kept(self, tmp_path: Path) -> None:
        source = """
            import asyncio
            loops = set()
            async def handle(event, context):
                loops.add(id(asyncio.get_running_loop()))
                await asyncio.sleep(0)
                if event.get("fail"):
                    raise KeyError("async")
                return len(loops)
        """
        async with self.bench(tmp_path, source) as bench:
            assert [await bench.result() for _ in range(2)] == [1, 1]
            fault = await bench.fault({"fail": True})
            assert (fault.type, len(fault.trace)) == ("KeyError", 1)

    async def test_a_coroutine_function_ends_at_its_deadline(self, tmp_path: Path) -> None:
        source = "import asyncio\nasync def handle(event, context):\n    await asyncio.sleep(event.get('seconds', 0))\n    return 'done'"
        async with self.bench(tmp_path, source) as bench:
            fault = await bench.fault({"seconds": 600}, timeout=0.2, request_id="r-5")
            assert fault == Fault("timeout", "Sandbox.Timedout", "RequestId: r-5 Error: Task timed out after 0.20 seconds")
            assert await bench.result() == "done"

    async def test_a_function_ends_at_its_deadline(self, tmp_path: Path) -> None:
        if not self.features.interrupts:
            pytest.skip("a sync function on the loop cannot be interrupted")
        source = "import time\ndef handle(event, context):\n    time.sleep(event.get('seconds', 0))\n    return 'done'"
        async with self.bench(tmp_path, source) as bench:
            assert await bench.result() == "done"
            fault = await bench.fault({"seconds": 2}, timeout=0.2, request_id="r-6")
            assert fault == Fault("timeout", "Sandbox.Timedout", "RequestId: r-6 Error: Task timed out after 0.20 seconds")
            assert await bench.result() == "done"

    # --- whose modules are whose --------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("handler", ["app.py:handle", "app.handle"])
    @pytest.mark.parametrize("regular", [True, False], ids=["with __init__", "without __init__"])
    async def test_a_function_may_have_a_handlers_folder_of_its_own(self, tmp_path: Path, handler: str, regular: bool) -> None:
        files = {
            "handlers/orders.py": "from handlers.common import NAME\nimport handlers.common as again\ndef place(): return NAME, again.NAME",
            "handlers/common.py": "NAME = 'mine'",
            "app.py": """
                import handlers.orders
                def handle(event, context):
                    from handlers import common
                    return [*handlers.orders.place(), common.NAME]
            """,
        }
        if regular:
            files["handlers/__init__.py"] = ""
        async with self.bench(tmp_path, files, handler) as bench:
            assert await bench.result() == ["mine", "mine", "mine"]

    @pytest.mark.parametrize("handler", ["handlers/orders.py:handle", "handlers.orders.handle"])
    @pytest.mark.parametrize("regular", [True, False], ids=["with __init__", "without __init__"])
    async def test_a_function_may_live_in_its_handlers_folder(self, tmp_path: Path, handler: str, regular: bool) -> None:
        files = {
            "handlers/orders.py": "from .names import NAME\nimport shared\ndef handle(event, context): return [NAME, shared.NAME]",
            "handlers/names.py": "NAME = 'beside'",
            "shared.py": "NAME = 'above'",
        }
        if regular:
            files["handlers/__init__.py"] = ""
        async with self.bench(tmp_path, files, handler) as bench:
            assert await bench.result() == ["beside", "above"]

    @pytest.mark.parametrize("name", ["poller", "connectors", "handlers", "poller.model", "handlers.child", "child"])
    async def test_nothing_of_ours_can_be_imported(self, tmp_path: Path, name: str) -> None:
        async with self.bench(tmp_path, f"import {name}\ndef handle(event, context): pass") as bench:
            fault = await bench.fault()
        assert fault.type == "Runtime.ImportModuleError"
        assert fault.message in {f"Unable to import module 'app.py': No module named {part!r}" for part in (name, name.partition(".")[0])}

    async def test_a_file_called_like_a_standard_module_is_still_the_one_meant(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, {"json.py": "def handle(event, context): return 'mine'"}, "json.py:handle") as bench:
            assert await bench.result() == "mine"

    async def test_two_functions_with_modules_of_one_name_do_not_mix(self, tmp_path: Path) -> None:
        app = "import shared\ndef handle(event, context): return shared.NAME"
        one = {"app.py": app, "shared.py": "NAME = 1"}
        two = {"app.py": app, "shared.py": "NAME = 2"}
        async with self.bench(tmp_path / "one", one) as first, self.bench(tmp_path / "two", two) as second:
            assert (await first.result(), await second.result(), await first.result()) == (1, 2, 1)

    # --- life ---------------------------------------------------------------------------------------------------------------------

    async def test_a_cancelled_invocation_ends_and_the_next_one_runs(self, tmp_path: Path) -> None:
        source = """
            import asyncio, pathlib
            async def handle(event, context):
                if "mark" in event:
                    pathlib.Path(event["mark"]).touch()
                    await asyncio.sleep(600)
                return "ok"
        """
        async with self.bench(tmp_path, source) as bench:
            mark = tmp_path / "began"
            running = asyncio.create_task(bench.invoke({"mark": str(mark)}))
            await until(mark.exists)
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            assert await bench.result() == "ok"

    async def test_refuses_a_folder_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(HandlerError, match="no folder"):
            self.features.connect(self.settings(tmp_path / "gone", "app.py:handle"), _silent)

    @pytest.mark.parametrize("handler", ["gone.py:handle", "../app.py:handle", "/app.py:handle"])
    async def test_refuses_a_file_that_is_not_there_or_not_inside(self, tmp_path: Path, handler: str) -> None:
        write(tmp_path, {"app.py": "", "in/app.py": ""})
        with pytest.raises(HandlerError, match=r"orders: .*(names|inside)"):
            self.features.connect(self.settings(tmp_path / "in", handler), _silent)

    async def test_is_closed_twice_and_refuses_afterwards(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "def handle(event, context): return 1") as bench:
            await bench.result()
            await bench.handler.aclose()
            await bench.handler.aclose()
            with pytest.raises(HandlerError, match="closed"):
                await bench.invoke()

    async def test_is_closed_before_anything_ran(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "def handle(event, context): return 1") as bench:
            await bench.handler.aclose()


def _silent(function: str, request_id: str, line: str) -> None:
    """A log that keeps nothing."""


async def until(condition: Any) -> None:
    """Wait for what another process does; there is no event to wait on. Fails the test after LIMIT."""
    async with asyncio.timeout(LIMIT):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)
