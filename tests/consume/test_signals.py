"""SIGTERM and SIGINT while messages are handled, in real processes on real stores."""

from __future__ import annotations

import random
import signal
import threading
import time

from contextlib import suppress

import pytest

from consume.kit import DUE_NOW, counts, on_sqlite, on_sqlite_at_least, stored, until


@pytest.mark.parametrize(
    ("where", "number"),
    [("sqlite", signal.SIGTERM), ("sqlite", signal.SIGINT), ("sqlite", signal.SIGHUP), ("mongo", signal.SIGTERM)],
    indirect=["where"],
    ids=["sqlite-SIGTERM", "sqlite-SIGINT", "sqlite-SIGHUP", "mongo-SIGTERM"],
)
def test_running_handlers_finish_and_the_rest_is_back_at_once(pit, where, start, number):
    stored(pit, 40)
    child = start("consume", where, {"workers": 8, "prefetch": 40})
    began = {child.read()[1] for _ in range(8)}
    assert counts(pit) == (0, 40)

    child.signal(number)
    # While they run.
    until(lambda: counts(pit) == (32, 8))
    child.let_go(8)
    lines = child.read_until("summary")
    code, errors = child.end()

    assert {each[1] for each in lines if each[0] == "done"} == began
    assert lines[-1] == ["summary", "signal", "8", "0", "0", "0"]
    assert (code, errors) == (0, "")
    assert counts(pit) == (32, 0)


def test_what_was_claimed_ahead_is_with_another_process_long_before_the_handlers_are_done(pit, where, start):
    child = start("consume", where, {"workers": 8, "prefetch": 100})
    other = pit.listen(loop_time=0.02)
    stored(pit, 100)
    for _ in range(8):
        assert child.read()[0] == "began"
    until(lambda: pit.stats().leased == 100)

    child.signal(signal.SIGTERM)
    asked = time.monotonic()
    # No handler comes to its end before it is let go.
    delivery = other.get(timeout=20)
    waited = time.monotonic() - asked

    assert delivery is not None
    assert delivery.attempt == 1, "no handler saw it"
    assert child.has_said_nothing()
    delivery.nack(delay=DUE_NOW)
    child.let_go(8)
    assert child.read_until("summary")[-1][1] == "signal"
    print(f"with another process after {waited * 1000:.1f} ms")


@on_sqlite_at_least
def test_at_a_second_signal_nothing_is_waited_for_and_what_handlers_held_is_back_at_once(pit, where, start):
    stored(pit, 2)
    child = start("consume", where, {"workers": 2})
    began = {child.read()[1] for _ in range(2)}

    child.signal(signal.SIGTERM)
    # One that comes within half a second is an echo of the first, so several are sent; but none once it has worked.
    while pit.stats().leased == 2:
        threading.Event().wait(0.6)
        child.signal(signal.SIGTERM)
        with suppress(AssertionError):
            until(lambda: pit.stats().leased == 0, patience=1)
    lines = child.read_until("summary")
    code, _ = child.end()

    assert lines[-1] == ["summary", "second", "signal", "0", "0", "0", "2"]
    assert code == 0
    with pit.listen() as listener:
        back = list(iter(listener.get, None))
    assert {each.id for each in back} == began
    assert {each.attempt for each in back} == {2}, "the first was interrupted"
    assert {each.last_error for each in back} == {None}, "the end of a program is no failure"


def test_whenever_it_comes_no_lease_is_left_and_each_message_is_done_or_due(pit, where, start):
    total = 3000
    stored(pit, total)
    children = [start("count", where, 0.001, {"workers": 8}) for _ in range(2)]
    for each in children:
        assert each.read() == ["ready"]
        each.write("go")
    until(lambda: pit.stats().due < total)

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
    # One that comes half a second later is one more: should this process stand still in between, that shows nothing.
    for _ in range(5):
        stored(pit, 2)
        child = start("consume", where, {"prefetch": 2})
        child.read_until("began")

        begun = time.monotonic()
        for _ in range(3):
            child.signal(signal.SIGINT)
        if time.monotonic() - begun < 0.25:
            break
        child.kill()
    until(lambda: counts(pit) == (1, 1))
    child.let_go()

    assert child.read_until("summary")[-1] == ["summary", "signal", "1", "0", "0", "0"]


@on_sqlite
def test_a_terminal_that_closes_is_not_impatient(pit, where, start):
    """It may send SIGHUP more than once."""
    stored(pit, 2)
    child = start("consume", where, {"prefetch": 2})
    child.read_until("began")

    child.signal(signal.SIGHUP)
    until(lambda: counts(pit) == (1, 1))
    threading.Event().wait(0.6)  # sooner it would be the echo of the first
    child.signal(signal.SIGHUP)
    threading.Event().wait(0.2)  # one that were heard as a second signal would not let the handler finish
    child.let_go()

    assert child.read_until("summary")[-1] == ["summary", "signal", "1", "0", "0", "0"]


@on_sqlite
def test_past_the_deadline_handlers_are_left_and_told_of_and_what_they_held_is_back_at_once(pit, where, start):
    stored(pit, 1)
    child = start("consume", where, {"drain": 0.2})
    child.read_until("began")

    child.signal(signal.SIGTERM)

    assert child.read_until("summary")[-1] == ["summary", "signal", "0", "0", "0", "1"]
    code, errors = child.end()
    assert code == 0
    assert "1 handler is not waited for any longer: of 'm0000'" in errors
    assert (pit.stats().leased, pit.stats().due) == (0, 1)
    assert pit.get("m0000").last_error is None
