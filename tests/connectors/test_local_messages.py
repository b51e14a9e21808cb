"""SQS's rules, as transactions over a real file."""

import sqlite3
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.local import messages
from connectors.local.database import SCHEMA
from connectors.local.messages import Draft, Queue
from poller.errors import SourceError

NOW = 1_700_000_000.0


def opened(path):
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA synchronous = OFF")
    for statement in SCHEMA.migrations[0]:
        connection.execute(statement)
    return connection


@pytest.fixture
def connection(tmp_path: Path):
    connection = opened(tmp_path / "local.db")
    yield connection
    connection.close()


def queue(connection, name="orders", fifo=False, visibility=30.0, retention=4 * 86400.0, redrive=None) -> Queue:
    return messages.ensure(connection, name, fifo, visibility, retention, redrive)


def draft(body: str, group: str | None = None, deduplication: str | None = None) -> Draft:
    return Draft(f"id-{body}", body, "md5", 10, None, None, group, deduplication)


def put(connection, queue, *bodies, group=None, now=NOW):
    return messages.put(connection, queue, [draft(body, group) for body in bodies], now)


def receive(connection, queue, limit=10, now=NOW):
    return messages.receive(connection, queue, limit, now).messages


def bodies(received):
    return [message.body for message in received]


def delete(connection, queue, received, now=NOW):
    groups = {message.group for message in received} - {None}
    return messages.settle(connection, queue, [message.receipt for message in received], (), groups, now)


def show(connection, queue, received, visible, now=NOW):
    groups = {message.group for message in received} - {None}
    return messages.settle(connection, queue, (), [(visible, message.receipt) for message in received], groups, now)


# --- standard -------------------------------------------------------------------------------------------------------------------------


def test_received_is_invisible_until_its_timeout_and_counted(connection):
    orders = queue(connection)
    put(connection, orders, "a", "b")
    first = receive(connection, orders)
    assert bodies(first) == ["a", "b"]
    assert [message.receives for message in first] == [1, 1]
    assert receive(connection, orders, now=NOW + 29.9) == []
    again = receive(connection, orders, now=NOW + 30)
    assert [message.receives for message in again] == [2, 2]
    assert [message.first for message in again] == [NOW, NOW]


def test_the_limit_holds_and_the_oldest_come_first(connection):
    orders = queue(connection)
    put(connection, orders, *"abcde")
    assert bodies(receive(connection, orders, 2)) == ["a", "b"]
    assert bodies(receive(connection, orders, 2)) == ["c", "d"]


def test_what_is_tried_again_does_not_starve_behind_new_messages(connection):
    orders = queue(connection)
    put(connection, orders, "old")
    show(connection, orders, receive(connection, orders), NOW + 1)
    put(connection, orders, "new", now=NOW + 2)
    assert bodies(receive(connection, orders, 1, NOW + 3)) == ["old"]


def test_a_receipt_is_stale_once_the_message_is_received_again(connection):
    orders = queue(connection)
    put(connection, orders, "a")
    first = receive(connection, orders)
    second = receive(connection, orders, now=NOW + 31)
    assert first[0].receipt != second[0].receipt
    assert delete(connection, orders, first) == 0
    assert show(connection, orders, first, NOW) == 0
    assert receive(connection, orders, now=NOW + 32) == [], "the stale receipt changed nothing"
    assert delete(connection, orders, second) == 1
    assert delete(connection, orders, second) == 0, "twice is once"


def test_a_late_delete_counts_while_nobody_received_it_again(connection):
    orders = queue(connection)
    put(connection, orders, "a")
    first = receive(connection, orders)
    assert delete(connection, orders, first, NOW + 100) == 1
    assert receive(connection, orders, now=NOW + 200) == []


def test_visibility_can_be_changed(connection):
    orders = queue(connection)
    put(connection, orders, "a")
    show(connection, orders, receive(connection, orders), NOW + 5)
    assert messages.due(connection, orders) == NOW + 5
    assert receive(connection, orders, now=NOW + 4) == []
    assert bodies(receive(connection, orders, now=NOW + 5)) == ["a"]


def test_due_says_when_to_look(connection):
    orders = queue(connection)
    assert messages.due(connection, orders) is None
    put(connection, orders, "a")
    assert messages.due(connection, orders) == NOW
    receive(connection, orders)
    assert messages.due(connection, orders) == NOW + 30


def test_two_queues_share_the_file_and_nothing_else(connection):
    orders, clicks = queue(connection), queue(connection, "clicks")
    put(connection, orders, "a")
    assert receive(connection, clicks) == []


