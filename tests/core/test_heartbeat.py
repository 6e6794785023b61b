"""Leases that are extended while messages are handled."""

from __future__ import annotations

import gc
import threading
import time

from datetime import timedelta

import pytest

import pitstop

from core.kit import LOCK, Running
from patience import with_some_lease
from pitstop import ConfigError, LeaseLost


DUE = timedelta(0)
BEAT = LOCK / 3


def until(condition, patience=10.0):
    """Wait for what another thread is about to do."""
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that"
        threading.Event().wait(0.002)


def heartbeats():
    return [each for each in threading.enumerate() if each.name == "pitstop-heartbeat"]


def begun_since(before):
    # A heartbeat that a test before this one has closed may take a moment to end.
    return [each for each in heartbeats() if each not in before]


@pytest.fixture
def listener(pit):
    with pit.listen(heartbeat=True) as listener:
        yield listener


def held(pit, listener, id="a"):
    pit.store({"id": id}, DUE)
    delivery = listener.get()
    assert delivery.id == id
    return delivery


def pass_time(clock, by):
    """Let time pass once the heartbeat sleeps."""
    assert clock.wait_for_sleepers(1)
    clock.advance(by)


def leased_until(pit, id="a"):
    return pit.get(id).leased_until


def test_no_thread_is_begun_before_something_is_held(pit, listener):
    before = heartbeats()
    assert listener.get() is None
    assert not begun_since(before)
    held(pit, listener).ack()
    until(lambda: begun_since(before))


def test_a_lease_is_extended_each_third_of_it_as_long_as_the_delivery_is_held(pit, clock, listener):
    delivery = held(pit, listener)
    for _ in range(12):
        pass_time(clock, BEAT)
        until(lambda: leased_until(pit) == clock.now() + LOCK)
        until(lambda: delivery.leased_until == clock.now() + LOCK)
    assert not delivery.lost
    delivery.ack()
    assert pit.get("a") is None


def test_all_that_is_held_is_extended_in_one_batch(pit, store, clock):
    with pit.listen(heartbeat=True, prefetch=5) as listener:
        pit.store_many([({"id": id}, DUE) for id in "abcde"])
        deliveries = [listener.get() for _ in "abcde"]
        before = store.calls.count("settle")
        pass_time(clock, BEAT)
        until(lambda: all(each.leased_until == clock.now() + LOCK for each in deliveries))
        assert store.calls.count("settle") == before + 1


def test_one_that_was_claimed_long_before_it_is_handed_out_is_extended_at_once(pit, clock):
    with pit.listen(heartbeat=True, prefetch=2) as listener:
        pit.store_many([({"id": id}, DUE) for id in "ab"])
        listener.get().ack()
        pass_time(clock, LOCK * 0.8)
        delivery = listener.get()
        assert delivery.attempt == 1
        until(lambda: delivery.leased_until == clock.now() + LOCK)


def test_one_that_is_settled_is_let_go_of(pit, store, clock, listener):
    delivery = held(pit, listener)
    assert clock.wait_for_sleepers(1)
    delivery.nack(delay=timedelta(days=1))
    before = store.calls.count("settle")
    clock.advance(BEAT)
    assert clock.wait_for_sleepers(1)
    assert store.calls.count("settle") == before
    assert pit.get("a").due == delivery.leased_until - LOCK + timedelta(days=1)


def test_one_that_is_dropped_is_not_held_for_ever(pit, clock, listener):
    delivery = held(pit, listener)
    end = delivery.leased_until
    assert clock.wait_for_sleepers(1)
    del delivery
    gc.collect()
    clock.advance(BEAT)
    assert clock.wait_for_sleepers(1)
    assert leased_until(pit) == end


def test_max_lease_is_the_end_of_it(pit, clock):
    longest = LOCK + BEAT + timedelta(minutes=1)
    with pit.listen(heartbeat=True, max_lease=longest) as listener:
        delivery = held(pit, listener)
        end = clock.now() + longest
        pass_time(clock, BEAT)
        until(lambda: delivery.leased_until == clock.now() + LOCK)
        pass_time(clock, BEAT)
        until(lambda: delivery.leased_until == end)
        clock.advance_to(end)
        assert delivery.lost
        with pytest.raises(LeaseLost):
            delivery.ack()


def test_an_extension_that_is_refused_tells_the_handler_and_is_counted_once(store, clock):
    told = []

    class Plugin:
        @pitstop.hookimpl
        def pitstop_lease_lost(self, delivery):
            told.append(delivery.id)

    with pitstop.init({"type": store}, plugins=[Plugin()]) as pit, pit.listen(heartbeat=True) as listener:
        delivery = held(pit, listener)
        pit.store({"id": "a", "anew": True}, timedelta(hours=9))
        assert not delivery.lost
        pass_time(clock, BEAT)
        until(lambda: delivery.lost)
        for settle in (delivery.ack, delivery.nack, delivery.extend):
            with pytest.raises(LeaseLost):
                settle()
        assert told == ["a"]
        assert pit._session.events.counters["lease_lost"] == 1
        assert pit.get("a").message["anew"]


