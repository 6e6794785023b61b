"""The asyncio side: tasks that are cancelled, listeners that are closed, and the threads that serve them."""

from __future__ import annotations

import asyncio
import sys

from datetime import timedelta

import pytest

from pitstop import AsyncPitstop
from schedules.loop import run_loop
from schedules.suite import RUNS, Cases
from schedules.world import NOW, PROMPT, World


cases = Cases(RUNS * 3 // 4)
EAGER = [False, True] if sys.version_info >= (3, 12) else [False]


async def opened(world: World, *ids: str, **options) -> AsyncPitstop:
    """An open Pitstop, with these messages in its store."""
    backend, hooks = world.make(**options)
    pit = AsyncPitstop(lambda: backend, hooks)
    with world.scheduler.calm():
        await pit.ping()
        if ids:
            await pit.store_many([(world.message(id), NOW) for id in ids])
    return pit


async def all_of(world: World, listener) -> list[str]:
    """Handle all that can be had, without preemption."""
    ids = []
    with world.scheduler.calm():
        await asyncio.sleep(0.5)
        while (delivery := await listener.get(0)) is not None:
            world.note(delivery)
            ids.append(delivery.id)
            await world.asettle(delivery, "ack", delivery.ack(wait=True))
    return ids


async def finish(world: World, pit: AsyncPitstop, *listeners) -> None:
    with world.scheduler.calm():
        for each in listeners:
            await each.aclose()
        await pit.aclose()


def scenario(**options):
    """Declare a coroutine function as a scenario."""

    def declare(function):
        def main(world: World) -> None:
            run_loop(world.scheduler, function(world))
            world.check_closed()

        main.__name__ = function.__name__
        cases.add(**options)(main)

    return declare


@scenario()
async def a_get_is_cancelled_while_its_look_is_under_way(world: World):
    pit = await opened(world, "a")
    listener = pit.listen()

    async def get():
        delivery = await listener.get(0)
        if delivery is not None:
            world.note(delivery)
            await world.asettle(delivery, "ack", delivery.ack())

    task = asyncio.create_task(get())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    again = await all_of(world, listener)
    # If the cancelled one has it, it is acked; else the next one gets it.
    assert len(again) <= 1
    world.check_at_rest()
    await finish(world, pit, listener)


@scenario()
async def a_get_with_a_timeout_is_cancelled_while_a_message_comes(world: World):
    pit = await opened(world)
    listener = pit.listen()

    async def get():
        delivery = await listener.get(None)
        world.note(delivery)
        await world.asettle(delivery, "ack", delivery.ack())

    task = asyncio.create_task(get())
    await asyncio.sleep(0)
    await pit.store(world.message("a"), NOW)
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        task.result()
    await all_of(world, listener)
    world.check_at_rest()
    await finish(world, pit, listener)


@scenario()
async def the_time_of_a_get_is_over_while_a_message_comes(world: World):
    pit = await opened(world)
    listener = pit.listen()

    async def get():
        delivery = await listener.get(0.05)
        if delivery is not None:
            world.note(delivery)
            await world.asettle(delivery, "ack", delivery.ack())

    async def store():
        await asyncio.sleep(0.05)
        await pit.store(world.message("a"), NOW)

    await asyncio.gather(get(), store())
    await all_of(world, listener)
    world.check_at_rest()
    await finish(world, pit, listener)


@scenario()
async def one_of_two_tasks_that_wait_is_cancelled(world: World):
    pit = await opened(world)
    listener = pit.listen()
    begun = world.seconds

    async def get():
        delivery = await listener.get(None)
        world.note(delivery)
        assert world.seconds - begun < PROMPT
        await world.asettle(delivery, "ack", delivery.ack())

    one, two = asyncio.create_task(get()), asyncio.create_task(get())
    await asyncio.sleep(0)
    await pit.store(world.message("a"), NOW)
    one.cancel()
    await asyncio.wait([one])
    await pit.store(world.message("b"), NOW)
    await two
    if not one.cancelled():
        one.result()
    await all_of(world, listener)
    world.check_at_rest()
    await finish(world, pit, listener)


@scenario()
async def a_listener_is_closed_while_a_look_is_under_way(world: World):
    pit = await opened(world, "a", "b")
    listener = pit.listen()

    async def get():
        delivery = await listener.get(0)
        if delivery is not None:
            world.note(delivery)
            await world.asettle(delivery, "ack", delivery.ack())

    task = asyncio.create_task(get())
    await asyncio.sleep(0)
    await listener.aclose()
    await task
    await finish(world, pit)


@scenario()
async def a_listener_is_closed_while_a_task_iterates(world: World):
    pit = await opened(world, *"abcd")
    listener = pit.listen(prefetch=3)

    async def consume():
        async for delivery in listener:
            world.note(delivery)
            await world.asettle(delivery, "ack", delivery.ack())
            if delivery.id == "b":
                closing.set()

    closing = asyncio.Event()
    task = asyncio.create_task(consume())
    await closing.wait()
    await listener.aclose()
    await task
    await finish(world, pit)


@scenario()
async def a_listener_is_closed_while_acks_are_written(world: World):
    pit = await opened(world, *"abcd")
    listener = pit.listen(prefetch=4)
    deliveries = [await listener.get(None) for _ in range(3)]
    for each in deliveries:
        world.note(each)

    async def ack():
        for each in deliveries:
            await world.asettle(each, "ack", each.ack(), closing=True)

    task = asyncio.create_task(ack())
    await asyncio.sleep(0)
    await listener.aclose()
    await task
    await finish(world, pit)


@scenario()
async def a_pitstop_is_closed_while_an_ack_is_waited_for(world: World):
    pit = await opened(world, "a", "b")
    listener = pit.listen(prefetch=4)
    deliveries = [await listener.get(None) for _ in range(2)]
    for each in deliveries:
        world.note(each)

    async def ack(delivery, wait):
        await world.asettle(delivery, "ack", delivery.ack(wait=wait), closing=True)

    tasks = [asyncio.create_task(ack(deliveries[0], wait=False)), asyncio.create_task(ack(deliveries[1], wait=True))]
    await asyncio.sleep(0)
    await pit.aclose()
    await asyncio.gather(*tasks)


@scenario()
async def a_listener_is_stopped_from_another_thread(world: World):
    pit = await opened(world, *"abcd")
    listener = pit.listen(prefetch=3)

    async def consume():
        async for delivery in listener:
            world.note(delivery)
            await world.asettle(delivery, "ack", delivery.ack())

    task = asyncio.create_task(consume())
    await asyncio.sleep(0)

    def stop():
        listener.stop()

    thread = world.start(stop)
    await task
    thread.join()
    await finish(world, pit, listener)


@scenario()
async def a_message_is_stored_anew_while_it_waits_in_the_loop(world: World):
    pit = await opened(world, "a", "b", "c")
    listener = pit.listen(prefetch=4)
    first = await listener.get(None)
    world.note(first)
    await world.asettle(first, "ack", first.ack())
    message = world.message("c")
    await pit.store(message, NOW)
    seen = []
    while (delivery := await listener.get(0)) is not None:
        world.note(delivery)
        if delivery.id == "c":
            seen.append(delivery.msg["v"])
        await world.asettle(delivery, "ack", delivery.ack())
    with world.scheduler.calm():
        await asyncio.sleep(0.5)
    await all_of(world, listener)
    assert seen in ([message["v"]], []), f"version {seen} was handed out after version {message['v']} was stored"
    world.check_at_rest()
    await finish(world, pit, listener)


@scenario()
async def two_tasks_wait_while_a_message_is_stored_anew_from_a_thread(world: World):
    pit = await opened(world, "a", "b")
    listener = pit.listen(prefetch=4)

    async def get():
        delivery = await listener.get(None)
        world.note(delivery)
        await world.asettle(delivery, "ack", delivery.ack())

    await asyncio.gather(get(), pit.store(world.message("b"), NOW))
    await all_of(world, listener)
    world.check_at_rest()
    await finish(world, pit, listener)


async def consume_until_all_is_done(world: World):
    pit = await opened(world, *"abcdef")
    seen = []

    async def handle(message):
        seen.append(message["id"])
        given = world.note_handled(message)
        if message["id"] in "ace":
            await asyncio.sleep(0)
        given.settled = "ack"

    summary = await pit.consume(handle, concurrency=2, until_idle=True)
    assert summary.acked == 6, summary
    assert sorted(seen) == list("abcdef")
    await finish(world, pit)


async def consume_is_cancelled(world: World):
    pit = await opened(world, *"abcdef")
    begun = asyncio.Event()

    async def handle(message):
        given = world.note_handled(message)
        begun.set()
        try:
            await asyncio.sleep(0.01)
        except asyncio.CancelledError:
            # It is given back: its attempt is not counted.
            world.given_back(given)
            raise
        given.settled = "ack"

    task = asyncio.create_task(pit.consume(handle, concurrency=2))
    await begun.wait()
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])
    await finish(world, pit)


