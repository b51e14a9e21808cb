"""What `check --live` finds out about topics and their group, without joining it and without reading a record for good."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.client import AIOKafkaClient, CoordinationType
from aiokafka.protocol.admin import DescribeGroupsRequest
from aiokafka.protocol.commit import OffsetFetchRequest

from connectors.kafka.logins import login, reach
from connectors.kafka.options import KafkaOptions
from connectors.kafka.refusals import place_of, refused
from connectors.kafka.topics import describe
from connectors.starting import epoch
from poller.errors import NotConnected
from poller.settings import Context, Finding
from poller.units import duration, show_duration

ANSWER_SECONDS = 4.0
"""How long one question may take: all of them have 15 s together."""


class Member(NamedTuple):
    """Someone in the group. `id`: with static membership it begins with the instance's name."""

    id: str
    client: str
    host: str


class Group(NamedTuple):
    """`kind`: of protocol, "consumer" for groups of consumers, "" for a group without members."""

    kind: str
    members: tuple[Member, ...]


class Seen(NamedTuple):
    """What the brokers said. `bounds`: (first offset kept, one past the last). `times`: topic -> message.timestamp.type, if told."""

    bounds: Mapping[TopicPartition, tuple[int, int]]
    committed: Mapping[TopicPartition, int]
    group: Group
    times: Mapping[str, str]


async def probe(options: KafkaOptions, context: Context, timeout: float) -> list[Finding]:
    """`timeout`: the function's, in seconds. Raises nothing of Kafka."""
    name = options.group_of(context.mapping.id)
    try:
        arguments = await login(options, context.base)
        server = await reach(options, arguments, ANSWER_SECONDS)
    except NotConnected as error:
        return [Finding("error", str(error))]
    found = [_let_in(options, server), *_in_the_clear(options), *_drain(options, timeout)]
    try:
        seen = await _ask(options, name, arguments)
    except (kafka.KafkaError, NotConnected, OSError, TimeoutError) as error:
        return [*found, Finding("error", str(refused(error, place_of(options, server), options)))]
    aged = context.mapping.failure.maximum_record_age is not None
    return [*found, *told(options, name, seen, aged, time.time())]


def told(options: KafkaOptions, name: str, seen: Seen, aged: bool, now: float) -> Iterator[Finding]:
    """What a person should know of it. Pure."""
    for topic in options.names:
        count = sum(1 for partition in seen.bounds if partition.topic == topic)
        yield Finding("ok", f"topic {topic!r} is there, has {_many(count, 'partition')}, and we may read it")
    yield from _members(options, name, seen.group)
    yield from _start(options, name, seen, now)
    yield from _clock(options, seen.times, aged)


# --- asking -------------------------------------------------------------------------------------------------------------------------


async def _ask(options: KafkaOptions, name: str, arguments: Mapping[str, Any]) -> Seen:
    """Raises KafkaError, NotConnected, OSError, TimeoutError."""
    patience = {"request_timeout_ms": int(ANSWER_SECONDS * 1000)}
    async with AsyncExitStack() as closing:
        client = AIOKafkaClient(**arguments, **patience)
        closing.push_async_callback(client.close)
        await client.bootstrap()
        partitions = [
            TopicPartition(topic, number)
            for topic, count in (await describe(client, options.names)).partitions.items()
            for number in range(count)
        ]
        group, committed = await _group(client, name, partitions)
        consumer = AIOKafkaConsumer(**arguments, **patience, group_id=None, auto_offset_reset="none", enable_auto_commit=False)
        closing.push_async_callback(consumer.stop)
        await consumer.start()
        bounds = await _bounds(consumer, partitions)
        admin = AIOKafkaAdminClient(**arguments, **patience)
        closing.push_async_callback(admin.close)
        await admin.start()
        return Seen(bounds, committed, group, await _times(admin, options))


async def _bounds(consumer: AIOKafkaConsumer, partitions: list[TopicPartition]) -> dict[TopicPartition, tuple[int, int]]:
    first, end = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
    # The permission to read is told only to who reads; at the end there is nothing to read.
    consumer.assign(partitions)
    for partition in partitions:
        consumer.seek(partition, end[partition])
    await consumer.getmany(timeout_ms=500, max_records=1)
    return {partition: (first[partition], end[partition]) for partition in partitions}


async def _group(client: AIOKafkaClient, name: str, partitions: list[TopicPartition]) -> tuple[Group, dict[TopicPartition, int]]:
    coordinator = await _coordinator(client, name)
    (described,) = (await client.send(coordinator, DescribeGroupsRequest([name]))).groups
    code, _, _, kind, _, members = described[:6]
    # Brokers since 4.0 answer so for a group that was never there (GROUP_ID_NOT_FOUND).
    if code not in (0, kafka.GroupIdNotFound.errno):
        raise kafka.for_code(code)(name)
    wanted: dict[str, list[int]] = {}
    for partition in partitions:
        wanted.setdefault(partition.topic, []).append(partition.partition)
    answer = await client.send(coordinator, OffsetFetchRequest(name, list(wanted.items())))
    committed = dict[TopicPartition, int]()
    for topic, rows in answer.topics:
        for number, offset, _, code in rows:
            if code:
                raise kafka.for_code(code)(name)
            if offset >= 0:
                committed[TopicPartition(topic, number)] = offset
    return Group(kind, tuple(Member(*member[:3]) for member in members)), committed


async def _coordinator(client: AIOKafkaClient, name: str) -> int:
    """A cluster that never had a group makes the topic for them when it is first asked, and has no answer meanwhile."""
    async with asyncio.timeout(ANSWER_SECONDS):
        while True:
            try:
                found: int = await client.coordinator_lookup(CoordinationType.GROUP, name)
            except (kafka.GroupCoordinatorNotAvailableError, kafka.GroupLoadInProgressError):
                await asyncio.sleep(0.1)
            else:
                return found


