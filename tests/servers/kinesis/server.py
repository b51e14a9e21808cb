"""Two servers that speak Kinesis, in memory, on loopback: one that reshards and pushes to consumers, and one that is fast."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import JARS, answers, free_port, missing, running

LOOPBACK = Path(__file__).with_name("loopback.cjs")

_CHANGES = (
    "CREATE_STREAM",
    "DELETE_STREAM",
    "SPLIT_SHARD",
    "MERGE_SHARDS",
    "UPDATE_SHARD_COUNT",
    "REGISTER_STREAM_CONSUMER",
    "DEREGISTER_STREAM_CONSUMER",
)
"""What takes AWS seconds takes the server 50 ms."""


def packages() -> Path:
    """Where `scripts/servers kinesis` installed them."""
    home = JARS / "kinesis"
    if shutil.which("node") is None:
        missing("kinesis needs node (apt-get install nodejs)")
    if not (home / "package-lock.json").exists():
        missing("kinesis needs its packages (run scripts/servers kinesis)")
    return home / "node_modules"


@contextmanager
def resharding(folder: Path) -> Iterator[str]:
    """kinesis-local, its URL: shards that split and merge, consumers with SubscribeToShard (see proxy.py), stream ARNs. Slow."""
    home, port = packages() / "kinesis-local", free_port()
    settings = {
        "KINESIS_MOCK_CERT_PATH": str(home / "server.json"),
        "KINESIS_MOCK_PLAIN_PORT": str(port),
        "KINESIS_MOCK_TLS_PORT": str(free_port()),
        "SHARD_LIMIT": "1000",
        "LOG_LEVEL": "WARN",
        **{f"{change}_DURATION": "50ms" for change in _CHANGES},
    }
    command = ["env", *(f"{name}={value}" for name, value in settings.items()), "node", "-r", str(LOOPBACK), str(home / "main.js")]
    url = f"http://127.0.0.1:{port}"
    with running(command, folder, lambda: answers(f"{url}/healthcheck")):
        yield url


@contextmanager
def loaded(folder: Path) -> Iterator[str]:
    """kinesalite, its URL: ten times as fast; shards split and merge, but there are neither consumers nor calls by stream ARN."""
    port = free_port()
    durations = (f"--{each}StreamMs" for each in ("create", "delete", "update"))
    options = [word for each in durations for word in (each, "50")]
    command = ["node", "-r", str(LOOPBACK), str(packages() / ".bin" / "kinesalite"), "--port", str(port), "--shardLimit", "1000", *options]
    url = f"http://127.0.0.1:{port}"
    with running(command, folder, lambda: answers(url, 400, 403, 404)):
        yield url
