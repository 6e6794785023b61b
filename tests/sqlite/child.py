"""The other processes of these tests. Each command communicates by lines on stdin and stdout."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import threading
import warnings

from datetime import datetime, timedelta

import pitstop

from pitstop.abc import Outcome, Progress, Record, Settlement
from pitstop_sqlite import SqliteBackend, SqliteConfig
from pitstop_sqlite._database import Database


def say(line: object) -> None:
    print(line, flush=True)


def store(path: str, id: str, when: str) -> None:
    """Store one message."""
    with pitstop.init({"type": "sqlite", "path": path}) as pit:
        pit.store({"id": id}, datetime.fromisoformat(when))


def look(path: str) -> None:
    """Print the ids of the stored messages, and exit."""
    with pitstop.init({"type": "sqlite", "path": path}) as pit:
        say(" ".join(sorted(entry.id for entry in pit.entries(limit=1000))))


def write_at_once(path: str) -> None:
    """Print whether the write lock can be taken without waiting."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as error:
        say(error)
    else:
        connection.execute("ROLLBACK")
        say("free")
    connection.close()


def store_on(path: str, synchronous: str) -> None:
    """Store messages until killed. Print each id once it is stored."""
    with pitstop.init({"type": "sqlite", "path": path, "synchronous": synchronous}) as pit:
        while True:
            say(pit.store({}, timedelta(hours=1)))


def hold(path: str, lock_time: str) -> None:
    """Claim all due messages, print them, and keep them."""
    with pitstop.init({"type": "sqlite", "path": path, "lock_time": lock_time}) as pit, pit.listen() as listener:
        held = []
        while delivery := listener.get():
            held.append(delivery)
        say(" ".join(each.id for each in held))
        sys.stdin.readline()


def drain(path: str) -> None:
    """At the signal on stdin, claim and acknowledge all due messages, and print them."""
    with pitstop.init({"type": "sqlite", "path": path}) as pit, pit.listen(prefetch=20) as listener:
        say("ready")
        sys.stdin.readline()
        while delivery := listener.get():
            assert delivery.attempt == 1
            delivery.ack()
            say(delivery.id)


def open_and_store(path: str, id: str) -> None:
    """At the signal on stdin, open a file that may not exist yet, and store."""
    say("ready")
    sys.stdin.readline()
    with pitstop.init({"type": "sqlite", "path": path, "busy_timeout": "30s"}) as pit:
        pit.store({"id": id}, timedelta(hours=1))


def lock(path: str) -> None:
    """Hold the write lock until the signal on stdin."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    say("locked")
    sys.stdin.readline()
    connection.execute("COMMIT")
    connection.close()


def interrupt(path: str) -> None:
    """Work while being interrupted again and again, at any step. Work on after each interruption."""
    backend = SqliteBackend(SqliteConfig(path=path, synchronous="normal"))

    def interrupted(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGALRM, interrupted)
    for number in range(400):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.0001 + number * 0.000003)
            while True:
                backend.put([_record("a"), _record("b")])
                token = backend.lease(1, 60_000)[0].progress.token
                backend.settle([Settlement(id, token, Outcome.COMPLETE, None) for id in "ab"])
        except KeyboardInterrupt:
            pass
        assert not held_by_another_step(backend._database)
        backend.put([_record("a"), _record("b")])
        assert not backend._database._connection.in_transaction
    say("done")
    backend.close()


def held_by_another_step(database: Database) -> bool:
    """Whether an interruption has left the lock taken, so that another thread cannot take it."""
    taken = []

    def take() -> None:
        taken.append(database.lock.acquire(timeout=10))
        if taken[0]:
            database.lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return database.turn.inside or not taken[0]


def fork(path: str) -> None:
    """Fork while another thread is inside the backend. Use the backend in the parent and in the child."""
    backend = SqliteBackend(SqliteConfig(path=path))
    database = backend._database
    parents = database._connection
    backend.put([_record("before")])
    inside, done, left = threading.Event(), threading.Event(), []

    def stay_inside() -> None:
        with database.lock, database.turn.call(), database as connection:
            connection.execute("BEGIN IMMEDIATE")
            inside.set()
            done.wait(0.2)
            connection.execute("COMMIT")
            left.append(True)

    thread = threading.Thread(target=stay_inside)
    thread.start()
    inside.wait()
    with warnings.catch_warnings():
        # Python warns of forks with threads from 3.12 on. Such forks happen nevertheless.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    assert left, "the fork does not wait for the transaction"
    if pid == 0:
        # A failure here would wait for a lock that is never released.
        signal.alarm(30)
        backend.put([_record("from the child")])
        assert database._connection is not parents
        leased = backend.lease(1, 60_000)
        assert [each.id for each in leased] == ["before"]
        backend.close()
        # Not os._exit: the interpreter must take everything down.
        sys.exit(0)
    done.set()
    thread.join()
    backend.put([_record("from the parent")])
    _, status = os.waitpid(pid, 0)
    say(f"child {os.waitstatus_to_exitcode(status)}")
    assert database._connection is not parents
    backend.put([_record("after the child")])
    say(" ".join(sorted(each.id.replace(" ", "-") for each in backend.scan(None, 100, None))))
    backend.close()


def _record(id: str) -> Record:
    return Record(id, {}, None, "r", Progress(1, 1))


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
