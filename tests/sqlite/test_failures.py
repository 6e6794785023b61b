"""A store that fails at work raises the right error, and leaves nothing half done."""

from __future__ import annotations

import resource
import sqlite3

from contextlib import closing
from datetime import timedelta

import pytest

import pitstop

from pitstop import BackendUnavailable
from pitstop.abc import Outcome, Settlement


def complete(records):
    return [Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in records]


def test_a_full_disk_stores_nothing_of_a_batch(backend, record):
    backend.put([record("before")])
    with backend._database.lock, backend._database as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        connection.execute(f"PRAGMA max_page_count = {pages + 3}")
    batch = [record(f"{number:04}") for number in range(1000)]
    with pytest.raises(
        BackendUnavailable, match=r"cannot grow: the disk.* is full\. Nothing was changed\. Free"
    ) as caught:
        backend.put(batch)
    assert "s3cret" not in str(caught.value)
    assert [each.id for each in backend.scan(None, 2000, None)] == ["before"]
    with backend._database.lock, backend._database as connection:
        connection.execute("PRAGMA max_page_count = 100000")
    backend.put(batch)
    assert backend.tally().due == 1001


def test_a_failing_disk(path, backend, record):
    """A limit on the size of files makes the operating system refuse to write."""
    backend.put([record("before")])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    written = path.with_name("pitstop.db-wal").stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (written + 10_000, limits[1]))
    try:
        with pytest.raises(BackendUnavailable, match=r"Reading or writing .* failed \(SQLITE_IOERR\w*\)"):
            backend.put([record(f"{number:04}") for number in range(1000)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [each.id for each in backend.scan(None, 2000, None)] == ["before"]
    backend.put([record("after")])
    assert backend.tally().due == 2


@pytest.mark.parametrize("work", ["put", "put_many", "delete", "lease", "settle", "settle_many"])
def test_each_write_reports_that_it_is_locked_out(path, open_backend, record, work):
    backend = open_backend(busy_timeout=0)
    backend.put([record("a"), record("b"), record("c")])
    leased = backend.lease(2, 1000)
    works = {
        "put": lambda: backend.put([record("d")]),
        "put_many": lambda: backend.put([record("d"), record("e")]),
        "delete": lambda: backend.delete("a"),
        "lease": lambda: backend.lease(1, 1000),
        "settle": lambda: backend.settle(complete(leased)[:1]),
        "settle_many": lambda: backend.settle(complete(leased)),
    }
    before = backend.tally()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(BackendUnavailable, match=r"is locked: .* for 0 s \(busy_timeout\)\. Nothing was changed"):
            works[work]()
        assert backend.tally() == before
        other.execute("COMMIT")
    works[work]()
    assert backend.tally() != before


def test_reading_goes_on_while_others_write(path, open_backend, record):
    backend = open_backend(busy_timeout=0)
    backend.put([record("a", due=2**41)])
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert backend.get("a").id == "a"
        assert backend.tally().scheduled == 1
        assert backend.next_due() == 2**41
        assert [each.id for each in backend.scan(None, 1, None)] == ["a"]
        assert backend.lease(1, 1000) == [], "a claim without due messages takes the write lock"
        other.execute("COMMIT")


def test_a_damaged_file(path, open_backend, record):
    backend = open_backend()
    backend.put([record(f"{number:04}") for number in range(1000)])
    backend.close()
    backend = open_backend()
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(BackendUnavailable, match=r"is damaged \(SQLITE_CORRUPT\w*\)\. Stop all programs that use it"):
        backend.tally()


def test_a_file_that_is_no_database_any_more(path, open_backend):
    """A failure that is the configuration's fault at the opening is the store's fault later: a listener tries again."""
    backend = open_backend()
    with backend._database.lock, backend._database as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # The connection is opened anew, as after a fork.
    with backend._database.lock:
        backend._database._before_fork()
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(BackendUnavailable, match="is no SQLite database"):
        backend.tally()


def test_tables_that_went_away(path, backend):
    with closing(sqlite3.connect(path)) as other, other:
        other.execute("DROP TABLE pitstop_messages")
    with pytest.raises(BackendUnavailable, match=r"refused to work on .* no such table: pitstop_messages"):
        backend.tally()


def test_an_interruption_leaves_no_transaction_behind(path, backend, record):
    def interrupted():
        with backend._database.lock, backend._database as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("DELETE FROM pitstop_messages")
            raise KeyboardInterrupt

    backend.put([record("b")])
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    backend.put([record("a")])
    with closing(sqlite3.connect(path, timeout=0, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert other.execute("SELECT id FROM pitstop_messages ORDER BY seq").fetchall() == [("b",), ("a",)]
        other.execute("ROLLBACK")


def test_closed(path, open_backend, record):
    backend = open_backend()
    watch = backend.watch()
    backend.put([record()])
    backend.close()
    backend.close()
    assert watch.poll() is None
    watch.close()
    with pytest.raises(BackendUnavailable, match=r"was closed here\. Make a new Pitstop with pitstop\.init"):
        backend.get("a")
    assert [each.name for each in path.parent.iterdir()] == ["pitstop.db"], "the log was not written back and removed"


def test_the_listener_goes_on_when_the_lock_is_gone(path, start_child):
    with pitstop.init({"type": "sqlite", "path": path, "busy_timeout": "10ms"}) as pit:
        pit.store({"id": "a"}, timedelta(0))
        child = start_child("lock", path)
        assert child.read() == "locked"
        with pit.listen() as listener:
            with pytest.raises(BackendUnavailable, match="is locked"):
                listener.get(timeout=0)
            child.write("go on")
            child.finish()
            assert listener.get(timeout=30).id == "a"
