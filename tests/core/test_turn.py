"""Turns: forks and signal handlers find no half-done work, and do not wait for ever."""

from __future__ import annotations

import os
import signal
import sys
import threading

from weakref import WeakSet

import pytest

from forks.conftest import fork
from pitstop import BackendUnavailable
from pitstop.abc import Calls, Turn, _turn


__all__ = ["fork"]

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")


class Owner:
    def __init__(self):
        self.told = []
        self.turn = Turn(before_fork=self.before_fork, after_fork=self.after_fork)

    def before_fork(self):
        self.told.append("before")

    def after_fork(self, prepared):
        self.told.append(prepared)


@pytest.fixture
def in_handler():
    """Call a function in a signal handler, at once, and return its result."""

    def call(function):
        told = []
        before = signal.signal(signal.SIGINT, lambda *_: told.append(function()))
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.signal(signal.SIGINT, before)
        return told[0]

    return call


def is_free(turn):
    """Whether another thread can take the turn."""
    told = []

    def take():
        told.append(turn.lock.acquire(blocking=False))
        if told[0]:
            turn.lock.release()

    thread = threading.Thread(target=take)
    thread.start()
    thread.join()
    return told[0]


def test_one_thread_at_a_time_is_inside():
    turn = Turn()
    with turn.lock, turn.call():
        assert (turn.inside, is_free(turn)) == (True, False)
    assert (turn.inside, is_free(turn)) == (False, True)


def test_a_call_in_the_middle_of_another_one_of_its_thread_is_refused_at_once(in_handler):
    turn = Turn()

    def nested():
        text = r"same thread.*Nothing was done.*set a flag or a threading\.Event"
        with pytest.raises(BackendUnavailable, match=text), turn.lock, turn.call():
            pytest.fail("it was let in")
        return "refused"

    with turn.lock, turn.call():
        assert in_handler(nested) == "refused"
        assert turn.inside
    assert is_free(turn)


def test_a_call_that_has_only_begun_to_wait_does_not_keep_a_handler_out(in_handler):
    """The lock is taken and the call has not begun, so the handler's call comes first."""
    turn = Turn()

    def nested():
        with turn.lock, turn.call():
            return turn.inside

    with turn.lock:
        assert in_handler(nested)
        with turn.call():
            assert turn.inside
    assert is_free(turn)


def test_calls_are_noted_by_thread():
    calls, told = Calls(), []

    def other():
        with calls.enter():
            told.append(calls.inside)

    with calls.enter():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        with pytest.raises(BackendUnavailable):
            calls.enter()
    assert (told, calls.inside) == ([True], False)


@forks
class TestForks:
    def test_a_fork_waits_for_the_thread_that_is_inside(self, fork):
        owner, inside, told = Owner(), threading.Event(), []

        def stay():
            with owner.turn.lock, owner.turn.call():
                inside.set()
                threading.Event().wait(0.1)
                told.append("left")

        thread = threading.Thread(target=stay)
        thread.start()
        inside.wait()
        assert fork(lambda: [*told, *owner.told, is_free(owner.turn)]).result() == ["left", "before", True, True]
        thread.join()
        assert (owner.told, is_free(owner.turn)) == (["before"], True)

    def test_a_fork_in_the_middle_of_a_call_does_not_wait_for_that_call(self, fork):
        owner, other = Owner(), Owner()
        with owner.turn.lock, owner.turn.call():
            told = fork(lambda: [owner.told, other.told, owner.turn.inside, is_free(owner.turn)]).result()
        assert told == [[False], ["before", True], True, False]
        assert (owner.told, other.told) == ([], ["before"])
        assert is_free(owner.turn)
        assert is_free(other.turn)

    def test_threads_that_fork_at_the_same_time_do_not_wait_for_each_other(self, fork):
        owners, told = [Owner() for _ in range(5)], []

        def split():
            told.extend(fork(lambda: [owner.told[-1] for owner in owners]).result() for _ in range(10))

        threads = [threading.Thread(target=split) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert told == [[True] * 5] * 30
        assert all(is_free(owner.turn) for owner in owners)

    def test_a_turn_that_is_made_during_a_fork_is_used_after_it(self, fork):
        made = []

        class Slow(Owner):
            def before_fork(self):
                self.thread = threading.Thread(target=lambda: made.append(Turn()))
                self.thread.start()
                self.thread.join(0.1)
                super().before_fork()

        owner = Slow()
        assert fork(lambda: len(made)).result() == 0
        owner.thread.join()
        assert len(made) == 1

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
    def test_an_interruption_before_a_fork_leaves_no_lock_taken(self, fork, monkeypatch):
        """Interrupt each line of the hook: Python prints the error of a hook, and forks all the same."""
        # The hook has as many steps as there are turns, and earlier tests may have left some.
        monkeypatch.setattr(_turn, "_turns", WeakSet())
        owners, parent = [Owner(), Owner()], os.getpid()
        number = 0
        while True:
            left, raised = number, False

            def on_line(frame, event, arg):
                nonlocal left, raised
                if event == "line" and not raised and os.getpid() == parent:
                    if left == 0:
                        raised = True
                        raise KeyboardInterrupt
                    left -= 1
                return on_line

            sys.settrace(lambda frame, *_: on_line if frame.f_code.co_filename == _turn.__file__ else None)
            try:
                told = fork(lambda: [is_free(owner.turn) for owner in owners])
            finally:
                sys.settrace(None)
            assert told.result() == [True, True], number
            assert all(is_free(owner.turn) for owner in owners), number
            if not raised:
                break
            number += 1
        assert number > 10

    def test_the_code_of_an_owner_that_is_gone_is_not_called(self, fork):
        owner = Owner()
        turn = owner.turn
        del owner
        assert fork(lambda: is_free(turn)).result()
