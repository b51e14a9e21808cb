"""DynamoDB Local with its streams, in memory, on loopback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import JARS, answers, free_port, jars, running


@contextmanager
def dynamodb_local(folder: Path) -> Iterator[str]:
    """Its URL; DynamoDB and DynamoDB Streams are one. Writes take it a millisecond, and a stream has one shard that never rolls over."""
    libraries, home, port = jars("dynamodb"), JARS / "dynamodb" / "libs", free_port()
    java = ["java", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", f"-Dsqlite4java.library.path={home}"]
    command = [*java, "-cp", f"{libraries}:{home}/classes", "Loopback", "-inMemory", "-sharedDb", "-port", str(port), "-disableTelemetry"]
    url = f"http://127.0.0.1:{port}"
    with running(command, folder, lambda: answers(url, 400)):
        yield url