async def _times(admin: AIOKafkaAdminClient, options: KafkaOptions) -> dict[str, str]:
    """Nothing where we may not ask."""
    found = dict[str, str]()
    for answer in await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, name) for name in options.names]):
        for code, _, _, topic, entries in answer.resources:
            kind = next((entry[1] for entry in entries if entry[0] == "message.timestamp.type"), None)
            if not code and kind is not None:
                found[topic] = kind
    return found


# --- telling ------------------------------------------------------------------------------------------------------------------------


def _let_in(options: KafkaOptions, server: str) -> Finding:
    how = "TLS" if options.encrypted is not None else "no TLS"
    sasl = options.sasl
    login = "no login" if sasl is None else f"{sasl.mechanism}{f' as {sasl.username}' if sasl.username is not None else ''}"
    return Finding("ok", f"{server} lets us in ({login}, {how})")


def _in_the_clear(options: KafkaOptions) -> Iterator[Finding]:
    if options.encrypted is None and options.sasl is not None and options.sasl.mechanism in {"PLAIN", "OAUTHBEARER"}:
        what = "password" if options.sasl.mechanism == "PLAIN" else "token"
        yield Finding("warning", f"the {what} goes over the network in the clear; set tls, and use the port for it")
    if options.tls is not None and not options.tls.verify_hostname:
        yield Finding("warning", "tls.verify_hostname is false: whoever has a certificate of this authority may pose as a broker")


def _drain(options: KafkaOptions, timeout: float) -> Iterator[Finding]:
    if timeout > duration(options.drain_limit):
        text = (
            f"a rebalance waits {options.drain_limit} (drain_limit) for running invocations, and the function may take"
            f" {show_duration(timeout)}: what outlives it on a partition that moves to another daemon runs there again"
        )
        yield Finding("warning", text)


def _members(options: KafkaOptions, name: str, group: Group) -> Iterator[Finding]:
    if not group.members:
        yield Finding("ok", f"group {name!r} has no members now, and may be described (joining it was not tried: it would move partitions)")
        return
    if group.kind not in ("", "consumer"):
        yield Finding("error", f"group {name!r} is one of {group.kind!r}, not of consumers; choose another name with the option `group`")
        return
    ours = [member for member in group.members if member.client == options.client_id]
    others = [member for member in group.members if member.client != options.client_id]
    if ours:
        hosts = ", ".join(sorted({member.host.strip("/") for member in ours}))
        yield Finding("ok", f"group {name!r} has {_many(len(ours), 'member')} with our client_id ({hosts}): daemons that run this mapping")
    if others:
        names = ", ".join(sorted({f"{member.client} ({member.host.strip('/')})" for member in others}))
        text = f"group {name!r} is shared with {names}: records of the partitions that they get do not come to this mapping"
        yield Finding("warning", f"{text}; choose another name with the option `group`")
    instance = options.group_instance_id
    if instance is not None and any(member.id.startswith(f"{instance}-") for member in group.members):
        text = f"group_instance_id {instance!r} is in the group now; if that is another daemon, the two will throw each other out"
        yield Finding("warning", text)


def _start(options: KafkaOptions, name: str, seen: Seen, now: float) -> Iterator[Finding]:
    """Where reading begins, and what was lost before it could."""
    for partition, offset in sorted(seen.committed.items()):
        first, end = seen.bounds[partition]
        where = f"{partition.topic}-{partition.partition}: group {name!r} has committed {offset}, "
        if offset < first:
            yield Finding("warning", f"{where}but records are kept from {first} on: {first - offset} were removed before they were read")
        elif offset > end:
            yield Finding("warning", f"{where}but the partition ends at {end}: it was cut off or made anew; it is begun anew")
    fresh = [bounds for partition, bounds in seen.bounds.items() if partition not in seen.committed]
    if seen.committed:
        behind = sum(
            max(0, seen.bounds[partition][1] - max(offset, seen.bounds[partition][0])) for partition, offset in seen.committed.items()
        )
        yield Finding(
            "ok", f"group {name!r} goes on where it stopped on {_many(len(seen.committed), 'partition')}, {behind} behind the end"
        )
    if not fresh:
        return
    where = f"{_many(len(fresh), 'partition')} without committed offsets"
    kept = sum(end - first for first, end in fresh)
    match options.starting_position:
        case "TRIM_HORIZON":
            yield Finding("ok", f"{where}: read from the oldest record on (TRIM_HORIZON); up to {kept} are there")
        case "LATEST":
            text = f'{where}: starting_position = "LATEST" passes over what is there before the first start (up to {kept} records now)'
            yield Finding("warning" if kept else "ok", text)
        case "AT_TIMESTAMP":
            given = options.starting_position_timestamp
            later = given is not None and epoch(given) > now
            text = f"{where}: read from the first record of {given!r} or later on"
            yield Finding("warning", f"{text}, which is in the future: AWS refuses that") if later else Finding("ok", text)


def _clock(options: KafkaOptions, times: Mapping[str, str], aged: bool) -> Iterator[Finding]:
    """Whose time it is that ages and starting points go by."""
    stated = [
        what for what, is_so in (("maximum_record_age", aged), ("AT_TIMESTAMP", options.starting_position == "AT_TIMESTAMP")) if is_so
    ]
    for topic, kind in sorted(times.items()):
        if kind == "CreateTime" and stated:
            text = f"topic {topic!r}: timestamps are the producers' (CreateTime); {' and '.join(stated)} go by their clocks"
            yield Finding("ok", text)


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"
