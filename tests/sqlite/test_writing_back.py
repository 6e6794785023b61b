"""The log is written back at 32 MB, and by one connection at a time if SQLite needs that."""

from __future__ import annotations

import fcntl
import logging
import os
import sqlite3
import struct

from contextlib import closing

import pytest

from pitstop_sqlite import _database, _descriptors, _writing_back
from pitstop_sqlite._writing_back import has_reset_bug


TURN = 1 << 40


@pytest.fixture(autouse=True)
def _short_log(monkeypatch):
    """Make the log 32 pages of 2,048 bytes, and check it after each commit."""
    monkeypatch.setattr(_database, "_LOG", 32 * 2048)
    monkeypatch.setattr(_writing_back, "_LOOK", 1)


@pytest.fixture
def affected(monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 40, 1))


@pytest.fixture
def fixed(monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))


def log_of(path):
    """Return how many pages the log has, and how many of them are written back."""
    # The test must not close a descriptor of a file on which the backend has locks.
    descriptor = os.open(f"{path}-shm", os.O_RDONLY)
    header = os.pread(descriptor, 100, 0)
    _kept.append(descriptor)
    return struct.unpack_from("=I", header, 16)[0], struct.unpack_from("=I", header, 96)[0]


_kept: list[int] = []


@pytest.fixture(autouse=True)
def _close_what_was_kept():
    yield
    while _kept:
        os.close(_kept.pop())


class Owner:
    """A connection that may write the log back."""


def by_itself(backend):
    """Return the number of pages after which SQLite itself writes the log back."""
    with backend._database.lock, backend._database as connection:
        (pages,) = connection.execute("PRAGMA wal_autocheckpoint").fetchone()
    return pages


def traced(backend, see):
    with backend._database.lock, backend._database as connection:
        connection.set_trace_callback(see)


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 37, 0), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 0), True),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
        ((4, 0, 0), False),
    ],
)
def test_the_bug_is_in_these_versions(version, affected):
    assert has_reset_bug(version) is affected


@pytest.mark.parametrize("size", [2048, 8192])
def test_a_sound_sqlite_does_it_by_itself_at_32_mb(path, open_backend, fixed, monkeypatch, size):
    monkeypatch.undo()
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 3))
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"PRAGMA page_size = {size}")
        other.execute("CREATE TABLE orders (id INTEGER)")
    assert by_itself(open_backend()) == 32 * 1024 * 1024 // size


