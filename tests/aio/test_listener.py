"""Listening in an event loop, on each backend."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

from datetime import timedelta

import pytest

import pitstop

from aio.kit import NOW, run, threads, until
from pitstop import testing
from pitstop._aio._delivery import AsyncDelivery
from pitstop._aio._pitstop import AsyncPitstop
from pitstop_memory import MemoryBackend


pytestmark = pytest.mark.usefixtures("tasks")


def test_messages_are_iterated_over_in_order_and_acks_are_written_when_the_listener_closes(opened, outside):
    ids = outside.store(300)

    async def main():
        seen = []
        async with opened() as pit, pit.listen() as listener:
            async for delivery in listener:
                seen.append(delivery.id)
                await delivery.ack()
                if len(seen) == 300:
                    break
            await listener.aclose()
            assert (await pit.stats()).due == 0
        return seen

    assert run(main()) == ids
    assert outside.counts() == (0, 0, 0)


def test_a_message_that_is_stored_while_one_waits_comes_at_once(opened):
    async def main():
        async with opened() as pit, pit.listen() as listener:
            waiting = asyncio.create_task(listener.get(timeout=None))
            await until(lambda: listener._feeder is not None and listener._feeder._waiter is not None)
            await pit.store({"id": "a", "n": 1}, NOW)
            delivery = await waiting
            assert delivery.msg == {"id": "a", "n": 1}
            await delivery.ack(wait=True)
            assert await pit.get("a") is None

    run(main())


def test_a_delivery_has_the_properties_of_a_plain_one(opened):
    async def main():
        async with opened() as pit, pit.listen() as listener:
            await pit.store({"id": "a"}, NOW)
            before = await pit.now()
            delivery = await listener.get(timeout=None)
            assert (delivery.id, delivery.attempt, delivery.missed, delivery.last_error) == ("a", 1, 0, None)
            assert delivery.scheduled_for <= before
            assert delivery.key == f"a:{round(delivery.scheduled_for.timestamp() * 1000)}"
            assert delivery.leased_until > before + timedelta(minutes=14)
            assert not delivery.lost
            await delivery.extend(timedelta(hours=2))
            assert delivery.leased_until > before + timedelta(minutes=119)
            assert repr(delivery).startswith("<AsyncDelivery 'a' attempt 1 scheduled for ")
            await delivery.nack("broken", delay=NOW)
            again = await listener.get(timeout="5s")
            assert (again.attempt, again.last_error) == (2, "broken")
            await again.ack()

    run(main())


def test_an_ack_that_is_waited_for_is_told_that_its_lease_is_lost(opened, outside):
    async def main():
        async with opened() as pit, pit.listen() as listener:
            await pit.store({"id": "a"}, NOW)
            delivery = await listener.get(timeout=None)
            outside.pit.remove("a")
            with pytest.raises(pitstop.LeaseLost):
                await delivery.ack(wait=True)
            assert delivery.lost
            with pytest.raises(pitstop.LeaseLost):
                await delivery.ack()

    run(main())


def test_many_acks_that_are_waited_for_are_written_together(opened, outside):
    outside.store(200)

    async def main():
        async with opened() as pit, pit.listen() as listener:
            deliveries = [await listener.get(timeout=None) for _ in range(200)]
            await asyncio.gather(*[each.ack(wait=True) for each in deliveries])
            assert outside.counts() == (0, 0, 0)

    run(main())


def test_the_ack_of_a_get_that_does_not_wait_is_written_when_it_returns(opened, outside):
    outside.store(1)

    async def main():
        async with opened() as pit, pit.listen() as listener:
            delivery = await listener.get(timeout=0)
            await delivery.ack()
            assert outside.counts() == (0, 0, 0)
            assert await listener.get() is None
            assert await listener.get(timeout=0.01) is None

    run(main())


def test_a_body_that_raises_nacks_and_one_that_ends_acks(opened, outside):
    async def main():
        async with opened(retry={"delay": "1h"}) as pit, pit.listen() as listener:
            await pit.store({"id": "a"}, NOW)
            with pytest.raises(ValueError, match="no good"):
                async with await listener.get(timeout=None):
                    raise ValueError("no good")
            await pit.store({"id": "b"}, NOW)
            async with await listener.get(timeout=None) as delivery:
                assert delivery.id == "b"
        assert outside.pit.get("b") is None
        entry = outside.pit.get("a")
        assert (entry.state, entry.last_error, entry.attempts) == ("scheduled", "ValueError: no good", 1)

    run(main())


def test_closing_waits_for_the_message_of_a_body_that_was_closed(opened, outside, monkeypatch):
    """Of a delivery whose settlements are written at once, each in a thread."""
    closing, order = threading.Event(), []
    real_close, real_give_back = AsyncPitstop._close, AsyncDelivery._give_back

    def close(pit, feeders):
        closing.set()
        real_close(pit, feeders)
        order.append("closed")

    def give_back(delivery):
        assert closing.wait(20)
        real_give_back(delivery)
        order.append("given back")

    monkeypatch.setattr(AsyncPitstop, "_close", close)
    monkeypatch.setattr(AsyncDelivery, "_give_back", give_back)

    async def main():
        async with opened() as pit, pit.listen() as listener:
            await pit.store({"id": "a"}, NOW)
            with pytest.raises(GeneratorExit):
                async with await listener.get(timeout=0):
                    raise GeneratorExit

    run(main())
    assert order == ["given back", "closed"]
    assert outside.pit.get("a").state == "due"


def test_a_body_that_is_cancelled_gives_its_message_back_to_come_at_once(opened, outside):
    async def main():
        async with opened(retry={"delay": "1h", "max_attempts": 2}) as pit, pit.listen() as listener:
            await pit.store({"id": "a"}, NOW)
            begun = asyncio.Event()

            async def handle():
                async with await listener.get(timeout=None) as delivery:
                    attempts.append(delivery.attempt)
                    begun.set()
                    await asyncio.sleep(60)

            attempts = []
            for _ in range(3):
                begun.clear()
                task = asyncio.create_task(handle())
                await begun.wait()
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
            # None of them counts against max_attempts: no handler failed.
            assert attempts == [1, 2, 3]

    run(main())


def test_cancelling_whoever_waits_loses_no_message(opened, outside):
    """Cancelled at any moment, also when a message is about to be handed over."""
    ids = outside.store(100)

    async def main():
        seen = []
        async with opened() as pit, pit.listen() as listener:
            for number in range(400):
                waiting = asyncio.create_task(listener.get(timeout=None))
                for _ in range(number % 7):
                    await asyncio.sleep(0)
                if number % 5 == 0:
                    await asyncio.sleep(0.001)
                waiting.cancel()
                try:
                    delivery = await waiting
                except asyncio.CancelledError:
                    continue
                seen.append(delivery.id)
                await delivery.ack()
            while len(seen) < 100:
                async with asyncio.timeout(10):
                    delivery = await listener.get(timeout=None)
                seen.append(delivery.id)
                await delivery.ack()
        assert sorted(seen) == ids

    run(main())
    assert outside.counts() == (0, 0, 0)


def test_a_get_that_is_cancelled_while_it_looks_gives_back_what_it_got(opened, outside):
    outside.store(1)

    async def main():
        async with opened() as pit, pit.listen() as listener:
            await pit.ping()
            looking = asyncio.create_task(listener.get())
            await asyncio.sleep(0)
            looking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await looking
            delivery = await listener.get(timeout="5s")
            assert delivery.attempt == 1
            await delivery.ack()

    run(main())
    assert outside.counts() == (0, 0, 0)


class Blocked:
    """A loop that is blocked until the message of a waiting task has come: the task could take it in the loop's next turn."""

    def __init__(self, feeder):
        self._came = threading.Event()
        self._hook(feeder, "_tell")
        self._hook(feeder, "_answer")

    def _hook(self, feeder, name):
        method = getattr(feeder, name)

        def hooked(**options):
            method(**options)
            if feeder.ready:
                self._came.set()

        setattr(feeder, name, hooked)

    def wait(self):
        assert self._came.wait(20)