async def two_consume_at_once(world: World):
    pit = await opened(world, *"abcdef")
    seen = []

    async def handle(message):
        seen.append(message["id"])
        world.note_handled(message).settled = "ack"

    both = await asyncio.gather(*(pit.consume(handle, concurrency=2, until_idle=True) for _ in range(2)))
    assert sum(each.acked for each in both) == 6, both
    assert sorted(seen) == list("abcdef")
    await finish(world, pit)


def in_all_kinds_of_tasks(function, **options):
    """Declare a coroutine function as a scenario for each way in which a loop begins tasks."""
    for eager in EAGER:

        def main(world: World, eager: bool = eager) -> None:
            run_loop(world.scheduler, function(world), eager=eager)
            world.check_closed()

        main.__name__ = f"{function.__name__}{'_in_eager_tasks' if eager else ''}"
        cases.add(**options)(main)


in_all_kinds_of_tasks(consume_until_all_is_done)
in_all_kinds_of_tasks(consume_is_cancelled)
in_all_kinds_of_tasks(two_consume_at_once)


@scenario()
async def a_pitstop_is_dropped_without_being_closed(world: World):
    pit = await opened(world, "a")
    listener = pit.listen(prefetch=4)
    delivery = await listener.get(None)
    world.note(delivery)
    await world.asettle(delivery, "ack", delivery.ack(wait=True))
    world.forget_given()
    del pit, listener, delivery
    await asyncio.sleep(1)
    # The run fails if a thread is left at its end.


