"""What an environment is made from: the interpreter, the task root, Lambda's variables. Everything named by a path is checked here."""

from __future__ import annotations

import datetime
import os
import shutil
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from poller.errors import HandlerError
from poller.settings import FunctionSettings

CHILD = str(Path(__file__).resolve().with_name("child.py"))
ACCOUNT = "000000000000"
REGION = "us-east-1"
DEFAULT_MEMORY = 128 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Task:
    """One function as something that can be started. `code` is absolute; `python` is "" for a function that runs in this process."""

    settings: FunctionSettings
    code: str
    python: str

    @property
    def arn(self) -> str:
        given = dict(self.settings.environment)
        region = given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION") or REGION
        return f"arn:aws:lambda:{region}:{ACCOUNT}:function:{self.settings.name}"

    def variables(self) -> dict[str, str]:
        """The whole environment of one new process: Lambda's variables and the function's own, never the daemon's.

        Where the two meet, the function's wins over our defaults (PATH, LANG, TZ...) and Lambda's own names win over the function's.
        Region and credentials are there only if the configuration gave them. AWS_EXECUTION_ENV is set by the child: it names the version
        of its interpreter.
        """
        settings = self.settings
        given = dict(settings.environment)
        if region := given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION"):
            given = {"AWS_REGION": region, "AWS_DEFAULT_REGION": region, **given}
        path = ":".join(dict.fromkeys((os.path.dirname(self.python) or "/usr/bin", "/usr/local/bin", "/usr/bin", "/bin", "/opt/bin")))
        stream = f"{datetime.datetime.now(datetime.UTC):%Y/%m/%d}/[$LATEST]{uuid.uuid4().hex}"
        return {
            "PATH": path,
            "LD_LIBRARY_PATH": f"{self.code}:{self.code}/lib:/opt/lib",
            "LANG": "en_US.UTF-8",
            "LC_CTYPE": "C.UTF-8",
            "TZ": ":UTC",
            **given,
            "LAMBDA_TASK_ROOT": self.code,
            "_HANDLER": settings.handler,
            "AWS_LAMBDA_FUNCTION_NAME": settings.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str((settings.memory or DEFAULT_MEMORY) // (1024 * 1024)),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{settings.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": stream,
        }


def task_of(settings: FunctionSettings) -> Task:
    """Raises HandlerError for a folder, file or interpreter that is named and not there. What is in the file is the function's matter."""
    code = os.path.abspath(settings.code)
    if not os.path.isdir(code):
        raise HandlerError(f"function {settings.name}: found code = {code}, which is no folder; set it to the folder of the function")
    for name, value in settings.environment:
        if not name or "=" in name or "\0" in name + value:
            raise HandlerError(
                f"function {settings.name}: environment variable {name!r} cannot be set: a name has no '=', neither part a NUL"
            )
    file = settings.handler.rpartition(":")[0]
    if file:
        path = os.path.normpath(os.path.join(code, file))
        if os.path.isabs(file) or not path.startswith(code.rstrip(os.sep) + os.sep):
            raise HandlerError(f"function {settings.name}: the file of handler {settings.handler!r} must be inside code = {code}")
        if not os.path.isfile(path):
            raise HandlerError(
                f"function {settings.name}: handler {settings.handler!r} names {path}, which is no file; correct handler or code"
            )
    return Task(settings, code, "" if settings.inline else _interpreter(settings))


def _interpreter(settings: FunctionSettings) -> str:
    """An absolute path, with its symbolic links: a virtual environment is known by the path its interpreter is called by."""
    given = settings.python
    if given is None:
        if not sys.executable:
            raise HandlerError(f"function {settings.name}: this interpreter does not know its own path; set python to one")
        return sys.executable
    path = os.path.abspath(given) if os.sep in given or os.path.exists(given) else (shutil.which(given) or given)
    if os.path.isdir(path):
        path = os.path.join(path, "bin", "python")
    if not os.path.isfile(path) or not os.access(path, os.X_OK):
        raise HandlerError(
            f"function {settings.name}: found python = {given!r}, but {path} is nothing that can be run; "
            "set it to an interpreter or to the folder of a virtual environment"
        )
    return path
