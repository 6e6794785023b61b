"""The listener: when it wakes, and what it hands out."""

from __future__ import annotations

import logging
import threading

from datetime import timedelta

import pytest

import pitstop

from core.kit import LOCK, LOOP, Clock, Running, Watched, backend
from pitstop import BackendUnavailable


def ids(deliveries) -> list[str]:
    return [delivery.id for delivery in deliveries]


class TestWaking:
    def test_sleeps_until_the_due_time_and_not_longer(self, pit, clock):
        pit.store({"id": "a"}, timedelta(seconds=20))
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            clock.wait_for_waits(1)
            assert clock.waits == [20]
            clock.advance(19.999)
            assert not got.done
            clock.advance(0.001)
            assert got.result().id == "a"

    def test_a_store_in_this_process_wakes_it_at_once(self, pit, clock):
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            clock.wait_for_waits(1)
            pit.store({"id": "a"}, timedelta(0))
            assert got.result().id == "a"
            assert clock.waits[1:] == []

    def test_so_do_an_update_a_nack_a_redrive_and_the_next_occurrence(self, store, clock):
        with pitstop.init({"type": store}) as pit, pit.listen() as listener, pit.listen() as other:
            pit.store({"id": "a"}, timedelta(0), None, timedelta(milliseconds=1))
            first = other.get()
            clock.advance(0.001)
            deliveries = [first]
            for act in (
                first.ack,
                lambda: pit.store({"id": "a"}, timedelta(0)),
                lambda: deliveries[-1].nack(delay=timedelta(0)),
            ):
                waits = len(clock.waits)
                got = Running(lambda: next(listener))
                clock.wait_for_waits(waits + 1)
                act()
                deliveries.append(got.result())
            assert ids(deliveries) == ["a"] * 4

    def test_what_is_given_back_by_another_listener_wakes_it(self, pit, clock):
        with pit.listen() as listener, pit.listen(prefetch=2) as greedy:
            pit.store_many([({"id": "a"}, timedelta(0)), ({"id": "b"}, timedelta(0))])
            assert greedy.get().id == "a"
            got = Running(lambda: next(listener))
            clock.wait_for_waits(1)
            greedy.stop()
            assert got.result().id == "b"

    def test_looks_again_after_a_randomised_loop_time_at_most(self, pit, clock):
        with pit.listen() as listener:
            got = Running(lambda: listener.get(None))
            for looks in range(1, 21):
                clock.wait_for_waits(looks)
                clock.advance(LOOP * 1.5)
            clock.wait_for_waits(21)
            listener.stop()
            assert got.result() is None
        assert all(30 <= each <= 90 for each in clock.waits)
        assert max(clock.waits) - min(clock.waits) > 1, "not randomised"

    def test_notices_what_another_handle_stored_by_then(self, clock):
        config = {"type": "memory", "name": "noticed", "clock": clock, "loop_time": LOOP}
        with pitstop.init(config) as pit, pitstop.init(config) as other, pit.listen() as listener:
            got = Running(lambda: next(listener))
            clock.wait_for_waits(1)
            other.store({"id": "a"}, timedelta(0))
            clock.advance(LOOP * 1.5)
            assert got.result().id == "a"

    def test_a_later_message_does_not_wake_it(self, pit, clock):
        pit.store({"id": "a"}, timedelta(seconds=10))
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            clock.wait_for_waits(1)
            pit.store({"id": "b"}, timedelta(seconds=11))
            assert listener._intake.waiting.waiters[0].bell.wait(0) is False
            clock.advance(10)
            assert got.result().id == "a"
            assert clock.waits == [10]

    def test_of_several_threads_on_one_listener_each_gets_one_of_several_messages(self, pit, clock):
        with pit.listen() as listener:
            threads = [Running(lambda: next(listener)) for _ in range(4)]
            clock.wait_for_waits(4)
            assert clock.wait_for_sleepers(4)
            # One call, so one ring: each thread that took a message has to wake the next one.
            pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(4)])
            assert sorted(ids(thread.result() for thread in threads)) == ["0", "1", "2", "3"]

    def test_each_of_several_threads_knows_of_later_messages(self, pit, clock):
        with pit.listen() as listener:
            threads = [Running(lambda: next(listener)) for _ in range(2)]
            clock.wait_for_waits(2)
            assert clock.wait_for_sleepers(2)
            # One of them looks at the store for both.
            pit.store({"id": "first"}, timedelta(seconds=1))
            clock.wait_for_waits(3)
            assert clock.wait_for_sleepers(2)
            # It looks again before this one is due, so that no thread is woken for it.
            pit.store({"id": "second"}, timedelta(seconds=6))
            clock.advance(1)
            clock.wait_for_waits(4)
            # A second ring while it looked is one more look at the same.
            assert clock.waits[2:4] == [1, 5]
            clock.advance(5)
            assert sorted(ids(thread.result() for thread in threads)) == ["first", "second"]

    def test_a_thread_that_leaves_with_nothing_takes_no_knowledge_along(self, pit, clock):
        with pit.listen() as listener:
            first = Running(lambda: listener.get(timeout=0.6))
            clock.wait_for_waits(1)
            second = Running(lambda: listener.get(timeout=30))
            clock.wait_for_waits(2)
            assert clock.wait_for_sleepers(2)
            pit.store({"id": "a"}, timedelta(seconds=1))
            clock.wait_for_waits(3)
            assert clock.wait_for_sleepers(2)
            clock.advance(0.6)
            assert first.result() is None
            clock.wait_for_waits(4)
            clock.advance(0.4)
            assert second.result().id == "a"