@scenario()
async def a_batched_nack_wakes_a_task_that_waits(world: World):
    pit = await opened(world, "a", retry={"delay": timedelta(0)})
    listener = pit.listen(prefetch=4)
    delivery = await listener.get(None)
    world.note(delivery)
    begun = world.seconds

    async def wait():
        again = await listener.get(None)
        world.note(again)
        assert world.seconds - begun < PROMPT
        await world.asettle(again, "ack", again.ack())

    async def nack():
        await world.asettle(delivery, "nack", delivery.nack("failed"))

    await asyncio.gather(wait(), nack())
    await finish(world, pit, listener)


@scenario()
async def an_ack_that_is_waited_for_is_cancelled(world: World):
    pit = await opened(world, "a", "b")
    listener = pit.listen(prefetch=4)
    deliveries = [await listener.get(None) for _ in range(2)]
    for each in deliveries:
        world.note(each)

    async def ack():
        await world.asettle(deliveries[0], "ack", deliveries[0].ack(wait=True))

    task = asyncio.create_task(ack())
    await asyncio.sleep(0)
    task.cancel()
    await world.asettle(deliveries[1], "ack", deliveries[1].ack(wait=True))
    await asyncio.wait([task])
    with world.scheduler.calm():
        await asyncio.sleep(0.5)
    # To cancel it ends the wait, and not the ack.
    assert not world.backend.contents()
    await finish(world, pit, listener)


@scenario()
async def a_handler_is_cancelled_while_another_delivery_is_acked(world: World):
    pit = await opened(world, "a", "b")
    listener = pit.listen(prefetch=4)
    deliveries = [await listener.get(None) for _ in range(2)]

    async def handle():
        async with deliveries[0]:
            await asyncio.sleep(10)

    async def ack():
        async with deliveries[1]:
            await asyncio.sleep(0)

    task, other = asyncio.create_task(handle()), asyncio.create_task(ack())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task, other])
    world.forget_shown()
    with world.scheduler.calm():
        await asyncio.sleep(0.5)
        assert (await pit.get(deliveries[0].id)).state == "due"
        assert await pit.get(deliveries[1].id) is None
        await pit.remove(deliveries[0].id)
    await listener.aclose()
    await pit.aclose()
    assert not world.backend.contents()
    world.last.clear()


@scenario()
async def a_pitstop_is_closed_while_a_store_is_under_way(world: World):
    pit = await opened(world, "a")
    listener = pit.listen(prefetch=4)

    async def store():
        await world.aclosing(pit.store(world.message("b"), NOW))

    async def get():
        delivery = await world.aclosing(listener.get(0))
        if delivery is not None:
            world.note(delivery)
            await world.asettle(delivery, "ack", delivery.ack(), closing=True)

    tasks = [asyncio.create_task(store()), asyncio.create_task(get())]
    await asyncio.sleep(0)
    await pit.aclose()
    await asyncio.gather(*tasks)


@scenario()
async def a_pitstop_is_closed_while_it_consumes(world: World):
    pit = await opened(world, *"abcdef")
    begun = asyncio.Event()

    async def handle(message):
        given = world.note_handled(message)
        begun.set()
        await asyncio.sleep(0)
        given.settled = "ack"

    task = asyncio.create_task(pit.consume(handle, concurrency=2))
    await begun.wait()
    await pit.aclose()
    await task


@pytest.mark.parametrize("name", cases.by_name)
def test_by_many_schedules(name):
    cases.run(name)
