"""Leases and progress in KCL's table, on DynamoDB Local: what KCL wrote stays, what it did in between counts, and no other may use it."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from connectors.dynamodb import kind
from connectors.dynamodb.expressions import item
from connectors.sharded.sequence import token
from poller.errors import ConfigError, LaneLost, StoreError, StoreUnavailable
from poller.model import Holding, LaneKey, Lease
from poller.progress import Progress
from poller.protocols import Ledger
from tests.servers.dynamodb.client import TablesClient
from tests.servers.loopback import loopback

pytestmark = pytest.mark.servers

KEY = LaneKey("orders", "arn:aws:kinesis:eu-west-1:123456789012:stream/orders", "shardId-000000000000")
SEQUENCE = "49590338271490256608559692538361571095921575989136588898"
AFTER = Progress("TRIM_HORIZON", frontier=token(SEQUENCE, 1) + 1, closed=True)
"""Behind that record, as KCL's checkpoint says it."""

# As KCL 3.5 left it (tests/servers/kcl), with columns that no version has.
LEASE: Mapping[str, Any] = {
    "leaseKey": {"S": KEY.lane},
    "leaseOwner": {"S": "kcl"},
    "leaseCounter": {"N": "18"},
    "ownerSwitchesSinceCheckpoint": {"N": "0"},
    "checkpoint": {"S": SEQUENCE},
    "checkpointSubSequenceNumber": {"N": "0"},
    "parentShardId": {"SS": ["shardId-000000000007"]},
    "startingHashKey": {"S": "0"},
    "endingHashKey": {"S": "340282366920938463463374607431768211455"},
    "throughputKBps": {"N": "0.063413"},
    "entityType": {"S": "LEASE"},
    "comingSoon": {"M": {"a": {"L": [{"N": "1"}]}}},
}
OTHERS: list[Mapping[str, Any]] = [
    {"leaseKey": {"S": "kcl"}, "entityType": {"S": "WORKER_METRIC_STATS"}, "lut": {"N": "1795249792"}, "opr": {"M": {}}},
    {"leaseKey": {"S": "Migration3.0"}, "entityType": {"S": "CLIENT_VERSION_MIGRATION"}, "cv": {"S": "CLIENT_VERSION_3X"}},
    {"leaseKey": {"S": "Leader"}, "entityType": {"S": "LEADER"}, "leaseOwner": {"S": "kcl"}},
]


class Table:
    """A lease table, as the tests see it from outside."""

    def __init__(self, client: TablesClient, name: str) -> None:
        self.client = client
        self.name = name

    async def row(self, name: str = KEY.lane) -> dict[str, Any]:
        answer = await self.client._tables.get_item(TableName=self.name, Key=item({"leaseKey": name}), ConsistentRead=True)
        found: dict[str, Any] = answer["Item"]
        return found

    async def change(self, **columns: Any) -> None:
        """As KCL does: column by column."""
        for name, value in columns.items():
            await self.client.update(self.name, item({"leaseKey": KEY.lane}), name, item({name: value})[name])


@pytest.fixture
async def table(tables: TablesClient) -> Table:
    """With a lease of KCL, and rows of its that are none."""
    name = await tables.create("leaseKey:S", view=None)
    await tables.put(name, LEASE, *OTHERS)
    return Table(tables, name)