# --- redrive --------------------------------------------------------------------------------------------------------------------------


def test_the_receive_that_would_exceed_the_limit_moves(connection):
    orders = queue(connection, redrive=("dead", 2))
    put(connection, orders, "poison")
    for n in range(2):
        assert [message.receives for message in receive(connection, orders, now=NOW + n * 30)] == [n + 1]
    put(connection, orders, "good", now=NOW + 50)
    taken = messages.receive(connection, orders, 10, NOW + 60)
    assert (bodies(taken.messages), taken.moved) == (["good"], 1)
    dead = queue(connection, "dead")
    (moved,) = receive(connection, dead, now=NOW + 61)
    assert (moved.body, moved.message_id, moved.sent, moved.first) == ("poison", "id-poison", NOW, NOW)
    assert (moved.receives, moved.earlier) == (1, 2), "functions see 3; the dead-letter queue's own limit starts anew"
    assert moved.origin == "arn:aws:sqs:local:000000000000:orders"


def test_a_moved_message_fills_no_place_of_the_limit(connection):
    orders = queue(connection, redrive=("dead", 1))
    put(connection, orders, "p", "q")
    receive(connection, orders)
    put(connection, orders, "a", "b", now=NOW + 31)
    assert bodies(receive(connection, orders, 2, NOW + 32)) == ["a", "b"]


def test_a_dead_letter_queue_keeps_what_its_own_mapping_configured(connection):
    queue(connection, "dead", retention=3600.0)
    queue(connection, redrive=("dead", 2))
    assert connection.execute("SELECT retention FROM queues WHERE name='dead'").fetchone() == (3600.0,)


def test_the_last_configuration_holds_but_the_kind_cannot_change(connection):
    queue(connection, visibility=30.0, redrive=("dead", 3))
    assert queue(connection, visibility=60.0).visibility == 60.0
    row = connection.execute("SELECT visibility, dead_letter, maximum_receives FROM queues WHERE name='orders'").fetchone()
    assert row == (60.0, None, None)
    with pytest.raises(SourceError, match="'orders' is a standard queue and cannot become a FIFO queue"):
        queue(connection, fifo=True)
    queue(connection, "line", fifo=True)
    with pytest.raises(SourceError, match="'line' is a FIFO queue"):
        queue(connection, redrive=("line", 3))


# --- retention ------------------------------------------------------------------------------------------------------------------------


def test_older_than_the_retention_is_gone_and_counted(connection):
    orders = queue(connection, retention=60.0)
    put(connection, orders, "old")
    put(connection, orders, "young", now=NOW + 30)
    taken = messages.receive(connection, orders, 10, NOW + 61)
    assert (bodies(taken.messages), taken.expired) == (["young"], 1)


def test_upkeep_leaves_what_is_in_flight(connection):
    orders = queue(connection, visibility=100.0, retention=60.0)
    put(connection, orders, "flight")
    receive(connection, orders)
    put(connection, orders, "old")
    assert messages.expire(connection, orders, NOW + 61) == 1
    assert connection.execute("SELECT body FROM messages").fetchall() == [("flight",)]


# --- FIFO -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def line(connection):
    return queue(connection, "line", fifo=True)


def test_a_group_in_flight_gives_no_more(connection, line):
    put(connection, line, "a1", "a2", "a3", group="a")
    put(connection, line, "b1", group="b")
    first = receive(connection, line, 2)
    assert bodies(first) == ["a1", "a2"], "several of one group, in order"
    assert bodies(receive(connection, line)) == ["b1"], "other groups go on"
    assert receive(connection, line) == []
    delete(connection, line, first[:1])
    assert receive(connection, line) == [], "a2 is still in flight"
    delete(connection, line, first[1:])
    assert bodies(receive(connection, line)) == ["a3"]


def test_what_is_put_while_the_group_is_in_flight_waits(connection, line):
    put(connection, line, "a1", group="a")
    first = receive(connection, line)
    put(connection, line, "a2", group="a")
    assert receive(connection, line) == []
    delete(connection, line, first)
    assert bodies(receive(connection, line)) == ["a2"]


def test_a_failed_message_blocks_its_group_until_its_timeout(connection, line):
    put(connection, line, "a1", "a2", group="a")
    received = receive(connection, line)
    show(connection, line, received[:1], NOW + 30)
    delete(connection, line, received[1:])
    put(connection, line, "a3", group="a")
    assert receive(connection, line, now=NOW + 29) == []
    assert bodies(receive(connection, line, now=NOW + 30)) == ["a1", "a3"]


