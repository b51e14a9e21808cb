"""The options of the `kafka` connector. Vendor-free: `check` reads them, and imports no client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from connectors.starting import Position, contradictions
from poller.settings import Filterable
from poller.units import duration

Mechanism: TypeAlias = Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "AWS_MSK_IAM"]

_SERVER = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]@]+):(\d{1,5})")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_MSK_HOST = re.compile(r"\.kafka(?:-serverless)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?$")

SHORTEST_SESSION, LONGEST_SESSION = 3.0, 1800.0
"""Below, heartbeats each second would be missed at once; above, no broker agrees (group.max.session.timeout.ms)."""

LONGEST_DRAIN = 900.0
"""No function runs longer on Lambda."""

FILTERABLE = Filterable(
    ("topic", "partition", "offset", "timestamp", "timestampType", "value"), "value", mismatch="ignore", encoding="base64"
)
"""Neither key nor headers (AWS Lambda guide, "Using event filtering with a self-managed Apache Kafka event source")."""


class Tls(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`tls = { ... }`; `tls = {}` trusts the certificate authorities of the system.

    `ca`: who signed the brokers' certificates. `certificate` and `key`: who we are, where brokers ask for that; the key may stand in the
    certificate's file. All PEM: a path (relative to the configuration's folder), or the text itself by reference (`env:NAME`).
    `verify_hostname = false` still asks for a certificate that `ca` signed, but for any host.
    """

    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    key_password: str | None = None
    verify_hostname: bool = True