@pytest.mark.parametrize("own", ["ack", "nack"])
def test_an_extension_that_races_with_the_own_ack_or_nack_counts_nothing(pit, store, clock, listener, own):
    delivery = held(pit, listener)
    settled = []

    def settle_before():
        # Between the decision to extend and its write.
        if not settled:
            settled.append(True)
            getattr(delivery, own)()

    store.during["settle"] = settle_before
    pass_time(clock, BEAT)
    until(lambda: settled)
    assert clock.wait_for_sleepers(1)
    assert pit._session.events.counters["lease_lost"] == 0
    assert not delivery.lost


def test_a_store_that_is_away_is_asked_again_and_the_lease_holds(pit, store, clock, listener):
    delivery = held(pit, listener)
    assert clock.wait_for_sleepers(1)
    store.down = True
    before = store.calls.count("settle")
    clock.advance(BEAT)
    until(lambda: store.calls.count("settle") > before)
    store.down = False
    pass_time(clock, timedelta(seconds=10))
    until(lambda: delivery.leased_until == clock.now() + LOCK)
    assert not delivery.lost


def test_when_the_store_was_away_for_longer_than_the_lease_that_is_lost(pit, store, clock, listener):
    delivery = held(pit, listener)
    assert clock.wait_for_sleepers(1)
    store.down = True
    before = store.calls.count("settle")
    clock.advance(BEAT)
    until(lambda: store.calls.count("settle") > before)
    store.down = False
    pass_time(clock, LOCK)
    until(lambda: pit._session.events.counters["lease_lost"])
    assert delivery.lost
    assert pit.get("a").state == "due"


def test_what_the_handler_extends_for_longer_stays_so(pit, clock, listener):
    delivery = held(pit, listener)
    delivery.extend(LOCK * 4)
    end = delivery.leased_until
    pass_time(clock, BEAT)
    assert clock.wait_for_sleepers(1)
    assert leased_until(pit) == delivery.leased_until == end
    pass_time(clock, LOCK * 3)
    until(lambda: leased_until(pit) == clock.now() + LOCK)


def test_what_the_handler_extends_for_less_is_extended_in_time(pit, clock, listener):
    delivery = held(pit, listener)
    assert clock.wait_for_sleepers(1)
    delivery.extend(timedelta(seconds=1))
    until(lambda: delivery.leased_until == clock.now() + LOCK)


def test_what_was_handed_out_is_held_after_close(pit, clock):
    before = heartbeats()
    with pit.listen(heartbeat=True) as listener:
        delivery = held(pit, listener)
    for _ in range(4):
        pass_time(clock, BEAT)
        until(lambda: delivery.leased_until == clock.now() + LOCK)
    delivery.ack()
    pass_time(clock, BEAT)
    pass_time(clock, BEAT)
    until(lambda: not begun_since(before))


def test_without_one_nothing_is_extended(pit, clock):
    before = heartbeats()
    with pit.listen() as listener:
        held(pit, listener)
        clock.advance(LOCK)
        assert not begun_since(before)
        assert listener.get().attempt == 2


def test_a_fast_consumer_hardly_wakes_it(monkeypatch):
    from pitstop._engine._heartbeat import Heartbeat

    beats = []
    beat = Heartbeat._beat
    monkeypatch.setattr(Heartbeat, "_beat", lambda self: beats.append(1) or beat(self))
    with pitstop.init({"type": "memory", "lock_time": "1m"}) as pit:
        pit.store_many([({}, DUE) for _ in range(2000)])
        assert pit.consume(lambda msg: None, heartbeat=True, until_idle=True).acked == 2000
    assert len(beats) < 20


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"max_lease": 60}, "heartbeat=True"),
        ({"max_lease": "soon", "heartbeat": True}, "max_lease='soon'"),
        ({"max_lease": 60, "heartbeat": True}, "shorter than lock_time"),
    ],
    ids=str,
)
def test_a_max_lease_that_cannot_be_used_is_refused(pit, options, text):
    with pytest.raises(ConfigError, match=text):
        pit.listen(**options)


def test_a_slow_handler_under_a_heartbeat_is_called_once():
    with_some_lease(slow_handler_is_called_once)


def slow_handler_is_called_once(lease):
    begun, go_on = threading.Event(), threading.Event()
    with pitstop.init({"type": "memory", "lock_time": lease}) as pit:
        pit.store({"id": "a"}, DUE)
        calls = []

        def handle(delivery):
            calls.append(delivery.attempt)
            begun.set()
            go_on.wait(60)
            assert not delivery.lost

        consuming = Running(lambda: pit.consume(handle, heartbeat=True, max_messages=1))
        assert begun.wait(10)
        with pit.listen() as other:
            another = other.get(timeout=2.5 * lease)
        go_on.set()
        assert consuming.result().acked == 1
        assert another is None
        assert calls == [1]
