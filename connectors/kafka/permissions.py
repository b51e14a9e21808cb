"""What topics of Amazon MSK need of IAM, where one logs in with it. Pure.

Source: Amazon MSK guide, "IAM access control" (actions and resources); Service Authorization Reference, Apache Kafka APIs for Amazon MSK.
A cluster's ARN holds an id that no option names; its name is in the names of its brokers ("b-1.<cluster>.<id>.c2.kafka.<region>...").
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from connectors.kafka.options import KafkaOptions, Sasl, msk_region
from poller.permissions import Grant, Needed, Somewhere

READ = ("kafka-cluster:DescribeTopic", "kafka-cluster:DescribeTopicDynamicConfiguration", "kafka-cluster:ReadData")
WRITE = ("kafka-cluster:DescribeTopic", "kafka-cluster:WriteData")
JOIN = ("kafka-cluster:DescribeGroup", "kafka-cluster:AlterGroup")

_BROKER = re.compile(r"b-\d+(?:-public)?\.([a-z0-9-]+)\.[a-z0-9]+\.c\d+\.kafka\.[a-z0-9-]+\.amazonaws\.com")


def reading(options: KafkaOptions, mapping: str, place: Somewhere) -> Needed:
    """To poll its topics, as a member of its group."""
    if options.sasl is None or options.sasl.mechanism != "AWS_MSK_IAM":
        return Needed(remarks=(_elsewhere(options.names, "READ and DESCRIBE", f", and READ on the group {options.group_of(mapping)}"),))
    cluster = _Cluster(options.bootstrap_servers, options.sasl, place)
    return cluster.needed(
        Grant("ConnectToCluster", ("kafka-cluster:Connect",), (cluster.arn("cluster"),)),
        Grant("PollTopics", READ, tuple(cluster.arn("topic", name) for name in options.names)),
        Grant("JoinGroup", JOIN, (cluster.arn("group", options.group_of(mapping)),)),
    )


def sending(options: KafkaOptions, place: Somewhere) -> Needed:
    """To send to its topics, by an idempotent producer."""
    if options.sasl is None or options.sasl.mechanism != "AWS_MSK_IAM":
        return Needed(
            remarks=(_elsewhere(options.names, "WRITE and DESCRIBE", ", and IDEMPOTENT_WRITE on the cluster of an older broker"),)
        )
    cluster = _Cluster(options.bootstrap_servers, options.sasl, place)
    return cluster.needed(
        Grant("ConnectToCluster", ("kafka-cluster:Connect", "kafka-cluster:WriteDataIdempotently"), (cluster.arn("cluster"),)),
        Grant("SendToTopic", WRITE, tuple(cluster.arn("topic", name) for name in options.names)),
    )


def _elsewhere(topics: Sequence[str], operations: str, more: str) -> str:
    return f"topic {', '.join(topics)}: the cluster's own ACLs decide, not IAM: it needs {operations} on it{more}"


class _Cluster:
    def __init__(self, servers: Sequence[str], sasl: Sasl, place: Somewhere) -> None:
        hosts = [server.rpartition(":")[0] for server in servers]
        self._region = sasl.region or next((region for server in servers if (region := msk_region(server))), None)
        self._name = next((found[1] for host in hosts if (found := _BROKER.fullmatch(host))), "*")
        self._role = sasl.role_arn or ""
        self._place = place

    def arn(self, kind: str, name: str = "") -> str:
        return self._place.arn("kafka", f"{kind}/{self._name}/*{f'/{name}' if name else ''}", self._region)

    def needed(self, *grants: Grant) -> Needed:
        missing = "id is" if self._name != "*" else "name and id are"
        return Needed(grants, self._role, (f"the cluster's {missing} not in the configuration, and * stands there: see the cluster's ARN",))
