"""The cost of storing: how many Python calls one message takes. A call more is a fault, because stores are a hot path.

The tests count calls, which are the same on each run, and not time.
"""

from __future__ import annotations

import sys

from collections import Counter
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from pitstop._decisions import _store


MESSAGES = 400
BODY = {"to": "ada@example.com", "text": "welcome", "count": 3}


@contextmanager
def counted():
    """Note the functions of Pitstop, of its backends and of attrs that this thread calls."""
    calls = []

    def count(frame, event, _):
        if event == "call" and "pitstop" in frame.f_code.co_filename + frame.f_globals.get("__name__", ""):
            calls.append(frame.f_code.co_qualname)

    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def per_message(calls):
    """Return how many calls each message takes. Calls for a batch of messages do not count."""
    return sum(round(count / MESSAGES) for count in Counter(calls).values())


def test_a_store_takes_few_calls(pit):
    with counted() as calls:
        for _ in range(MESSAGES):
            pit.store(BODY, timedelta(0))
    assert per_message(calls) <= 48, Counter(calls).most_common(48)


@pytest.mark.parametrize(
    ("times", "most"), [((timedelta(0),), 17), ((datetime(2030, 1, 1, tzinfo=UTC), None, "1h"), 21)]
)
def test_a_message_of_store_many_takes_few_calls(pit, times, most):
    with counted() as calls:
        pit.store_many([(BODY, *times)] * MESSAGES)
    assert per_message(calls) <= most, Counter(calls).most_common(most)


def test_items_with_the_same_times_are_planned_once(pit, monkeypatch):
    planned = []
    plan = _store.plan
    monkeypatch.setattr(_store, "plan", lambda *times: planned.append(times) or plan(*times))
    start, every = datetime(2030, 1, 1, tzinfo=UTC), timedelta(hours=1)

    pit.store_many([(BODY, start, None, every)] * MESSAGES)

    assert len(planned) == 1


def test_the_randomness_of_a_batch_is_read_in_few_calls(pit, monkeypatch):
    read = []
    urandom = _store.os.urandom
    monkeypatch.setattr("os.urandom", lambda size: read.append(size) or urandom(size))

    pit.store_many([(BODY, timedelta(0))] * MESSAGES)

    assert len(read) == 2
