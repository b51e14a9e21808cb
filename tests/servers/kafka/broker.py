"""A broker: a Java process of its own, broker and controller in one (KRaft), on loopback, its data in a folder."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.servers.process import await_ready, halt, jars, launch, stop

CLUSTER = "MkU3OEVBNTcwNTJENDM2Qg"
_JAVA = ["java", "-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
_LOGS = [
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.coordinator.group=info",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
]
_EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")

BASE = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    # Internal topics are made when first asked for: the fewer partitions, the sooner they are there.
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.num.partitions": "1",
    "group.initial.rebalance.delay.ms": "0",
    # A test of a lost member need not wait for long.
    "group.min.session.timeout.ms": "100",
    "auto.create.topics.enable": "false",
    # Records may be as old as a test says, and larger than what Lambda takes.
    "log.retention.ms": "-1",
    "message.max.bytes": "16777216",
    "replica.fetch.max.bytes": "16777216",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "background.threads": "2",
}


def quiet_port() -> int:
    """A free port that no client is given for its own end: whoever keeps dialling the port of a broker that is down could otherwise be
    connected to itself, and the broker could not come back to it.
    """
    lowest = int(_EPHEMERAL.read_text().split()[0]) if _EPHEMERAL.exists() else 32768
    while True:
        port = random.randrange(lowest // 2, lowest)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def replication(factor: int, in_sync: int) -> dict[str, str]:
    """The settings of all topics, the internal ones included."""
    topics = {"default.replication.factor": factor, "min.insync.replicas": in_sync}
    for internal in ("offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        topics[f"{internal}.replication.factor"] = factor
    for internal in ("transaction.state.log", "share.coordinator.state.topic"):
        topics[f"{internal}.min.isr"] = in_sync
    return {key: str(value) for key, value in topics.items()}


def node(number: int, port: int, controllers: Sequence[int], listeners: Mapping[str, tuple[str, int]] | None = None) -> dict[str, str]:
    """Listeners and quorum of one of several nodes, counted from 1. `controllers` are the ports of all of theirs; `listeners` are more of
    them, protocol and port by name.
    """
    clients = {"PLAINTEXT": ("PLAINTEXT", port), **(listeners or {})}
    addresses = [f"{name}://127.0.0.1:{port}" for name, (_, port) in clients.items()]
    return {
        "node.id": str(number),
        "listeners": ",".join([*addresses, f"CONTROLLER://127.0.0.1:{controllers[number - 1]}"]),
        "advertised.listeners": ",".join(addresses),
        "listener.security.protocol.map": ",".join(["CONTROLLER:PLAINTEXT", *(f"{name}:{kind}" for name, (kind, _) in clients.items())]),
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.quorum.voters": ",".join(f"{n}@127.0.0.1:{each}" for n, each in enumerate(controllers, 1)),
    }


def dead_after(seconds: float) -> dict[str, str]:
    """When the controller takes a silent broker for dead. A broker that was killed is let in again only then."""
    return {"broker.session.timeout.ms": str(int(seconds * 1000)), "broker.heartbeat.interval.ms": str(int(seconds * 1000 / 6))}


class Kafka:
    """Blocks until it is done, as each method says; an async test calls the slow ones with `asyncio.to_thread`.

    `bootstrap` is the address of its first listener, and stays, as the data do, over `kill` and `restart`.
    """

    def __init__(self, folder: Path, port: int, settings: Mapping[str, str], properties: Sequence[str] = ()) -> None:
        """`properties` are those of the Java process (`-D...`)."""
        self.bootstrap = f"127.0.0.1:{port}"
        self.port = port
        self.folder = folder
        self._config = folder / "server.properties"
        self._config.write_text("".join(f"{key}={value}\n" for key, value in {**BASE, **settings, "log.dirs": f"{folder}/data"}.items()))
        self._command = [*_JAVA, *_LOGS, *properties, "-cp", jars("kafka")]
        self._process: subprocess.Popen[bytes] | None = None

    def format(self, *arguments: str) -> None:
        """Once, before the first start (about a second). `arguments` are those of the storage tool, such as `--add-scram`."""
        tool = [*self._command, "kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", str(self._config), *arguments]
        done = subprocess.run(tool, cwd=self.folder, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def launch(self) -> None:
        """Does not wait until it answers: `await_ready` does."""
        self._process = launch([*self._command, "kafka.Kafka", str(self._config)], self.folder)

    def await_ready(self) -> None:
        """Until it takes requests (2 to 8 seconds from the launch)."""
        assert self._process is not None, "not launched"
        await_ready(self._process, self.folder, self._answers)

    def start(self) -> None:
        self.launch()
        self.await_ready()

    def kill(self) -> None:
        """As `kill -9` does: nothing is said to anyone, and nothing is flushed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It keeps its connections and answers nothing, until `resume`."""
        assert self._process is not None, "it does not run"
        halt(self._process.pid)

    def resume(self) -> None:
        assert self._process is not None, "it does not run"
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """In good order: its partitions are handed over first, if there is anyone to take them."""
        if self._process is not None:
            self.resume()
            stop(self._process)
            self._process = None

    def heal(self) -> None:
        """It runs and answers, whatever was done to it."""
        if self._process is None:
            self.start()
        else:
            self.resume()
            self.await_ready()

    def restart(self) -> None:
        """Stops it, if it runs, and starts it on the same port with the same data."""
        self.stop()
        self.start()

    @property
    def logs(self) -> str:
        """What it printed since it was first started."""
        return (self.folder / "output").read_text(errors="replace")

    def _answers(self) -> bool:
        # The listener opens when the controller has let the broker in.
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        except OSError:
            return False
        return True


def plain(folder: Path, port: int = 0, silence: float = 9.0) -> Kafka:
    """A broker without logins, formatted but not started. A port of 0 is a free one; `silence` as for `dead_after`."""
    port = port or quiet_port()
    broker = Kafka(folder, port, {**node(1, port, [quiet_port()]), **replication(1, 1), **dead_after(silence)})
    broker.format()
    return broker
