"""Every way to run a Python function, put through the contract suite of handlers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import PIPE
from inspect import signature
from pathlib import Path

import pytest
import uvloop

from handlers import inline, python
from poller.errors import HandlerError
from poller.testing.handlers import Features, HandlerContract, until, write
from poller.testing.processes import ProcessContract, alive

ROOT = str(Path(__file__).parents[2])


class TestProcess(ProcessContract):
    features = Features(python.connect)

    async def test_finds_its_own_folder_though_our_installation_is_on_its_path(self, tmp_path: Path) -> None:
        """As it is when this program is installed where the function's packages are: there a folder without __init__ would lose."""
        source = f"""
            import sys
            sys.path.append({ROOT!r})
            import handlers.orders
            def handle(event, context):
                try:
                    import poller
                except ModuleNotFoundError as error:
                    return [handlers.orders.NAME, str(error)]
        """
        async with self.bench(tmp_path, {"app.py": source, "handlers/orders.py": "NAME = 'mine'"}) as bench:
            assert await bench.result() == ["mine", "No module named 'poller'"]

    async def test_may_spawn_processes_that_find_its_modules(self, tmp_path: Path) -> None:
        source = """
            import multiprocessing
            def work(pipe):
                import handlers.orders
                pipe.send(handlers.orders.NAME)
            def handle(event, context):
                near, far = multiprocessing.Pipe()
                process = multiprocessing.get_context(event["way"]).Process(target=work, args=(far,))
                process.start()
                name = near.recv()
                process.join()
                return [name, process.exitcode]
        """
        async with self.bench(tmp_path, {"app.py": source, "handlers/orders.py": "NAME = 'mine'"}) as bench:
            for way in ("spawn", "fork"):
                assert await bench.result({"way": way}) == ["mine", 0]


def simple_tests(contract: type[HandlerContract]) -> list[str]:
    """The names of its tests that take a folder and nothing else."""
    return [
        name
        for name in dir(contract)
        if name.startswith("test_") and list(signature(getattr(contract, name)).parameters) == ["self", "tmp_path"]
    ]


@pytest.mark.slow
@pytest.mark.parametrize("name", simple_tests(TestProcess))
def test_a_process_holds_on_uvloop_too(tmp_path: Path, name: str) -> None:
    uvloop.run(getattr(TestProcess(), name)(tmp_path))


class TestLoop(HandlerContract):
    features = Features(inline.connect, inline="loop")


class TestThread(HandlerContract):
    features = Features(inline.connect, inline="thread")

    async def test_gives_up_after_eight_calls_that_do_not_end(self, tmp_path: Path) -> None:
        source = """
            import threading
            stop = threading.Event()
            def handle(event, context):
                if event.get("stop"):
                    stop.set()
                else:
                    stop.wait(20)
        """
        async with self.bench(tmp_path, source) as bench:
            for _ in range(inline.LOST_LIMIT):
                assert (await bench.fault(timeout=0.01)).kind == "timeout"
            with pytest.raises(HandlerError, match="function orders: 8 calls still run"):
                await bench.invoke()
            sys.modules["_poller_user.orders.app"].stop.set()
            await until(lambda: "0 lost" in repr(bench.handler))
            await bench.invoke({"stop": True})


@pytest.mark.parametrize(
    "settings", [{"environment": (("A", "b"),)}, {"memory": 2**27}, {"python": sys.executable}], ids=lambda s: next(iter(s))
)
async def test_inline_refuses_what_only_a_process_can_have(tmp_path: Path, settings: dict[str, object]) -> None:
    write(tmp_path, {"app.py": ""})
    contract = TestLoop()
    with pytest.raises(HandlerError, match="needs a process of its own"):
        inline.connect(contract.settings(tmp_path, "app.py:handle", **settings), lambda *_: None)


def other_interpreters() -> list[str]:
    """Other versions of CPython on this machine, oldest first."""
    versions = [(3, minor) for minor in range(8, 16) if minor != sys.version_info.minor]
    kept = [path for _, minor in versions for path in sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/python"))]
    named = [path for major, minor in versions if (path := shutil.which(f"python{major}.{minor}")) and "shims" not in path]
    return [str(path) for path in (*kept, *named)]


@pytest.mark.parametrize("interpreter", other_interpreters() or [pytest.param("", marks=pytest.mark.skip("no other Python is installed"))])
async def test_runs_in_another_version_of_python(tmp_path: Path, interpreter: str) -> None:
    source = """
        import asyncio, sys
        async def handle(event, context):
            await asyncio.sleep(0)
            if event.get("fail"):
                raise ValueError("bad")
            print("printed")
            return [list(sys.version_info[:2]), len(event["Records"]), context.function_name]
    """
    files = {"handlers/orders.py": source, "app.py": "from handlers.orders import handle"}
    async with TestProcess().bench(tmp_path, files, python=interpreter) as bench:
        version, records, name = await bench.result({"Records": ["x" * 100] * 1000})
        assert (version != list(sys.version_info[:2]), records, name) == (True, 1000, "orders")
        assert [line for _, line in bench.lines] == ["printed"]
        fault = await bench.fault({"fail": True})
        assert (fault.type, len(fault.trace)) == ("ValueError", 1)


PARENT = """
import asyncio, sys, time
from pathlib import Path
from handlers.python import connect
from poller.model import Call
from poller.settings import FunctionSettings
from poller.testing.events import DocumentEvent

async def main():
    settings = FunctionSettings("orders", "app.py:handle", Path(sys.argv[1]), concurrency=2, environment=(("PYTHONPATH", sys.argv[2]),))
    handler = connect(settings, lambda *_: None)
    call = Call("r-1", time.time() + 600, 600)
    await asyncio.gather(handler.invoke(DocumentEvent({"wait": 0}), call), handler.invoke(DocumentEvent({"wait": 600}), call))

asyncio.run(main())
"""


@pytest.mark.parametrize("ctypes", ["pass", "raise ImportError"], ids=["told by the kernel", "watching the pipe"])
async def test_no_environment_outlives_a_daemon_that_was_killed(tmp_path: Path, ctypes: str) -> None:
    source = """
        import os, time
        def handle(event, context):
            open(f"pid.{os.getpid()}", "w").close()
            time.sleep(event["wait"])
    """
    write(tmp_path, {"app.py": source})
    if ctypes != "pass":
        write(tmp_path / "path", {"ctypes.py": ctypes})
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path), str(tmp_path / "path"), env={**os.environ, "PYTHONPATH": ROOT}, stderr=PIPE
    )
    try:
        await until(lambda: len(list(tmp_path.glob("pid.*"))) == 2)
        pids = [int(path.suffix[1:]) for path in tmp_path.glob("pid.*")]
        assert all(map(alive, pids))  # one idle, one in the middle of an invocation
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        await parent.communicate()
    await until(lambda: not any(map(alive, pids)))
