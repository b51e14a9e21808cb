"""Event source mappings of Kafka's topics, as AWS's documents have them -> options of ours. Pure.

Sources: CreateEventSourceMapping; AWS SAM, "MSK" and "SelfManagedKafka" events; AWS Lambda guide, "Configuring cluster authentication and
network access" (what the secrets hold) and "Configuring retry behavior ... Apache Kafka" (ten retries where a destination is named).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from connectors.starting import imported_start
from poller.errors import ConfigError
from poller.importing.carried import Carried, Importer, Properties, Resource, list_of, table_of

RETRIES_WITH_DESTINATION = 10

_CLUSTER = re.compile(r"arn:[\w-]+:kafka:([\w-]+):\w+:(?:cluster|vpc-connection/\w+)/([\w.-]+)(?:/.+)?")
_READ = frozenset(
    {
        "AmazonManagedKafkaEventSourceConfig",
        "EventSourceArn",
        "SelfManagedEventSource",
        "SelfManagedKafkaEventSourceConfig",
        "SourceAccessConfigurations",
        "Topics",
    }
)
_NETWORK = {"VPC_SUBNET", "VPC_SECURITY_GROUP"}
_PASSWORDS = {"BASIC_AUTH": "PLAIN", "SASL_SCRAM_256_AUTH": "SCRAM-SHA-256", "SASL_SCRAM_512_AUTH": "SCRAM-SHA-512"}
_PORTS = {"IAM_AUTH": 9098, "CLIENT_CERTIFICATE_TLS_AUTH": 9094, **dict.fromkeys(_PASSWORDS, 9096)}
"""Of MSK's brokers, by how one logs in (Amazon MSK guide, "Port information")."""


def carry(properties: Properties) -> Carried | None:
    cluster = _CLUSTER.fullmatch(str(properties.get("EventSourceArn", "")))
    endpoints = table_of(table_of(properties.get("SelfManagedEventSource")).get("Endpoints"))
    servers = endpoints.get("KafkaBootstrapServers", endpoints.get("KAFKA_BOOTSTRAP_SERVERS"))
    if cluster is None and servers is None:
        return None
    settings = {
        **table_of(properties.get("SelfManagedKafkaEventSourceConfig")),
        **table_of(properties.get("AmazonManagedKafkaEventSourceConfig")),
    }
    _refuse(properties, settings)
    topics, remarks = list_of(properties.get("Topics")), list[str]()
    accesses = map(table_of, list_of(properties.get("SourceAccessConfigurations")))
    access = [(str(each.get("Type")), str(each.get("URI", ""))) for each in accesses]
    login = _login(access, cluster[1] if cluster else None, remarks)
    if cluster is not None and servers is None:
        port = next((_PORTS[kind] for kind, _ in access if kind in _PORTS), _PORTS["IAM_AUTH"])
        servers = [f"BOOTSTRAP-SERVER:{port}"]
        remarks.append(
            "the cluster's brokers are not in the document: `aws kafka get-bootstrap-brokers --cluster-arn "
            f"{cluster[0]}` tells what to write as bootstrap_servers"
        )
    group = {"group": settings["ConsumerGroupId"]} if settings.get("ConsumerGroupId") else {}
    if group:
        remarks.append("the consumer group is AWS's own: what it has committed wins, and its members share the partitions")
    start = imported_start(properties)
    source = {"bootstrap_servers": servers, "topic": topics[0], **group, **start.options, **login}
    return Carried(source, str(topics[0]), _READ | start.read, _meant(properties), (*start.remarks, *remarks))


def _refuse(properties: Properties, settings: Mapping[str, Any]) -> None:
    """Raises ConfigError for what would give the function other records than AWS does."""
    if settings.get("ConsumptionMode", "Stream") != "Stream":
        raise ConfigError("its ConsumptionMode is Queue (a share group), and here topics are read by consumer groups")
    if settings.get("SchemaRegistryConfig"):
        raise ConfigError("its records are decoded with a schema registry, and here they are not")
    if (count := len(list_of(properties.get("Topics")))) != 1:
        raise ConfigError(f"it has {count} Topics; AWS takes exactly one")


def _meant(properties: Properties) -> dict[str, Any]:
    """Retries without a limit, and a destination: AWS stops at ten, and says so nowhere but in its guide."""
    failed = table_of(table_of(properties.get("DestinationConfig")).get("OnFailure"))
    for_ever = str(properties.get("MaximumRetryAttempts", -1)) == "-1"
    return {"maximum_retry_attempts": RETRIES_WITH_DESTINATION} if failed.get("Destination") and for_ever else {}


