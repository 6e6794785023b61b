"""The number of Python calls of the backend for a store: the driver's own are most of the cost, and these add to it."""

from __future__ import annotations

import sys

from collections import Counter

import pytest

from pitstop.abc import Progress, Record


@pytest.fixture
def calls():
    """Returns the calls of the backend's functions during an action."""

    def calls(action):
        found = Counter()

        def count(frame, event, _):
            if event == "call" and "/pitstop_mongo/" in frame.f_code.co_filename:
                found[frame.f_code.co_qualname] += 1

        sys.setprofile(count)
        try:
            action()
        finally:
            sys.setprofile(None)
        return found

    return calls


def records(backend, count):
    progress = Progress(*[backend.now() // 1000] * 2)
    return [Record(f"{n}", {"n": n}, None, f"r{n}", progress) for n in range(count)]


def test_a_store_of_one_message_takes_few_calls(open_backend, calls):
    """With the wake-up of other processes, which a standalone server needs."""
    backend = open_backend()
    backend.put(records(backend, 1))
    stored = records(backend, 1)
    found = calls(lambda: backend.put(stored))
    assert found.total() <= 56, found


def test_the_time_takes_no_operation_once_it_was_measured(open_backend, calls):
    backend = open_backend()
    backend.now()
    found = calls(backend.now)
    assert not [name for name in found if "operation" in name or "_bounded" in name]


def test_a_message_of_a_large_store_takes_few_calls(open_backend, calls):
    backend = open_backend()
    backend.put(records(backend, 2))
    small, large = records(backend, 100), records(backend, 1100)
    each = (calls(lambda: backend.put(large)).total() - calls(lambda: backend.put(small)).total()) / 1000
    assert each <= 3.5, each
