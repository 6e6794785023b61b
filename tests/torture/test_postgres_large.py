"""PostgreSQL crashes, hangs, loses connections and runs out of disk while processes store and handle messages. No message is lost.

Each duplicate has a reason. The server waits for its disk (``fsync``), and its processes are killed with ``kill -9``.
"""

from __future__ import annotations

import random
import time

import psycopg
import pytest

from servers import postgres
from torture.bench import Bench
from torture.conftest import DRAIN, assert_kept
from torture.postgres_faults import TERMINATE, fill, heal, kill_backend, stands_still


#: Seconds of a fault.
SECONDS = 20.0
pytestmark = pytest.mark.timeout(600)


def kill_postmaster(server):
    """The other processes finish their statements."""
    server.kill_postmaster()
    time.sleep(SECONDS / 6)


def kill_all(server):
    server.kill()
    time.sleep(SECONDS / 6)


def hang(server):
    """For longer than an operation may take."""
    server.pause()
    time.sleep(SECONDS)


FAULTS = [kill_postmaster, kill_all, hang]
LOADS = [Bench.start_batches, Bench.start_load]
PAIRS = [(fault, load) for fault in FAULTS for load in LOADS]


@pytest.mark.parametrize(("fault", "load"), PAIRS, ids=lambda each: each.__name__)
def test_postgres_breaks(fault, load, server, bench, judge):
    load(bench)
    for _ in range(4):
        fault(server)
        heal(server)
        bench.wait_for_emissions(30)
    assert_kept(judge(bench, DRAIN), bench)


def test_postgres_backends_are_killed(server, bench, judge):
    """After each kill, PostgreSQL ends all connections, and recovers."""
    bench.start_batches()
    for _ in range(10):
        kill_backend(server)
        heal(server)
        bench.wait_for_emissions(30)
    assert_kept(judge(bench, DRAIN), bench)


def test_postgres_connections_are_terminated_at_random(server, bench, judge):
    bench.start_load()
    bench.start("consume", prefetch=None, workers=4, pace=0.001, overdue=0.0005)
    ended = 0
    deadline = time.monotonic() + 2 * SECONDS
    with psycopg.connect(server.uri, autocommit=True) as connection:
        while time.monotonic() < deadline:
            ended += connection.execute(TERMINATE).rowcount
            time.sleep(random.uniform(0, 0.1))
    assert ended > 20
    bench.wait_for_emissions(50)
    assert_kept(judge(bench, DRAIN), bench)


def test_postgres_clients_are_killed(bench, judge):
    """In the middle of transactions, with messages in hand, and with acks that are not written yet."""
    bench.start_batches()
    for number in range(10):
        victim, sleeper = bench.consumers[:2]
        bench.pause(sleeper)
        bench.kill(victim)
        bench.start("consume", prefetch=(None, 1, 20)[number % 3], pace=0.001, overdue=0.0005)
        bench.wait_for_emissions(60)
        bench.resume(sleeper)
    assert_kept(judge(bench, DRAIN), bench)


def test_postgres_has_no_disk_left(small_disk, open_bench, judge):
    """Tables cannot grow then. When its log cannot grow, PostgreSQL panics. An operator makes room, and starts it if it ended."""
    # Otherwise PostgreSQL writes its log into its old files for a long time.
    small = {"wal_recycle": "off", "min_wal_size": "2MB", "max_wal_size": "16MB", "shared_buffers": "16MB"}
    server = postgres.Postgres(small_disk / "server", wal_segment_mb=1, **small)
    ballast = small_disk / "ballast"
    try:
        server.start()
        bench = open_bench(server.uri, lock_time="2s", operation_timeout="2s")
        bench.start_batches()
        fill(ballast)
        bench.wait(lambda: stands_still(bench), 60, "full disk")
        time.sleep(SECONDS / 3)
        ballast.unlink()
        heal(server)
        bench.wait_for_emissions(100)
        assert_kept(judge(bench, DRAIN), bench)
    finally:
        server.kill()


def test_postgres_standby_takes_over(pair, open_bench, judge):
    """The clients know both servers, and go to the one that can be written to."""
    primary, standby = pair
    both = f"127.0.0.1:{primary.port},127.0.0.1:{standby.port}"
    bench = open_bench(
        f"postgresql://{postgres.USER}@{both}/postgres?target_session_attrs=read-write",
        lock_time="2s",
        operation_timeout="2s",
    )
    bench.start_batches()
    primary.kill()
    time.sleep(SECONDS / 6)
    standby.promote()
    bench.wait_for_emissions(100)
    assert_kept(judge(bench, DRAIN), bench)
