"""What only a function in a process of its own is promised: it may die, hang, fork, flood and waste, and nobody else notices."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from poller.errors import HandlerError
from poller.model import Busy, Fault, Returned
from poller.testing.handlers import HandlerContract, until


def state(pid: int) -> str:
    """The letter that the kernel gives: R, S, T..., Z for one that has ended and waits to be reaped; X when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def alive(pid: int) -> bool:
    return state(pid) not in "ZX"


def known(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class ProcessContract(HandlerContract):
    """`HandlerContract`, and what a process adds to it."""

    # --- ends of a process --------------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize(
        ("deed", "reason"),
        [
            ("os._exit(0)", "Runtime exited without providing a reason"),
            ("os._exit(1)", "Runtime exited with error: exit status 1"),
            ("sys.exit('so long')", "Runtime exited with error: exit status 1"),
            ("os.kill(os.getpid(), 9)", "Runtime exited with error: signal: killed"),
            ("os.kill(os.getpid(), 11)", "Runtime exited with error: signal: segmentation fault"),
            ("raise_interrupt()", "Runtime exited with error: signal: interrupt"),
        ],
    )
    async def test_a_process_that_ends_is_an_exit_error_and_is_replaced(self, tmp_path: Path, deed: str, reason: str) -> None:
        source = f"""
            import os, sys
            def raise_interrupt(): raise KeyboardInterrupt
            def handle(event, context):
                if event.get("end"):
                    {deed}
                return os.getpid()
        """
        async with self.bench(tmp_path, source) as bench:
            first = await bench.result()
            assert await bench.fault({"end": True}, request_id="r-1") == Fault(
                "exit", "Runtime.ExitError", f"RequestId: r-1 Error: {reason}"
            )
            assert await bench.result() != first

    async def test_a_process_that_ends_while_it_is_idle_fails_nobody(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "import os\ndef handle(event, context): return os.getpid()") as bench:
            first = await bench.result()
            os.kill(first, signal.SIGKILL)
            while state(first) not in "ZX":  # without a turn of the loop, which must not hear of it before the invocation
                pass
            second = await bench.result()
            assert second != first
            os.kill(second, signal.SIGKILL)
            await until(lambda: "0 idle" in repr(bench.handler))
            assert await bench.result() != second

    async def test_a_process_that_ends_before_it_read_anything_fails_nobody(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "import os\ndef handle(event, context): return os.getpid()") as bench:
            first = await bench.result()
            os.kill(first, signal.SIGSTOP)
            await until(lambda: state(first) == "T")
            running = asyncio.create_task(bench.result())
            await until(lambda: "0 idle" in repr(bench.handler))
            os.kill(first, signal.SIGKILL)
            assert await running != first

    async def test_at_the_deadline_the_whole_group_is_dead(self, tmp_path: Path) -> None:
        source = """
            import os, pathlib, subprocess, time
            def handle(event, context):
                if "mark" in event:
                    child = subprocess.Popen(["sleep", "600"])
                    pathlib.Path(event["mark"]).write_text(f"{os.getpid()} {child.pid}")
                    time.sleep(600)
                return os.getpid()
        """
        async with self.bench(tmp_path, source) as bench:
            await bench.result()
            fault = await bench.fault({"mark": str(tmp_path / "pids")}, timeout=3.0)
            assert (fault.kind, fault.type) == ("timeout", "Sandbox.Timedout")
            leader, child = map(int, (tmp_path / "pids").read_text().split())
            assert not alive(leader)  # before the answer: a second attempt never runs beside the first
            await until(lambda: not alive(child))
            assert await bench.result() != leader

    async def test_what_a_function_forked_neither_answers_nor_holds_us_up(self, tmp_path: Path) -> None:
        source = """
            import os, time
            def handle(event, context):
                child = os.fork()
                if child == 0:
                    if event["then"] == "sleep":
                        time.sleep(600)
                    return "the child's"
                if event["then"] == "exit":
                    os._exit(7)
                return child
        """
        async with self.bench(tmp_path, source) as bench:
            sleeping = await bench.result({"then": "sleep"})
            assert alive(sleeping)
            for _ in range(3):
                assert isinstance(await bench.result({"then": "return"}), int)
            assert "exit status 7" in (await bench.fault({"then": "exit"})).message
            await until(lambda: not alive(sleeping))

    async def test_a_cancelled_invocation_is_killed(self, tmp_path: Path) -> None:
        source = """
            import os, pathlib, time
            def handle(event, context):
                pathlib.Path(event["mark"]).write_text(str(os.getpid()))
                time.sleep(600)
        """
        async with self.bench(tmp_path, source) as bench:
            mark = tmp_path / "pid"
            running = asyncio.create_task(bench.invoke({"mark": str(mark)}))
            await until(lambda: mark.exists() and mark.read_text())
            running.cancel()
            with pytest.raises(asyncio.CancelledError):
                await running
            await until(lambda: not alive(int(mark.read_text())))

    async def test_closing_ends_everything_and_leaves_no_descriptor(self, tmp_path: Path) -> None:
        source = """
            import os, pathlib, time
            def handle(event, context):
                if "mark" in event:
                    pathlib.Path(event["mark"]).touch()
                    time.sleep(600)
                return os.getpid()
        """
        before = descriptors()
        async with self.bench(tmp_path, source, concurrency=2) as bench:
            idle = await bench.result()
            mark = tmp_path / "mark"
            running = asyncio.create_task(bench.invoke({"mark": str(mark)}))
            await until(mark.exists)
            await bench.handler.aclose()
            with pytest.raises(HandlerError, match="closed while"):
                await running
            assert not known(idle)  # reaped, not only dead
            assert descriptors() == before

    async def test_wastes_no_descriptor_over_many_ends(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "import os\ndef handle(event, context): os._exit(event['n'])") as bench:
            await bench.fault({"n": 1})
            await until(lambda: "1 idle" in repr(bench.handler))
            before = descriptors()
            for n in range(5):
                await bench.fault({"n": n})
            await until(lambda: "1 idle" in repr(bench.handler) and descriptors() == before)

    # --- starting -----------------------------------------------------------------------------------------------------------------

    async def test_runs_as_many_at_once_as_its_concurrency(self, tmp_path: Path) -> None:
        source = "import os, time\ndef handle(event, context):\n    time.sleep(0.1)\n    return os.getpid()"
        async with self.bench(tmp_path, source, concurrency=2) as bench:
            pids = await asyncio.gather(*(bench.result() for _ in range(6)))
            assert len(set(pids)) == 2
            assert await bench.result() in pids

    async def test_a_waiting_invocation_may_be_cancelled(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "import time\ndef handle(event, context): time.sleep(0.2)") as bench:
            first, second, third = (asyncio.create_task(bench.invoke()) for _ in range(3))
            await asyncio.sleep(0)
            second.cancel()
            assert [await first, await third] == [Returned(b"null")] * 2

    async def test_what_starting_takes_is_not_the_invocation_s(self, tmp_path: Path) -> None:
        source = "import time\ntime.sleep(2.5)\ndef handle(event, context): return context.get_remaining_time_in_millis()"
        async with self.bench(tmp_path, source) as bench:
            assert await bench.result(timeout=2.0) > 200

    async def test_a_failed_start_is_done_again_inside_the_invocation(self, tmp_path: Path) -> None:
        source = """
            import pathlib
            mark = pathlib.Path("tried")
            if not mark.exists():
                mark.touch()
                raise OSError("the first time")
            def handle(event, context): return "loaded"
        """
        async with self.bench(tmp_path, source) as bench:
            assert await bench.result() == "loaded"

    async def test_between_failed_starts_it_waits(self, tmp_path: Path) -> None:
        async with self.bench(tmp_path, "open('starts', 'a').write('x')\n1 / 0") as bench:
            loop = asyncio.get_running_loop()
            since = loop.time()
            for _ in range(3):
                assert (await bench.fault()).type == "ZeroDivisionError"
            assert loop.time() - since > 0.9  # 0.2 and 0.8 s
            assert (tmp_path / "starts").read_text() == "xxxxxx"

    async def test_an_interpreter_that_is_taken_away_is_busy_and_no_attempt(self, tmp_path: Path) -> None:
        interpreter = tmp_path / "python"
        interpreter.symlink_to(sys.executable)
        async with self.bench(tmp_path / "code", "def handle(event, context): pass", python=str(interpreter)) as bench:
            interpreter.unlink()
            response = await bench.invoke()
            assert isinstance(response, Busy)
            assert (response.after, str(interpreter) in response.reason) == (1.0, True)
            interpreter.symlink_to(sys.executable)
            assert isinstance(await bench.invoke(), Returned)

    async def test_refuses_an_interpreter_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(HandlerError, match="nothing that can be run"):
            async with self.bench(tmp_path, "", python=str(tmp_path / "venv")):
                pass

    async def test_runs_in_a_virtual_environment(self, tmp_path: Path) -> None:
        venv = tmp_path / "venv"
        make = await asyncio.create_subprocess_exec(sys.executable, "-m", "venv", "--without-pip", str(venv))
        assert await make.wait() == 0
        [packages] = venv.glob("lib/python*/site-packages")
        (packages / "only_there.py").write_text("NAME = 'there'")
        async with self.bench(
            tmp_path / "code", "import sys, only_there\ndef handle(event, context): return [sys.prefix, only_there.NAME]", python=str(venv)
        ) as bench:
            assert await bench.result() == [str(venv), "there"]

    # --- what it sees -------------------------------------------------------------------------------------------------------------

    async def test_sees_its_own_variables_and_never_the_daemon_s(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DAEMONS_SECRET", "s3cr3t")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "the daemon's")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
        given = {"TABLE": "orders", "AWS_REGION": "eu-central-1", "TZ": "Europe/Berlin", "_HANDLER": "not.this"}
        source = "import os\ndef handle(event, context): return [dict(os.environ), context.invoked_function_arn]"
        async with self.bench(tmp_path, source, environment=tuple(given.items()), memory=256 * 1024 * 1024) as bench:
            seen, arn = await bench.result()
        major, minor = sys.version_info[:2]
        expected = {
            "TABLE": "orders",
            "AWS_REGION": "eu-central-1",
            "AWS_DEFAULT_REGION": "eu-central-1",
            "TZ": "Europe/Berlin",
            "LANG": "en_US.UTF-8",
            "_HANDLER": "app.py:handle",
            "LAMBDA_TASK_ROOT": str(tmp_path),
            "AWS_LAMBDA_FUNCTION_NAME": "orders",
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "256",
            "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/orders",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{major}.{minor}",
        }
        assert {name: seen.get(name) for name in expected} == expected
        others = {"PATH", "LD_LIBRARY_PATH", "LC_CTYPE", "AWS_LAMBDA_LOG_STREAM_NAME", "AWS_LAMBDA_INITIALIZATION_TYPE"}
        assert set(seen) == set(expected) | others
        assert arn == "arn:aws:lambda:eu-central-1:000000000000:function:orders"

    async def test_starts_in_its_task_root_which_is_first_on_the_path(self, tmp_path: Path) -> None:
        source = "import os, sys\ndef handle(event, context): return [os.getcwd(), sys.path, sys.argv, sys.stdin.read()]"
        async with self.bench(tmp_path, source) as bench:
            folder, path, arguments, stdin = await bench.result()
        assert (folder, path[0], arguments, stdin) == (str(tmp_path), str(tmp_path), ["app.py:handle"], "")
        assert not [entry for entry in path if (Path(entry) / "poller").is_dir() and Path(entry).name != "site-packages"]
        assert not [entry for entry in path if Path(entry).name == "handlers"]

    async def test_memory_over_the_limit_ends_it(self, tmp_path: Path) -> None:
        source = """
            import os, time
            def handle(event, context):
                if event.get("where") == "child" and os.fork() > 0:
                    time.sleep(600)
                if event:
                    kept = bytearray(os.urandom(1024)) * (200 * 1024)
                    time.sleep(600)
                return len(event)
        """
        async with self.bench(tmp_path, source, memory=128 * 1024 * 1024) as bench:
            assert await bench.result() == 0
            for where in ("here", "child"):
                fault = await bench.fault({"where": where}, request_id="r-1")
                assert fault == Fault("memory", "Runtime.OutOfMemory", "RequestId: r-1 Error: Runtime exited with error: signal: killed")
            assert await bench.result() == 0

    # --- output -------------------------------------------------------------------------------------------------------------------

    async def test_what_it_prints_belongs_to_the_invocation_that_printed_it(self, tmp_path: Path) -> None:
        source = """
            import logging, os, sys
            print("loading")
            logging.getLogger().setLevel(logging.INFO)
            def handle(event, context):
                print("out", event["n"])
                print("err", event["n"], file=sys.stderr)
                os.write(1, b"raw \\xff\\n")
                logging.info("logged")
                print("unfinished", end="")
                if event.get("exit"):
                    sys.stdout.flush()
                    os._exit(0)
        """
        async with self.bench(tmp_path, source) as bench:
            for n in (1, 2):
                await bench.invoke({"n": n}, request_id=f"r-{n}")
            await bench.fault({"n": 3, "exit": True}, request_id="r-3")
        stamped = [(request_id, line) for request_id, line in bench.lines if "logged" in line]
        assert [line.split("\t")[0::2] for _, line in stamped] == [["[INFO]", f"r-{n}"] for n in (1, 2, 3)]
        assert all(line.endswith("\tlogged") for _, line in stamped)
        plain = [entry for entry in bench.lines if "logged" not in entry[1] and entry[0]]
        assert plain == [(f"r-{n}", line) for n in (1, 2, 3) for line in (f"out {n}", f"err {n}", "raw \ufffd", "unfinished")]
        assert bench.lines[0] == ("", "loading")

    async def test_megabytes_of_output_arrive_whole_and_do_not_block(self, tmp_path: Path) -> None:
        source = """
            def handle(event, context):
                for n in range(100_000):
                    print(f"line {n:06} " + "." * 60)
                print("x" * 600_000)
        """
        async with self.bench(tmp_path, source) as bench:
            began = time.monotonic()
            assert await bench.invoke(request_id="r-1") == Returned(b"null")
            assert time.monotonic() - began < 10
        lines = [line for request_id, line in bench.lines if request_id == "r-1"]
        assert lines[:100_000] == [f"line {n:06} " + "." * 60 for n in range(100_000)]
        assert [len(line) for line in lines[100_000:]] == [262_144, 262_144, 75_712]

    async def test_a_function_that_closes_its_output_is_still_answered(self, tmp_path: Path) -> None:
        source = "import os, sys\ndef handle(event, context):\n    sys.stdout.close(); os.close(2)\n    return 1"
        async with self.bench(tmp_path, source) as bench:
            assert [await bench.result(), (await bench.invoke()) is not None] == [1, True]

    async def test_what_writes_into_our_pipe_is_not_believed(self, tmp_path: Path) -> None:
        source = """
            import os, stat
            def handle(event, context):
                for fd in range(3, 64):
                    try:
                        if stat.S_ISFIFO(os.fstat(fd).st_mode):
                            os.write(fd, event["noise"].encode())
                    except OSError:
                        continue
                return "mine"
        """
        async with self.bench(tmp_path, source) as bench:
            for noise in ("\x00\x00\x00\x04boo!", "\xff\xff\xff\xff"):
                fault: Any = await bench.fault({"noise": noise})
                assert fault.type == "Runtime.ExitError"
