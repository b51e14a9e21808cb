"""The `sqs` connector: its options, and what they allow. Vendor-free, so that `check` imports no vendor's library.

One queue is one lane: unkeyed for standard queues; keyed by message group for FIFO queues, whose groups run in parallel, each in order.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from connectors import fields
from connectors.sqs.queue import FALLBACK_VISIBILITY, Where, identity, where
from poller.errors import ConfigError
from poller.settings import Context, Finding, MappingSettings, Traits
from poller.units import duration

if TYPE_CHECKING:
    from connectors.sqs.client import SqsClient
    from connectors.sqs.returning import QueueReturner
    from connectors.sqs.source import SqsSource
    from poller.failures.journal import Entry
    from poller.feed import Place
    from poller.importing.carried import Importer
    from poller.permissions import Needed, Somewhere
    from poller.policy import Redeliver
    from poller.redrive.letters import RedriveContext, Regainer

LONGEST_WAIT = 20
"""SQS's own limit of a long poll, in seconds."""

ASSUMED = (
    "the queue's own redrive policy and visibility timeout are known only when it is asked; assumed here: no redrive policy, and "
    f"{FALLBACK_VISIBILITY}s"
)


class SqsOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`[mappings.X.source]` with `type = "sqs"`.

    `queue`: name, URL or ARN. `region`: default from an ARN or URL, then from the environment. `profile`: a profile of the AWS
    configuration files. `endpoint`: another SQS than AWS's. `role_arn`: a role to assume. `release_failed_groups` (FIFO): messages that
    came after a failed one of their group are given back with it, even if the function did not name them. `wait_time`: of a long poll.
    """

    queue: str
    region: str | None = None
    profile: str | None = None
    endpoint: str | None = None
    role_arn: str | None = None
    release_failed_groups: bool = False
    wait_time: str = "5s"


Connect: TypeAlias = Callable[[SqsOptions, int], Awaitable["SqsClient"]]
"""A client for these options, with so many connections."""


async def connect_to_aws(options: SqsOptions, connections: int) -> SqsClient:
    """Raises NotConnected, SourceError."""
    from connectors.aws import naming
    from connectors.aws.connection import Target, connected
    from connectors.sqs.aws import AwsClient

    named = where(options.queue)
    target = Target(options.region or named.region, options.profile, options.endpoint, options.role_arn, connections)
    return await connected(AwsClient(naming.place("SQS queue", named, options)), target)


class SqsConnector:
    """Knows one kind of source: an SQS queue."""

    options: type[msgspec.Struct] = SqsOptions

    def __init__(self, connect: Connect = connect_to_aws) -> None:
        self._connect = connect

    def __repr__(self) -> str:
        return "<SqsConnector>"

    def traits(self, options: SqsOptions) -> Traits:
        problems = list[str]()
        named, wait = _read(options, problems)
        if options.release_failed_groups and named is not None and not named.fifo:
            problems.append(f"release_failed_groups is for FIFO queues; {named.name!r} is none (a FIFO queue's name ends with .fifo)")
        if named is not None and options.region is not None and named.region not in {None, options.region}:
            problems.append(f"region is {options.region!r}, but the queue is in {named.region!r}; leave region out")
        if options.role_arn is not None and not options.role_arn.startswith("arn:"):
            problems.append(f"role_arn is {options.role_arn!r}; write the role's ARN (arn:aws:iam::<account>:role/<name>)")
        if options.endpoint is not None and not options.endpoint.startswith(("http://", "https://")):
            problems.append(f"endpoint is {options.endpoint!r}; write a URL (http://127.0.0.1:9324)")
        if problems or named is None or wait is None:
            raise ConfigError(problems)
        what = identity(named, options.region, options.profile, options.endpoint, options.role_arn)
        traits = Traits("queue", 10, filterable=fields.MESSAGE, identity=what, visibility=FALLBACK_VISIBILITY, assumed=(ASSUMED,))
        return replace(traits, maximum_batch_size=10, maximum_batching_window=0.0, fifo=True) if named.fifo else traits

    def policy(self, options: SqsOptions, settings: MappingSettings) -> Redeliver:
        """Without the queue's own limit: that is asked for by `open`."""
        from poller.policy import Redeliver

        return Redeliver.of(settings, None, options.release_failed_groups)

    def describe(self, entry: Entry) -> dict[str, Any]:
        """See `poller.settings.Describing`."""
        from connectors.sqs.batch_info import described

        return described(entry)

    def regainer(self, options: SqsOptions, context: RedriveContext) -> Regainer:
        """See `poller.redrive.letters.Regaining`."""
        from connectors.sqs.regaining import QueueRegainer

        return QueueRegainer(self._connect, options, context)

    async def returner(self, options: SqsOptions, place: Place) -> QueueReturner:  # noqa: ARG002 (the protocol's)
        """See `poller.feed.Returning`."""
        from connectors.sqs.returning import open_returner

        self.traits(options)
        return await open_returner(options)

    def importer(self) -> Importer:
        """See `poller.importing.carried.Importing`."""
        from connectors.sqs.importing import IMPORTER

        return IMPORTER

    def permissions(self, options: SqsOptions, settings: MappingSettings, place: Somewhere) -> Needed:  # noqa: ARG002 (the protocol's)
        """See `poller.permissions.SourcePermissions`."""
        from connectors.sqs.permissions import permissions

        return permissions(options, place)

    def returning(self, options: SqsOptions, place: Somewhere) -> Needed:
        """See `poller.permissions.ReturnPermissions`."""
        from connectors.sqs.permissions import returning

        return returning(options, place)

    async def open(self, options: SqsOptions, context: Context) -> SqsSource:
        from connectors.sqs.source import connections, open_source

        self.traits(options)  # ConfigError now is better than a surprise of SQS later, for who builds options in code
        settings = context.mapping
        client = await self._connect(options, connections(settings))
        wait = int(duration(options.wait_time))
        return await open_source(client, where(options.queue), settings, wait, self.policy(options, settings))

    async def probe(self, options: SqsOptions, context: Context, timeout: float) -> list[Finding]:
        from connectors.sqs.probe import probe

        return await probe(lambda: self._connect(options, 2), where(options.queue), self.policy(options, context.mapping), timeout)


def _read(options: SqsOptions, problems: list[str]) -> tuple[Where | None, int | None]:
    named: Where | None = None
    wait: int | None = None
    try:
        named = where(options.queue)
    except ValueError as error:
        problems.append(f"queue: {error}")
    try:
        seconds = duration(options.wait_time)
    except ValueError as error:
        problems.append(f"wait_time: {error}")
    else:
        if 1 <= seconds <= LONGEST_WAIT and seconds == int(seconds):
            wait = int(seconds)
        else:
            problems.append(f"wait_time is {options.wait_time!r}; SQS waits whole seconds, from 1s to {LONGEST_WAIT}s")
    return named, wait


connector = SqsConnector()
