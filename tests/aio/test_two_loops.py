"""One Pitstop in two event loops, one after the other or at the same time."""

from __future__ import annotations

import asyncio
import threading

import pytest

import pitstop

from aio.kit import NOW, run


@pytest.fixture
def used():
    """A listener that a loop has used, which is closed by now."""
    pit = pitstop.init_async("memory://")
    listener = pit.listen()

    async def main():
        await pit.store({"id": "a"}, NOW)
        return await listener.get()

    delivery = run(main())
    yield pit, listener, delivery
    run(pit.aclose())
    for each in [each for each in threading.enumerate() if each.name.startswith(("pitstop-aio", "pitstop-feeder"))]:
        each.join(20)
        assert not each.is_alive()


@pytest.mark.parametrize("timeout", [0, 1, None])
def test_a_listener_of_another_loop_raises(used, timeout):
    _, listener, _ = used
    with pytest.raises(pitstop.PitstopError, match="another event loop"):
        run(listener.get(timeout=timeout))


def test_a_listener_is_closed_in_another_loop(used):
    _, listener, _ = used
    run(listener.aclose())
    assert listener.stopped
    assert [each.name for each in threading.enumerate() if each.name == "pitstop-feeder"] == []


def test_a_delivery_is_settled_in_another_loop(used):
    pit, _, delivery = used

    async def main():
        await delivery.ack(wait=True)
        assert await pit.get("a") is None

    run(main())


def test_acks_of_two_loops_that_are_written_together_end_both_waits():
    """A batch is written by one thread, which then wakes both loops."""

    async def main():
        async with pitstop.init_async("memory://") as pit, pit.listen(prefetch=3) as listener:
            await pit.store_many([({"id": f"m{number}"}, NOW) for number in range(3)])
            deliveries = [await listener.get(timeout=None) for _ in range(3)]
            # The first ack keeps the writing thread busy, until the other two wait.
            other_waits, may_write = threading.Event(), threading.Event()
            writer = deliveries[0]._intake.writer
            wait_for = writer.wait_for

            def wait_for_later(lease):
                may_write.wait()
                wait_for(lease)

            writer.wait_for = wait_for_later
            first = asyncio.create_task(deliveries[0].ack(wait=True))
            await asyncio.sleep(0)

            async def elsewhere():
                acked = asyncio.create_task(deliveries[1].ack(wait=True))
                await asyncio.sleep(0)
                other_waits.set()
                await asyncio.wait_for(acked, 30)

            other = asyncio.create_task(asyncio.to_thread(asyncio.run, elsewhere()))
            await asyncio.to_thread(other_waits.wait)
            last = asyncio.create_task(deliveries[2].ack(wait=True))
            await asyncio.sleep(0)
            may_write.set()
            await asyncio.gather(first, other, last)
            del writer.wait_for
            assert await pit.entries() == []

    run(main())
