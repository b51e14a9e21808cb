"""`python -m tests.servers.kafka` starts a broker, prints its address, and ends it when it is interrupted."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import tempfile
from pathlib import Path

import pytest

from tests.servers.kafka.broker import plain
from tests.servers.kafka.cluster import KafkaCluster


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.servers.kafka", description="A Kafka broker, or three, until Ctrl-C.")
    parser.add_argument("--port", type=int, default=0, help="of a single broker; default: a free one")
    parser.add_argument("--cluster", action="store_true", help="three brokers, all records on each")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="kafka-") as folder:
        server = KafkaCluster(Path(folder)) if options.cluster else plain(Path(folder), options.port)
        try:
            server.start()
            print(server.bootstrap, flush=True)
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)  # until a broker ends by itself, as it may when its disk is full
            sys.exit("a broker has ended")
        finally:
            server.kill()


if __name__ == "__main__":
    try:
        main()
    except pytest.skip.Exception as missing:
        sys.exit(str(missing))
