"""S3, SNS and EventBridge in memory, on loopback (moto's server), with an SQS that topics and rules send to."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers.process import answers, free_port, running

REGION, ACCOUNT = "us-east-1", "123456789012"
"""Where all that tests make there is."""


@contextmanager
def services(folder: Path) -> Iterator[str]:
    """The URL, of all of them."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    # Not in the checkout: a module of ours must not be taken for one of its own.
    command = [sys.executable, "-P", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, folder, lambda: answers(f"{url}/moto-api/")):
        yield url