def test_released_at_once_comes_again_in_order(connection, line):
    put(connection, line, "a1", "a2", group="a")
    show(connection, line, receive(connection, line), NOW + 1, NOW + 1)
    again = receive(connection, line, now=NOW + 1)
    assert [(message.body, message.receives) for message in again] == [("a1", 2), ("a2", 2)]


def test_at_most_ten_of_a_group_and_all_groups_get_a_turn(connection, line):
    put(connection, line, *(f"a{n}" for n in range(25)), group="a")
    put(connection, line, "b0", group="b")
    assert bodies(receive(connection, line, 100)) == [f"a{n}" for n in range(10)] + ["b0"]


def test_a_group_that_has_work_left_goes_behind_the_others(connection, line):
    put(connection, line, "a1", "a2", group="a")
    put(connection, line, "b1", group="b", now=NOW + 1)
    delete(connection, line, receive(connection, line, 1, NOW + 2), NOW + 2)
    assert bodies(receive(connection, line, 1, NOW + 3)) == ["b1"]


def test_redrive_unblocks_the_group(connection):
    line = queue(connection, "line", fifo=True, redrive=("dead", 1))
    put(connection, line, "a1", "a2", group="a")
    first = receive(connection, line, 1)
    assert bodies(first) == ["a1"]
    taken = messages.receive(connection, line, 10, NOW + 30)
    assert (bodies(taken.messages), taken.moved) == (["a2"], 1)
    dead = queue(connection, "dead", fifo=True)
    (moved,) = receive(connection, dead, now=NOW + 31)
    assert (moved.body, moved.group, moved.sent) == ("a1", "a", NOW + 30)


def test_a_repeat_within_five_minutes_is_dropped(connection, line):
    def repeat(now):
        return messages.put(connection, line, [draft("a", "g", "same"), draft("b", "g", "same")], now)

    assert repeat(NOW) == 1
    delete(connection, line, receive(connection, line))
    assert repeat(NOW + 299) == 0, "even when the first is long done"
    assert repeat(NOW + 301) == 1


def test_messages_without_a_deduplication_id_are_never_repeats(connection, line):
    assert put(connection, line, "a", "a", group="g") == 2
    assert [message.deduplication for message in receive(connection, line)] == ["id-a", "id-a"]


def test_groups_without_messages_leave_nothing_behind(connection, line):
    put(connection, line, "a", group="g")
    delete(connection, line, receive(connection, line))
    assert connection.execute("SELECT count(*) FROM groups").fetchone() == (0,)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.integers(1, 12)),
        st.tuples(st.just("receive"), st.integers(1, 15), st.just(0)),
        st.tuples(st.just("settle"), st.integers(0, 30), st.sampled_from(["ack", "now", "late"])),
        st.tuples(st.just("wait"), st.sampled_from([1, 31]), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=150)
@given(OPERATIONS)
def test_law_a_group_is_in_flight_once_in_order_and_nothing_is_lost(operations):
    connection = opened(":memory:")
    line, now = queue(connection, "line", fifo=True), NOW
    held: list[Any] = []
    todo: dict[str, list[str]] = defaultdict(list)
    for number, (what, one, two) in enumerate(operations):
        if what == "put":
            names = [f"{one}-{number}-{n}" for n in range(two)]
            put(connection, line, *names, group=one, now=now)
            todo[one] += names
        elif what == "receive":
            received = receive(connection, line, one, now)
            assert len(received) <= one
            busy = {message.group for message, until in held if until > now}
            assert not busy & {message.group for message in received}, "a group in flight gave more"
            for group in {message.group for message in received}:
                mine = [message.body for message in received if message.group == group]
                assert mine == todo[group][: len(mine)], "not the group's first messages, in order"
            held = [(message, until) for message, until in held if until > now] + [(message, now + 30) for message in received]
        elif what == "settle" and held:
            message, until = held.pop(one % len(held))
            if until <= now:
                continue
            if two == "ack":
                assert delete(connection, line, [message], now) == 1
                todo[message.group].remove(message.body)
            else:
                later = now if two == "now" else now + 30
                show(connection, line, [message], later, now)
                if later > now:
                    held.append((message, later))
        elif what == "wait":
            now += one
    now += 1000
    left: dict[str, list[str]] = defaultdict(list)
    while received := receive(connection, line, 10, now):
        for message in received:
            left[message.group].append(message.body)
        delete(connection, line, received, now)
    assert left == {group: names for group, names in todo.items() if names}
    connection.close()
