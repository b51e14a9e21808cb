"""What a topic is sent of a delivery: records as their producers had them, whatever was in them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord
from hypothesis import given
from hypothesis import strategies as st

from connectors.kafka.destination import TopicOptions, cluster, kind
from connectors.kafka.format import KafkaFormat
from connectors.kafka.messages import messages, original
from connectors.kafka.options import KafkaOptions, Sasl, Tls
from connectors.local import QueueOptions
from poller.errors import ConfigError
from poller.failures.entry import entry
from poller.failures.journal import Delivery, KeptRecord
from poller.model import Failure, Fault
from poller.settings import Surroundings
from poller.testing.destinations import context, make_delivery
from poller.testing.strategies import counter_test, laws

octets = st.none() | st.binary(max_size=30)
headers = st.lists(st.tuples(st.text(st.characters(codec="utf-8"), max_size=8), octets), max_size=4).map(tuple)
records = st.lists(st.tuples(octets, octets, headers), min_size=1, max_size=4)
Had = list[tuple[bytes | None, bytes | None, tuple[tuple[str, bytes | None], ...]]]
TEXT = "no such order " * 400


def delivered(had: Had, **fields: Any) -> Delivery:
    """A batch of such records that was given up."""
    made: Any = ConsumerRecord
    read = [
        made("mytopic", 3, offset, 1545084650987, 0, key, value, None, *(-1 if each is None else len(each) for each in (key, value)), names)
        for offset, (key, value, names) in enumerate(had)
    ]
    failure = Failure(read, "RetryAttemptsExhausted", 3, Fault("error", "ValueError", TEXT, ("a frame of some length",) * 400))
    names = {"mapping": "orders", "source": "s", "lane": "mytopic-3", "function": "f", **fields}
    return Delivery(1, "a" * 32, "", "failure", entry(failure, KafkaFormat("b1:9092", "mytopic", 3), now=1.0, **names))


def are_as_they_were(had: Had, said: list[tuple[bytes | None, bytes | None, Any]]) -> None:
    assert [(key, value, names[: len(mean)]) for (key, value, names), (*_, mean) in zip(said, had, strict=True)] == had


@laws(100)
@given(records)
def test_raw_messages_are_what_was_read(had: Had) -> None:
    are_as_they_were(had, [(each.key, each.value, each.headers) for each in messages(delivered(had), context(), True, 2**20)])


def test_the_law_rejects_who_takes_the_journals_key() -> None:
    """It is text, for people to look for."""

    @laws(200)
    @given(records)
    def broken(had: Had) -> None:
        kept = delivered(had).entry.records
        said = [(None if each.key is None else each.key.encode(), original(each).value, original(each).headers) for each in kept]
        are_as_they_were(had, said)

    with counter_test(), pytest.raises(AssertionError):
        broken()


@laws(60)
@given(records, st.integers(16 * 1024, 64 * 1024), st.booleans(), st.booleans(), st.integers(0, 100_000))
def test_no_message_is_larger_than_it_may_be(had: Had, limit: int, raw: bool, exact: bool, more: int) -> None:
    large = [(key, value if value is None else value + b"x" * more, names) for key, value, names in had]
    for each, (key, value, names) in zip(messages(delivered(large), context(exact=exact), raw, limit), large, strict=True):
        size = len(each.key or b"") + len(each.value or b"") + sum(len(name.encode()) + len(said or b"") for name, said in each.headers)
        assert size <= limit
        assert (each.key, each.headers[: len(names)]) == (key, names)
        if raw and each.whole:
            assert each.value == value


@pytest.mark.parametrize(
    ("element", "key", "value"),
    [
        ({"kinesis": {"data": "aGVsbG8="}}, "k", b"hello"),
        ({"kinesis": {"data": "no base64!!!"}}, "k", b'{"kinesis":{"data":"no base64!!!"}}'),
        ({"messageId": "1", "body": "h\u00e9llo"}, None, "h\u00e9llo".encode()),
        ({"messageId": "1", "body": "\ud800"}, "group", b"\xed\xa0\x80"),
        ({"dynamodb": {"Keys": {}}}, "k", b'{"dynamodb":{"Keys":{}}}'),
        ([1], None, b"[1]"),
    ],
)
def test_raw_values_of_other_sources(element: Any, key: str | None, value: bytes) -> None:
    kept = KeptRecord("1", key, 0.0, json.dumps(element, separators=(",", ":")).encode())
    assert original(kept)[:2] == (None if key is None else key.encode(), value)


def test_a_success_says_so() -> None:
    (message, _) = messages(make_delivery(outcome="success", result=b"7", fault=None), context(), False, 2**20)
    assert message.value is not None
    assert json.loads(message.value)["responsePayload"] == 7
    assert dict(message.headers)["poller.reason"] == b"Success"


# --- where it goes --------------------------------------------------------------------------------------------------------------------

SOURCE = KafkaOptions(
    bootstrap_servers=["b1:9092", "b2:9092"], topic="orders", tls=Tls(), sasl=Sasl(mechanism="PLAIN", username="u", password="p")
)


def completed(to: str, source: Any = SOURCE, **options: Any) -> KafkaOptions:
    given = kind.completed(to, TopicOptions(**options), Surroundings(source, frozenset()))
    kind.traits(to, given)
    return cluster(to, given)


def test_the_cluster_of_the_source_is_the_default_with_its_login() -> None:
    found = completed("kafka://orders-dlq")
    assert (found.topic, found.bootstrap_servers, found.tls, found.sasl) == ("orders-dlq", ["b1:9092", "b2:9092"], SOURCE.tls, SOURCE.sasl)


@pytest.mark.parametrize(("to", "options"), [("kafka://c:1,d:2/dlq", {}), ("kafka://dlq", {"bootstrap_servers": ["c:1", "d:2"]})])
def test_another_cluster_is_never_given_the_sources_login(to: str, options: dict[str, Any]) -> None:
    found = completed(to, **options)
    assert (found.topic, found.bootstrap_servers, found.tls, found.sasl) == ("dlq", ["c:1", "d:2"], None, None)


@pytest.mark.parametrize(
    ("to", "options", "text"),
    [
        ("kafka://orders", {}, "is the mapping's own source"),
        ("kafka://b2:9092/orders", {}, "is the mapping's own source"),
        ("kafka://orders", {"bootstrap_servers": ["b1:9092"]}, "is the mapping's own source"),
        ("kafka:orders", {}, "names no topic"),
        ("kafka://a b", {}, "a topic's name has 1 to 249 letters"),
        ("kafka://c:1/dlq", {"bootstrap_servers": ["d:2"]}, "they are in the address already"),
        ("kafka://c/dlq", {}, "'c' is no host and port"),
        ("kafka://dlq", {"maximum_bytes": "1KiB"}, "must be 16KiB or more"),
        ("kafka://dlq", {"timeout": "1ms"}, "must be 100ms to 15m"),
        ("kafka://c:1/dlq", {"sasl": Sasl(mechanism="PLAIN", username="u")}, "sasl.password is missing"),
    ],
)
def test_what_is_refused_in_a_configuration(to: str, options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        completed(to, **options)


def test_a_cluster_must_be_known() -> None:
    with pytest.raises(ConfigError, match="bootstrap_servers: give them"):
        completed("kafka://dlq", QueueOptions(name="orders"))
    assert completed("kafka://orders-2").topic == "orders-2"
    assert completed("kafka://c:1/orders").topic == "orders"  # of another cluster