def _login(access: list[tuple[str, str]], region: str | None, remarks: list[str]) -> dict[str, Any]:
    """`tls` and `sasl`. `region`: of MSK's cluster, whose default is IAM. Raises ConfigError for a login that we have not."""
    tls, sasl = dict[str, str](), dict[str, str]()
    ways = [(kind, uri) for kind, uri in access if kind not in _NETWORK]
    for kind, uri in ways:
        name = _variable(uri)
        if kind in _PASSWORDS:
            sasl |= {"mechanism": _PASSWORDS[kind], "username": f"env:{name}_USERNAME", "password": f"env:{name}_PASSWORD"}
        elif kind == "CLIENT_CERTIFICATE_TLS_AUTH":
            tls |= {"certificate": f"env:{name}_CERTIFICATE", "key": f"env:{name}_PRIVATEKEY"}
            remarks.append("if the private key has a password, add key_password to tls")
        elif kind == "SERVER_ROOT_CA_CERTIFICATE":
            tls |= {"ca": f"env:{name}_CERTIFICATE"}
        elif kind == "OAUTHBEARER_AUTH":
            grant = {"token_endpoint": "TOKENENDPOINT", "client_id": "CLIENTID", "client_secret": "CLIENTSECRET"}
            sasl |= {"mechanism": "OAUTHBEARER", **{key: f"env:{name}_{each}" for key, each in grant.items()}}
        elif kind == "IAM_AUTH":
            sasl |= {"mechanism": "AWS_MSK_IAM", **({"region": region} if region else {})}
        else:
            raise ConfigError(f"its login {kind} has no counterpart here")
        if uri.startswith("arn:"):
            remarks.append(f"what {uri} holds comes by environment variables: {', '.join(_references(kind, tls, sasl, name))}")
    if region is not None and not sasl and not tls:
        sasl = {"mechanism": "AWS_MSK_IAM", "region": region}
        remarks.append("the document names no login, and AWS takes IAM's then, if the cluster has it; else leave out sasl")
    return {**({"tls": tls} if tls or sasl else {}), **({"sasl": sasl} if sasl else {})}


def _references(kind: str, tls: Mapping[str, str], sasl: Mapping[str, str], name: str) -> Iterator[str]:
    table = tls if kind in {"CLIENT_CERTIFICATE_TLS_AUTH", "SERVER_ROOT_CA_CERTIFICATE"} else sasl
    keys = {"ca"} if kind == "SERVER_ROOT_CA_CERTIFICATE" else table.keys() - {"ca"}
    yield from (each.removeprefix("env:") for key, each in table.items() if key in keys and each.startswith(f"env:{name}_"))


def _variable(uri: str) -> str:
    """What a secret's variables are called: its name, without what Secrets Manager appends."""
    name = re.sub(r"-[A-Za-z0-9]{6}$", "", uri.rpartition(":")[2])
    return re.sub(r"\W+", "_", name.upper()).strip("_") or "SECRET"


IMPORTER = Importer(
    events={
        "MSK": {
            "Stream": "EventSourceArn",
            "ConsumerGroupId": "AmazonManagedKafkaEventSourceConfig.ConsumerGroupId",
            "SchemaRegistryConfig": "AmazonManagedKafkaEventSourceConfig.SchemaRegistryConfig",
        },
        "SelfManagedKafka": {
            "KafkaBootstrapServers": "SelfManagedEventSource.Endpoints.KafkaBootstrapServers",
            "ConsumerGroupId": "SelfManagedKafkaEventSourceConfig.ConsumerGroupId",
            "SchemaRegistryConfig": "SelfManagedKafkaEventSourceConfig.SchemaRegistryConfig",
        },
    },
    resources={
        "AWS::MSK::Cluster": Resource(
            "ClusterName",
            "arn:{partition}:kafka:{region}:{account}:cluster/{name}",
            {"Arn": "arn:{partition}:kafka:{region}:{account}:cluster/{name}"},
        ),
        "AWS::MSK::ServerlessCluster": Resource(
            "ClusterName",
            "arn:{partition}:kafka:{region}:{account}:cluster/{name}",
            {"Arn": "arn:{partition}:kafka:{region}:{account}:cluster/{name}"},
        ),
    },
    carry=carry,
)