async def begun(listener, timeout, outside, pit):  # noqa: ASYNC109 - as in get()
    """Return a task in ``get``, and the loop as it is when its message has come."""
    await pit.ping()
    blocked = Blocked(listener._ready())
    if timeout == 0:
        outside.store(1)
    getting = asyncio.create_task(listener.get(timeout=timeout))
    await asyncio.sleep(0)
    if timeout != 0:
        await until(lambda: listener._feeder._waiter is not None)
        pit._pit.store({"id": "m00000"}, NOW)
    return getting, blocked


class FailsOnce(MemoryBackend):
    """Its first claim raises, when the test says so."""

    def __init__(self, config=None):
        super().__init__(config)
        self.fails, self.claims = threading.Event(), 0

    def lease(self, limit, duration, kinds=None):
        self.claims += 1
        if self.claims == 1:
            assert self.fails.wait(20)
            raise ZeroDivisionError
        return super().lease(limit, duration, kinds)


@pytest.mark.parametrize("cancelled", ["before the error", "in the same turn of the loop", "after it was woken"])
def test_an_error_that_came_for_a_cancelled_task_is_not_raised_by_the_next_one(cancelled):
    store = FailsOnce.from_options({})

    async def main():
        async with pitstop.init_async({"type": store}) as pit, pit.listen() as listener:
            feeder = listener._ready()
            came, tell = threading.Event(), feeder._tell

            def told():
                tell()
                if feeder.error is not None:
                    came.set()

            feeder._tell = told
            waiting = asyncio.create_task(listener.get(timeout=None))
            await until(lambda: store.claims == 1)
            if cancelled == "before the error":
                waiting.cancel()
                await asyncio.wait([waiting])
            store.fails.set()
            # The loop is blocked until the error is on its way.
            assert came.wait(20)
            if cancelled == "after it was woken":
                listener._tell()
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
            await pit.store({"id": "a"}, NOW)
            delivery = await listener.get(timeout=None)
            assert delivery.id == "a"
            await delivery.ack()

    run(main())


