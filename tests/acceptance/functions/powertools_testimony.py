"""What the Powertools functions here share: a line in the file named by OUT for each record that was handled, and what bodies ask for.

A body is JSON: `do` ("fail", "fail-once", or nothing) and `n` to know it by.
"""

import json
import os
import time
from typing import Any

from aws_lambda_powertools.utilities.typing import LambdaContext


def begun(event: dict[str, Any], bodies: list[str], context: LambdaContext) -> None:
    _write("begun", bodies, context.aws_request_id)


def handled(body: str, request: str) -> None:
    """What the handler of a record does: it fails as asked, else testifies."""
    deed = json.loads(body).get("do")
    if deed == "fail" or (deed == "fail-once" and _begun_with(body) == 1):
        raise ValueError("as asked")
    _write("ended", [body], request)


def _begun_with(body: str) -> int:
    with open(os.environ["OUT"], encoding="utf-8") as out:
        lines = [json.loads(line) for line in out]
    return sum(line["what"] == "begun" and body in line["bodies"] for line in lines)


def _write(what: str, bodies: list[str], request: str) -> None:
    line = {"what": what, "request": request, "time": time.time(), "pid": os.getpid(), "daemon": os.getppid(), "bodies": bodies}
    line["receives"] = [0] * len(bodies)
    out = os.open(os.environ["OUT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(out, json.dumps(line).encode() + b"\n")
    os.close(out)
