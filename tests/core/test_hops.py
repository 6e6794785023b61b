"""The number of Python calls that the engine makes for each message: one more hop a message is a fault."""

from __future__ import annotations

import asyncio
import sys
import threading

from collections import Counter
from contextlib import contextmanager
from datetime import timedelta

import pytest

import pitstop


MESSAGES = 400

#: Folders of the engine. The calls of the backend, of values, and of asyncio are not the engine's.
FOLDERS = ("_engine", "_decisions", "_consume", "_aio")
#: Folders that take part in the claim and the ack of a series.
FOLDERS_OF_SERIES = (*FOLDERS, "_recurrence", "_values")


@contextmanager
def counted(folders=FOLDERS):
    """Note the functions of these folders that this thread calls, and all threads that begin in the context."""
    calls = []

    def count(frame, event, _):
        if event == "call" and any(f"/pitstop/{each}/" in frame.f_code.co_filename for each in folders):
            calls.append(frame.f_code.co_qualname)

    threading.setprofile(count)
    sys.setprofile(count)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def per_message(calls):
    """Return how many calls each message takes. Calls for a batch of messages do not count."""
    return sum(round(count / MESSAGES) for count in Counter(calls).values())


def fill(pit):
    return pit.store_many([({"n": each}, timedelta(0)) for each in range(MESSAGES)])


def iterate(pit):
    with pit.listen(prefetch=MESSAGES) as listener:
        for count, delivery in enumerate(listener, 1):
            delivery.ack()
            if count == MESSAGES:
                break


def iterate_with(pit):
    with pit.listen(prefetch=MESSAGES) as listener:
        for count, delivery in enumerate(listener, 1):
            with delivery:
                pass
            if count == MESSAGES:
                break


def get(pit):
    with pit.listen(prefetch=1) as listener:
        for _ in range(MESSAGES):
            listener.get(timeout=0).ack()


def consume(pit):
    pit.consume(lambda message: None, max_messages=MESSAGES)


@pytest.mark.parametrize(("drain", "most"), [(iterate, 13), (iterate_with, 17), (consume, 19), (get, 46)])
def test_a_message_takes_few_calls_of_the_engine(pit, drain, most):
    fill(pit)
    with counted() as calls:
        drain(pit)
    assert pit.stats().due + pit.stats().leased == 0
    assert per_message(calls) <= most, (per_message(calls), Counter(calls).most_common(most))


@pytest.mark.parametrize(
    ("every", "late", "most"),
    [
        ("1d", timedelta(0), 28),
        ("1d", timedelta(days=3, hours=1), 37),
        (pitstop.Cron("0 9 * * *"), timedelta(0), 58),
        (pitstop.Cron("0 9 * * *"), timedelta(days=3, hours=1), 189),
    ],
)
def test_an_occurrence_of_a_series_takes_few_calls(pit, clock, every, late, most):
    pit.store_many([({"n": each}, None, None, every) for each in range(MESSAGES)])
    clock.advance(pit.entries(limit=1)[0].due - pit.now() + late)
    with counted(FOLDERS_OF_SERIES) as calls:
        iterate(pit)
    assert pit.stats().scheduled == MESSAGES
    assert per_message(calls) <= most, (per_message(calls), Counter(calls).most_common(most))


@pytest.mark.parametrize(("concurrency", "most"), [(1, 28), (50, 21)])
def test_a_message_takes_few_calls_of_the_engine_in_an_event_loop(concurrency, most):
    async def handle(message):
        pass

    async def drain():
        async with pitstop.init_async({"type": "memory"}) as pit:
            await fill(pit)
            with counted() as calls:
                await pit.consume(handle, concurrency=concurrency, max_messages=MESSAGES)
            assert (await pit.stats()).due == 0
            return calls

    calls = asyncio.run(drain())
    assert per_message(calls) <= most, Counter(calls).most_common(most)
