"""Messages that are stored anew, or removed, while listeners of the same process claim and handle them."""

from __future__ import annotations

from datetime import timedelta

import pytest

import pitstop

from pitstop._plugins._hooks import implementation
from schedules.suite import Cases
from schedules.world import World


cases = Cases()


@cases.add()
def a_message_stored_anew_while_another_thread_claims(world: World):
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store_many("z", "a")

    def store():
        world.store("a")

    def consume():
        world.ack(world.get(listener, None))

    world.together(store, consume)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_message_with_a_new_id_of_the_users_while_another_thread_claims(world: World):
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store("z")

    def store():
        world.store("a")

    def consume():
        world.ack(world.get(listener, None))

    world.together(store, consume)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_message_stored_anew_is_not_buried_before_a_handler_has_seen_it(world: World):
    world.open(retry={"max_attempts": 1}, lock_time=timedelta(minutes=1))
    world.expected_logs = ("is dead",)
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store_many("z", "a")

    def store():
        world.store("a")

    def consume():
        world.ack(world.get(listener, None))

    world.together(store, consume)
    world.drain(listener)
    world.drain(listener, wait=70.0)
    assert world.pit.get("a") is None
    world.finish()


@cases.add()
def a_message_is_removed_while_another_thread_claims(world: World):
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store_many("z", "a", "b")

    def remove():
        world.remove("a")

    def consume():
        for delivery in world.each(listener, 2):
            world.ack(delivery)

    world.together(remove, consume)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_message_deep_in_the_hand_is_removed_while_another_thread_takes_some(world: World):
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store_many("z", "a", "b", "c")
        world.ack(world.get(listener, None))

    def remove():
        world.remove("c")

    def consume():
        world.ack(world.get(listener))
        world.ack(world.get(listener))

    world.together(remove, consume)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@cases.add()
def many_messages_are_stored_anew_while_two_threads_take_some(world: World):
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store_many("a", "b", "c", "d", "e")
        world.ack(world.get(listener, None))

    def store():
        world.store_many("c", "d")

    def consume():
        world.ack(world.get(listener, None))

    def look():
        if (delivery := world.get(listener)) is not None:
            world.ack(delivery)

    world.together(store, consume, look)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@cases.add()
def two_threads_store_one_message_while_a_third_consumes(world: World):
    world.open()
    listener = world.pit.listen(prefetch=2)
    with world.scheduler.calm():
        world.store_many("a", "b")

    def store():
        world.store("a")

    def store_too():
        world.store("a")

    def consume():
        for delivery in world.each(listener, 2):
            world.ack(delivery)

    world.together(store, store_too, consume)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_message_is_stored_anew_while_two_listeners_claim(world: World):
    world.open()
    one, two = world.pit.listen(prefetch=4), world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store_many("a", "b")

    def store():
        world.store("b")

    def consume():
        if (delivery := world.get(one)) is not None:
            world.ack(delivery)

    def consume_too():
        if (delivery := world.get(two)) is not None:
            world.ack(delivery)

    world.together(store, consume, consume_too)
    world.drain(one)
    world.drain(two)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_message_is_stored_anew_while_its_old_version_is_acked(world: World):
    world.open()
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store_many("a", "b")
        delivery = world.get(listener, None)

    def store():
        world.store("a")

    def ack():
        world.ack(delivery)

    world.together(store, ack)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_message_is_removed_while_it_is_nacked(world: World):
    world.open()
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store_many("a", "b")
        delivery = world.get(listener, None)

    def remove():
        world.remove("a")

    def nack():
        world.nack(delivery, timedelta(0))

    world.together(remove, nack)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


def _stores_its_own_id(world: World, others: int) -> None:
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store("poll")
        for n in range(others):
            world.store(f"other-{n}")

    def consume():
        for delivery in world.each(listener, 1 + others):
            world.expect_lost(delivery)
            with delivery:
                if delivery.id == "poll":
                    world.store("poll", timedelta(minutes=5))

    world.together(consume)
    with world.scheduler.calm():
        assert world.pit.get("poll").state == "scheduled"
    world.finish()


@cases.add()
def a_handler_that_stores_its_own_id_ends_quietly_when_it_is_alone(world: World):
    _stores_its_own_id(world, 0)


@cases.add()
def a_handler_that_stores_its_own_id_ends_quietly_among_others(world: World):
    _stores_its_own_id(world, 3)


@cases.add()
def a_handler_that_removes_its_own_id_ends_quietly(world: World):
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store("a")

    def consume():
        delivery = world.get(listener, None)
        with delivery:
            world.remove("a")

    def store():
        world.store("b")

    world.together(consume, store)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_dead_message_is_redriven_while_another_thread_claims(world: World):
    world.open(retry={"max_attempts": 1})
    world.expected_logs = ("is dead",)
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store("a")
        world.nack(world.get(listener))
        assert world.pit.get("a").state == "dead"
        world.attempts_begin_anew()

    def redrive():
        assert world.pit.redrive("a")

    def consume():
        world.ack(world.get(listener, None))

    begun = world.seconds
    world.together(redrive, consume)
    assert world.seconds - begun < 2
    world.check_at_rest()
    world.finish()


@cases.add()
def an_observer_stores_the_next_message_while_acks_are_written(world: World):
    backend, hooks = world.make()
    world.pit = pit = pitstop.Pitstop(backend, hooks)
    stored = []

    def acked(delivery):
        if not stored:
            stored.append(delivery.id)
            world.store("next")

    hooks.acked = (implementation("pitstop_message_acked", acked, ["delivery"]),)
    listener = pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store_many("a", "b", "c")

    def consume():
        for delivery in world.each(listener, 2):
            world.ack(delivery)

    def look():
        pit.get("a")

    world.together(consume, look)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@pytest.mark.parametrize("name", cases.by_name)
def test_by_many_schedules(name):
    cases.run(name)
