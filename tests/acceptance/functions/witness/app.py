"""A function that testifies: a line in the file named by OUT when an invocation begins, and one when it ends. It does what bodies ask for.

A body is JSON with `do`, and `n` to know it by; anything else is simply good. SLOW: seconds that each invocation takes.
BROKEN: a file; while it is there every invocation fails.
GATE: a file that a "wait" record's invocation waits for.
UNFIXED: a file; while it is there a "fail-until-fixed" record fails.
TURNS: a file as long as the number of invocations of a "fail-in-turn" record that may come to their end.
KILL: "1,3": which invocations of a failing record kill the daemon instead of failing (counted from 1, over all lives).
"""

import base64
import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

Record = dict[str, Any]


def records(event: dict[str, Any]) -> list[Record]:
    """Of any source's event: Kafka's come by partition."""
    if "records" in event:
        return [record for partition in event["records"].values() for record in partition]
    found: list[Record] = event["Records"]
    return found


def body(record: Record) -> str:
    """The text of a record of a queue, a stream or a topic; of a change of a table, the item's `body`."""
    if "value" in record:
        return base64.b64decode(record["value"]).decode("utf-8", "backslashreplace")
    if "kinesis" in record:
        return base64.b64decode(record["kinesis"]["data"]).decode("utf-8", "backslashreplace")
    if "dynamodb" in record:
        return str(record["dynamodb"]["NewImage"]["body"]["S"])
    return str(record["body"])


def wish(text: str) -> str:
    """What a body asks for, or ""."""
    try:
        return str(json.loads(text)["do"])
    except (ValueError, KeyError, TypeError):
        return ""


def identifier(record: Record) -> Any:
    """What a partial batch response names."""
    if "value" in record:
        return {"partition": f"{record['topic']}-{record['partition']}", "offset": record["offset"]}
    if "dynamodb" in record:
        return str(record["dynamodb"]["SequenceNumber"])
    return str(record["kinesis"]["sequenceNumber"] if "kinesis" in record else record["messageId"])


def testify(what: str, event: dict[str, Any], context: Any, **more: Any) -> None:
    """One write of one line, appended: environments share the file, and a kill leaves only whole lines."""
    attributes = [record.get("attributes", {}) for record in records(event)]
    line = {
        "what": what,
        "request": context.aws_request_id,
        "time": time.time(),
        "pid": os.getpid(),
        "daemon": os.getppid(),
        "bodies": [body(record) for record in records(event)],
        "receives": [int(each.get("ApproximateReceiveCount", 0)) for each in attributes],
        **more,
    }
    out = os.open(os.environ["OUT"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(out, json.dumps(line).encode() + b"\n")
    os.close(out)


def begun_with(deed: str) -> int:
    """How many invocations with such a record have begun, this one included."""
    with open(os.environ["OUT"], encoding="utf-8") as out:
        lines = [json.loads(line) for line in out]
    return sum(line["what"] == "begun" and any(wish(each) == deed for each in line["bodies"]) for line in lines)


def fail(event: dict[str, Any], context: Any) -> None:
    if str(begun_with("fail")) in os.environ.get("KILL", "").split(","):
        os.kill(os.getppid(), signal.SIGKILL)
        signal.pause()  # until the daemon's death takes us along
    raise ValueError("as asked")


def fail_until_fixed(event: dict[str, Any], context: Any) -> None:
    if os.path.exists(os.environ["UNFIXED"]):
        raise ValueError("as asked")


def fail_in_turn(event: dict[str, Any], context: Any) -> None:
    number = begun_with("fail-in-turn")
    while os.stat(os.environ["TURNS"]).st_size < number:
        time.sleep(0.005)
    raise ValueError("as asked")


def hang(event: dict[str, Any], context: Any) -> None:
    signal.pause()


def hang_once(event: dict[str, Any], context: Any) -> None:
    if begun_with("hang-once") == 1:
        signal.pause()


def wait(event: dict[str, Any], context: Any) -> None:
    while not os.path.exists(os.environ["GATE"]):
        time.sleep(0.005)


def exit_0(event: dict[str, Any], context: Any) -> None:
    sys.exit(0)


def exit_1(event: dict[str, Any], context: Any) -> None:
    sys.exit(1)


def die(event: dict[str, Any], context: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fork(event: dict[str, Any], context: Any) -> None:
    """Leave a child and a grandchild behind that hold all pipes open, and end."""
    if os.fork() == 0:
        child = subprocess.Popen(["sleep", "3600"], close_fds=False)
        testify("forked", event, context, children=[os.getpid(), child.pid])
        child.wait()
    while not testified("forked"):
        time.sleep(0.01)
    os._exit(3)


def testified(what: str) -> bool:
    with open(os.environ["OUT"], encoding="utf-8") as out:
        return any(json.loads(line)["what"] == what for line in out)


def flood(event: dict[str, Any], context: Any) -> None:
    """4 MB of lines, and 4 MB without any."""
    print("\n".join(["x" * 1000] * 4000))
    sys.stderr.write("y" * 4_000_000)
    raise ValueError("as asked")


def large(event: dict[str, Any], context: Any) -> str:
    return "x" * 7_000_000


DEEDS = {
    "fail": fail,
    "fail-in-turn": fail_in_turn,
    "fail-until-fixed": fail_until_fixed,
    "hang": hang,
    "hang-once": hang_once,
    "wait": wait,
    "exit-0": exit_0,
    "exit-1": exit_1,
    "die": die,
    "fork": fork,
    "flood": flood,
    "large": large,
}


def handle(event: dict[str, Any], context: Any) -> Any:
    testify("begun", event, context)
    time.sleep(float(os.environ.get("SLOW", "0")))
    if os.path.exists(os.environ.get("BROKEN", "")):
        raise ConnectionError("no route to the database")
    result = None
    for record in records(event):
        deed = DEEDS.get(wish(body(record)))
        if deed is not None:
            result = deed(event, context)
    testify("ended", event, context)
    return result


def report(event: dict[str, Any], context: Any) -> Any:
    """As `handle`, but a record that fails is named in the response."""
    testify("begun", event, context)
    time.sleep(float(os.environ.get("SLOW", "0")))
    failed = [record for record in records(event) if wish(body(record)) == "fail"]
    good = {"Records": [record for record in records(event) if record not in failed]}
    testify("ended", good, context)
    return {"batchItemFailures": [{"itemIdentifier": identifier(record)} for record in failed]}
