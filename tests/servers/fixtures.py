"""Fixtures of real servers, each started once a session, when the first test asks for it."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from tests.servers.process import free_port, jars, running

ELASTICMQ = """
include classpath("application.conf")
node-address {{ protocol = http, host = "127.0.0.1", port = {port}, context-path = "" }}
rest-sqs {{ enabled = true, bind-port = {port}, bind-hostname = "127.0.0.1", sqs-limits = strict }}
rest-stats {{ enabled = false }}
aws {{ region = us-east-1, accountId = 123456789012 }}
queues {{}}
"""


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


@pytest.fixture(scope="session")
def elasticmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an SQS, in memory and empty at first: tests create queues of their own."""
    libraries = jars("elasticmq")
    folder, port = tmp_path_factory.mktemp("elasticmq"), free_port()
    (folder / "emq.conf").write_text(ELASTICMQ.format(port=port))
    url = f"http://127.0.0.1:{port}"
    command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dconfig.file={folder}/emq.conf"]
    with running([*command, "-cp", libraries, "org.elasticmq.server.Main"], folder, lambda: _answers(f"{url}/health")):
        yield url