@pytest.mark.parametrize("what", ["listener", "pitstop"])
@pytest.mark.parametrize("timeout", [0, None])
def test_what_came_for_one_who_was_cancelled_is_given_back_when_closing_returns(opened, outside, timeout, what):
    """It came while the loop was blocked, so that no task has taken it."""

    async def main():
        pit = opened()
        listener = pit.listen()
        getting, blocked = await begun(listener, timeout, outside, pit)
        blocked.wait()
        getting.cancel()
        await (listener if what == "listener" else pit).aclose()
        assert outside.counts() == (1, 0, 0)
        assert outside.pit.get("m00000").attempts == 0
        with pytest.raises(asyncio.CancelledError):
            await getting
        await pit.aclose()

    run(main())


@pytest.mark.parametrize("next_timeout", [0, 5, None])
@pytest.mark.parametrize("timeout", [0, 5, None])
def test_a_get_that_is_cancelled_as_its_message_comes_leaves_it_for_the_next_one(
    opened, outside, timeout, next_timeout
):
    """The message is in the buffer, and nowhere else: the timeout and the answer arrive in one turn of the loop."""

    async def main():
        async with opened() as pit, pit.listen(prefetch=5) as listener:
            getting, blocked = await begun(listener, timeout, outside, pit)
            blocked.wait()
            getting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getting
            async with asyncio.timeout(10):
                delivery = await listener.get(timeout=next_timeout)
            assert (delivery.id, delivery.attempt) == ("m00000", 1)
            await delivery.ack(wait=True)

    run(main())
    assert outside.counts() == (0, 0, 0)


@pytest.mark.parametrize("timeout", [0, None])
def test_what_came_for_one_who_was_cancelled_is_soon_there_for_others(opened, outside, timeout):
    async def main():
        async with opened() as pit, pit.listen() as listener:
            getting, blocked = await begun(listener, timeout, outside, pit)
            blocked.wait()
            getting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getting
            await asyncio.to_thread(outside.becomes, 1, 0)
        assert outside.pit.get("m00000").attempts == 0

    run(main())


def test_messages_that_waited_for_a_blocked_loop_beyond_their_lease_are_not_handed_out():
    """They are given back, and come as a new claim."""
    clock = testing.ManualClock()

    async def main():
        async with pitstop.init_async({"type": "memory", "clock": clock, "lock_time": "1m"}) as pit:
            await pit.store_many([({"id": f"m{n}"}, NOW) for n in range(4)])
            listener = pit.listen(prefetch=4)
            first = await listener.get(timeout=None)
            assert listener._feeder.ready == 3
            # The loop is blocked for longer than a lease.
            clock.advance(timedelta(minutes=1))
            seen = [await listener.get(timeout=None) for _ in range(4)]
            assert first.lost
            assert not any(each.lost for each in seen)
            assert [(each.id, each.attempt) for each in sorted(seen, key=lambda each: each.id)] == [
                (f"m{n}", 2) for n in range(4)
            ]
            await listener.aclose()

    run(main())