class TestGet:
    def test_of_nothing_is_none_without_waiting_and_without_a_thread(self, clock):
        with pitstop.init({"type": backend(Watched, clock)}) as pit, pit.listen() as listener:
            before = set(threading.enumerate())
            pit.store({"id": "later"}, timedelta(milliseconds=1))
            assert listener.get() is None
            assert listener.get(timeout=0) is None
            assert listener.get(timeout=timedelta(0)) is None
            assert set(threading.enumerate()) <= before
            assert clock.waits == []

    def test_takes_what_is_due_oldest_first(self, pit, clock):
        for name, seconds in (("c", 3), ("a", 1), ("b", 2), ("later", 9)):
            pit.store({"id": name}, timedelta(seconds=seconds))
        clock.advance(5)
        with pit.listen() as listener:
            assert ids(iter(listener.get, None)) == ["a", "b", "c"]
            assert clock.waits == []

    @pytest.mark.parametrize("timeout", [5, 5.0, timedelta(seconds=5)])
    def test_waits_for_its_timeout_by_the_clock(self, pit, clock, timeout):
        with pit.listen() as listener:
            got = Running(lambda: listener.get(timeout))
            clock.wait_for_waits(1)
            assert clock.waits == [5]
            clock.advance(4.999)
            assert not got.done
            clock.advance(0.001)
            assert got.result() is None

    def test_gets_what_becomes_due_within_its_timeout(self, pit, clock):
        pit.store({"id": "a"}, timedelta(seconds=3))
        with pit.listen() as listener:
            got = Running(lambda: listener.get(5))
            clock.wait_for_waits(1)
            assert clock.waits == [3]
            clock.advance(3)
            assert got.result().id == "a"

    def test_its_timeout_may_be_text(self, pit, clock):
        with pit.listen() as listener:
            got = Running(lambda: listener.get(timeout="2s500ms"))
            clock.wait_for_waits(1)
            assert clock.waits == [2.5]
            clock.advance(2.5)
            assert got.result() is None
            with pytest.raises(pitstop.ConfigError, match=r"timeout='soon' is not a duration\."):
                listener.get(timeout="soon")

    @pytest.mark.parametrize("prefetch", [0, -1, 1.5, True, "5"])
    def test_a_prefetch_that_is_none_is_refused(self, pit, prefetch):
        with pytest.raises(pitstop.ConfigError) as caught:
            pit.listen(prefetch=prefetch)
        assert str(caught.value) == f"prefetch={prefetch!r} cannot be used. Give a whole number of at least 1."

    def test_options_override_the_configuration(self, pit, clock):
        with pit.listen(lock_time="10s", loop_time=2) as listener:
            pit.store({"id": "a"}, timedelta(0))
            assert listener.get().leased_until == pit.now() + timedelta(seconds=10)
            got = Running(lambda: listener.get(None))
            clock.wait_for_waits(1)
            assert 1 <= clock.waits[0] <= 3
            listener.stop()
            got.result()

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"lock_time": 0}, "lock_time=0 is too short. Give at least one millisecond."),
            ({"loop_time": "soon"}, "loop_time='soon' is not a duration. "),
            ({"lock_time": timedelta.max}, "is longer than 100 years. Give a shorter duration."),
        ],
    )
    def test_options_that_make_no_sense_are_refused(self, pit, options, text):
        with pytest.raises(pitstop.ConfigError) as caught:
            pit.listen(**options)
        assert text in str(caught.value)

    def test_the_longest_lock_time_can_be_used(self, pit):
        with pit.listen(lock_time="36525d") as listener:
            pit.store({"id": "a"}, timedelta(0))
            delivery = listener.get()
            assert delivery.leased_until == pit.now() + timedelta(days=36_525)
            delivery.extend()

    def test_a_bug_in_a_backend_is_not_taken_for_an_outage(self, pit, store):
        def bug():
            raise ZeroDivisionError

        store.during["lease"] = bug
        with pit.listen() as listener, pytest.raises(ZeroDivisionError):
            listener.get(None)


