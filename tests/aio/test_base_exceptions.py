"""Exceptions of async handlers that are no ``Exception``: failures of one message, but those that ask for the end."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys

import pytest

import pitstop

from aio.kit import NOW, run, threads, until
from core.base_exceptions import ENDS, FAILURES


pytestmark = pytest.mark.usefixtures("tasks")


@pytest.fixture
def poisoned():
    """A store with a message whose handler fails, and two others."""
    with pitstop.init("memory://base-exceptions") as pit:
        pit.store_many([({"id": id}, NOW) for id in ("poison", "fine", "good")])
        yield pit


def consumed(error, **options):
    async def handle(message):
        await asyncio.sleep(0)
        if message["id"] == "poison":
            raise error

    async def main():
        async with pitstop.init_async("memory://base-exceptions") as pit:
            return await pit.consume(handle, **options)

    return run(main())


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
@pytest.mark.parametrize("concurrency", [1, 3])
def test_in_consume_it_is_the_failure_of_its_message_and_the_others_are_handled(poisoned, caplog, concurrency, error):
    summary = consumed(error, concurrency=concurrency, until_idle=True)

    assert (summary.acked, summary.nacked, summary.unfinished, summary.reason) == (2, 1, 0, "idle")
    (entry,) = poisoned.entries()
    assert entry.id == "poison"
    assert entry.last_error.startswith(f"{type(error).__name__}: ")
    (logged,) = [each.getMessage() for each in caplog.records if each.name == "pitstop.consumer"]
    assert logged.startswith(f"'poison' (attempt 1) failed: {type(error).__name__} at ")


@pytest.mark.parametrize("error", ENDS.values(), ids=ENDS)
def test_a_wish_to_end_ends_consume_and_gives_back(poisoned, caplog, error):
    with pytest.raises(type(error)) as caught:
        consumed(error)
    assert caught.value is error
    entry = poisoned.get("poison")
    assert (entry.state, entry.last_error) == ("due", None)
    assert [each for each in caplog.records if each.name == "pitstop.consumer"] == [], "it is raised"


@pytest.mark.parametrize("error", FAILURES.values(), ids=FAILURES)
def test_async_with_raises_it_again(poisoned, error):
    """A ``GeneratorExit`` gives back: the body may be part of an async generator, which is closed like that."""

    async def main():
        async with pitstop.init_async("memory://base-exceptions") as pit, pit.listen() as listener:
            delivery = await listener.get(timeout=0)
            with pytest.raises(type(error)) as caught:
                async with delivery:
                    raise error
            assert caught.value is error
            return delivery.id

    entry = poisoned.get(run(main()))
    if isinstance(error, GeneratorExit):
        assert (entry.state, entry.last_error) == ("due", None)
    else:
        assert entry.last_error.startswith(f"{type(error).__name__}: ")


def test_a_loop_that_was_closed_in_the_midst_of_it_closes_its_handlers_without_a_word(poisoned, monkeypatch):
    """Their coroutines are closed when they go, and their messages are given back."""
    told, began, before = [], [], signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "unraisablehook", told.append)

    async def handle(message):
        began.append(message["id"])
        await asyncio.sleep(3600)

    async def main():
        pit = pitstop.init_async("memory://base-exceptions")
        task = asyncio.create_task(pit.consume(handle))
        await until(lambda: len(began) == 3)
        return pit, task

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda loop, context: None)  # it tells of each task that is destroyed
    pit, task = loop.run_until_complete(main())
    loop.close()
    asyncio.run(pit.aclose())
    del pit, task, loop
    # The last thread may refer to it for a moment longer.
    run(until(lambda: not threads()))
    gc.collect()

    assert [str(each.exc_value) for each in told] == []
    assert signal.getsignal(signal.SIGTERM) == before
    assert [(each.state, each.attempts, each.last_error) for each in poisoned.entries()] == [("due", 1, None)] * 3
