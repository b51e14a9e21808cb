"""What a daemon finds beside the configuration: another daemon on the same store, someone else's mapping id, a store it cannot use."""

from __future__ import annotations

import sqlite3

import pytest

from poller.feed import Item
from tests.acceptance.harness import Site

pytestmark = pytest.mark.slow

STREAM: dict[str, object] = {"type": "local-stream", "name": "orders", "shards": 2}
QUEUE: dict[str, object] = {"type": "local-queue", "name": "orders"}


def test_a_second_daemon_is_one_more_worker(site: Site) -> None:
    """Of a queue they share the messages, of a stream the first one that came has the shards."""
    for file in ("one.toml", "two.toml"):
        site.write(
            site.function(concurrency=2, environment={"SLOW": "0.05"}),
            site.mapping("orders", QUEUE, batch_size=2),
            site.mapping("clicks", {**STREAM, "name": "clicks"}, batch_size=5),
            file=file,
        )
    orders, clicks = [f"o{n}" for n in range(200)], [f"c{n}" for n in range(60)]
    with site.daemon("one.toml") as one, site.daemon("two.toml") as two:
        assert one.address != two.address
        one.until(lambda: one.readyz()[0] and two.readyz()[0])
        site.put("orders", *orders, file="one.toml")
        site.put("clicks", *(Item(body.encode(), key=body) for body in clicks), file="two.toml")
        two.until(lambda: site.handled(*orders, *clicks))
        one.stop()
        # What one leaves, the other takes over.
        site.put("clicks", "late", file="one.toml")
        two.until(lambda: site.handled("late"))
        two.stop()
    assert site.bodies("begun") == dict.fromkeys([*orders, *clicks, "late"], 1)
    shares = {each.daemon: each for each in site.testimony("begun") if each.bodies[0].startswith("o")}
    assert shares.keys() == {one.pid, two.pid}


def test_a_mapping_id_is_not_shared_by_two_sources(site: Site) -> None:
    site.write(site.function(), site.mapping("orders", QUEUE), file="one.toml")
    site.write(site.function(), site.mapping("orders", {**QUEUE, "name": "other"}), file="two.toml")
    with site.daemon("one.toml") as one:
        one.until(lambda: one.readyz()[0])
        with site.daemon("two.toml") as two:
            site.put("orders", "m1", file="two.toml")
            text = two.complaint("another source")
            assert text.startswith("orders: ")
            assert "mapping id 'orders' is in use with another source by a daemon on the same store" in text
            assert "give this mapping an `id` of its own" in text
            two.stop()
        site.put("orders", "m2", file="one.toml")
        one.until(lambda: site.handled("m2"))
        one.stop()
    assert site.bodies("begun") == {"m2": 1}


def refusal(site: Site) -> str:
    """What the daemon says when it does not start."""
    with site.daemon() as daemon:
        assert daemon.wait() == 1
        assert "Traceback" not in daemon.log
        (line,) = [line for line in daemon.log.splitlines() if line.startswith("error: ")]
        return line


def test_a_corrupt_store_is_refused_and_left_alone(site: Site) -> None:
    site.write(site.function(), site.mapping("orders", QUEUE))
    site.store.parent.mkdir()
    rubbish = b"This is not a database. " * 1000
    site.store.write_bytes(rubbish)
    text = refusal(site)
    assert str(site.store) in text
    assert "damaged, or no database" in text
    assert "restore a backup" in text
    assert site.store.read_bytes() == rubbish


def test_a_newer_store_is_refused_and_left_alone(site: Site) -> None:
    site.write(site.function(), site.mapping("orders", QUEUE))
    assert not site.journal()  # makes it
    connection = sqlite3.connect(site.store)
    connection.execute("PRAGMA user_version = 1000")
    connection.close()
    text = refusal(site)
    assert str(site.store) in text
    assert "written by a newer version of this program (schema 1000" in text
    assert "upgrade this program" in text


@pytest.mark.parametrize("text", ["", "# nothing\n", "[poller]\n"])
def test_an_empty_configuration_is_refused(site: Site, text: str) -> None:
    (site.folder / "poller.toml").write_text(text)
    refused = refusal(site)
    assert "poller.toml" in refused
    assert "no mapping" in refused
    assert "at least one [mappings.NAME] table" in refused
    assert not site.store.exists()


def test_a_missing_configuration_is_refused(site: Site) -> None:
    assert "poller init" in refusal(site)