class TestLeaseTime:
    def test_a_claim_that_took_longer_than_its_lease_emits_nothing(self, pit, store, clock, caplog):
        pit.store({"id": "a"}, timedelta(0))
        store.during["lease"] = lambda: clock.advance(LOCK)
        with pit.listen() as listener:
            assert listener.get() is None
            assert "a claim took about as long as its lease of 900.0 s" in caplog.text
            store.during.clear()
            # Its lease ran, so it counts: the store cannot know whether a handler saw it.
            assert listener.get().attempt == 2

    def test_a_claim_that_took_nearly_its_lease_gives_back_at_once(self, pit, store, clock):
        pit.store_many([({"id": "a"}, timedelta(0)), ({"id": "b"}, timedelta(0))])
        store.during["lease"] = lambda: clock.advance(LOCK * 0.95)
        with pit.listen(prefetch=2) as listener:
            assert listener.get() is None
            assert pit.stats().due == 2
            store.during.clear()
            assert [(each.id, each.attempt) for each in iter(listener.get, None)] == [("a", 1), ("b", 1)]

    def test_a_store_that_is_always_too_slow_keeps_no_timeout_waiting(self, pit, store, clock):
        pit.store({"id": "a"}, timedelta(0))
        store.during["lease"] = lambda: clock.advance(LOCK * 2)
        with pit.listen() as listener:
            assert listener.get(timeout=1) is None
            assert store.calls.count("lease") == 1

    def test_prefetched_messages_near_the_end_of_their_lease_are_claimed_anew(self, pit, clock):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
        with pit.listen(prefetch=3) as listener:
            assert listener.get().id == "0"
            clock.advance(LOCK * 0.89)
            assert listener.get().leased_until - pit.now() < LOCK * 0.12
            clock.advance(LOCK * 0.02)
            fresh = listener.get()
            assert (fresh.id, fresh.attempt) == ("2", 1)
            assert fresh.leased_until == pit.now() + LOCK

    def test_a_failure_to_give_back_late_ones_loses_no_message_in_hand(self, pit, store, clock, caplog):
        pit.store_many([({"id": "old"}, timedelta(0)), ({"id": "older"}, timedelta(0))])
        with pit.listen(prefetch=2) as listener:
            assert listener.get().id == "old"
            clock.advance(LOCK * 0.95)
            pit.store({"id": "new"}, timedelta(0))
            listener._intake.waiting.claim_ahead()
            store.during["settle"] = lambda: setattr(store, "down", True)
            delivery = listener.get()
            assert (delivery.id, delivery.attempt) == ("new", 1)
            assert "1 claimed message comes back only when its lease runs out" in caplog.text
            store.during.clear()
            store.down = False


