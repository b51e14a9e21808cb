"""`poller rewind`: streams are read again from where it was asked, with the daemon running and without, and never half of a lane."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from poller.feed import Item
from poller.model import LaneKey
from poller.progress import Progress
from poller.stores.sqlite import open_store
from tests.acceptance.daemon_program import Options
from tests.acceptance.harness import FOLDER, Site, until

pytestmark = pytest.mark.slow

FAIL = json.dumps({"do": "fail"})
SHARDS = [f"shardId-{number:012d}" for number in range(4)]


def poller(site: Site, *arguments: str, code: int = 0) -> str:
    """What a command prints; with another exit code than 0, on stderr too."""
    command = [sys.executable, "-m", "poller", *arguments, "-c", str(site.folder / "poller.toml")]
    result = subprocess.run(command, capture_output=True, text=True, cwd=site.folder, check=False, timeout=60, stdin=subprocess.DEVNULL)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout if code == 0 else result.stdout + result.stderr


def rewound(site: Site, *arguments: str) -> dict[str, dict[str, Any]]:
    """What it did, by lane."""
    document = json.loads(poller(site, "rewind", "orders", *arguments, "--yes", "--json"))
    assert document["done"]
    return {lane["lane"]: lane for lane in document["lanes"]}


def configure(site: Site, shards: int = 2, **keys: Any) -> None:
    source: dict[str, object] = {"type": "local-stream", "name": "orders", "shards": shards}
    site.write(site.function(), site.mapping("orders", source, batch_size=10, **keys))


def put(site: Site, first: int, count: int) -> list[str]:
    """So many records, over all shards."""
    bodies = [f"m{n}" for n in range(first, first + count)]
    site.put("orders", *(Item(body.encode(), key=body) for body in bodies))
    return bodies


def lanes(site: Site) -> dict[str, dict[str, Any]]:
    """What `status` says."""
    (mapping,) = json.loads(poller(site, "status", "--json"))["mappings"]
    return {lane["name"]: lane for lane in mapping["lanes"]}


def times(**counts: Iterable[str]) -> dict[str, int]:
    """How often each body was handled: `times(once=..., twice=...)`."""
    words = ("once", "twice", "thrice")
    return {body: 1 + words.index(word) for word, bodies in counts.items() for body in bodies}


def live(site: Site, counts: Mapping[str, int]) -> None:
    """A daemon, until each body was handled so often."""
    with site.daemon() as daemon:
        daemon.until(lambda: site.bodies("ended") == counts, what=str(counts))
        assert daemon.readyz()[0]
        daemon.stop()


def filled(site: Site) -> tuple[list[str], str, list[str]]:
    """Records, a moment after them, and later ones."""
    early = put(site, 0, 20)
    moment = time.time() + 0.005
    until(lambda: time.time() > moment)
    return early, datetime.fromtimestamp(moment, UTC).isoformat(), put(site, 20, 10)


def test_beside_a_running_daemon(site: Site) -> None:
    configure(site)
    early, moment, late = filled(site)
    with site.daemon() as daemon:

        def handled(**counts: Iterable[str]) -> None:
            daemon.until(lambda: site.bodies("ended") == times(**counts), what=str(counts))

        handled(once=early + late)
        told = rewound(site, "--to", "TRIM_HORIZON")
        assert (sorted(told), sum(lane["again"] for lane in told.values())) == (SHARDS[:2], 30)
        handled(twice=early + late)
        assert sum(lane["again"] for lane in rewound(site, "--to", moment).values()) == 10
        handled(twice=early, thrice=late)
        assert daemon.readyz()[0]
        daemon.stop()


def test_without_a_daemon(site: Site) -> None:
    configure(site)
    early, moment, late = filled(site)
    live(site, times(once=early + late))
    assert sum(lane["again"] for lane in rewound(site, "--to", moment).values()) == 10
    live(site, times(once=early, twice=late))
    assert sum(lane["again"] for lane in rewound(site, "--to", "1h").values()) == 30
    live(site, times(twice=early, thrice=late))


def test_one_lane_to_a_position_as_status_shows_it(site: Site) -> None:
    configure(site)
    with site.daemon() as daemon:
        early = put(site, 0, 20)
        daemon.until(lambda: site.handled(*early))
        daemon.until(lambda: all(lane["lag_records"] == 0 for lane in lanes(site).values()))
        position = lanes(site)[SHARDS[0]]["position"]
        late = put(site, 20, 20)
        daemon.until(lambda: site.handled(*late))
        told = rewound(site, "--to", position, "--lane", SHARDS[0])[SHARDS[0]]
        assert told["to"] == position
        daemon.until(lambda: sum(site.bodies("ended").values()) == 40 + told["again"])
        daemon.stop()
    again = {body for body, count in site.bodies("ended").items() if count == 2}
    assert len(again) == told["again"] > 0
    assert again < {*late}, "of this lane, from this position on, and of no other"


def test_what_is_under_retry_begins_anew_and_the_end_skips_it(site: Site) -> None:
    never = {"initial": "10m", "maximum": "10m"}
    configure(site, shards=1, maximum_retry_attempts=1000, retry_backoff=never, bisect_batch_on_function_error=False)
    site.put("orders", FAIL, "behind it")
    with site.daemon(options=Options(seed=1)) as daemon:  # backoffs are of the dice
        assert daemon.address  # it runs

        def attempts(begun: int) -> int:
            daemon.until(lambda: site.bodies("begun")[FAIL] == begun and lanes(site)[SHARDS[0]]["head_span"])
            return int(lanes(site)[SHARDS[0]]["head_span"]["attempts"])

        assert attempts(begun=1) == 1
        assert rewound(site, "--to", "TRIM_HORIZON")[SHARDS[0]]["attempts"] == 1
        assert attempts(begun=2) == 1, "it waits for no backoff, and is a first one"
        told = rewound(site, "--to", "LATEST")[SHARDS[0]]
        assert (told["again"], told["skipped"], told["attempts"] > 0) == (0, 2, True)
        site.put("orders", "after it")
        daemon.until(lambda: site.handled("after it"))
        assert lanes(site)[SHARDS[0]]["head_span"] is None
        daemon.stop()
    assert not site.handled("behind it")
    assert not site.journal()


def test_the_attempts_of_what_is_read_again_begin_anew(site: Site) -> None:
    configure(site, shards=1, maximum_retry_attempts=2, retry_backoff={"initial": "20ms", "maximum": "20ms"})
    with site.daemon() as daemon:
        site.put("orders", FAIL)
        daemon.until(site.journal)
        assert site.bodies("begun")[FAIL] == 3
        rewound(site, "--to", "TRIM_HORIZON")
        daemon.until(lambda: site.bodies("begun")[FAIL] == 6)
        daemon.stop()


def test_nothing_happens_without_a_yes_and_what_makes_no_sense_is_refused(site: Site) -> None:
    configure(site)
    early = put(site, 0, 10)
    live(site, times(once=early))
    text = poller(site, "rewind", "orders", "--to", "TRIM_HORIZON", code=2)
    assert "would rewind 2 lanes: 10 records read again" in text
    later = put(site, 10, 10)
    live(site, times(once=early + later))
    assert "nothing was changed; add --yes" in text
    assert "no mapping 'nobody', only orders" in poller(site, "rewind", "nobody", "--to", "LATEST", code=2)
    assert f"there is no lane 'x'; there are {SHARDS[0]}" in poller(site, "rewind", "orders", "--to", "LATEST", "--lane", "x", code=1)
    assert "name that too (--lane)" in poller(site, "rewind", "orders", "--to", "12", code=1)
    assert "ends at" in poller(site, "rewind", "orders", "--to", "9999", "--lane", SHARDS[0], code=1)
    assert "write a sequence number" in poller(site, "rewind", "orders", "--to", "nowhere", "--lane", SHARDS[0], code=1)
    assert "is in the future" in poller(site, "rewind", "orders", "--to", "2999-01-01", code=1)
    last = put(site, 20, 10)
    live(site, times(once=early + later + last))
    site.write(site.function(), site.mapping("mails", {"type": "local-queue", "name": "mails"}))
    assert "polls a queue, which has no positions" in poller(site, "rewind", "mails", "--to", "LATEST", code=1)


# --- kill -9 --------------------------------------------------------------------------------------------------------------------------


def progress(site: Site) -> list[Progress | None]:
    """What the store holds of each lane."""

    async def read() -> list[Progress | None]:
        store = await open_store(site.store)
        try:
            (source,) = [each for each in await store.checkpoints.sources("orders") if each]
            return [await store.checkpoints.load(LaneKey("orders", source, name)) for name in SHARDS]
        finally:
            await store.aclose()

    return asyncio.run(read())


def test_killed_between_two_lanes_each_is_where_it_was_or_where_it_was_to_be(site: Site) -> None:
    configure(site, shards=4)
    early = put(site, 0, 40)
    live(site, times(once=early))
    before = progress(site)
    new = Progress("TRIM_HORIZON", closed=True)
    assert new not in before
    command = [sys.executable, str(FOLDER / "rewind_program.py"), str(site.folder / "poller.toml"), "orders"]
    for count in range(1, len(SHARDS) + 1):  # all are one owner's, so that none waits for the leases of the one before
        assert subprocess.run([*command, str(count)], check=False, cwd=site.folder, timeout=60).returncode == -signal.SIGKILL
        assert progress(site) == [new] * (count - 1) + before[count - 1 :]
    assert "by a rewind by doomed" in poller(site, "resume", "orders"), "else it would end by itself"
    with site.daemon(options=Options(owner="doomed")) as daemon:
        daemon.until(lambda: site.bodies("ended").total() > len(early), what="what was rewound is read again")
        daemon.stop()