def test_nobody_who_waits_means_that_nothing_is_claimed(opened, outside):
    async def main():
        async with opened() as pit, pit.listen() as listener:
            assert await listener.get(timeout=0.05) is None
            await until(lambda: listener._feeder._waiter is None)
            await pit.store({"id": "a"}, NOW)
            await asyncio.sleep(0.05)
            assert outside.counts() == (1, 0, 0)

    run(main())


def test_what_a_slow_consumer_does_not_ask_for_is_there_for_others(opened, outside):
    outside.store(100)

    async def main():
        async with opened() as pit, pit.listen() as listener:
            for _ in range(40):
                await (await listener.get(timeout=None)).ack()
            # Messages that were claimed ahead at that pace are given back when no task asks for them.
            await asyncio.to_thread(outside.becomes, 60, 0)

    run(main())


def test_several_tasks_share_a_listener_and_each_message_is_handled_once(opened, outside):
    ids = outside.store(300)

    async def main():
        seen = []
        async with opened() as pit, pit.listen() as listener:

            async def consume():
                async for delivery in listener:
                    seen.append(delivery.id)
                    await asyncio.sleep(0)
                    await delivery.ack()
                    if len(seen) == 300:
                        listener.stop()

            await asyncio.gather(*[consume() for _ in range(10)])
        assert sorted(seen) == ids

    run(main())
    assert outside.counts() == (0, 0, 0)


def test_stop_ends_every_wait_and_gives_back_what_is_in_hand(opened, outside):
    outside.store(50)

    async def main():
        async with opened() as pit:
            listener = pit.listen(prefetch=20)
            delivery = await anext(listener)
            listener.stop()
            assert listener.stopped
            assert await listener.get(timeout=None) is None
            assert await listener.get() is None
            assert [each async for each in listener] == []
            await asyncio.to_thread(outside.becomes, 49, 1)
            await delivery.ack(wait=True)
            await listener.aclose()
            await listener.aclose()

    run(main())
    assert outside.counts() == (49, 0, 0)
    assert outside.pit.get("m00001").attempts == 0


def test_closing_the_pitstop_ends_those_who_wait(opened):
    async def main():
        pit = opened()
        waiting = [asyncio.create_task(pit.listen().get(timeout=None)) for _ in range(3)]
        listener = pit.listen()
        iterating = asyncio.create_task(anext(listener, "end"))
        await asyncio.sleep(0.05)
        await pit.aclose()
        assert await asyncio.gather(*waiting) == [None] * 3
        assert await iterating == "end"
        with pytest.raises(pitstop.BackendUnavailable, match="init_async"):
            pit.listen()
        with pytest.raises(pitstop.BackendUnavailable, match="init_async"):
            await pit.store({}, NOW)
        await pit.aclose()

    run(main())


def test_a_listener_that_was_dropped_gives_back_and_ends_its_thread(opened, outside):
    outside.store(50)

    async def main():
        async with opened() as pit:
            async for delivery in pit.listen(prefetch=20):
                await delivery.ack()
                break
            del delivery
            gc.collect()
            await asyncio.to_thread(outside.becomes, 49, 0)
            await until(lambda: "pitstop-feeder" not in threads())

    run(main())


def test_a_backlog_does_not_keep_others_in_the_loop_from_their_turn(opened, outside):
    outside.store(500)

    async def main():
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with opened() as pit, pit.listen() as listener:
            task = asyncio.create_task(other())
            seen = 0
            async for delivery in listener:
                await delivery.ack()
                seen += 1
                if seen == 500:
                    break
            task.cancel()
        assert turns > 500 // 16

    run(main())


