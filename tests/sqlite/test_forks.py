"""The file of a store in a child of a fork: its use, and its refusals."""

from __future__ import annotations

import ctypes
import os
import signal
import sqlite3
import struct
import sys
import threading

from datetime import timedelta
from pathlib import Path

import pytest

import pitstop

from forks.conftest import fork
from pitstop_sqlite import SqliteBackend, SqliteConfig


__all__ = ["fork"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

HOUR = timedelta(hours=1)


def refusals(path, *uses):
    """Return the answer to each use of an inherited store, and of a new one."""
    told = []
    for use in (*uses, lambda: pitstop.init({"type": "sqlite", "path": path})):
        try:
            use()
        except pitstop.BackendUnavailable as error:
            told.append("inherited an open connection" in str(error))
        else:
            told.append("it was used")
    return told


@pytest.mark.parametrize("how", ["inherited", "of its own"])
def test_messages_of_a_child_are_there_when_the_parent_has_closed(path, fork, how):
    """Otherwise the parent, as the last to close as far as SQLite knows, deletes the log of its child."""
    closed, close = os.pipe()
    pit = pitstop.init({"type": "sqlite", "path": path})
    pit.store({"id": "before"}, HOUR)

    def child():
        mine = pit if how == "inherited" else pitstop.init({"type": "sqlite", "path": path})
        mine.store({"id": "first"}, HOUR)
        os.read(closed, 1)
        mine.store({"id": "second"}, HOUR)
        mine.close()
        return True

    told = fork(child)
    pit.store({"id": "parent"}, HOUR)
    pit.close()
    os.write(close, b".")
    assert told.result()
    with pitstop.init({"type": "sqlite", "path": path}) as again:
        assert {entry.id for entry in again.entries()} == {"before", "parent", "first", "second"}


def test_all_stores_of_the_process_are_closed_before_a_fork_and_a_closed_one_stays_closed(tmp_path, fork):
    backends = [SqliteBackend(SqliteConfig(path=tmp_path / f"{n}.db")) for n in range(3)]
    backends[1].close()

    def child():
        # This is empty on all systems but Linux.
        inherited = [str(each.resolve()) for each in Path("/proc/self/fd").glob("*")]
        counts = [backend.tally().dead for backend in (backends[0], backends[2])]
        with pytest.raises(pitstop.BackendUnavailable, match="was closed"):
            backends[1].tally()
        return [[name for name in inherited if str(tmp_path) in name], counts]

    assert fork(child).result() == [[], [0, 0]]
    with pytest.raises(pitstop.BackendUnavailable, match="was closed"):
        backends[1].tally()
    for backend in backends:
        backend.close()


def test_a_fork_in_the_middle_of_a_call_leaves_the_parent_alone_and_refuses_the_child(path, fork, monkeypatch):
    """A signal handler may fork. The child must neither go on with the transaction nor begin one without locks."""
    backend = SqliteBackend(SqliteConfig(path=path))
    told = []

    def handler(*_):
        connection = backend._database._connection
        uses = (lambda: connection.execute("COMMIT"), backend.tally)
        told.append(fork(lambda: refusals(path, *uses)))

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with backend._database.lock, backend._database.turn.call(), backend._database as connection:
            connection.execute("BEGIN IMMEDIATE")
            signal.raise_signal(signal.SIGUSR1)
            connection.execute("COMMIT")
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert told[0].result() == [True, False, True]
    assert backend.tally().dead == 0
    backend.close()


@pytest.mark.skipif(sys.platform != "linux", reason="calls the fork of the C library")
def test_a_fork_that_runs_no_hooks_is_noticed_and_refused(path):
    """C code forks like this. The child has inherited an open connection, beside which SQLite takes no locks."""
    backend = SqliteBackend(SqliteConfig(path=path))
    heard, tell = os.pipe()
    # PyDLL keeps Python's own lock, like an extension that forks.
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        signal.alarm(20)
        os.write(tell, repr(refusals(path, backend.tally)).encode())
        os._exit(0)
    os.close(tell)
    assert os.read(heard, 100) == b"[True, True]"
    os.waitpid(pid, 0)
    os.close(heard)
    assert backend.tally().dead == 0
    backend.close()


@pytest.mark.skipif(sys.platform != "linux", reason="calls the fork of the C library")
@pytest.mark.parametrize("end", ["close", "rest"])
def test_a_child_of_such_a_fork_closes_nothing_at_its_end_and_leaves_the_locks(path, end):
    """Otherwise the child, once its parent has ended, would write an old log back over newer messages of others."""
    backend = SqliteBackend(SqliteConfig(path=path))
    connection = backend._database._connection
    file = connection.file
    heard, tell = os.pipe()
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        signal.alarm(20)
        backend.close() if end == "close" else backend._database.rest(1)
        left = connection.file is not None
        file.forget()
        os.write(tell, b"left" if left else b"closed")
        os._exit(0)
    os.close(tell)
    assert os.read(heard, 100) == b"left"
    os.waitpid(pid, 0)
    os.close(heard)
    import fcntl

    exclusive = struct.pack("hhqqi28x", fcntl.F_WRLCK, 0, 0x40000002, 510, 0)
    # Closing the file drops SQLite's own locks, which belong to the process. It leaves the locks that are tested here.
    path.read_bytes()
    with path.open("rb+") as another, pytest.raises(BlockingIOError):
        fcntl.fcntl(another, fcntl.F_OFD_SETLK, exclusive)
    assert backend.tally().dead == 0
    backend.close()


def test_a_file_that_is_being_opened_by_another_thread_is_waited_for(path, fork, monkeypatch):
    begun, opened = threading.Event(), threading.Event()
    connect = sqlite3.connect

    def slow(*args, **options):
        begun.set()
        opened.wait(0.2)
        return connect(*args, **options)

    backends = []
    thread = threading.Thread(target=lambda: backends.append(SqliteBackend(SqliteConfig(path=path))))
    monkeypatch.setattr(sqlite3, "connect", slow)
    thread.start()
    assert begun.wait(30)
    told = fork(lambda: refusals(path)[0])
    assert told.result() == "it was used"
    thread.join()
    assert backends[0].tally().dead == 0
    backends[0].close()


def test_a_watch_tells_that_something_may_have_changed_during_a_fork(open_backend, record, fork):
    """Each connection counts by itself, so the new connection may come to the number of the old one."""
    backend = open_backend()
    watch = backend.watch()
    assert watch.poll() is None
    told = fork(lambda: backend.put([record("of the child")]))
    assert told.result() is None
    assert watch.poll() == 0
    assert watch.poll() is None