class TestStoreAway:
    def test_get_without_waiting_raises_and_the_listener_is_not_healthy(self, pit, store, caplog):
        with pit.listen() as listener:
            assert listener.healthy
            store.down = True
            for _ in range(3):
                with pytest.raises(BackendUnavailable, match=r"^The test took the store away\.$"):
                    listener.get()
                assert not listener.healthy
            assert repr(listener) == "<Listener on memory:// failing>"
            assert caplog.records == [], "an exception tells already"
            store.down = False
            assert listener.get() is None
            assert listener.healthy

    def test_get_with_a_timeout_tries_until_then_and_raises(self, pit, store, clock):
        with pit.listen() as listener:
            store.down = True
            got = Running(lambda: listener.get(timeout=3))
            waits = 0
            while not got.done and waits < 100:
                waits += 1
                clock.wait_for_waits(waits)
                clock.advance(clock.waits[-1])
                if clock.monotonic() - pit_start(clock) >= 3:
                    break
            with pytest.raises(BackendUnavailable):
                got.result()
            assert sum(clock.waits) == pytest.approx(3)
            store.down = False

    def test_a_store_that_refuses_at_the_first_look_ends_the_iteration(self, pit, store, caplog):
        """A wrong password does not get right by itself: a listener that just began raises the error."""
        with pit.listen() as listener:
            store.down = BackendUnavailable("Wrong password.", permanent=True)
            with pytest.raises(BackendUnavailable, match=r"^Wrong password\.$"):
                next(listener)
            assert not listener.healthy
            assert caplog.records == [], "an exception tells already"
            store.down = False
            assert listener.get() is None
            assert listener.healthy

    def test_a_store_that_refuses_later_is_tried_each_half_a_minute(self, pit, store, clock, caplog):
        """It has worked, so an operator is changing something: it may work again."""
        caplog.set_level(logging.INFO)
        with pit.listen() as listener:
            assert listener.get() is None
            store.down = BackendUnavailable("Wrong password.", permanent=True)
            pit.store({"id": "a"}, timedelta(0))
            got = Running(lambda: next(listener))
            for number in range(1, 11):
                clock.wait_for_waits(number)
                assert not listener.healthy
                store.down = store.down if number < 10 else False
                clock.advance(30)
            assert got.result().id == "a"
            assert listener.healthy
        assert all(15 <= each <= 30 for each in clock.waits[:10])
        told = [record.message for record in caplog.records if record.levelno == logging.ERROR]
        assert told[0] == "the store refuses (failure 1 in a row); trying again: Wrong password."
        assert 3 <= len(told) <= 6

    def test_blocking_backs_off_logs_once_and_then_rarely_and_recovers(self, pit, store, clock, caplog):
        caplog.set_level(logging.INFO)
        pit.store({"id": "a"}, timedelta(0))
        with pit.listen() as listener:
            store.down = True
            got = Running(lambda: next(listener))
            for number in range(1, 42):
                clock.wait_for_waits(number)
                assert not listener.healthy
                store.down = number < 41
                clock.advance(5)
            assert got.result().id == "a"
            assert listener.healthy
        first, later = clock.waits[:6], clock.waits[6:41]
        assert all(0.05 * 2**number <= each <= 0.1 * 2**number for number, each in enumerate(first))
        assert all(2.5 <= each <= 5 for each in later)
        # 200 s of failure: at once, and then each minute.
        warnings = [record.message for record in caplog.records if record.levelno == logging.WARNING]
        assert len(warnings) == 4
        assert warnings[0] == (
            "the store does not answer (failure 1 in a row); trying again: The test took the store away."
        )
        assert [record.message for record in caplog.records if record.levelno == logging.INFO] == [
            "the store answers again after 205.0 s and 41 failures"
        ]

    def test_a_stop_ends_it_although_the_store_is_away(self, pit, store, clock):
        with pit.listen() as listener:
            store.down = True
            got = Running(lambda: ids(listener))
            clock.wait_for_waits(1)
            listener.stop()
            assert got.result() == []
            store.down = False


def pit_start(clock: Clock) -> float:
    return Clock().monotonic()