def test_a_wrong_timeout_and_wrong_options_are_told(opened):
    async def main():
        async with opened() as pit:
            with pytest.raises(pitstop.ConfigError, match="prefetch=0"):
                pit.listen(prefetch=0)
            with pytest.raises(pitstop.ConfigError, match="lock_time"):
                pit.listen(lock_time=0)
            async with pit.listen() as listener:
                with pytest.raises(pitstop.ConfigError, match="timeout"):
                    await listener.get(timeout="soon")
                assert repr(listener) == "<AsyncListener healthy>"

    run(main())


def test_threads_end_with_the_pitstop(opened):
    async def main():
        async with opened() as pit, pit.listen() as listener:
            assert await listener.get(timeout=0.01) is None
            assert threads()
        await until(lambda: not threads())

    run(main())


def test_an_ack_after_the_listener_was_closed_does_not_block_the_loop(opened, outside):
    outside.store(2)

    async def main():
        async with opened() as pit:
            async with pit.listen() as listener:
                deliveries = [await anext(listener), await anext(listener)]
            backend = pit._pit._session.backend
            settle, threads = backend.settle, []

            def noting(settlements):
                threads.append(threading.current_thread())
                return settle(settlements)

            backend.settle = noting
            await deliveries[0].ack()
            assert outside.counts() == (0, 1, 0)
            await deliveries[1].nack("no", timedelta(0))
            assert outside.counts() == (1, 0, 0)
            assert len(threads) == 2
            assert threading.main_thread() not in threads

    run(main())


def test_whoever_waits_for_an_ack_is_told_of_an_error_that_nobody_foresaw(opened, outside):
    outside.store(2)

    async def main():
        async with opened() as pit, pit.listen() as listener:
            delivery, backend = await anext(listener), pit._pit._session.backend
            settle = backend.settle

            def broken(settlements):
                backend.settle = settle
                raise ArithmeticError("a bug of the backend")

            backend.settle = broken
            with pytest.raises(pitstop.PitstopError, match="ArithmeticError was raised") as caught:
                await asyncio.wait_for(delivery.ack(wait=True), 10)
            assert isinstance(caught.value.__cause__, ArithmeticError)
            await (await anext(listener)).ack(wait=True)

    run(main())
    # The other one comes back when its lease runs out.
    assert outside.counts() == (0, 1, 0)


def test_a_body_that_awaits_what_was_cancelled_has_failed(opened, outside):
    outside.store(1)

    async def main():
        async with opened(retry={"delay": "1h"}) as pit, pit.listen() as listener:
            delivery, something = await anext(listener), asyncio.get_running_loop().create_future()
            something.cancel()
            with pytest.raises(asyncio.CancelledError):
                async with delivery:
                    await something

    run(main())
    (entry,) = outside.pit.entries()
    assert entry.last_error == "CancelledError: "
    assert entry.due > outside.pit.now()


def test_closing_again_waits_for_the_closing_that_is_under_way(opened, outside):
    outside.store(1)

    async def main():
        async with opened() as pit:
            listener = pit.listen()
            delivery = await anext(listener)
            writes, backend = threading.Event(), pit._pit._session.backend
            settle, entered = backend.settle, threading.Event()

            def slow(settlements):
                entered.set()
                assert writes.wait(10)
                return settle(settlements)

            backend.settle = slow
            await delivery.ack()
            closing = asyncio.create_task(listener.aclose())
            feeder = listener._feeder
            await until(lambda: entered.is_set() and feeder._over)
            again = asyncio.create_task(listener.aclose())
            await asyncio.sleep(0.02)
            assert not closing.done()
            assert not again.done()
            writes.set()
            await asyncio.gather(closing, again)
            assert outside.counts() == (0, 0, 0)

    run(main())


def test_a_message_that_comes_when_the_time_of_get_is_over_is_not_left(opened, outside):
    async def main():
        async with opened() as pit, pit.listen() as listener:
            getting = asyncio.create_task(listener.get(timeout=1))
            await until(lambda: listener._feeder is not None and listener._feeder._waiter is not None)
            pit._pit.store({"id": "a"}, NOW)
            # Until both are there: the message, and the end of the time.
            time.sleep(1.1)  # noqa: ASYNC251 - it is what a loop must not do
            delivery = await getting
            assert delivery is not None
            await delivery.ack(wait=True)

    run(main())
    assert outside.counts() == (0, 0, 0)
