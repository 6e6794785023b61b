"""Handlers and calls that are interrupted: by a signal, by a cancellation, or because the Pitstop is closed."""

from __future__ import annotations

import asyncio
import signal
import threading

import pytest

import pitstop

from aio.kit import NOW, run
from pitstop._aio._hands import Hands


pytestmark = pytest.mark.usefixtures("tasks")

MEMORY = {"type": "memory", "name": "aio-interruptions", "loop_time": "1m"}


@pytest.fixture
def outside():
    with pitstop.init(MEMORY) as pit:
        yield pit


async def fails_in_its_cleanup(begun):
    try:
        begun.set()
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        raise ConnectionError("the connection was lost while the work was undone") from None


async def fails_in_a_group(begun):
    async with asyncio.TaskGroup() as group:
        group.create_task(fails_in_its_cleanup(begun))


@pytest.mark.parametrize("work", [fails_in_its_cleanup, fails_in_a_group])
@pytest.mark.parametrize("end", ["signal", "cancelled"])
def test_a_handler_that_fails_because_it_was_cancelled_has_not_failed(outside, caplog, work, end):
    """Not even at the last attempt does its message become dead."""

    async def main():
        begun = asyncio.Event()

        async def handle(message):
            await work(begun)

        async with pitstop.init_async({**MEMORY, "retry": {"max_attempts": 1}}) as pit:
            await pit.store({"id": "a"}, NOW)
            consuming = asyncio.create_task(pit.consume(handle, drain=0.01))
            await begun.wait()
            if end == "signal":
                signal.raise_signal(signal.SIGTERM)
                summary = await consuming
                assert (summary.handled, summary.unsettled, summary.unfinished) == (0, 0, 1)
            else:
                consuming.cancel()
                await asyncio.wait([consuming])
                assert consuming.cancelled()

    run(main())
    (entry,) = outside.entries()
    assert (entry.state, entry.attempts, entry.last_error) == ("due", 1, None)
    assert [each for each in caplog.records if each.levelname == "ERROR"] == []


def test_a_delivery_that_its_own_context_gives_back_is_not_counted_as_unsettled(outside):
    async def main():
        begun = asyncio.Event()

        async def handle(delivery):
            async with delivery:
                begun.set()
                await asyncio.sleep(3600)

        async with pitstop.init_async(MEMORY) as pit:
            await pit.store({"id": "a"}, NOW)
            consuming = asyncio.create_task(pit.consume(handle, drain=0.01))
            await begun.wait()
            signal.raise_signal(signal.SIGTERM)
            summary = await consuming
            assert (summary.handled, summary.unsettled, summary.unfinished) == (0, 0, 1)

    run(main())
    assert outside.get("a").state == "due"


@pytest.mark.parametrize("settlement", ["ack", "nack"])
def test_a_settlement_whose_caller_is_cancelled_is_written_all_the_same(outside, settlement):
    """Also where it is written at once, and no thread has begun to write it yet."""

    async def main():
        async with pitstop.init_async(MEMORY) as pit, pit.listen() as listener:
            await pit.store({"id": "a"}, NOW)
            delivery = await listener.get(timeout=0)
            # All threads of the pool are busy.
            may_end = threading.Event()
            busy = [delivery._hands.begin(may_end.wait) for _ in range(8)]

            async def handle():
                async with delivery:
                    await getattr(delivery, settlement)()

            handling = asyncio.create_task(handle())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            handling.cancel()
            await asyncio.wait([handling])
            may_end.set()
            await asyncio.wait(busy)

    run(main())
    entry = outside.get("a")
    # A nack comes back when its lease runs out: it is not due at once.
    assert entry is None if settlement == "ack" else (entry.state, entry.attempts) == ("scheduled", 1)


@pytest.mark.parametrize("end", ["give back", "ack", "nack", "ack of a listener"])
def test_closing_a_listener_waits_for_the_settlements_of_tasks_that_were_cancelled(outside, end):
    """Else the store still has the leases of a listener that has been closed. The threads that write are decided here."""

    async def main():
        async with pitstop.init_async(MEMORY) as pit:
            await pit.store({"id": "a"}, NOW)
            listener = pit.listen()
            delivery = await listener.get(timeout=5 if end == "ack of a listener" else 0)
            may_write, real = threading.Event(), delivery._hands.submit

            def submit(job, **options):
                """Have no job begin before the close."""
                real(lambda: (may_write.wait(20), job()), **options)

            delivery._hands.submit = submit

            async def handle():
                async with delivery:
                    if end == "give back":
                        await asyncio.Event().wait()
                    elif end == "nack":
                        await delivery.nack("no", delay=NOW)
                    else:
                        await delivery.ack(wait=True)

            handling = asyncio.create_task(handle())
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            handling.cancel()
            await asyncio.wait([handling])
            assert handling.cancelled()
            closing = asyncio.create_task(listener.aclose())
            intake = listener._feeder.intake
            while not intake.writer.unattended:  # noqa: ASYNC110 - another thread sets it
                await asyncio.sleep(0.001)
            assert not closing.done()
            may_write.set()
            await closing
            entry = outside.get("a")
            assert entry is None if end.startswith("ack") else entry.state == "due"

    run(main())


def test_a_call_that_raises_stop_iteration_raises_an_error():
    """A future does not take this exception, so the caller would wait without end."""

    async def main():
        hands = Hands()
        with pytest.raises(RuntimeError, match="StopIteration"):
            await hands.do(next, iter(()))
        hands.end()

    run(main())
