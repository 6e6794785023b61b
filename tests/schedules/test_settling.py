"""Acks and nacks: each that returned is written, none is told as lost without reason, and one delivery is settled once."""

from __future__ import annotations

from contextlib import suppress
from datetime import timedelta

import pytest

import pitstop

from schedules.suite import Cases
from schedules.world import PROMPT, World


cases = Cases()


def held(world: World, *ids: str, **options) -> list[pitstop.Delivery]:
    """Deliveries of an iteration, whose acks are written together."""
    listener = world.pit.listen(**{"prefetch": 10, **options})
    with world.scheduler.calm():
        world.store_many(*ids)
        return [listener, *(world.get(listener, None) for _ in ids)]


def _settled_by_two_threads(world: World, first: str, second: str, *, batched: bool = True) -> None:
    world.open(retry={"delay": timedelta(seconds=5)})
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store_many("a", "b")
        delivery = world.get(listener, None if batched else 0)
    settled = []

    def settle(what):
        if (world.ack if what == "ack" else world.nack)(delivery):
            settled.append(what)

    def one():
        settle(first)

    def two():
        settle(second)

    world.together(one, two)
    assert len(settled) == 1, f"{settled} of one delivery"
    with world.scheduler.calm():
        world.sleep(1)
        entry = world.pit.get("a")
    assert (entry is None) is (settled == ["ack"]), (settled, entry)
    assert world.observed.count(("acked", "a")) == settled.count("ack")
    with world.scheduler.calm():
        listener.stop()
    world.finish()


@cases.add()
def two_threads_ack_one_delivery_of_an_iteration(world: World):
    _settled_by_two_threads(world, "ack", "ack")


@cases.add()
def two_threads_ack_and_nack_one_delivery_of_an_iteration(world: World):
    _settled_by_two_threads(world, "ack", "nack")


@cases.add()
def two_threads_ack_one_delivery(world: World):
    _settled_by_two_threads(world, "ack", "ack", batched=False)


@cases.add()
def two_threads_ack_and_nack_one_delivery(world: World):
    _settled_by_two_threads(world, "nack", "ack", batched=False)


@cases.add()
def two_threads_nack_one_delivery(world: World):
    _settled_by_two_threads(world, "nack", "nack", batched=False)


@cases.add()
def acks_of_two_threads_are_written_together(world: World):
    world.open()
    _listener, a, b = held(world, "a", "b")

    def ack():
        world.ack(a)

    def ack_and_wait():
        world.ack(b, wait=True)
        assert world.stored("b") is None

    world.together(ack, ack_and_wait)
    with world.scheduler.calm():
        world.sleep(1)
    assert not world.backend.contents()
    world.finish()


@cases.add()
def a_look_at_the_store_shows_the_acks_that_returned(world: World):
    world.open()
    listener = world.pit.listen(prefetch=3)
    with world.scheduler.calm():
        world.store_many("a", "b", "c")
        a, b = world.get(listener, None), world.get(listener, None)
    acked = []

    def ack():
        world.ack(a)
        acked.append("a")
        # Meanwhile the thread of the listener begins to write.
        world.sleep(0.05)
        world.ack(b)
        acked.append("b")

    def look():
        world.sleep(0.035)
        known = list(acked)
        entries = world.pit.entries()
        assert not {each.id for each in entries} & set(known), (known, entries)
        known = list(acked)
        entry = world.pit.get("a")
        assert entry is None or not known, (known, entry)
        known = list(acked)
        stats = world.pit.stats()
        assert stats.leased + stats.due <= 3 - len(known), (known, stats)

    world.together(ack, look)
    world.finish()


@cases.add()
def an_ack_is_written_while_the_reply_to_it_gets_lost(world: World):
    world.open()
    world.expected_logs = ("trying again", "answers again")
    _listener, a, b, c = held(world, "a", "b", "c")
    world.backend.faults.append(("settle", "reply lost"))

    def ack():
        world.ack(a)
        world.ack(b)

    def ack_and_wait():
        world.ack(c, wait=True)

    world.together(ack, ack_and_wait)
    with world.scheduler.calm():
        world.sleep(30)
    assert ("lost", "a") not in world.observed
    assert not world.backend.contents()
    world.finish()


@cases.add()
def acks_are_written_although_the_store_is_away_for_two_calls(world: World):
    world.open()
    world.expected_logs = ("trying again", "answers again")
    _listener, a, b, c = held(world, "a", "b", "c")
    world.backend.faults += [("settle", "away"), ("settle", "away")]

    def ack():
        world.ack(a)
        world.ack(b)

    def ack_and_wait():
        world.ack(c, wait=True)

    world.together(ack, ack_and_wait)
    with world.scheduler.calm():
        world.sleep(30)
    assert not world.backend.contents()
    world.finish()


@cases.add()
def a_fault_in_the_backend_harms_no_other_ack(world: World):
    world.open()
    world.expected_logs = (
        "could not be written",
        "trying again",
        "ZeroDivisionError",
        "answers again",
        "was not acknowledged",
    )
    _listener, a, b, c = held(world, "a", "b", "c")
    world.backend.faults.append(("settle", "broken"))

    def ack():
        with suppress(ZeroDivisionError, pitstop.PitstopError):
            world.ack(a)
            world.ack(b)

    def ack_too():
        with suppress(ZeroDivisionError, pitstop.PitstopError):
            world.ack(c)

    world.together(ack, ack_too)
    with world.scheduler.calm():
        world.sleep(30)
    for id, given in (("b", b), ("c", c)):
        assert world.stored(id) is None or not world.was_settled(given), (
            f"the ack of {id!r} returned, and was not written"
        )
    world.finish()


