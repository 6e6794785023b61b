"""Calls that a thread lets an event loop make: they end, also if the loop does not."""

from __future__ import annotations

import asyncio
import threading

import pytest

from pitstop import BackendUnavailable
from pitstop._aio import _within
from pitstop._aio._within import LoopCaller


@pytest.fixture
def call(monkeypatch):
    """Lets a thread call a function through a loop. Returns the thread, and the list of outcomes."""
    monkeypatch.setattr(_within, "_LOOK", 0.01)

    def call(loop, function):
        outcomes = []

        def run():
            try:
                outcomes.append(LoopCaller(loop).run(function))
            except Exception as error:  # noqa: BLE001 - the test looks at it
                outcomes.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread, outcomes

    return call


async def one():
    return 1


async def late():
    raise TimeoutError("of the driver")


def ended(thread, outcomes):
    thread.join(20)
    assert not thread.is_alive(), "it waits without end"
    (outcome,) = outcomes
    return outcome


@pytest.mark.parametrize("function", [one, late])
def test_the_outcome_of_the_function_is_that_of_the_call(call, function):
    async def main():
        thread, outcomes = call(asyncio.get_running_loop(), function)
        await asyncio.to_thread(thread.join)
        return outcomes

    (outcome,) = asyncio.run(main())
    assert outcome == 1 or str(outcome) == "of the driver"


def test_a_loop_that_was_stopped_and_does_not_run_again(call):
    loop, began = asyncio.new_event_loop(), []

    async def function():
        began.append(1)

    try:
        outcome = ended(*call(loop, function))
        assert isinstance(outcome, BackendUnavailable)
        loop.run_until_complete(asyncio.sleep(0))
        assert began == [], "the caller has given up"
    finally:
        loop.close()


def test_a_loop_that_is_closed_while_the_call_waits(call):
    loop = asyncio.new_event_loop()
    thread, outcomes = call(loop, one)
    loop.close()
    assert isinstance(ended(thread, outcomes), BackendUnavailable)


def test_a_loop_that_was_closed_before(call):
    loop = asyncio.new_event_loop()
    loop.close()
    assert isinstance(ended(*call(loop, one)), BackendUnavailable)


def test_a_loop_that_runs_again_soon(call, monkeypatch):
    monkeypatch.setattr(_within, "_MOST_LOOKS", 2000)
    loop = asyncio.new_event_loop()
    try:
        thread, outcomes = call(loop, one)
        loop.run_until_complete(asyncio.to_thread(thread.join))
        assert outcomes == [1]
    finally:
        loop.close()
