"""Threads that wait for messages: each message that is due wakes one of them, at once."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schedules.suite import Cases
from schedules.world import PROMPT, World


cases = Cases()


def promptly(world: World, begun: float) -> None:
    took = world.seconds - begun
    assert took < PROMPT, f"a message that was due was handed out {took:.1f} s later"


@cases.add()
def a_store_wakes_a_thread_that_waits(world: World):
    world.open()
    listener = world.pit.listen()
    begun = world.seconds

    def consume():
        world.ack(world.get(listener, None))
        promptly(world, begun)

    def store():
        world.store("a")

    world.together(consume, store)
    world.finish()


@cases.add()
def two_stores_wake_two_threads_that_wait(world: World):
    world.open()
    listener = world.pit.listen()
    begun = world.seconds

    def consume():
        world.ack(world.get(listener, None))
        promptly(world, begun)

    def consume_too():
        world.ack(world.get(listener, None))
        promptly(world, begun)

    def store():
        world.store("a")
        world.store("b")

    world.together(consume, consume_too, store)
    world.finish()


@cases.add()
def one_store_of_two_messages_wakes_two_threads_that_wait(world: World):
    world.open()
    listener = world.pit.listen()
    begun = world.seconds

    def consume():
        world.ack(world.get(listener, None))
        promptly(world, begun)

    def consume_too():
        world.ack(world.get(listener, None))
        promptly(world, begun)

    def store():
        world.store_many("a", "b")

    world.together(consume, consume_too, store)
    world.finish()


@cases.add()
def a_sooner_message_wakes_a_thread_that_waits_for_a_later_one(world: World):
    world.open()
    listener = world.pit.listen()
    begun = world.seconds

    def consume():
        delivery = world.get(listener, None)
        assert delivery.id == "sooner"
        world.ack(delivery)
        promptly(world, begun)

    def store():
        world.store("later", timedelta(seconds=30))
        world.store("sooner")

    world.together(consume, store)
    world.finish()


@cases.add()
def a_thread_whose_time_is_over_leaves_the_look_to_another_one(world: World):
    world.open()
    listener = world.pit.listen()
    begun = world.seconds

    def leave():
        if (delivery := world.get(listener, 0.1)) is not None:
            world.ack(delivery)
            world.store("b")

    def wait():
        world.ack(world.get(listener, None))
        promptly(world, begun + 0.1)

    def store():
        world.sleep(0.1)
        world.store("a")

    world.together(leave, wait, store)
    world.finish()


@cases.add()
def a_nack_without_delay_wakes_a_thread_that_waits(world: World):
    world.open()
    listener = world.pit.listen(prefetch=1)
    with world.scheduler.calm():
        world.store("a")
        delivery = world.get(listener)
    begun = world.seconds

    def nack():
        world.nack(delivery, timedelta(0))

    def wait():
        world.ack(world.get(listener, None))
        promptly(world, begun)

    world.together(nack, wait)
    world.finish()


@cases.add()
def a_batched_nack_wakes_a_thread_that_waits(world: World):
    world.open(retry={"delay": timedelta(0)})
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store("a")
        delivery = world.get(listener, None)
    begun = world.seconds

    def nack():
        world.nack(delivery)

    def wait():
        world.ack(world.get(listener, None))
        promptly(world, begun)

    world.together(nack, wait)
    world.finish()


@cases.add()
def messages_of_two_listeners_are_handed_out_once_each(world: World):
    world.open()
    one, two = world.pit.listen(prefetch=2), world.pit.listen(prefetch=2)
    begun = world.seconds

    def consume():
        world.ack(world.get(one, None))
        promptly(world, begun)

    def consume_too():
        world.ack(world.get(two, None))
        promptly(world, begun)

    def store():
        # One of them may have claimed both of two.
        world.store("a")
        world.store("b")
        world.store("c")

    world.together(consume, consume_too, store)
    world.drain(one)
    world.drain(two)
    world.check_at_rest()
    world.finish()


@cases.add()
def messages_that_are_not_asked_for_are_given_back_while_a_thread_takes_one(world: World):
    world.open()
    listener = world.pit.listen()
    with world.scheduler.calm():
        world.store_many(*"abcdef")

    def consume():
        for delivery in world.each(listener, 3):
            world.ack(delivery)
            # Longer than messages in hand wait for their consumer.
            world.sleep(0.11)

    world.together(consume)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@cases.add()
def the_next_messages_are_claimed_ahead_while_others_are_handled(world: World):
    world.open()
    listener = world.pit.listen()
    with world.scheduler.calm():
        world.store_many(*"abcdefgh")

    def consume():
        for delivery in world.each(listener, 4):
            world.ack(delivery)

    def consume_too():
        for delivery in world.each(listener, 4):
            world.ack(delivery)

    world.together(consume, consume_too)
    world.drain(listener)
    world.check_at_rest()
    world.finish()


@pytest.mark.parametrize("name", cases.by_name)
def test_by_many_schedules(name):
    cases.run(name)
