"""PostgreSQL crashes, hangs, loses connections and runs out of disk while processes store and handle messages. No message is lost.

Each duplicate has a reason. The server waits for its disk (``fsync``), and its processes are killed with ``kill -9``. With
``PITSTOP_TEST_LARGE=1`` each fault lasts longer.
"""

from __future__ import annotations

import os
import random
import subprocess
import time

from contextlib import suppress
from pathlib import Path

import psycopg
import pytest

from servers import postgres
from torture.bench import Bench
from torture.conftest import DRAIN, LARGE, assert_kept


#: Seconds of a fault.
SECONDS = 20.0 if LARGE else 3.0
#: The size of the small disk. An empty cluster takes a third of it.
DISK_MB = 160
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' "
    "AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
)

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def _server(postgres_or_skipped):
    with postgres.server() as made:
        yield made


@pytest.fixture
def server(_server):
    """A server that tests may break."""
    yield _server
    heal(_server)


@pytest.fixture
def bench(open_bench, server):
    return open_bench(server.uri, lock_time="2s", operation_timeout="2s")


def heal(server):
    server.resume()
    if not server.running:
        server.start()
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(server.uri, connect_timeout=5).close()
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, server.last_lines()
            time.sleep(0.05)  # it recovers
        else:
            return


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
#: Without PITSTOP_TEST_LARGE, each fault has one load.
PAIRS = [(fault, load) for fault in FAULTS for load in LOADS] if LARGE else list(zip(FAULTS, LOADS * 2, strict=False))


@pytest.mark.parametrize(("fault", "load"), PAIRS, ids=lambda each: each.__name__)
def test_postgres_breaks(fault, load, server, bench, judge):
    load(bench)
    for _ in range(4 if LARGE else 1):
        fault(server)
        heal(server)
        bench.wait_for_emissions(30)
    assert_kept(judge(bench, DRAIN), bench)


def test_postgres_backends_are_killed(server, bench, judge):
    """After each kill, PostgreSQL ends all connections, and recovers."""
    bench.start_batches()
    for _ in range(10 if LARGE else 3):
        os_kill(server)
        heal(server)
        bench.wait_for_emissions(30)
    assert_kept(judge(bench, DRAIN), bench)


def os_kill(server):
    """Kill a process that serves a client. It may end by itself in between."""
    deadline = time.monotonic() + 10
    while True:
        with suppress(IndexError, AssertionError, ProcessLookupError):
            server.kill_backend(random.choice(server.backends()))
            return
        assert time.monotonic() < deadline, "no client is connected"
        time.sleep(0.01)


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
    for number in range(10 if LARGE else 3):
        victim, sleeper = bench.consumers[:2]
        bench.pause(sleeper)
        bench.kill(victim)
        bench.start("consume", prefetch=(None, 1, 20)[number % 3], pace=0.001, overdue=0.0005)
        bench.wait_for_emissions(60)
        bench.resume(sleeper)
    assert_kept(judge(bench, DRAIN), bench)


@pytest.fixture
def small_disk(postgres_or_skipped):
    """A folder on a disk of its own, which is small."""
    if os.geteuid() != 0:
        pytest.skip("A SMALL DISK NEEDS ROOT: the test of a full disk is skipped")
    with postgres.new_folder() as folder:
        place = folder / "disk"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=777", "tmpfs", str(place)],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"THIS SYSTEM MOUNTS NO SMALL DISK, and the test of a full disk is skipped: {done.stderr}")
        try:
            yield place
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


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


def stands_still(bench):
    """Whether no store has succeeded for two seconds, although some have ended since then."""
    ended = [each for each in bench.events("store") if each.ended is not None]
    last = max(each.ended for each in ended if each.outcome == "ok")
    return time.monotonic() - last > 2 and any(each.begun > last for each in ended)


@pytest.fixture
def pair(postgres_or_skipped):
    """A primary, and a standby that has each commit before the primary confirms it."""
    with postgres.server() as primary, postgres.new_folder() as folder:
        standby = primary.copy(folder / "standby")
        try:
            standby.start()
            with psycopg.connect(primary.uri, autocommit=True) as connection:
                # Not among the settings of the start, which the standby has as well.
                connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                connection.execute("SELECT pg_reload_conf()")
                deadline = time.monotonic() + 60
                while connection.execute("SELECT sync_state FROM pg_stat_replication").fetchall() != [("sync",)]:
                    assert time.monotonic() < deadline, standby.last_lines()
                    time.sleep(0.05)
            yield primary, standby
        finally:
            standby.kill()


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
