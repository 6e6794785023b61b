"""Consumers beside each other, frozen ones, ones that fork, and programs that end without a word."""

from __future__ import annotations

import signal
import threading
import time

import pytest

import pitstop

from consume.kit import DUE_NOW, LARGE, on_sqlite, on_sqlite_at_least, stored, until
from patience import with_some_lease


@on_sqlite_at_least
def test_a_slow_consumer_does_not_sit_on_what_a_fast_one_could_take(pit, where, start):
    slow = start("count", where, 1.0, {"until_idle": True})
    fast = start("count", where, 0.001, {"until_idle": True})
    for each in (slow, fast):
        assert each.read() == ["ready"]
    stored(pit, 1000)
    begun = time.monotonic()

    for each in (slow, fast):
        each.write("go")
    _, by_fast, ended = fast.read()
    _, by_slow, _ = slow.read()

    print(f"the fast one: {by_fast} in {float(ended) - begun:.2f} s; the slow one: {by_slow}")
    assert int(by_fast) + int(by_slow) == 1000
    # The second or two that the messages take, and what a busy machine adds. One that hoards would take minutes.
    assert int(by_slow) <= 25
    assert float(ended) - begun < 25


@on_sqlite
def test_a_consumer_that_becomes_slow_gives_back_what_it_has_in_hand(pit, where):
    stored(pit, 2000)
    handled, slow, go_on = [], threading.Event(), threading.Event()

    def handle(msg):
        handled.append(msg["id"])
        if len(handled) == 1000:
            slow.set()
            go_on.wait(20)

    thread = threading.Thread(target=lambda: pit.consume(handle, until_idle=True))
    thread.start()
    assert slow.wait(20)
    begun = time.monotonic()
    with pitstop.init(where) as other:
        # One is being handled, the acks of some may be on their way, and all others are free for each listener.
        until(lambda: other.stats().leased == 1)
    took = time.monotonic() - begun
    go_on.set()
    thread.join(20)

    print(f"given back after {took * 1000:.0f} ms")
    assert len(handled) == len(set(handled)) == 2000


@on_sqlite_at_least
def test_a_handler_that_outlives_its_lease_is_not_delivered_again_while_its_heart_beats(pit, where, start):
    def show(lease):
        stored(pit, 1)
        child = start("late", where, {"heartbeat": True, "lock_time": lease})
        assert child.read() == ["began", "m0000"]
        with pit.listen(loop_time=0.05) as other:
            # Three leases, and no other listener has got it.
            another = other.get(timeout=3.2 * lease)
        child.write("go")
        assert child.read() == ["held"]
        assert child.read() == ["summary", "1", "0"]
        assert another is None
        assert pit.get("m0000") is None

    with_some_lease(show)


@on_sqlite_at_least
def test_a_process_that_is_frozen_past_its_lease_loses_it_and_its_late_ack_is_stale(pit, where, start):
    stored(pit, 1)
    child = start("late", where, {"heartbeat": True, "lock_time": 0.5})
    assert child.read() == ["began", "m0000"]

    child.signal(signal.SIGSTOP)
    with pit.listen(loop_time=0.05) as listener:
        delivery = listener.get(timeout=20)
    child.signal(signal.SIGCONT)
    child.write("go")

    assert delivery is not None
    assert delivery.attempt == 2
    assert child.read() == ["lost"]
    assert child.read() == ["summary", "0", "1"]
    assert pit.get("m0000").attempts == 2, "its ack changed nothing"
    delivery.ack()


@on_sqlite
def test_a_process_that_is_frozen_while_it_stops_a_listener_has_given_back_what_it_held(pit, where, start):
    stored(pit, 10)
    child = start("stop", where)
    assert child.read() == ["giving", "back"]

    child.signal(signal.SIGSTOP)
    threading.Event().wait(0.7)  # longer than stop() waits for a store that does not answer
    child.write("go")
    child.signal(signal.SIGCONT)

    assert child.read() == ["leased", "1"]


@pytest.mark.parametrize("kind", ["consume", "consume daemon", "iterate", "iterate daemon", "pool"])
@on_sqlite
def test_a_program_ends_although_a_thread_consumes_or_listens(where, start, kind):
    child = start("leave", where, kind)

    assert child.read() == ["leaving"]
    code, errors = child.end()

    # From Python 3.13 on sqlite3 would tell of a connection that was left open.
    assert (code, errors) == (0, "")


@on_sqlite_at_least
@pytest.mark.parametrize("by_kind", [False, True])
def test_a_child_of_a_fork_settles_nothing_and_the_parent_goes_on(pit, where, start, by_kind):
    ids = [*stored(pit, 50), pit.store({"id": "forks"}, DUE_NOW, kind="report")]
    child = start("fork", where, by_kind)

    lines = child.read_until("summary")

    assert lines == [["child", "0"], ["summary", str(len(ids)), "0", str(len(ids))]]
    assert child.end()[0] == 0
    assert pit.entries() == []


@on_sqlite_at_least
def test_counts_of_several_processes_add_up(pit, where, start):
    total = 20_000 if LARGE else 1000
    stored(pit, total)
    children = [start("count", where, 0, {"workers": 2, "until_idle": True}) for _ in range(2)]
    for each in children:
        assert each.read() == ["ready"]

    for each in children:
        each.write("go")

    assert sum(int(each.read()[1]) for each in children) == total
    assert pit.entries() == []
