"""Several calls of ``consume`` in one process: one signal ends them all, and the handlers of the program are put back."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

from contextlib import ExitStack
from datetime import timedelta

import pytest

import pitstop

from core.kit import Running, backend
from pitstop._consume._signals import hearing


NOW = timedelta(0)
NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def handlers():
    return [signal.getsignal(number) for number in NUMBERS]


@pytest.fixture(autouse=True)
def untouched():
    before = handlers()
    yield
    assert handlers() == before


@pytest.fixture
def impatient(monkeypatch):
    """No signal counts as the echo of the one before."""
    monkeypatch.setattr("pitstop._consume._signals._ECHO", 0.0)


class Handler:
    """Waits until it may go on, and tells when it has begun."""

    def __init__(self):
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, msg):
        self.begun.set()
        assert self.may_end.wait(30)


@pytest.mark.parametrize("number", NUMBERS)
def test_one_signal_ends_the_consume_of_the_main_thread_and_those_of_others(number):
    with pitstop.init("memory://") as first, pitstop.init("memory://") as second:
        for pit in (first, second):
            pit.store({"id": "a"}, NOW)
        # The other thread begins first: it hears the signal although it could not install a handler.
        begun = threading.Event()
        other = Running(lambda: second.consume(lambda msg: begun.set()))
        assert begun.wait(20)

        assert first.consume(lambda msg: signal.raise_signal(number)).reason == "signal"

        assert other.result().reason == "signal"


def test_a_consume_of_another_thread_that_begins_later_hears_the_signal_too():
    with pitstop.init("memory://") as first, pitstop.init("memory://") as second:
        for pit in (first, second):
            pit.store({"id": "a"}, NOW)
        others = []

        def handle(msg):
            begun = threading.Event()
            others.append(Running(lambda: second.consume(lambda msg: begun.set())))
            assert begun.wait(20)
            signal.raise_signal(signal.SIGTERM)

        assert first.consume(handle).reason == "signal"
        assert others[0].result().reason == "signal"


def test_a_second_signal_is_the_second_one_for_all_of_them(impatient):
    left = Handler()
    with pitstop.init("memory://") as first, pitstop.init("memory://") as second:
        for pit in (first, second):
            pit.store({"id": "a"}, NOW)
        other = Running(lambda: second.consume(left))
        assert left.begun.wait(20)

        def handle(msg):
            heard = threading.Semaphore(0)
            # Called after the others: two signals of one number at once would be one.
            with hearing(lambda number: heard.release()):
                for _ in range(2):
                    signal.raise_signal(signal.SIGINT)
                    assert heard.acquire(timeout=20)
            assert left.may_end.wait(30)

        mine = first.consume(handle)
        theirs = other.result()
        left.may_end.set()
        assert (mine.reason, mine.unfinished) == ("second signal", 1)
        assert (theirs.reason, theirs.unfinished) == ("second signal", 1)
        # The messages of the handlers are due again, and a message that was interrupted has not failed.
        assert [pit.get("a").state for pit in (first, second)] == ["due", "due"]


@pytest.mark.parametrize("number", NUMBERS)
def test_one_signal_ends_all_that_are_gathered_in_a_loop(number):
    async def main():
        both = asyncio.Barrier(2)

        async def handle(msg):
            await both.wait()
            if msg["id"] == "a":
                signal.raise_signal(number)

        async with pitstop.init_async("memory://") as first, pitstop.init_async("memory://") as second:
            await first.store({"id": "a"}, NOW)
            await second.store({"id": "b"}, NOW)
            return await asyncio.gather(first.consume(handle, concurrency=5), second.consume(handle, concurrency=50))

    summaries = asyncio.run(asyncio.wait_for(main(), 30))
    assert [(each.acked, each.reason) for each in summaries] == [(1, "signal")] * 2


def test_a_second_signal_interrupts_all_that_are_gathered_in_a_loop(impatient):
    async def main():
        both = asyncio.Barrier(2)

        async def handle(msg):
            await both.wait()
            if msg["id"] == "a":
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGINT)
            await asyncio.sleep(60)

        async with pitstop.init_async("memory://") as first, pitstop.init_async("memory://") as second:
            await first.store({"id": "a"}, NOW)
            await second.store({"id": "b"}, NOW)
            summaries = await asyncio.gather(first.consume(handle), second.consume(handle))
            return summaries, [(await first.get("a")).state, (await second.get("b")).state]

    summaries, states = asyncio.run(asyncio.wait_for(main(), 30))
    assert [(each.unfinished, each.reason) for each in summaries] == [(1, "second signal")] * 2
    assert states == ["due", "due"]


def test_a_loop_and_a_thread_end_at_one_signal():
    with pitstop.init("memory://") as threaded:
        threaded.store({"id": "a"}, NOW)
        begun = threading.Event()
        other = Running(lambda: threaded.consume(lambda msg: begun.set()))
        assert begun.wait(20)

        async def main():
            async def handle(msg):
                signal.raise_signal(signal.SIGTERM)

            async with pitstop.init_async("memory://") as pit:
                await pit.store({"id": "a"}, NOW)
                return await pit.consume(handle)

        assert asyncio.run(asyncio.wait_for(main(), 30)).reason == "signal"
        assert other.result().reason == "signal"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_the_last_one_that_ends_puts_the_handlers_back(order):
    before = handlers()
    heard = []
    stacks = []
    for number in range(3):
        stack = ExitStack()
        stack.enter_context(hearing(lambda signal, number=number: heard.append((number, signal))))
        stacks.append(stack)
    left = list(range(3))
    for number in order:
        heard.clear()
        signal.raise_signal(signal.SIGTERM)
        assert heard == [(each, signal.SIGTERM) for each in left]
        stacks[number].close()
        left.remove(number)
    assert handlers() == before


def test_a_handler_that_the_program_installs_meanwhile_stays():
    before = signal.getsignal(signal.SIGTERM)
    mine = lambda number, frame: None  # noqa: E731 - short
    try:
        with hearing(lambda number: None):
            signal.signal(signal.SIGTERM, mine)
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_handler_of_the_program_is_left_alone_if_it_is_not_to_be_replaced():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append("the program"))
    try:
        with hearing(lambda number: heard.append("consume"), takes=lambda handler: handler is signal.SIG_DFL):
            signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == ["the program"]


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_of_a_fork_has_the_handlers_of_the_program():
    """Else a child that a handler made with multiprocessing would ignore terminate()."""
    before = signal.getsignal(signal.SIGTERM)
    with hearing(lambda number: None):
        child = os.fork()
        if child == 0:
            os._exit(0 if signal.getsignal(signal.SIGTERM) == before else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert signal.getsignal(signal.SIGTERM) != before


def test_a_call_that_another_thread_collects_leaves_the_next_signal_to_the_program():
    """As when the loop of an event loop was closed in the midst of it. Only the main thread may put a handler back."""
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append("the program"))
    try:
        context = hearing(lambda number: heard.append("consume"))
        context.__enter__()
        Running(lambda: context.__exit__(None, None, None)).result()
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
    finally:
        for number in NUMBERS:
            if number != signal.SIGTERM:
                # Takes what was left, and puts it back.
                with hearing(lambda number: None):
                    pass
        signal.signal(signal.SIGTERM, before)
    assert heard == ["the program"] * 2


def test_after_a_second_signal_a_store_that_does_not_answer_is_not_waited_for(impatient, monkeypatch, caplog):
    monkeypatch.setattr("pitstop._consume._tasks.LAST_PATIENCE", 0.05)
    store, answers, answered = backend(), threading.Event(), []
    store.during["settle"] = lambda: answered.append(answers.wait(10))

    async def handle(msg):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    async def main():
        async with pitstop.init_async({"type": store}) as pit:
            await pit.store({"id": "a"}, NOW)
            summary = await pit.consume(handle)
            assert not answered, "the store was waited for"
            answers.set()
        return summary

    summary = asyncio.run(asyncio.wait_for(main(), 30))
    assert (summary.unfinished, summary.reason) == (1, "second signal")
    assert "the store does not answer" in caplog.text
    assert all(answered)
