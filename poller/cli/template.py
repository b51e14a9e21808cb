"""What `poller init` writes."""

from __future__ import annotations

from pathlib import Path

from poller.errors import ConfigError

CONFIG = """\
# What poller runs. `poller config reference` lists every key, `poller check` says what is wrong with this file.

[poller]
# listen = "127.0.0.1:8780"              # health and metrics; this is the default
# store = "sqlite:.poller/poller.db"     # progress and failures; this is the default

# A function: ordinary Lambda code, unmodified, in processes of its own.
[functions.first]
handler = "app.py:handle"                # or Lambda's own form: "app.handle"
timeout = "20s"
# concurrency = 4                        # the most invocations at once; default: 2 for each CPU
# environment = { TABLE = "orders", TOKEN = "env:TOKEN" }

# A mapping: what is polled for the function, and what happens when it fails.
[mappings.first]
function = "first"
batch_size = 10
maximum_receive_count = 5                # after so many tries a message is kept as a failure: `poller failures list`
retry_backoff = { initial = "1s", maximum = "30s" }
function_response_types = ["ReportBatchItemFailures"]
# filters = ['{"body": {"kind": ["order"]}}']    # only these; all others are deleted

# An embedded queue, with SQS's events and rules and without a server. `poller connectors` lists what else there is.
[mappings.first.source]
type = "local-queue"
name = "first"

# The same from SQS:
# [mappings.first.source]
# type = "sqs"
# queue = "first"                        # name, URL or ARN
# region = "eu-central-1"
"""

FUNCTION = '''\
"""A Lambda function: what the queue delivers, one batch at a time."""

import json


def handle(event, context):
    failed = []
    for record in event["Records"]:
        try:
            message = json.loads(record["body"])
            print("got", message)
        except Exception as error:  # only this message comes back; the others are done
            print("failed:", record["messageId"], repr(error))
            failed.append({"itemIdentifier": record["messageId"]})
    return {"batchItemFailures": failed}
'''

FILES = {"poller.toml": CONFIG, "app.py": FUNCTION}


def write(folder: Path) -> list[Path]:
    """The paths that were written. Raises ConfigError, before the first of them is, if any is there already."""
    paths = {folder / name: text for name, text in FILES.items()}
    there = [str(path) for path in paths if path.exists()]
    if there:
        raise ConfigError(f"{' and '.join(there)}: there already, and left as it is; name another folder: `poller init DIR`")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, text in paths.items():
            with path.open("x") as file:
                file.write(text)
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written: {error.strerror}") from error
    return [*paths]
