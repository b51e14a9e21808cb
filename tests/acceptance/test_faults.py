"""Whatever a function does to itself, its records are kept with Lambda's own words, and the records behind them go on."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from poller.failures.journal import Entry
from poller.feed import Item
from tests.acceptance.harness import FUNCTIONS, Site, until

pytestmark = pytest.mark.slow

SOURCE: dict[str, object] = {"type": "local-stream", "name": "orders"}
ONE_TRY: dict[str, Any] = {"batch_size": 1, "maximum_retry_attempts": 0}

FAULTS = {
    "fail": ("ValueError", "as asked"),
    "hang": ("Sandbox.Timedout", "Task timed out after 4.00 seconds"),
    "fork": ("Runtime.ExitError", "Runtime exited with error: exit status 3"),
    "flood": ("ValueError", "as asked"),
    "exit-0": ("Runtime.ExitError", "Runtime exited without providing a reason"),
    "exit-1": ("Runtime.ExitError", "Runtime exited with error: exit status 1"),
    "die": ("Runtime.ExitError", "Runtime exited with error: signal: killed"),
    "large": ("Function.ResponseSizeTooLarge", "Response payload size exceeded maximum allowed payload size (6291556 bytes)."),
}
"""What each deed (functions/witness/app.py) becomes in the journal: type, and what the message ends with."""


def data(entry: Entry) -> str:
    """The text of the one record of a stream's failure."""
    (record,) = entry.records
    return base64.b64decode(json.loads(record.json)["kinesis"]["data"]).decode()


def test_each_fault_is_kept_and_later_records_go_on(site: Site) -> None:
    site.write(site.function(timeout="4s", concurrency=1), site.mapping("orders", SOURCE, **ONE_TRY))
    bodies = {deed: json.dumps({"do": deed}) for deed in FAULTS}
    good = [f"after {deed}" for deed in FAULTS]
    site.put("orders", *(body for pair in zip(bodies.values(), good, strict=True) for body in pair))
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*good), 60)
        assert daemon.readyz() == (True, "")
        daemon.stop()
    assert site.bodies("begun") == dict.fromkeys([*bodies.values(), *good], 1)
    entries = {data(row.entry): row.entry for row in site.journal()}
    assert entries.keys() == {*bodies.values()}
    for deed, (type_, end) in FAULTS.items():
        entry = entries[bodies[deed]]
        assert entry.fault is not None
        assert (entry.reason, entry.attempts, entry.fault.type) == ("RetryAttemptsExhausted", 1, type_), deed
        assert entry.fault.message.endswith(end), deed
    (forked,) = site.testimony("forked")
    until(lambda: not any(map(alive, forked.children)), what="what the function started has ended with it")


def alive(pid: int) -> bool:
    """Whether there is such a process that is more than an entry waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_function_that_cannot_be_loaded_harms_no_other(site: Site) -> None:
    """Not even itself for longer than it takes to mend it: no restart is needed."""
    broken = site.folder / "broken"
    broken.mkdir()
    (broken / "app.py").write_text("import nowhere_to_be_found\n")
    site.write(
        site.function(),
        site.function("broken", "app.handle", code=broken),
        site.mapping("orders", SOURCE, **ONE_TRY),
        site.mapping("invoices", {**SOURCE, "name": "invoices"}, "broken", **ONE_TRY),
    )
    site.put("invoices", "i1", "i2")
    site.put("orders", "o1")
    with site.daemon() as daemon:
        daemon.until(lambda: len(site.journal()) == 2)
        site.put("orders", "o2")
        daemon.until(lambda: site.handled("o1", "o2"))
        shutil.copy(FUNCTIONS / "witness" / "app.py", broken / "app.py")
        site.put("invoices", "i3")
        daemon.until(lambda: site.handled("i3"))
        daemon.stop()
    for row in site.journal():
        fault = row.entry.fault
        assert fault is not None
        assert (row.entry.mapping, fault.type) == ("invoices", "Runtime.ImportModuleError")
        assert fault.message == "Unable to import module 'app': No module named 'nowhere_to_be_found'"


def test_records_may_hold_anything(site: Site) -> None:
    site.write(site.function(), site.mapping("orders", SOURCE))
    items = [b"not JSON", b'{"broken": ', b"null", b"\xff\xfe\x00", b"", bytes(range(256)), "\u00e9\u4e16\U0001f600".encode()]
    site.put("orders", *(Item(item, key="k") for item in items))
    shown = [item.decode("utf-8", "backslashreplace") for item in items]
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*shown))
        daemon.stop()
    assert site.bodies("ended") == dict.fromkeys(shown, 1)
    assert not site.journal()


@pytest.mark.parametrize("package", [False, True], ids=["without __init__.py", "with __init__.py"])
@pytest.mark.parametrize("handler", ["app.handle", "app.py:handle"])
def test_a_function_may_have_a_handlers_folder_of_its_own(site: Site, package: bool, handler: str) -> None:
    code = site.folder / "code"
    shutil.copytree(FUNCTIONS / "namespaced", code, ignore=shutil.ignore_patterns("__pycache__"))
    if package:
        (code / "handlers" / "__init__.py").touch()
    lines = site.folder / "lines"
    site.write(
        site.function(handler=handler, code=code, environment={"OUT": str(lines)}),
        site.mapping("orders", {"type": "local-queue", "name": "orders"}),
    )
    site.put("orders", "m1", "m2")
    with site.daemon() as daemon:
        daemon.until(lambda: lines.exists() and lines.read_text().count(os.linesep) == 2)
        daemon.stop()
    assert not site.journal()
