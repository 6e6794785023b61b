"""Children of a process in which another thread is deciding whether to log an event."""

from __future__ import annotations

import os
import threading

import pytest

from pitstop._decisions._logs import Throttle


pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


def test_a_child_logs_although_a_thread_of_its_parent_was_deciding(fork):
    throttle, inside, done = Throttle(), threading.Event(), threading.Event()

    def decide():
        with throttle._turn.taken():
            inside.set()
            done.wait(30)

    thread = threading.Thread(target=decide)
    thread.start()
    assert inside.wait(30)
    assert fork(lambda: [throttle.passes(0), throttle.passes(1)]).result() == ["", None]
    done.set()
    thread.join()
    assert throttle.passes(0) == ""
