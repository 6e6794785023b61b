"""Faults of a PostgreSQL server, and the servers that the tests break."""

from __future__ import annotations

import os
import random
import subprocess
import time

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import pytest

from servers import postgres
from torture.bench import Bench


#: The size of the small disk. An empty cluster takes a third of it.
DISK_MB = 160
TERMINATE = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'client backend' "
    "AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1"
)


def heal(server: postgres.Postgres) -> None:
    """Let a server go on, and wait until it takes connections."""
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


def kill_backend(server: postgres.Postgres) -> None:
    """Kill a process that serves a client. It may end by itself in between."""
    deadline = time.monotonic() + 10
    while True:
        with suppress(IndexError, AssertionError, ProcessLookupError):
            server.kill_backend(random.choice(server.backends()))
            return
        assert time.monotonic() < deadline, "no client is connected"
        time.sleep(0.01)


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(1 << 16))


def stands_still(bench: Bench) -> bool:
    """Whether no store has succeeded for two seconds, although some have ended since then."""
    ended = [each for each in bench.events("store") if each.ended is not None]
    last = max(each.ended for each in ended if each.outcome == "ok")
    return time.monotonic() - last > 2 and any(each.begun > last for each in ended)


@contextmanager
def small_disk() -> Iterator[Path]:
    """Yield a folder on a disk of its own, which is small."""
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


@contextmanager
def pair() -> Iterator[tuple[postgres.Postgres, postgres.Postgres]]:
    """Yield a primary, and a standby that has each commit before the primary confirms it."""
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
