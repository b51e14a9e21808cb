"""What the cluster says of topics, asked without making any: a broker may create a topic that a client merely names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from aiokafka import errors as kafka
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.metadata import MetadataRequest

from poller.errors import NotConnected


class Client(AIOKafkaClient):  # type: ignore[misc]
    """aiokafka's own asks, with each look at its topics, that brokers make those that are missing: one that was deleted would come back."""

    async def _get_conn(self, *place: Any, **more: Any) -> Any:
        # Nobody but the look at topics uses what this returns, but to see whether it is None.
        connection = await super()._get_conn(*place, **more)
        return None if connection is None else _Discreet(connection)


class _Discreet(NamedTuple):
    connection: Any

    def send(self, request: Any) -> Any:
        if isinstance(request, MetadataRequest):
            request._allow_auto_topic_creation = False  # noqa: SLF001 (aiokafka leaves no other way)
        return self.connection.send(request)


class Cluster(NamedTuple):
    """`partitions`: topic -> how many."""

    id: str
    partitions: dict[str, int]


async def describe(client: AIOKafkaClient, topics: Iterable[str]) -> Cluster:
    """Raises NotConnected (permanent when a topic does not exist), KafkaError."""
    names = list(topics)
    answer = await client.send(client.get_random_node(), MetadataRequest(names, allow_auto_topic_creation=False))
    found, missing = dict[str, int](), list[str]()
    for code, name, *_, partitions in answer.topics:
        error = kafka.for_code(code)
        if error is kafka.UnknownTopicOrPartitionError:
            missing.append(name)
        elif error is not kafka.NoError:
            raise error(name)
        found[name] = len(partitions)
    if missing:
        names = sorted(missing)
        what = f"topic {names[0]!r} does not exist" if len(names) == 1 else f"topics {', '.join(map(repr, names))} do not exist"
        raise NotConnected(f"{what} (or this login may not see it); create it, or correct its name", permanent=True)
    return Cluster(answer.cluster_id or "", found)
