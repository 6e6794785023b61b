"""Messages whose last lease ended without a settlement: they are handled one after the other, and none is out of reach."""

from __future__ import annotations

from datetime import timedelta

import pytest

from schedules.suite import Cases
from schedules.world import World


cases = Cases()


def _after_a_crash(world: World, max_attempts: int | None) -> None:
    """Open a Pitstop in whose store the leases of three messages have run out unsettled."""
    world.open(lock_time=timedelta(minutes=1), retry={"max_attempts": max_attempts})
    crashed = world.pit.listen(prefetch=1)
    with world.scheduler.calm():
        world.store_many(*"abc")
        deliveries = [world.get(crashed) for _ in range(3)]
        world.sleep(61)
        crashed.close()
    assert len(deliveries) == 3
    # Whether an attempt counts is the matter of other tests.
    world.forget_shown()


@cases.add()
def suspects_are_stored_anew_and_removed_while_they_are_claimed(world: World):
    _after_a_crash(world, 3)
    listener = world.pit.listen(prefetch=4)

    def consume():
        world.ack(world.get(listener, None))

    def store():
        world.store("b")
        world.remove("c")

    world.together(consume, store)
    for _ in range(3):
        world.drain(listener, wait=2)
    world.check_at_rest()
    world.finish()


@cases.add()
def two_threads_handle_suspects(world: World):
    _after_a_crash(world, 3)
    listener = world.pit.listen(prefetch=4)
    begun = world.seconds

    def consume():
        for delivery in world.each(listener, 2):
            world.ack(delivery)

    def consume_too():
        world.ack(world.get(listener, None))

    world.together(consume, consume_too)
    assert world.seconds - begun < 5
    world.check_at_rest()
    world.finish()


@cases.add()
def a_listener_with_suspects_is_stopped(world: World):
    _after_a_crash(world, 3)
    listener = world.pit.listen(prefetch=4)

    def consume():
        for delivery in world.each(listener):
            world.ack(delivery)

    def stop():
        listener.stop()

    world.together(consume, stop)
    world.sleep(1)
    world.check_at_rest()
    world.finish()


@cases.add()
def a_pitstop_with_suspects_is_closed(world: World):
    _after_a_crash(world, 1)
    world.expected_logs = ("is dead",)
    listener = world.pit.listen(prefetch=4)

    def consume():
        for delivery in world.each(listener):
            world.ack(delivery, closing=True)

    def close():
        world.pit.close()

    world.together(consume, close)
    world.finish()


@pytest.mark.parametrize("name", cases.by_name)
def test_by_many_schedules(name):
    cases.run(name)
