"""All faults of a replica set, with the default elections of servers, which take 10 seconds and more.

Collected only with ``PITSTOP_TEST_LARGE=1``: ``nox -s torture``. It takes a quarter of an hour.
"""

from __future__ import annotations

import time

import pytest

from servers import replica_set as sets
from torture import faults
from torture.conftest import DRAIN, assert_kept


pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def full_set():
    with sets.replica_set() as servers:
        yield servers


@pytest.fixture
def servers(full_set):
    yield full_set
    full_set.heal()


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (faults.kill_primary, 5.0),
        (faults.step_down, 10.0),
        (faults.freeze_primary, 12.0),
        (faults.freeze_primary, 40.0),
        (faults.roll_back, 4.0),
        (faults.all_away, 20.0),
        (faults.all_away, 60.0),
    ],
    ids=lambda value: getattr(value, "__name__", f"{value}s"),
)
def test_with_default_elections(fault, seconds, servers, open_bench, judge):
    bench = open_bench(servers.uri)
    bench.start_load()
    time.sleep(5)
    fault(servers, seconds)
    bench.wait_for_emissions(200)
    assert_kept(judge(bench, DRAIN), bench)
    if fault is faults.roll_back:
        assert faults.rolled_back(servers)


@pytest.mark.parametrize(
    ("fault", "seconds"),
    [
        (faults.kill_primary, 5.0),
        (faults.step_down, 5.0),
        (faults.freeze_primary, 12.0),
        (faults.roll_back, 4.0),
        (faults.all_away, 10.0),
    ],
    ids=lambda value: getattr(value, "__name__", f"{value}s"),
)
def test_batches_in_flight_with_default_elections(fault, seconds, servers, open_bench, judge):
    bench = open_bench(servers.uri)
    bench.start_batches()
    time.sleep(3)
    fault(servers, seconds)
    bench.wait_for_emissions(500)
    assert_kept(judge(bench, DRAIN), bench)


def test_writes_that_one_member_confirms_are_lost_by_the_rollback(servers, open_bench, judge):
    """With write concern 1, which Pitstop does not offer, messages are lost. This shows that the checker notices it."""
    bench = open_bench(servers.uri)
    bench.start_load(write_concern=1)
    time.sleep(5)
    faults.roll_back(servers, 4.0)
    bench.wait_for_emissions(200)
    verdict = judge(bench, DRAIN)
    assert len(verdict.lost) > 10
    assert verdict.broken("S1")
    assert faults.rolled_back(servers)


def test_fault_after_fault(servers, open_bench, judge):
    """Servers and consumers fail one after the other, and some of them at the same time."""
    bench = open_bench(servers.uri)
    bench.start_load()
    for fault, seconds in [
        (faults.step_down, 3.0), (faults.kill_primary, 3.0), (faults.freeze_primary, 12.0), (faults.roll_back, 4.0),
        (faults.step_down, 1.0), (faults.all_away, 10.0), (faults.kill_primary, 1.0),
    ]:  # fmt: skip
        victim, sleeper = bench.consumers[0], bench.consumers[1]
        bench.pause(sleeper)
        bench.kill(victim)
        bench.start("consume", prefetch=victim.task.prefetch, threads=victim.task.threads)
        fault(servers, seconds)
        bench.resume(sleeper)
        bench.wait_for_emissions(100)
    verdict = judge(bench, DRAIN)
    assert_kept(verdict, bench)
    assert verdict.duplicated["consumer died"] + verdict.duplicated["lease expired"] > 0
