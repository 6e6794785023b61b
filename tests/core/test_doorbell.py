"""The bell that ends a wait, and a wait that ends at its timeout."""

from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from pitstop.abc import Doorbell


def test_a_ring_ends_the_wait_of_another_thread_or_the_next_one():
    bell, told = Doorbell(), []
    thread = threading.Thread(target=lambda: told.append(bell.wait(None)))
    thread.start()
    bell.ring()
    thread.join()
    assert told == [True]
    assert bell.wait(0) is False
    bell.ring()
    bell.ring()
    assert (bell.wait(None), bell.wait(0), bell.wait(-1.0)) == (True, False, False)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no timers that interrupt")
@pytest.mark.timeout(30)
def test_a_wait_ends_although_a_signal_handler_takes_longer_than_was_left_of_it():
    bell, seen = Doorbell(), []

    def slow(*_):
        time.sleep(0.1)
        seen.append("handled")

    before = signal.signal(signal.SIGALRM, slow)
    timer = signal.setitimer(signal.ITIMER_REAL, 0.02)
    try:
        assert bell.wait(0.05) is False
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)
    assert seen == ["handled"]


def test_it_can_be_rung_in_the_middle_of_a_ring():
    """A signal handler does the same."""
    bell = Doorbell()

    class Frame:
        rung = False

    def on_line(frame, event, arg):
        if not Frame.rung:
            Frame.rung = True
            bell.ring()
        return on_line

    sys.settrace(lambda frame, *_: on_line if frame.f_code is Doorbell.ring.__code__ else None)
    try:
        bell.ring()
    finally:
        sys.settrace(None)
    assert (Frame.rung, bell.wait(0), bell.wait(0)) == (True, True, False)