@pytest.mark.usefixtures("affected")
class TestTurns:
    def test_the_log_of_several_connections_is_written_back_and_begun_anew(self, path, open_backend, record):
        backends = [open_backend(synchronous="normal") for _ in range(3)]
        for number in range(300):
            backends[number % 3].put([record(f"{number}")])
            pages, written_back = log_of(path)
            assert pages - written_back < 32 + 10
            assert [by_itself(each) for each in backends] == [0, 0, 0]
        assert path.with_name("pitstop.db-wal").stat().st_size < 2 * 32 * 2048
        assert len(backends[0].scan(None, 1000, None)) == 300

    def test_the_log_is_begun_anew_although_others_commit_and_read_all_the_time(self, path, open_backend, record):
        """At each first pass a reader needs the log, and a commit follows."""
        backend = open_backend(synchronous="normal")
        reader = sqlite3.connect(path, isolation_level=None)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("PRAGMA wal_autocheckpoint = 0")
        other.execute("CREATE TABLE orders (id INTEGER)")

        def step_in(statement):
            if statement == "PRAGMA wal_autocheckpoint = 1":
                reader.execute("BEGIN")
                reader.execute("SELECT count(*) FROM orders").fetchone()
            elif statement == "PRAGMA wal_autocheckpoint = 0":
                other.execute("INSERT INTO orders VALUES (1)")
            elif statement.startswith("PRAGMA busy_timeout") and reader.in_transaction:
                reader.execute("COMMIT")

        with closing(other), closing(reader):
            traced(backend, step_in)
            for number in range(600):
                backend.put([record(f"{number}")])
            traced(backend, None)
            assert path.with_name("pitstop.db-wal").stat().st_size < 4 * 32 * 2048
        assert len(backend.scan(None, 1000, None)) == 600

    def test_connections_that_commit_once_write_it_back_too(self, path, open_backend, record, monkeypatch):
        """Such connections belong to a command that is called for each message, beside a program that does nothing."""
        monkeypatch.setattr(_writing_back, "_LOOK", 8)
        idle = open_backend(synchronous="normal")
        for number in range(100):
            backend = open_backend(synchronous="normal")
            backend.put([record(f"{number}")])
            backend.close()
        assert path.with_name("pitstop.db-wal").stat().st_size < 3 * 32 * 2048
        assert idle.tally().due == 100

    def test_a_turn_that_an_interruption_left_behind_ends_with_its_connection(self, backend):
        index, owner, next_one = backend._database._connection.file.index, Owner(), Owner()
        assert index.take(owner, TURN)
        assert index.take(owner, TURN)
        assert not index.take(next_one, TURN)
        index.give_up(TURN, owner=next_one)
        assert not index.take(next_one, TURN)
        del owner
        assert index.take(next_one, TURN)
        index.give_up(TURN, owner=next_one)
        assert index.take(Owner(), TURN)

    def test_a_connection_commits_something_right_before_it_writes_back(self, path, backend, record):
        """So the log cannot begin anew while it is written back."""
        done = []
        traced(backend, done.append)
        for number in range(20):
            backend.put([record(f"{number}")])
        at = done.index("PRAGMA wal_autocheckpoint = 1")
        commit, after = done[at + 1 : at + 3]
        assert "log_written_back" in commit
        assert after == "PRAGMA wal_autocheckpoint = 0"

    @pytest.mark.parametrize("whose", ["another handle's", "another process's"])
    def test_nothing_is_written_back_while_it_is_anothers_turn(self, path, backend, record, whose):
        index, another = backend._database._connection.file.index, Owner()
        if whose == "another handle's":
            assert index.take(another, TURN)
        else:
            # To the kernel, another open file description is the same as another process.
            _kept.append(os.open(f"{path}-shm", os.O_RDWR))
            fcntl.fcntl(_kept[0], fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, TURN, 1, 0))
        for number in range(60):
            backend.put([record(f"{number}")])
        pages, written_back = log_of(path)
        assert (pages > 60, written_back) == (True, 0)
        if whose == "another handle's":
            index.give_up(TURN, owner=another)
        else:
            fcntl.fcntl(_kept[0], fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_UNLCK, 0, TURN, 1, 0))
        for number in range(10):
            backend.put([record(f"{number}")])
        pages, written_back = log_of(path)
        assert pages - written_back < 32

    def test_a_writer_in_the_way_puts_it_off_and_costs_the_caller_nothing(self, path, open_backend, record):
        backend = open_backend(busy_timeout="5s")
        with closing(sqlite3.connect(path, isolation_level=None)) as other:

            def step_in(statement):
                if statement == "PRAGMA wal_autocheckpoint = 1" and not other.in_transaction:
                    other.execute("BEGIN IMMEDIATE")

            traced(backend, step_in)
            number = 0
            while not other.in_transaction:
                backend.put([record(f"{number}")])
                number += 1
            traced(backend, None)
            assert log_of(path)[1] == 0
            assert by_itself(backend) == 0
            other.execute("COMMIT")
        for more in range(10):
            backend.put([record(f"more {more}")])
        pages, written_back = log_of(path)
        assert pages - written_back < 32
        assert backend.tally().due == number + 10

    def test_a_reader_in_the_way_is_waited_for_without_trying_at_each_commit(
        self, path, open_backend, record, monkeypatch
    ):
        monkeypatch.setattr(_database, "_LOG", 128 * 2048)
        backend, tries = open_backend(), []
        backend.put([record("first")])
        with closing(sqlite3.connect(path, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM pitstop_messages").fetchone()
            traced(backend, lambda statement: tries.append(statement) if "autocheckpoint = 1" in statement else None)
            for number in range(100):
                backend.put([record(f"{number}")])
            assert 0 < len(tries) < 30
        for number in range(40):
            backend.put([record(f"more {number}")])
        pages, written_back = log_of(path)
        assert pages - written_back < 128

    def test_where_it_cannot_be_avoided_it_is_warned_of_once(self, open_backend, monkeypatch, caplog):
        monkeypatch.setattr(_descriptors, "_SUPPORTED", False)
        _database._warn_of_the_bug.cache_clear()
        with caplog.at_level(logging.INFO, "pitstop"):
            backends = [open_backend(), open_backend()]
        (told,) = caplog.records
        assert (told.name, told.levelname) == ("pitstop.sqlite", "WARNING")
        assert "has a rare bug that can damage a file" in told.getMessage()
        assert [by_itself(each) for each in backends] == [32, 32]

    def test_where_it_is_avoided_nothing_is_logged(self, open_backend, caplog):
        _database._warn_of_the_bug.cache_clear()
        with caplog.at_level(logging.INFO, "pitstop"):
            open_backend()
        assert caplog.records == []