class Sasl(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`sasl = { mechanism = ..., ... }`. Secrets are references (`env:NAME`, `file:/path`); a file is read again for each new login.

    PLAIN and SCRAM: `username`, `password`. OAUTHBEARER: `token_endpoint`, `client_id`, `client_secret` and perhaps `scope` and `audience`
    (the client credentials grant of OAuth 2.0), or a `token`; `extensions` go to the broker with it. AWS_MSK_IAM: the credentials are
    those of the environment, of `profile` or of `role_arn`; `region` defaults to the brokers' own.
    """

    mechanism: Mechanism
    username: str | None = None
    password: str | None = None
    token: str | None = None
    token_endpoint: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    scope: str | None = None
    audience: str | None = None
    extensions: dict[str, str] = {}
    region: str | None = None
    profile: str | None = None
    role_arn: str | None = None


class KafkaOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`topic` or `topics`; `tls` and `sasl` say how to log in."""

    bootstrap_servers: Annotated[list[str], Meta(description='Brokers to begin with: `["host:port"]`.')]
    topic: Annotated[str | None, Meta(description="The topic to poll.", extra={"default": "required, or `topics`"})] = None
    topics: Annotated[list[str], Meta(description="Several topics to poll, instead of `topic`.")] = []
    group: Annotated[
        str | None,
        Meta(
            description="The consumer group. Its members share the partitions; offsets that it has committed win over `starting_position`.",
            extra={"default": "`poller-` and the mapping's id"},
        ),
    ] = None
    group_instance_id: Annotated[
        str | None,
        Meta(
            description="Static membership: a name of this daemon's own, so that its partitions wait for it over a quick restart. Of "
            "several `workers`, each adds its number."
        ),
    ] = None
    starting_position: Annotated[Position, Meta(description="Where to begin when the group has no committed offsets.")] = "TRIM_HORIZON"
    starting_position_timestamp: Annotated[
        str | float | None, Meta(description='With `"AT_TIMESTAMP"`: ISO 8601, or epoch seconds.', extra={"default": ""})
    ] = None
    partial: Annotated[
        Literal["listed", "cut"],
        Meta(
            description='After a partial failure: `"listed"` retries exactly the records that the function named, as AWS; `"cut"` retries '
            "from the first of them on."
        ),
    ] = "listed"
    isolation_level: Annotated[
        Literal["read_committed", "read_uncommitted"],
        Meta(description="Whether records of transactions that are open or aborted are left out."),
    ] = "read_committed"
    session_timeout: Annotated[
        str,
        Meta(
            description="How long the group waits for a daemon that went silent before others get its partitions.",
            extra={"unit": "duration"},
        ),
    ] = "20s"
    drain_limit: Annotated[
        str,
        Meta(
            description="How long a rebalance waits for running invocations. What outlives it on a partition that moves is run again by "
            "the partition's new owner.",
            extra={"unit": "duration"},
        ),
    ] = "25s"
    client_id: Annotated[str, Meta(description="What brokers' logs and quotas call us.")] = "poller"
    rack: Annotated[
        str | None, Meta(description="Where this daemon is (`broker.rack` there): records are then read from the nearest replica.")
    ] = None
    tls: Annotated[
        Tls | None,
        Meta(
            description="`{ ca, certificate, key, key_password, verify_hostname }`; `{}` trusts the system's authorities.",
            extra={"default": "no TLS; `{}` with AWS_MSK_IAM"},
        ),
    ] = None
    sasl: Annotated[
        Sasl | None,
        Meta(
            description="`{ mechanism, ... }`, mechanism PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER or AWS_MSK_IAM.",
            extra={"default": "no login"},
        ),
    ] = None

    @property
    def names(self) -> tuple[str, ...]:
        """The topics."""
        return (self.topic,) if self.topic is not None else tuple(self.topics)

    def group_of(self, mapping_id: str) -> str:
        """The consumer group."""
        return self.group if self.group is not None else f"poller-{mapping_id}"

    def instance_of(self, worker: int) -> str | None:
        """The name of a static member; workers of one daemon are members of their own, and would throw each other out under one name."""
        return f"{self.group_instance_id}-{worker}" if self.group_instance_id is not None and worker else self.group_instance_id

    @property
    def encrypted(self) -> Tls | None:
        """How TLS is spoken; None is not at all. MSK takes IAM over TLS only."""
        return Tls() if self.tls is None and self.sasl is not None and self.sasl.mechanism == "AWS_MSK_IAM" else self.tls


def problems(options: KafkaOptions) -> list[str]:
    """Everything that the options contradict, a sentence each, which begins with the key it is about."""
    return [*_place(options), *_group(options), *_tls(options.tls), *([] if options.sasl is None else _sasl(options.sasl, options))]


def refused_by_aws(options: KafkaOptions) -> Iterator[str]:
    """What CreateEventSourceMapping would not take (aws-esm: Parameters)."""
    if len(options.names) > 1:
        yield f"topics names {len(options.names)}; a mapping has exactly one on AWS: make one mapping a topic"
    if len(options.bootstrap_servers) > 10:
        yield f"bootstrap_servers names {len(options.bootstrap_servers)}; AWS takes up to 10"
    for server in options.bootstrap_servers:
        if len(server) > 300:
            yield f"bootstrap_servers: {server[:40]}... has {len(server)} characters; AWS takes up to 300"
    if options.group is not None and len(options.group) > 200:
        yield f"group has {len(options.group)} characters; AWS takes up to 200"


def msk_region(server: str) -> str | None:
    """The region in the name of a broker of MSK."""
    found = _MSK_HOST.search(server.rpartition(":")[0])
    return None if found is None else found[1]


def _place(options: KafkaOptions) -> Iterator[str]:
    if not options.bootstrap_servers:
        yield 'bootstrap_servers is empty; write at least one broker (["broker1:9092"])'
    for server in options.bootstrap_servers:
        match = _SERVER.fullmatch(server)
        if match is None or not 1 <= int(match[2]) <= 65535:
            yield f'bootstrap_servers: {server!r} is no host and port; write "broker1:9092", or "[::1]:9092"'
    if (options.topic is None) is (not options.topics):
        yield "topic and topics: give exactly one of them"
    for name in options.names:
        if _NAME.fullmatch(name) is None or name in {".", ".."}:
            yield f"topic {name!r}: a topic's name has 1 to 249 letters, digits, '.', '_' or '-'"
    if len(set(options.names)) < len(options.names):
        yield "topics: a topic is named twice"


def _group(options: KafkaOptions) -> Iterator[str]:
    if options.group is not None and not options.group.strip():
        yield "group is empty; leave it out for the group of this mapping"
    if options.group_instance_id is not None and _NAME.fullmatch(options.group_instance_id) is None:
        yield f"group_instance_id {options.group_instance_id!r}: it has 1 to 249 letters, digits, '.', '_' or '-'"
    yield from contradictions(options.starting_position, options.starting_position_timestamp)
    yield from _duration("session_timeout", options.session_timeout, SHORTEST_SESSION, LONGEST_SESSION, "3s to 30m")
    yield from _duration("drain_limit", options.drain_limit, 0.0, LONGEST_DRAIN, "0s to 15m")


def _duration(key: str, value: str, least: float, most: float, allowed: str) -> Iterator[str]:
    try:
        seconds = duration(value)
    except ValueError as error:
        yield f"{key}: {error}"
    else:
        if not least <= seconds <= most:
            yield f"{key} = {value!r}: must be {allowed}"


def _tls(tls: Tls | None) -> Iterator[str]:
    if tls is not None and tls.certificate is None:
        for key in ("key", "key_password"):
            if getattr(tls, key) is not None:
                yield f"tls.{key} belongs to a certificate of ours; give tls.certificate too"


_LOGIN = {"username", "password"}
_GRANT = {"token_endpoint", "client_id", "client_secret"}
_USES: dict[Mechanism, tuple[set[str], set[str]]] = {
    "PLAIN": (_LOGIN, set()),
    "SCRAM-SHA-256": (_LOGIN, set()),
    "SCRAM-SHA-512": (_LOGIN, set()),
    "OAUTHBEARER": (_GRANT, {"scope", "audience", "extensions", "token"}),
    "AWS_MSK_IAM": (set(), {"region", "profile", "role_arn"}),
}
"""Mechanism -> (keys that it needs, keys that it may have)."""


def _sasl(sasl: Sasl, options: KafkaOptions) -> Iterator[str]:
    needed, allowed = _USES[sasl.mechanism]
    by_token = sasl.mechanism == "OAUTHBEARER" and sasl.token is not None
    if by_token:
        needed, allowed = {"token"}, {"extensions"}
    given = {key for key in sasl.__struct_fields__ if key != "mechanism" and getattr(sasl, key) not in (None, {})}
    for key in sorted(needed - given):
        or_token = " (or a token)" if sasl.mechanism == "OAUTHBEARER" else ""
        yield f"sasl.{key} is missing; {sasl.mechanism} needs {_list(needed)}{or_token}"
    for key in sorted(given - needed - allowed):
        yield f"sasl.{key} is not used by {sasl.mechanism}{' with a token' if by_token else ''}; leave it out"
    if sasl.token_endpoint is not None and not sasl.token_endpoint.startswith(("http://", "https://")):
        yield f"sasl.token_endpoint is {sasl.token_endpoint!r}; write a URL (https://login.example.com/oauth2/token)"
    if sasl.role_arn is not None and not sasl.role_arn.startswith("arn:"):
        yield f"sasl.role_arn is {sasl.role_arn!r}; write the role's ARN (arn:aws:iam::<account>:role/<name>)"
    if sasl.mechanism == "AWS_MSK_IAM":
        named = {region for server in options.bootstrap_servers if (region := msk_region(server)) is not None}
        if sasl.region is not None and named and named != {sasl.region}:
            yield f"sasl.region is {sasl.region!r}, but the brokers are in {', '.join(sorted(named))}; leave region out"


def _list(keys: set[str]) -> str:
    *most, last = sorted(keys)
    return f"{', '.join(most)} and {last}" if most else last
