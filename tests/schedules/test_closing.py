"""The end: of an iteration, of a listener, of a Pitstop, of the program."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schedules.patching import exit_program
from schedules.suite import Cases
from schedules.world import World


cases = Cases()


@cases.add()
def a_listener_is_stopped_while_another_thread_claims(world: World):
    world.open()
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store_many("a", "b", "c")

    def consume():
        for delivery in world.each(listener):
            world.ack(delivery)

    def stop():
        listener.stop()

    world.together(consume, stop)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_listener_is_stopped_while_two_threads_wait(world: World):
    world.open()
    listener = world.pit.listen()
    begun = world.seconds

    def consume():
        for delivery in world.each(listener):
            world.ack(delivery)

    def consume_too():
        for delivery in world.each(listener):
            world.ack(delivery)

    def stop():
        listener.stop()

    world.together(consume, consume_too, stop)
    assert world.seconds - begun < 5
    world.finish()


@cases.add()
def a_listener_is_stopped_while_messages_are_claimed_ahead(world: World):
    world.open()
    listener = world.pit.listen()
    with world.scheduler.calm():
        world.store_many(*"abcdefgh")
        world.ack(world.get(listener, None))

    def consume():
        for delivery in world.each(listener, 4):
            world.ack(delivery)

    def stop():
        listener.stop()

    world.together(consume, stop)
    world.sleep(1)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_listener_is_closed_while_another_thread_iterates(world: World):
    world.open()
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store_many("a", "b", "c")

    def consume():
        for delivery in world.each(listener):
            world.ack(delivery)

    def close():
        listener.close()

    world.together(consume, close)
    world.check_closed()
    world.finish()


@cases.add()
def a_pitstop_is_closed_while_another_thread_iterates(world: World):
    world.open()
    listener = world.pit.listen()
    with world.scheduler.calm():
        world.store_many("a", "b", "c", "d")

    def consume():
        for delivery in world.each(listener):
            world.ack(delivery, closing=True)

    def close():
        world.pit.close()

    world.together(consume, close)
    world.finish()


@cases.add()
def a_pitstop_is_closed_while_another_thread_acks(world: World):
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store_many("a", "b", "c")
        a, b = world.get(listener, None), world.get(listener, None)

    def ack():
        world.ack(a, closing=True)
        world.ack(b, closing=True)

    def close():
        world.pit.close()

    world.together(ack, close)
    world.finish()


@cases.add()
def a_pitstop_is_closed_while_another_thread_acks_and_waits(world: World):
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store_many("a", "b", "c")
        a, b = world.get(listener, None), world.get(listener, None)

    def ack():
        world.ack(a, closing=True)
        world.ack(b, wait=True, closing=True)

    def close():
        world.pit.close()

    world.together(ack, close)
    world.finish()


@cases.add()
def a_pitstop_is_closed_while_another_thread_gets_one(world: World):
    world.open()
    listener = world.pit.listen()
    with world.scheduler.calm():
        world.store_many("a", "b")

    def look():
        delivery = world.closing(lambda: world.get(listener))
        if delivery is not None:
            world.ack(delivery, closing=True)

    def close():
        world.pit.close()

    world.together(look, close)
    world.finish()


@cases.add()
def a_pitstop_is_closed_while_another_thread_stores(world: World):
    world.open()
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store_many("a", "b")
        world.ack(world.get(listener, None))

    def store():
        world.closing(lambda: world.store("b"))
        world.closing(lambda: world.remove("c"))

    def close():
        world.pit.close()

    world.together(store, close)
    world.finish()


@cases.add()
def a_pitstop_is_closed_while_another_thread_looks(world: World):
    world.open()
    with world.scheduler.calm():
        world.store("a")

    def look():
        world.closing(lambda: world.pit.get("a"))

    def close():
        world.pit.close()

    world.together(look, close)
    world.finish()


@cases.add()
def two_threads_close_a_pitstop(world: World):
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store_many("a", "b", "c")
        world.ack(world.get(listener, None))

    def close():
        world.pit.close()

    def close_too():
        listener.close()

    world.together(close, close_too)
    world.finish()


@cases.add()
def a_listener_is_dropped_and_the_pitstop_closed(world: World):
    world.open()
    with world.scheduler.calm():
        world.store_many(*"abcdef")

    def consume():
        listener = world.pit.listen(prefetch=10)
        for delivery in world.each(listener, 4):
            world.ack(delivery)

    world.together(consume)
    world.forget_given()
    world.pit.close()
    world.check_closed()


@cases.add()
def a_listener_is_dropped_and_the_store_looked_at(world: World):
    world.open()
    with world.scheduler.calm():
        world.store_many(*"abcdef")

    def consume():
        listener = world.pit.listen(prefetch=10)
        for delivery in world.each(listener, 4):
            world.ack(delivery)

    world.together(consume)
    world.forget_given()
    assert world.pit.get("a") is None
    assert {each.id for each in world.pit.entries()} <= {"e", "f"}
    with world.scheduler.calm():
        world.sleep(1)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_delivery_of_a_dropped_listener_is_acked_and_the_pitstop_closed(world: World):
    world.open()
    with world.scheduler.calm():
        world.store_many(*"abc")
        listener = world.pit.listen(prefetch=10)
        deliveries = [world.get(listener, None), world.get(listener, None)]
        del listener

    def ack():
        for each in deliveries:
            world.ack(each, closing=True)

    def close():
        world.pit.close()

    world.together(ack, close)
    world.finish()


@cases.add()
def a_delivery_of_a_closed_listener_is_acked(world: World):
    world.open()
    with world.scheduler.calm():
        world.store_many(*"abc")
        listener = world.pit.listen(prefetch=10)
        deliveries = [world.get(listener, None), world.get(listener, None)]

    def ack():
        for each in deliveries:
            world.ack(each)

    def close():
        listener.close()

    world.together(ack, close)
    world.finish()


def _at_exit(world: World) -> None:
    exit_program()
    world.check_closed()
    # For the next run, which must not find this one's listeners at its own exit.
    world.finish()


@cases.add()
def the_program_ends_while_acks_are_written(world: World):
    world.open()
    listener = world.pit.listen(prefetch=3)
    with world.scheduler.calm():
        world.store_many(*"abc")
    for delivery in world.each(listener, 2):
        world.ack(delivery)
    # Meanwhile the thread of the listener begins to write.
    world.sleep(0.035)
    last = world.get(listener, None)
    assert last.id == "c"
    _at_exit(world)


@cases.add()
def the_program_ends_after_a_listener_was_dropped(world: World):
    world.open()
    with world.scheduler.calm():
        world.store_many(*"abcdefgh")

    listener = world.pit.listen(prefetch=10)
    for delivery in world.each(listener, 5):
        world.ack(delivery)
    del listener, delivery
    world.forget_given()
    _at_exit(world)


@cases.add()
def the_program_ends_while_claimed_messages_are_given_back(world: World):
    world.open()
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store_many(*"abcd")
        world.ack(world.get(listener, None))
        world.sleep(0.05)
    world.forget_given()
    # The thread of the listener gives the others back.
    del listener
    _at_exit(world)


@cases.add()
def the_program_ends_while_another_thread_iterates(world: World):
    world.open()
    listener = world.pit.listen()
    with world.scheduler.calm():
        world.store_many(*"abcdefgh")

    def consume():
        for delivery in world.each(listener):
            world.ack(delivery, closing=True)

    thread = world.start(consume)
    exit_program()
    thread.join()
    world.check_closed()
    world.finish()


def _consume(world: World, workers: int, ends, **options) -> None:
    world.open()
    with world.scheduler.calm():
        world.store_many(*"abcdef")
    seen = []

    def handle(message):
        seen.append(message["id"])
        given = world.note_handled(message)
        ends(world, seen)
        given.settled = "ack"

    def consume():
        summary = world.pit.consume(handle, workers=workers, **options)
        assert summary.acked == len(seen), (summary, seen)
        assert summary.lost == 0

    world.together(consume)
    assert len(seen) == len(set(seen))
    world.finish()


@cases.add()
def two_workers_consume_until_all_is_done(world: World):
    _consume(world, 2, lambda world, seen: None, until_idle=True)


@cases.add()
def two_workers_consume_some_messages(world: World):
    _consume(world, 2, lambda world, seen: None, max_messages=3)


@cases.add()
def a_handler_closes_the_pitstop(world: World):
    _consume(world, 2, lambda world, seen: len(seen) == 2 and world.pit.close())


@cases.add()
def a_pitstop_is_closed_while_two_workers_consume(world: World):
    world.open()
    with world.scheduler.calm():
        world.store_many(*"abcdef")
    seen = []

    def handle(message):
        seen.append(message["id"])
        world.note_handled(message).settled = "ack"

    def consume():
        summary = world.pit.consume(handle, workers=2)
        assert summary.acked == len(seen), (summary, seen)

    def close():
        world.pit.close()

    def both():
        world.together(consume_, close)

    def consume_():
        world.closing(consume)

    both()
    assert len(seen) == len(set(seen))
    world.finish()


@cases.add()
def two_consume_in_one_process_until_all_is_done(world: World):
    world.open()
    with world.scheduler.calm():
        world.store_many(*"abcdef")
    seen, done = [], []

    def handle(message):
        seen.append(message["id"])
        world.note_handled(message).settled = "ack"

    def consume():
        done.append(world.pit.consume(handle, until_idle=True))

    def consume_too():
        done.append(world.pit.consume(handle, until_idle=True))

    world.together(consume, consume_too)
    assert sorted(seen) == list("abcdef")
    assert sum(each.acked for each in done) == 6
    world.finish()


@cases.add()
def a_handler_that_fails_is_tried_again_while_another_worker_goes_on(world: World):
    world.open(retry={"delay": timedelta(0)})
    world.expected_logs = ("failed", "raised", "handler")
    with world.scheduler.calm():
        world.store_many(*"abc")
    seen = []

    def handle(message):
        seen.append(message["id"])
        if message["id"] == "a" and seen.count("a") < 3:
            raise ValueError
        world.note_handled(message).settled = "ack"

    def consume():
        summary = world.pit.consume(handle, workers=2, until_idle=True)
        assert (summary.acked, summary.nacked) == (3, 2), summary

    world.together(consume)
    world.forget_shown()
    world.finish()


@cases.add()
def a_pitstop_is_closed_while_a_heartbeat_extends(world: World):
    world.open(lock_time=timedelta(seconds=3))
    listener = world.pit.listen(prefetch=4, heartbeat=True)
    with world.scheduler.calm():
        world.store_many("a", "b", "c")
        a, b = world.get(listener, None), world.get(listener, None)

    def handle():
        world.sleep(1)
        world.ack(a, closing=True)

    def close():
        world.sleep(1)
        world.pit.close()

    world.together(handle, close)
    assert b.id == "b"
    world.finish()


@cases.add()
def two_threads_stop_a_listener_while_a_third_iterates(world: World):
    world.open()
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store_many("a", "b", "c")

    def consume():
        for delivery in world.each(listener):
            world.ack(delivery)

    def stop():
        listener.stop()

    def close():
        listener.close()

    world.together(consume, stop, close)
    world.check_closed()
    world.finish()


@cases.add()
def a_listener_is_dropped_before_its_thread_has_begun(world: World):
    world.open()
    with world.scheduler.calm():
        world.store_many("a", "b", "c")

    def consume():
        listener = world.pit.listen(prefetch=3)
        world.nack(world.get(listener), timedelta(0))
        listener = None

    def store():
        world.store("d")

    world.together(consume, store)
    world.forget_shown()
    with world.scheduler.calm():
        world.sleep(1)
    world.check_at_rest()
    world.finish()


@pytest.mark.parametrize("name", cases.by_name)
def test_by_many_schedules(name):
    cases.run(name)
