"""Waiting for other connections: the number of tries, the time, and the result."""

from __future__ import annotations

import sqlite3

from contextlib import closing

import pytest

from pitstop import BackendUnavailable
from pitstop_sqlite import _patience


class Waits:
    """A clock that only waits move."""

    def __init__(self):
        self.pauses = []
        self.at = {}

    def monotonic(self):
        return sum(self.pauses)

    def wait(self, bell, seconds):
        self.pauses.append(seconds)
        if len(self.pauses) in self.at:
            self.at[len(self.pauses)]()
        return False


@pytest.fixture
def waits(monkeypatch):
    waits = Waits()
    monkeypatch.setattr(_patience, "SystemClock", lambda: waits)
    return waits


@pytest.fixture
def other(path, open_backend):
    """Another program's connection to an existing store."""
    open_backend().close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        yield other


def test_a_connection_that_has_waited_for_long_tries_as_often_as_a_newcomer(other, open_backend, record, waits):
    backend = open_backend(busy_timeout="30s")
    other.execute("BEGIN IMMEDIATE")
    waits.at[5000] = lambda: other.execute("COMMIT")
    backend.put([record("a")])
    assert len(waits.pauses) == 5000
    assert all(0.0005 <= each <= 0.0015 for each in waits.pauses)
    assert backend.get("a") is not None


def test_waiting_connections_do_not_try_in_step(other, open_backend, record, waits):
    backend = open_backend()
    other.execute("BEGIN IMMEDIATE")
    waits.at[100] = lambda: other.execute("COMMIT")
    backend.put([record("a")])
    assert len(set(waits.pauses)) > 90


@pytest.mark.parametrize("count", [1, 2])
def test_it_waits_for_the_busy_timeout_and_no_longer(other, open_backend, record, waits, count):
    backend = open_backend(busy_timeout="250ms")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BackendUnavailable, match=r"is locked: .* for 0\.25 s \(busy_timeout\)\. Nothing was changed"):
        backend.put([record(str(number)) for number in range(count)])
    assert sum(waits.pauses) == pytest.approx(0.25)
    other.execute("COMMIT")
    assert backend.get("0") is None
    backend.put([record("0")])


def test_without_a_busy_timeout_it_does_not_wait(other, open_backend, record, waits):
    backend = open_backend(busy_timeout=0)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(BackendUnavailable, match="is locked"):
        backend.put([record("a")])
    assert not waits.pauses


def test_errors_for_another_reason_are_not_waited_for(other, open_backend, record, waits):
    backend = open_backend()
    other.execute("DROP TABLE pitstop_messages")
    with pytest.raises(BackendUnavailable, match="no such table"):
        backend.put([record("a")])
    assert not waits.pauses


def test_an_error_after_a_wait_is_raised(other, open_backend, record, waits):
    backend = open_backend()
    other.execute("BEGIN IMMEDIATE")
    other.execute("DROP TABLE pitstop_messages")
    waits.at[3] = lambda: other.execute("COMMIT")
    with pytest.raises(BackendUnavailable, match="no such table"):
        backend.put([record("a")])
    assert len(waits.pauses) == 3


def test_ctrl_c_ends_the_wait_and_leaves_the_backend_usable(other, open_backend, record, waits):
    def interrupt():
        raise KeyboardInterrupt

    backend = open_backend()
    other.execute("BEGIN IMMEDIATE")
    waits.at[3] = interrupt
    with pytest.raises(KeyboardInterrupt):
        backend.put([record("a")])
    other.execute("COMMIT")
    assert backend.get("a") is None
    backend.put([record("a")])


def test_it_waits_for_connections_that_keep_a_new_file_from_becoming_wal(path, open_backend, waits):
    """SQLite reports "locked" at once then, whatever its own busy timeout is."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE orders (id INTEGER)")
        other.execute("BEGIN")
        other.execute("SELECT * FROM orders").fetchall()
        waits.at[3] = lambda: other.execute("COMMIT")
        open_backend()
    assert len(waits.pauses) == 3
