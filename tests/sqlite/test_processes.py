"""Several processes on one file, and a process that forks."""

from __future__ import annotations

import os
import sys
import threading

from datetime import timedelta

import pytest

import pitstop

from pitstop.abc import Outcome, Settlement


#: ``PITSTOP_TEST_LARGE=1``: with larger numbers.
COUNT = 20_000 if os.environ.get("PITSTOP_TEST_LARGE") else 2000


@pytest.mark.timeout(600)
def test_four_processes_drain_one_file_each_message_once(path, start_child):
    with pitstop.init({"type": "sqlite", "path": path}) as pit:
        ids = pit.store_many([({"n": number}, timedelta(0)) for number in range(COUNT)])
        children = [start_child("drain", path) for _ in range(4)]
        for child in children:
            assert child.read() == "ready"
        for child in children:
            child.write("go")
        drained = [child.finish() for child in children]
        assert sorted(id for each in drained for id in each) == sorted(ids)
        assert pit.stats() == pitstop.Stats(scheduled=0, due=0, leased=0, dead=0, oldest_due=None)


def test_threads_of_one_backend_drain_each_message_once(open_backend, record):
    backend = open_backend(synchronous="normal")
    backend.put([record(f"{number}") for number in range(1000)])
    drained = []

    def drain():
        while leased := backend.lease(7, 60_000):
            done = backend.settle([Settlement(each.id, each.progress.token, Outcome.COMPLETE, None) for each in leased])
            assert all(done)
            drained.extend(each.id for each in leased)

    threads = [threading.Thread(target=drain) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(drained, key=int) == [f"{number}" for number in range(1000)]


def test_watch_notices_commits_of_others_and_nothing_else(path, open_backend, record, start_child):
    backend, other = open_backend(), open_backend()
    watch = backend.watch()
    assert watch.poll() is None
    backend.put([record("mine")])
    backend.lease(1, 1000)
    assert watch.poll() is None
    other.get("mine")
    other.lease(1, 1000)
    assert watch.poll() is None
    other.put([record("of another handle")])
    assert watch.poll() == 0
    assert watch.poll() is None
    start_child("store", path, "of another process", "2030-01-01T00:00:00+00:00").finish()
    assert watch.poll() == 0
    assert watch.poll() is None
    watch.close()


def test_watch_does_not_wait_for_the_user_of_the_connection(backend):
    watch = backend.watch()
    with backend._database.lock:
        assert watch.poll() is None


def test_a_sleeping_listener_gets_messages_of_another_process(path, clock, start_child):
    """Only the watch wakes it: its clock stands still at the time at which the message is due."""
    got = []
    with pitstop.init({"type": "sqlite", "path": path, "clock": clock, "loop_time": "1d"}) as pit:
        with pit.listen() as listener:
            thread = threading.Thread(target=lambda: got.append(listener.get(timeout=None)))
            thread.start()
            assert clock.wait_for_sleepers(2), "the listener, or its watching thread, does not sleep"
            start_child("store", path, "a", clock.now().isoformat()).finish()
            clock.advance(0.02)
            thread.join(30)
            listener.stop()
            thread.join()
        assert [each.id for each in got] == ["a"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timers that interrupt")
def test_an_interruption_at_any_step_leaves_the_backend_usable(path, start_child):
    assert start_child("interrupt", path).finish() == ["done"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")
def test_a_fork_waits_for_a_transaction_and_both_sides_open_the_file_anew(path, start_child):
    lines = start_child("fork", path).finish()
    assert lines == ["child 0", "after-the-child before from-the-child from-the-parent"]