@cases.add()
def a_heartbeat_extends_while_the_delivery_is_acked(world: World):
    world.open(lock_time=timedelta(seconds=3))
    _listener, a, b = held(world, "a", "b", heartbeat=True)

    def handle():
        world.sleep(1)
        world.ack(a)

    def handle_too():
        world.sleep(1)
        world.ack(b, wait=True)

    world.together(handle, handle_too)
    with world.scheduler.calm():
        world.sleep(1)
    assert not world.backend.contents()
    assert ("lost", "a") not in world.observed
    world.finish()


@cases.add()
def a_heartbeat_extends_while_the_message_is_stored_anew(world: World):
    world.open(lock_time=timedelta(seconds=3))
    listener, a = held(world, "a", heartbeat=True)

    def handle():
        world.sleep(1)
        world.ack(a)

    def store():
        world.sleep(1)
        world.store("a")

    world.together(handle, store)
    world.drain(listener)
    world.check_at_rest()
    assert world.observed.count(("lost", "a")) <= 1
    world.finish()


@cases.add()
def a_recurring_message_is_acked_while_another_thread_waits_for_its_next_occurrence(world: World):
    world.open()
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.pit.store(world.message("r"), timedelta(0), timedelta(seconds=3), timedelta(seconds=1))
        first = world.get(listener, None)
    times = [first.scheduled_for]

    def ack():
        world.ack(first)

    def consume():
        for delivery in world.each(listener, 2):
            times.append(delivery.scheduled_for)
            world.ack(delivery)

    begun = world.seconds
    world.together(ack, consume)
    assert [(each - times[0]).total_seconds() for each in times] == [0, 1, 2]
    assert world.seconds - begun < 4
    with world.scheduler.calm():
        world.sleep(1)
    world.finish()


@cases.add(runs=1)
def an_ack_is_written_although_no_thread_can_be_started(world: World):
    world.open()
    listener = world.pit.listen(prefetch=4)
    with world.scheduler.calm():
        world.store_many("a", "b", "c")
    world.scheduler.no_threads = True
    for _ in range(2):
        world.ack(world.get(listener, None))
    world.scheduler.no_threads = False
    world.finish()


@cases.add()
def acks_are_written_soon_although_more_messages_are_at_hand(world: World):
    world.open()
    listener = world.pit.listen(prefetch=10)
    with world.scheduler.calm():
        world.store_many(*"abcde")
        a, b = world.get(listener, None), world.get(listener, None)

    def ack():
        world.ack(a)

    def ack_too():
        world.ack(b)

    world.together(ack, ack_too)
    with world.scheduler.calm():
        world.sleep(0.2)
    assert {each.id for each in world.backend.contents()} == {"c", "d", "e"}
    world.drain(listener)
    world.finish()


@cases.add()
def an_ack_comes_as_its_lease_ends_and_another_thread_gets_the_message(world: World):
    world.open(lock_time=timedelta(seconds=1))
    listener, other = world.pit.listen(prefetch=1), world.pit.listen(prefetch=1)
    with world.scheduler.calm():
        world.store("a")
        first = world.get(listener)

    def ack():
        world.sleep(0.99)
        world.ack(first)

    def consume():
        world.sleep(0.95)
        if (again := world.get(other, 0.5)) is not None:
            assert again.attempt == 2
            world.ack(again)

    world.together(ack, consume)
    with world.scheduler.calm():
        world.sleep(2)
    world.drain(listener)
    assert not world.backend.contents()
    world.finish()


@cases.add()
def a_lease_is_extended_while_the_delivery_is_acked(world: World):
    world.open()
    _listener, a, b = held(world, "a", "b")

    def extend():
        for each in (a, b):
            with suppress(pitstop.LeaseLost):
                each.extend(timedelta(minutes=30))

    def ack():
        world.ack(a)
        world.ack(b, wait=True)

    world.together(extend, ack)
    with world.scheduler.calm():
        world.sleep(1)
    assert not world.backend.contents()
    assert ("lost", "a") not in world.observed
    world.finish()


@cases.add()
def messages_whose_leases_ended_unsettled_are_all_handled(world: World):
    world.open(lock_time=timedelta(minutes=1), retry={"max_attempts": 3})
    crashed = world.pit.listen(prefetch=1)
    with world.scheduler.calm():
        world.store_many(*"abc")
        held = [world.get(crashed) for _ in range(2)]
        world.sleep(61)
        world.store("d")
    listener = world.pit.listen(prefetch=4)
    handled = []
    begun = world.seconds

    def consume():
        for delivery in world.each(listener, 2):
            world.ack(delivery)
            handled.append(delivery.id)

    def consume_too():
        for delivery in world.each(listener, 2):
            world.ack(delivery)
            handled.append(delivery.id)

    world.together(consume, consume_too)
    assert sorted(handled) == list("abcd")
    assert world.seconds - begun < PROMPT
    assert len(held) == 2
    with world.scheduler.calm():
        world.sleep(0.5)
    world.check_at_rest()
    world.finish()


@pytest.mark.parametrize("name", cases.by_name)
def test_by_many_schedules(name):
    cases.run(name)
