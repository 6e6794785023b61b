"""SIGTERM and SIGINT while messages are handled, in real processes on real stores."""

from __future__ import annotations

import random
import signal
import threading
import time

import pytest

from consume.kit import DUE_NOW, on_sqlite, on_sqlite_at_least, stored


@pytest.mark.parametrize(
    ("where", "number"),
    [("sqlite", signal.SIGTERM), ("sqlite", signal.SIGINT), ("sqlite", signal.SIGHUP), ("mongo", signal.SIGTERM)],
    indirect=["where"],
    ids=["sqlite-SIGTERM", "sqlite-SIGINT", "sqlite-SIGHUP", "mongo-SIGTERM"],
)
def test_running_handlers_finish_and_the_rest_is_back_at_once(pit, where, start, number):
    stored(pit, 40)
    child = start("consume", where, 0.6, {"workers": 8})
    began = {child.read()[1] for _ in range(8)}
    assert pit.stats().leased >= 8

    child.signal(number)
    lines = child.read_until("summary")
    code, errors = child.end()

    assert {each[1] for each in lines if each[0] == "done"} == began
    assert lines[-1] == ["summary", "signal", "8", "0", "0", "0"]
    assert (code, errors) == (0, "")
    stats = pit.stats()
    assert (stats.due, stats.leased) == (32, 0)


def test_what_was_claimed_ahead_is_with_another_process_long_before_the_handlers_are_done(pit, where, start):
    child = start("consume", where, 1.5, {"workers": 8, "prefetch": 100})
    other = pit.listen(loop_time=0.02)
    stored(pit, 100)
    child.read_until("began")
    while pit.stats().leased < 100:
        threading.Event().wait(0.005)

    child.signal(signal.SIGTERM)
    asked = time.monotonic()
    delivery = other.get(timeout=10)
    waited = time.monotonic() - asked

    assert delivery is not None
    assert delivery.attempt == 1, "nobody saw it"
    # Some milliseconds, as a rule; the machine of a test may be busy.
    assert waited < 0.7
    delivery.nack(delay=DUE_NOW)
    assert child.read_until("summary")[-1][1] == "signal"
    print(f"with another process after {waited * 1000:.1f} ms")


@on_sqlite_at_least
def test_at_a_second_signal_nothing_is_waited_for_and_what_handlers_held_is_back_at_once(pit, where, start):
    stored(pit, 2)
    child = start("consume", where, 60, {"workers": 2})
    began = {child.read()[1] for _ in range(2)}

    child.signal(signal.SIGTERM)
    while pit.stats().due:
        threading.Event().wait(0.005)
    threading.Event().wait(0.6)  # sooner it would be the echo of the first
    asked = time.monotonic()
    child.signal(signal.SIGTERM)
    lines = child.read_until("summary")
    code, _ = child.end()

    assert time.monotonic() - asked < 5
    assert lines[-1] == ["summary", "second", "signal", "0", "0", "0", "2"]
    assert code == 0
    with pit.listen() as listener:
        back = list(iter(listener.get, None))
    assert {each.id for each in back} == began
    assert {each.attempt for each in back} == {2}, "the first was interrupted"
    assert {each.last_error for each in back} == {"The program ended before its handler did."}


def test_whenever_it_comes_no_lease_is_left_and_each_message_is_done_or_due(pit, where, start):
    total = 3000
    stored(pit, total)
    children = [start("count", where, 0.001, {"workers": 8}) for _ in range(2)]
    for each in children:
        assert each.read() == ["ready"]
        each.write("go")
    while pit.stats().due == total:
        threading.Event().wait(0.005)

    for each in children:
        threading.Event().wait(random.uniform(0, 0.1))
        each.signal(signal.SIGTERM)
    handled = sum(int(each.read()[1]) for each in children)

    ends = [each.end() for each in children]
    assert ends == [(0, "")] * 2
    stats = pit.stats()
    assert (stats.leased, stats.due) == (0, total - handled)
    assert handled > 0


@on_sqlite
def test_a_signal_that_is_passed_on_by_who_started_it_is_no_second_one(pit, where, start):
    stored(pit, 1)
    child = start("consume", where, 0.8, {})
    child.read_until("began")

    for _ in range(3):
        child.signal(signal.SIGINT)

    assert child.read_until("summary")[-1] == ["summary", "signal", "1", "0", "0", "0"]


@on_sqlite
def test_a_terminal_that_closes_is_not_impatient(pit, where, start):
    """It may send SIGHUP more than once."""
    stored(pit, 1)
    child = start("consume", where, 1.4, {})
    child.read_until("began")

    child.signal(signal.SIGHUP)
    threading.Event().wait(0.6)  # sooner it would be the echo of the first
    child.signal(signal.SIGHUP)

    assert child.read_until("summary")[-1] == ["summary", "signal", "1", "0", "0", "0"]


@on_sqlite
def test_under_nohup_a_terminal_that_closes_ends_nothing(pit, where, start):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        child = start("consume", where, 0, {"max_messages": 2})
    finally:
        signal.signal(signal.SIGHUP, before)
    stored(pit, 1)
    child.read_until("done")

    child.signal(signal.SIGHUP)
    pit.store({"id": "after"}, DUE_NOW)

    assert child.read_until("summary")[-1] == ["summary", "max_messages", "2", "0", "0", "0"]


@on_sqlite
def test_past_the_deadline_handlers_are_left_and_told_of_and_what_they_held_is_back_at_once(pit, where, start):
    stored(pit, 1)
    child = start("consume", where, 60, {"drain": 0.2})
    child.read_until("began")

    child.signal(signal.SIGTERM)

    assert child.read_until("summary")[-1] == ["summary", "signal", "0", "0", "0", "1"]
    code, errors = child.end()
    assert code == 0
    assert "1 handlers are not waited for any longer: of 'm0000'" in errors
    assert (pit.stats().leased, pit.stats().due) == (0, 1)
    assert pit.get("m0000").last_error == "The program ended before its handler did."
