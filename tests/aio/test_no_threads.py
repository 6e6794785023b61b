"""An event loop while the system gives no thread: errors in place of waits without end, and the next call tries again."""

from __future__ import annotations

import asyncio
import threading

import pytest

import pitstop

from aio.kit import NOW, run, until
from pitstop._aio._hands import Hands


@pytest.fixture
def refused(monkeypatch):
    """Have the system refuse threads of these names."""
    start, names = threading.Thread.start, set()

    def start_unless_refused(thread):
        if thread.name in names:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_unless_refused)
    return names


def test_a_listener_without_a_thread_raises_and_can_be_used_later(refused):
    async def main():
        async with pitstop.init_async("memory://") as pit:
            await pit.store({"id": "a"}, NOW)
            refused.add("pitstop-feeder")
            listener = pit.listen()
            for timeout in (0, 1, None):
                with pytest.raises(RuntimeError, match="new thread"):
                    await listener.get(timeout=timeout)
            refused.clear()
            async with await listener.get() as delivery:
                assert delivery.id == "a"
            await listener.aclose()

    run(main())


def test_closing_a_listener_that_got_no_thread_ends(refused):
    async def main():
        async with pitstop.init_async("memory://") as pit:
            refused.add("pitstop-feeder")
            with pytest.raises(RuntimeError, match="new thread"):
                async with pit.listen() as listener:
                    await listener.get()

    run(main())


def test_consume_without_a_thread_raises(refused):
    async def main():
        async def handle(message): ...

        async with pitstop.init_async("memory://") as pit:
            refused.add("pitstop-feeder")
            with pytest.raises(RuntimeError, match="new thread"):
                await pit.consume(handle)
            assert pit.consumers == ()

    run(main())


def test_a_call_without_a_thread_raises_and_is_not_done_later(refused):
    async def main():
        async with pitstop.init_async({"type": "memory", "name": "aio-no-threads"}) as other:
            await other.ping()
            refused.add("pitstop-aio")
            pit = pitstop.init_async({"type": "memory", "name": "aio-no-threads"})
            with pytest.raises(RuntimeError, match="new thread"):
                await pit.store({"id": "a"}, NOW)
            refused.clear()
            await pit.store({"id": "b"}, NOW)
            assert [each.id for each in await other.entries()] == ["b"]
            await pit.aclose()

    run(main())


def test_a_call_for_which_there_is_no_further_thread_waits_for_one_of_the_others(refused):
    async def main():
        hands, may_end = Hands(), threading.Event()
        first = hands.begin(may_end.wait)
        refused.add("pitstop-aio")
        second = hands.begin(lambda: "done")
        may_end.set()
        assert (await first, await second) == (True, "done")
        hands.end()

    run(main())


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "waited for"])
@pytest.mark.parametrize("settlement", ["ack", "nack"])
def test_a_delivery_that_could_not_be_settled_can_be_settled_later(monkeypatch, at_once, settlement):
    def refuse(*_, **__):
        raise RuntimeError("can't start new thread")

    async def main():
        async with pitstop.init_async("memory://") as pit:
            await pit.store({"id": "a"}, NOW)
            listener = pit.listen()
            delivery = await listener.get(timeout=0 if at_once else None)
            if not at_once:
                # Of a closed listener each settlement is waited for.
                await listener.aclose()
            with monkeypatch.context() as patch:
                patch.setattr(Hands, "submit", refuse)
                with pytest.raises(RuntimeError, match="new thread"):
                    await getattr(delivery, settlement)()
            await delivery.ack()
            assert await pit.get("a") is None
            await listener.aclose()

    run(main())


def test_a_pitstop_whose_close_was_cancelled_ends_its_threads():
    async def main():
        pit = pitstop.init_async("memory://")
        await pit.ping()
        pool = [each for each in threading.enumerate() if each.name == "pitstop-aio"]
        closing = asyncio.create_task(pit.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        await until(lambda: not any(each.is_alive() for each in pool))
        assert closing.cancelled()

    run(main())
