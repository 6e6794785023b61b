"""Changes of many messages in an event loop: a call that is cancelled begins no further batch."""

from __future__ import annotations

import asyncio
import threading

import pytest

import pitstop

from pitstop_memory import MemoryBackend


class Gated(MemoryBackend):
    """A store in which the first removal waits until the test lets it go on."""

    def __init__(self):
        super().__init__()
        self.entered, self.gate = threading.Event(), threading.Event()
        self.removals = 0

    def delete_many(self, ids, query=None):
        self.removals += 1
        self.entered.set()
        assert self.gate.wait(30)
        return super().delete_many(ids, query)


async def entered(event):
    assert await asyncio.to_thread(event.wait, 30)


@pytest.mark.parametrize("by", ["ids", "search"])
def test_a_cancelled_call_ends_after_the_batch_that_is_being_written(by):
    store = Gated()

    async def main():
        async with pitstop.init_async({"type": store}) as pit:
            await pit.store_many([({"id": f"a{n:04}"}, "1h") for n in range(1600)])
            ended = threading.Event()

            def ids():
                try:
                    for n in range(1600):
                        yield f"a{n:04}"
                finally:
                    ended.set()

            seen = []

            def progress(count):
                seen.append(count)
                # A search has no generator whose end shows that the call has gone on.
                if by == "search":
                    ended.set()

            # The call has the only reference to the generator, which is closed when the call ends.
            call = (
                pit.remove_many(ids(), progress=progress)
                if by == "ids"
                else pit.remove_many(prefix="a", progress=progress)
            )
            task = asyncio.create_task(call)
            del call
            await entered(store.entered)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            store.gate.set()
            await entered(ended)
            # The next batch would be removed meanwhile.
            for _ in range(20):
                await pit.stats()
            return seen, (await pit.stats()).scheduled

    seen, left = asyncio.run(main())
    assert store.removals == 1
    assert (seen, left) == ([500], 1100)


def test_a_call_that_is_cancelled_while_its_ids_are_read_writes_nothing_more():
    entering, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def ids():
        try:
            yield from (f"a{n}" for n in range(3))
            entering.set()
            assert gate.wait(30)
            yield "a3"
        finally:
            ended.set()

    async def main():
        async with pitstop.init_async("memory://") as pit:
            await pit.store_many([({"id": f"a{n}"}, "1h") for n in range(5)])
            task = asyncio.create_task(pit.remove_many(ids()))
            await entered(entering)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.set()
            await entered(ended)
            return (await pit.stats()).scheduled

    assert asyncio.run(main()) == 5


def test_a_call_that_is_cancelled_before_its_thread_begins_writes_nothing():
    async def main():
        async with pitstop.init_async("memory://") as pit:
            await pit.store_many([({"id": f"a{n}"}, "1h") for n in range(5)])
            gate = threading.Event()
            # All threads of the pool are busy.
            busy = [asyncio.create_task(pit.remove_many(wait(gate))) for _ in range(8)]
            await asyncio.sleep(0)
            task = asyncio.create_task(pit.remove_many(prefix="a"))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.set()
            await asyncio.gather(*busy)
            return (await pit.stats()).scheduled

    def wait(gate):
        assert gate.wait(30)
        yield "none"

    assert asyncio.run(main()) == 5


@pytest.mark.parametrize("wrong", ["abc", b"abc", 7, {"a": 1}], ids=repr)
def test_ids_that_are_no_iterable_of_ids_are_refused(wrong):
    async def main():
        async with pitstop.init_async("memory://") as pit:
            for call in (pit.remove_many(wrong), pit.redrive_many(wrong), pit.reschedule_many(wrong, when="1h")):
                with pytest.raises(pitstop.PitstopError, match="ids="):
                    await call

    asyncio.run(main())