@pytest.fixture
async def opened(dynamodb: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[[str], Any]]:
    """Ledgers by table, as workers of their own open them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    async with AsyncExitStack() as stack:

        async def opening(name: str) -> Ledger:
            ledger = await kind.ledger(f"dynamodb://{name}?region=us-east-1&endpoint={dynamodb}", Path())
            stack.push_async_callback(ledger.aclose)
            return ledger

        yield opening


Opened = Callable[[str], Any]


async def taken(ledger: Ledger, now: float = 0.0) -> Lease:
    """From a worker of KCL that shows no more signs of life."""
    assert await ledger.leases.claim(KEY, "us", now, 10.0) is None
    lease = await ledger.leases.claim(KEY, "us", now + 10.0, 10.0)
    assert lease is not None
    return lease


# --- what KCL wrote -----------------------------------------------------------------------------------------------------------------------


async def test_we_go_on_where_kcl_stopped(table: Table, opened: Opened) -> None:
    ledger = await opened(table.name)
    assert await ledger.checkpoints.load(KEY) == AFTER
    await taken(ledger)
    assert await ledger.checkpoints.load(KEY) == AFTER


async def test_columns_and_rows_that_are_none_of_ours_stay_as_they_are(table: Table, opened: Opened) -> None:
    ledger = await opened(table.name)
    lease = await taken(ledger)
    await ledger.checkpoints.save(lease, Progress("TRIM_HORIZON", frontier=token(int(SEQUENCE) + 9) + 1))
    await ledger.leases.renew([lease], 11.0, 10.0)
    await ledger.leases.drop(lease)
    row = await table.row()
    ours = {"checkpoint", "leaseCounter", "leaseOwner", "ownerSwitchesSinceCheckpoint", "poller"}
    assert {name: value for name, value in row.items() if name not in ours} == {k: v for k, v in LEASE.items() if k not in ours}
    assert "leaseOwner" not in row and row["checkpoint"] == {"S": str(int(SEQUENCE) + 9)}
    assert [await table.row(each["leaseKey"]["S"]) for each in OTHERS] == OTHERS


async def test_rows_that_are_no_leases_are_no_lanes(table: Table, opened: Opened) -> None:
    ledger = await opened(table.name)
    assert await ledger.leases.held(KEY.mapping, KEY.source, 0.0) == [Holding(KEY.lane, "kcl")]
    with pytest.raises(StoreError, match="is no lease"):
        await ledger.leases.claim(LaneKey(KEY.mapping, KEY.source, "Leader"), "us", 0.0, 10.0)


async def test_a_lane_of_many_pages_is_found(table: Table, opened: Opened) -> None:
    wide = [{**LEASE, "leaseKey": {"S": f"shardId-{n:012d}"}, "wide": {"S": "x" * 300_000}} for n in range(1, 6)]
    await table.client.put(table.name, *wide)
    ledger = await opened(table.name)
    assert len(await ledger.leases.held(KEY.mapping, KEY.source, 0.0)) == 6


async def test_a_worker_of_kcl_that_renews_keeps_its_lease(table: Table, opened: Opened) -> None:
    ledger = await opened(table.name)
    for counter in range(19, 30):
        assert await ledger.leases.claim(KEY, "us", counter * 9.0, 10.0) is None
        await table.change(leaseCounter=counter)
    assert await ledger.leases.claim(KEY, "us", 29 * 9.0, 10.0) is None
    assert await ledger.leases.claim(KEY, "us", 29 * 9.0 + 10, 10.0) is not None
    row = await table.row()
    assert (row["leaseOwner"], row["leaseCounter"], row["ownerSwitchesSinceCheckpoint"]) == ({"S": "us"}, {"N": "30"}, {"N": "1"})


async def test_every_renewal_is_a_sign_of_life_for_kcl(table: Table, opened: Opened) -> None:
    ledger = await opened(table.name)
    lease = await taken(ledger)
    before = int((await table.row())["leaseCounter"]["N"])
    for n in range(3):
        assert await ledger.leases.renew([lease], 11.0 + n, 10.0) == [lease]
    assert int((await table.row())["leaseCounter"]["N"]) == before + 3


async def test_a_lane_of_ours_looks_like_one_of_kcl(tables: TablesClient, opened: Opened) -> None:
    name = f"app-{uuid.uuid4().hex}"
    ledger = await opened(name)
    await ledger.leases.claim(KEY, "us", 0.0, 10.0)
    row = await Table(tables, name).row()
    assert {column: value for column, value in row.items() if column != "poller"} == item(
        {
            "leaseKey": KEY.lane,
            "leaseOwner": "us",
            "leaseCounter": 1,
            "ownerSwitchesSinceCheckpoint": 0,
            "checkpoint": "TRIM_HORIZON",
            "checkpointSubSequenceNumber": 0,
            "entityType": "LEASE",
        }
    )
    described = await tables.describe(name)
    assert described["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"


async def test_lanes_without_a_name_and_states_are_not_in_kcls_table(tables: TablesClient, opened: Opened) -> None:
    name = f"app-{uuid.uuid4().hex}"
    ledger = await opened(name)
    moment = await ledger.leases.claim(LaneKey(KEY.mapping, KEY.source, ""), "us", 0.0, 10.0)
    await ledger.checkpoints.save(moment, Progress("LATEST 1763686800.0", closed=True))
    identity = await ledger.leases.claim(LaneKey(KEY.mapping, "", ""), KEY.source, 0.0, 10.0)
    await ledger.states.put(identity, 1, b"state")
    assert (await tables._tables.scan(TableName=name))["Items"] == []
    assert await ledger.checkpoints.load(moment.key) == Progress("LATEST 1763686800.0", closed=True)


# --- what KCL did in between --------------------------------------------------------------------------------------------------------------


async def test_a_checkpoint_of_kcl_counts_for_more_than_what_we_saved_before(table: Table, opened: Opened) -> None:
    ledger = await opened(table.name)
    lease = await taken(ledger)
    ours = Progress("TRIM_HORIZON", frontier=token(int(SEQUENCE) + 9) + 1, doubt=7)
    await ledger.checkpoints.save(lease, ours)
    await ledger.leases.drop(lease)
    assert await ledger.checkpoints.load(KEY) == ours
    await table.change(checkpoint=str(int(SEQUENCE) + 20), checkpointSubSequenceNumber=3)
    assert await ledger.checkpoints.load(KEY) == Progress("TRIM_HORIZON", frontier=token(int(SEQUENCE) + 20, 4) + 1, closed=True)


@pytest.mark.parametrize(
    ("word", "progress"),
    [
        ("SHARD_END", Progress("TRIM_HORIZON", closed=True, ended=True)),
        ("TRIM_HORIZON", Progress("TRIM_HORIZON")),
        ("LATEST", None),
        ("AT_TIMESTAMP", None),
    ],
)
async def test_its_words_are_understood(table: Table, opened: Opened, word: str, progress: Progress | None) -> None:
    await table.change(checkpoint=word)
    ledger = await opened(table.name)
    assert await ledger.checkpoints.load(KEY) == progress


async def test_a_shard_that_we_read_to_its_end_has_ended_for_kcl(table: Table, opened: Opened) -> None:
    ledger = await opened(table.name)
    lease = await taken(ledger)
    ended = Progress("TRIM_HORIZON", frontier=token(int(SEQUENCE) + 9) + 1, closed=True, ended=True)
    await ledger.checkpoints.save(lease, ended)
    assert (await table.row())["checkpoint"] == {"S": "SHARD_END"}
    assert await ledger.checkpoints.load(KEY) == ended


async def test_what_is_begun_and_not_done_is_read_again_by_kcl(table: Table, opened: Opened) -> None:
    """Its checkpoint is the last record before it that a save has named: at first its own."""
    ledger = await opened(table.name)
    lease = await taken(ledger)
    first, second, third = (token(int(SEQUENCE) + n) for n in (5, 9, 12))
    await ledger.checkpoints.save(lease, Progress("TRIM_HORIZON", frontier=second + 1, positions=((0, first),)))
    assert (await table.row())["checkpoint"] == {"S": SEQUENCE}
    await ledger.checkpoints.save(lease, Progress("TRIM_HORIZON", frontier=third + 1, positions=((0, third),)))
    assert (await table.row())["checkpoint"] == {"S": str(int(SEQUENCE) + 9)}
    # A worker that begins anew knows what was saved, too.
    other = await opened(table.name)
    assert await other.leases.claim(KEY, "us", 12.0, 10.0) is not None
    again = await other.leases.claim(KEY, "us", 12.0, 10.0)
    await other.checkpoints.save(again, Progress("TRIM_HORIZON", frontier=third + 1, positions=((0, third),)))
    assert (await table.row())["checkpoint"] == {"S": str(int(SEQUENCE) + 9)}


async def test_what_is_rewound_is_read_again_by_kcl(table: Table, opened: Opened) -> None:
    ledger = await opened(table.name)
    lease = await taken(ledger)
    await ledger.checkpoints.save(lease, Progress("TRIM_HORIZON", frontier=token(int(SEQUENCE) - 50)))
    assert (await table.row())["checkpoint"] == {"S": "TRIM_HORIZON"}


async def test_a_lane_that_kcl_stole_is_lost(table: Table, opened: Opened) -> None:
    ledger = await opened(table.name)
    lease = await taken(ledger)
    await ledger.checkpoints.save(lease, AFTER)
    await table.change(leaseOwner="kcl", leaseCounter=50)
    for change in (
        ledger.checkpoints.save(lease, Progress("TRIM_HORIZON", frontier=1)),
        ledger.checkpoints.forget(lease),
        ledger.states.put(lease, 1, b"x"),
        ledger.states.prune(lease, ()),
    ):
        with pytest.raises(LaneLost):
            await change
    assert await ledger.leases.renew([lease], 12.0, 10.0) == []
    await ledger.leases.drop(lease)
    row = await table.row()
    assert (row["leaseOwner"], row["leaseCounter"], row["checkpoint"]) == ({"S": "kcl"}, {"N": "50"}, {"S": SEQUENCE})
    assert await ledger.leases.claim(KEY, "asker", 12.0, 10.0, ask=True) is None
    assert await ledger.leases.held(KEY.mapping, KEY.source, 13.0) == [Holding(KEY.lane, "kcl")]


async def test_a_row_that_kcl_deleted_and_made_anew_is_not_held(table: Table, opened: Opened) -> None:
    """It deletes those of shards that are over."""
    ledger = await opened(table.name)
    lease = await taken(ledger)
    await table.client.delete(table.name, item({"leaseKey": KEY.lane}))
    with pytest.raises(LaneLost):
        await ledger.checkpoints.save(lease, AFTER)
    again = await ledger.leases.claim(KEY, "us", 11.0, 10.0)
    assert again is not None and again.counter != lease.counter
    with pytest.raises(LaneLost):
        await ledger.checkpoints.save(lease, AFTER)


# --- two workers --------------------------------------------------------------------------------------------------------------------------


async def test_of_two_workers_one_has_the_lane_and_the_other_waits_by_his_own_clock(table: Table, opened: Opened) -> None:
    one, other = await opened(table.name), await opened(table.name)
    stale = await taken(one)
    # The other's clock is an hour behind, and it sees the lane first at 0.0.
    assert await other.leases.claim(KEY, "other", -3600.0, 10.0) is None
    assert await one.leases.renew([stale], 15.0, 10.0) == [stale]
    assert await other.leases.claim(KEY, "other", -3595.0, 10.0) is None
    assert await other.leases.claim(KEY, "other", -3585.5, 10.0) is None
    fresh = await other.leases.claim(KEY, "other", -3585.0, 10.0)
    assert fresh is not None and fresh.counter > stale.counter
    with pytest.raises(LaneLost):
        await one.checkpoints.save(stale, Progress("TRIM_HORIZON", frontier=1))
    assert await one.leases.renew([stale], 16.0, 10.0) == []
    await other.checkpoints.save(fresh, AFTER)
    assert await one.checkpoints.load(KEY) == AFTER


CHANGES: dict[str, Callable[[Ledger, Lease], Any]] = {
    "save": lambda ledger, lease: ledger.checkpoints.save(lease, Progress("TRIM_HORIZON", frontier=1)),
    "forget": lambda ledger, lease: ledger.checkpoints.forget(lease),
    "put": lambda ledger, lease: ledger.states.put(lease, 1, b"x"),
    "prune": lambda ledger, lease: ledger.states.prune(lease, ()),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
async def test_what_is_sent_under_an_older_claim_is_refused(table: Table, opened: Opened, change: Callable[[Ledger, Lease], Any]) -> None:
    """Nothing in this process knows that another one of the same name has claimed the lane: the row itself refuses."""
    one, other = await opened(table.name), await opened(table.name)
    stale = await taken(one)
    fresh = await other.leases.claim(KEY, stale.owner, 0.0, 10.0)
    assert fresh is not None
    await other.states.put(fresh, 1, b"kept")
    with pytest.raises(LaneLost):
        await change(one, stale)
    assert await one.leases.renew([stale], 11.0, 10.0) == []
    await one.leases.drop(stale)
    assert await other.leases.renew([fresh], 1.0, 10.0) == [fresh]
    assert (await other.checkpoints.load(KEY), await other.states.get(KEY, 1)) == (AFTER, b"kept")


async def test_a_word_is_heard_by_another_worker(table: Table, opened: Opened) -> None:
    one, other = await opened(table.name), await opened(table.name)
    lease = await taken(one)
    assert await other.leases.claim(KEY, "other", 500.0, 10.0, ask=True) is None
    assert await one.leases.held(KEY.mapping, KEY.source, 12.0) == [Holding(KEY.lane, "us", "other")]
    await one.leases.drop(lease)
    assert await one.leases.claim(KEY, "us", 12.5, 10.0) is None
    assert await other.leases.claim(KEY, "other", 501.0, 10.0) is not None
    assert await other.leases.held(KEY.mapping, KEY.source, 501.0) == [Holding(KEY.lane, "other")]


async def test_a_save_that_comes_after_a_later_one_is_refused(table: Table, opened: Opened) -> None:
    one, other = await opened(table.name), await opened(table.name)
    lease = await taken(one)
    await one.checkpoints.save(lease, Progress("TRIM_HORIZON", frontier=token(SEQUENCE) + 1))
    # As if an answer had been late: the other one goes on from what is in the row.
    await other.checkpoints.save(lease, AFTER)
    await other.checkpoints.save(lease, AFTER)
    with pytest.raises(LaneLost):
        await one.checkpoints.save(lease, Progress("TRIM_HORIZON", frontier=1))
    assert await one.checkpoints.load(KEY) == AFTER


# --- tables of others ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [LaneKey("returns", KEY.source, KEY.lane), LaneKey(KEY.mapping, f"{KEY.source}-2", "shardId-000000000009")])
async def test_a_table_serves_one_mapping_and_one_source(table: Table, opened: Opened, key: LaneKey) -> None:
    await taken(await opened(table.name))
    other = await opened(table.name)
    for use in (other.leases.claim(key, "other", 0.0, 10.0), other.checkpoints.load(key), other.leases.held(key.mapping, key.source, 0.0)):
        with pytest.raises(StoreError, match=r"holds lanes of (mapping|source)"):
            await use


async def test_a_row_of_another_is_refused_though_the_mark_of_the_table_is_gone(table: Table, opened: Opened) -> None:
    await taken(await opened(table.name))
    await table.client.delete_table(f"{table.name}-poller")
    other = await opened(table.name)
    with pytest.raises(StoreError, match="holds lanes of mapping orders"):
        await other.leases.claim(LaneKey("returns", KEY.source, KEY.lane), "other", 0.0, 10.0)


async def test_a_table_of_something_else_is_left_alone(tables: TablesClient, opened: Opened) -> None:
    ledger = await opened(await tables.create("id:S", view=None))
    with pytest.raises(StoreError, match="no lease table"):
        await ledger.leases.claim(KEY, "us", 0.0, 10.0)


async def test_progress_that_cannot_be_read_is_not_guessed_at(table: Table, opened: Opened) -> None:
    await table.change(checkpoint="what?")
    ledger = await opened(table.name)
    with pytest.raises(StoreError, match="shardId-000000000000 of mapping orders is damaged"):
        await ledger.checkpoints.load(KEY)


# --- refusals -----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "told"),
    [
        (400, "AccessDeniedException", "check the credentials"),
        (400, "ProvisionedThroughputExceededException", "ProvisionedThroughputExceeded"),
        (503, "ServiceUnavailable", "ServiceUnavailable"),
    ],
)
async def test_a_dynamodb_that_refuses_is_tried_again_later(monkeypatch: pytest.MonkeyPatch, status: int, code: str, told: str) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    async with loopback(lambda _: (status, b'{"__type": "x#%s", "message": "no"}' % code.encode())) as served:
        ledger = await kind.ledger(f"dynamodb://orders?region=us-east-1&endpoint={served.url}", Path())
        try:
            with pytest.raises(StoreUnavailable, match=told):
                await ledger.checkpoints.load(KEY)
        finally:
            await ledger.aclose()


async def test_it_keeps_no_journal() -> None:
    with pytest.raises(ConfigError, match="no journal"):
        await kind.store("dynamodb://orders", Path())
