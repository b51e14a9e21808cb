"""Block over kill -9: whenever the daemon dies, a batch that always fails is begun a bounded number of times and kept once (law 11)."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from random import Random

import pytest

from poller.testing.oracle import poison_bound
from tests.acceptance.daemon_program import POINTS, Options
from tests.acceptance.harness import Site, until

pytestmark = pytest.mark.slow

RETRIES = 5
SIZE = 6
OWNER = "worker"
"""All lives of a daemon have one here: a life with a name of its own waits ten seconds for the lease of the one before."""

FAIL = json.dumps({"do": "fail"})
BEFORE = [f"before {n}" for n in range(SIZE)]
BESIDE = [f"beside {n}" for n in range(1, SIZE)]
AFTER = [f"after {n}" for n in range(SIZE)]

LATER = {"at last", *(f"later {n}" for n in range(10))}

NOTHING = Options(owner=OWNER)


def prepare(site: Site, *, bisect: bool, kill: str = "") -> None:
    """Three full batches wait; the second one has a poison record."""
    site.write(
        site.function(environment={"KILL": kill}, concurrency=1),
        site.mapping(
            "orders",
            {"type": "local-stream", "name": "orders"},
            batch_size=SIZE,
            maximum_retry_attempts=RETRIES,
            bisect_batch_on_function_error=bisect,
            retry_backoff={"initial": "50ms", "maximum": "50ms"},
        ),
    )
    middle = SIZE // 2
    site.put("orders", *BEFORE, *BESIDE[:middle], FAIL, *BESIDE[middle:], *AFTER)


def live(site: Site, options: Options, later: str) -> bool:
    """One life, in which one more record comes: until the daemon is killed (False), or has handled that record and was stopped."""
    site.put("orders", later)
    with site.daemon(options=options) as daemon:
        until(lambda: daemon.ended or site.handled(later), what=f"killed, or {later} is handled")
        if not daemon.ended:
            daemon.terminate()  # and it may come to its point now
        status = daemon.wait()
        assert status in {0, -signal.SIGKILL}, daemon.log
        return status == 0


def survive(site: Site, lives: Sequence[Options]) -> int:
    """These lives, and one more to end with. Returns how many were killed."""
    killed = sum(not live(site, options, f"later {n}") for n, options in enumerate(lives))
    assert live(site, NOTHING, "at last")
    return killed


def check(site: Site, bound: int, handled: Sequence[str], kept: int) -> None:
    """Begun at most `bound` times, kept exactly once with so many records, all else handled."""
    assert 1 <= site.bodies("begun")[FAIL] <= bound
    (row,) = site.journal()
    assert (row.state, row.entry.reason, len(row.entry.records)) == ("kept", "RetryAttemptsExhausted", kept)
    assert site.bodies("ended").keys() - LATER == {*handled}


def check_whole_batch(site: Site) -> None:
    check(site, RETRIES + 2, [*BEFORE, *AFTER], SIZE)


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_a_point_of_the_stores_work(site: Site, point: str) -> None:
    prepare(site, bisect=False)
    assert survive(site, [Options(point=point, owner=OWNER, seed=n) for n in range(1, 4)]) >= 1
    check_whole_batch(site)


@pytest.mark.parametrize("kill", ["1", "2,3,5", "6", "1,2,3,4,5,6,7,8"])
def test_killed_while_invoking(site: Site, kill: str) -> None:
    """The function kills the daemon that invokes it: no outcome is ever known."""
    prepare(site, bisect=False, kill=kill)
    kills = [number for number in kill.split(",") if int(number) <= RETRIES + 2]
    assert survive(site, [NOTHING] * len(kills)) == len(kills)
    check_whole_batch(site)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_any_moment(site: Site, seed: int) -> None:
    random = Random(seed)
    prepare(site, bisect=False)
    survive(site, [Options(after=random.uniform(0.01, 0.5), owner=OWNER, seed=n) for n in range(1, 6)])
    check_whole_batch(site)


@pytest.mark.parametrize("seed", range(2))
def test_killed_while_a_batch_is_split(site: Site, seed: int) -> None:
    """Never so often at one record that a good one could be lost with its worker as often as is allowed."""
    random = Random(seed)
    prepare(site, bisect=True)
    # Those that are killed for certain come first: a quick machine may be done before a moment that is drawn.
    lives = [Options(point="begun", count=random.randint(1, 3), owner=OWNER, seed=n) for n in range(1, 4)]
    lives += [Options(after=random.uniform(0.01, 0.5), owner=OWNER, seed=n) for n in range(4, 6)]
    assert survive(site, lives) >= 3
    check(site, poison_bound(SIZE, RETRIES), [*BEFORE, *BESIDE, *AFTER], 1)


def test_another_daemon_takes_a_dead_ones_lane_over(site: Site) -> None:
    """With names of their own, as daemons have them: the lease must run out first."""
    prepare(site, bisect=False, kill="2")
    with site.daemon() as daemon:
        assert daemon.wait() == -signal.SIGKILL
    with site.daemon() as daemon:
        daemon.until(lambda: site.handled(*AFTER))
        daemon.stop()
    check_whole_batch(site)
