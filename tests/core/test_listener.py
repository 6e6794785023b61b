"""The listener: when it wakes, how it stops, what it gives back, and what it does while the store is away."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import weakref

from datetime import timedelta

import pytest

import pitstop

from core.kit import LOCK, LOOP, Clock, Running, Scripted, Watched, backend, watch_threads
from pitstop import BackendUnavailable
from pitstop_memory import MemoryBackend


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
            # One call, so one ring: whoever took a message has to wake the next one.
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
            # It looks again before this one is due, so that nobody is woken for it.
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


class TestStop:
    def test_from_another_thread_ends_the_iteration(self, pit, clock):
        with pit.listen() as listener:
            seen = Running(lambda: ids(listener))
            clock.wait_for_waits(1)
            listener.stop()
            assert seen.result() == []
            assert listener.stopped

    def test_of_several_threads_on_one_listener_all_end(self, pit, clock):
        with pit.listen() as listener:
            threads = [Running(lambda: ids(listener)) for _ in range(8)]
            clock.wait_for_waits(8)
            assert clock.wait_for_sleepers(8)
            listener.stop()
            assert [thread.result() for thread in threads] == [[]] * 8

    def test_within_the_loop_ends_it_after_the_present_message(self, pit):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(5)])
        with pit.listen(prefetch=3) as listener:
            for delivery in listener:
                listener.stop()
                delivery.ack()
        assert delivery.id == "0"
        assert pit.stats().due == 4
        assert {entry.attempts for entry in pit.entries()} == {0}

    @pytest.mark.parametrize("end", ["stop", "close", "with", "pit"])
    def test_gives_back_what_nobody_saw_with_the_attempt_not_counted(self, pit, clock, end):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(5)])
        clock.advance(1)
        listener = pit.listen(prefetch=5)
        seen = listener.get()
        assert pit.stats().leased == 5
        if end == "pit":
            looking = pitstop.init({"type": "memory", "clock": clock})
            looking._session._backend._room = pit._session.backend._room
            pit.close()
        else:
            looking = pit
            if end == "with":
                with listener:
                    pass
            else:
                getattr(listener, end)()
        assert {entry.id: (entry.state, entry.attempts) for entry in looking.entries()} == {
            "0": ("leased", 1),
            **{str(number): ("due", 0) for number in range(1, 5)},
        }
        if end != "pit":
            seen.ack()
            assert pit.get("0") is None

    def test_during_a_claim_gives_back_what_that_claim_brings(self, pit, store):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
        listener = pit.listen(prefetch=3)
        # Another thread stops it while the claim is under way: nothing of it is handed out, nothing stays leased.
        store.during["lease"] = lambda: Running(listener.stop).result()
        assert listener.get(None) is None
        assert pit.stats().due == 3
        assert {entry.attempts for entry in pit.entries()} == {0}

    def test_close_of_the_pitstop_waits_for_a_claim_that_is_under_way(self, clock):
        """Else what it brings would be given back to a store that is closed, and stay leased."""
        room = backend(MemoryBackend, clock, name="close-during-a-claim")
        store = backend(Scripted, clock, name="close-during-a-claim")
        claimed, go_on = threading.Event(), threading.Event()

        def hold():
            claimed.set()
            assert go_on.wait(10)

        with pitstop.init({"type": room}) as other:
            other.store_many([({"id": id}, timedelta(0)) for id in "abc"])
            pit = pitstop.init({"type": store})
            store.during["lease"] = hold
            listener = pit.listen(prefetch=3)
            got = Running(lambda: listener.get(timeout=None))
            assert claimed.wait(10)
            closing = Running(pit.close)
            while not listener.stopped:
                threading.Event().wait(0.001)
            assert not closing.done
            go_on.set()
            closing.result()
            assert got.result() is None
            assert (other.stats().due, other.stats().leased) == (3, 0)
            assert [entry.attempts for entry in other.entries()] == [0, 0, 0]

    def test_again_and_after_close_is_harmless(self, pit):
        listener = pit.listen()
        for end in (listener.stop, listener.stop, listener.close, listener.close, listener.stop):
            end()
        assert listener.get(None) is None
        assert list(listener) == []
        assert repr(listener) == "<Listener on memory:// stopped>"

    def test_when_the_store_is_away_what_was_prefetched_comes_back_with_its_lease(self, pit, store, clock, caplog):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
        listener = pit.listen(prefetch=3)
        listener.get()
        store.down = True
        listener.stop()
        store.down = False
        assert "2 claimed messages come back only when their lease runs out" in caplog.text
        assert pit.stats().leased == 3
        clock.advance(LOCK)
        assert pit.stats().due == 3


class TestSignals:
    @pytest.fixture
    def on_signal(self):
        """Install a handler for SIGUSR1 for the time of the test."""
        before = signal.getsignal(signal.SIGUSR1)
        yield lambda handler: signal.signal(signal.SIGUSR1, lambda *_: handler())
        signal.signal(signal.SIGUSR1, before)

    def test_a_handler_may_stop_a_listener_that_blocks_in_the_main_thread(self, pit, clock, on_signal):
        with pit.listen() as listener:
            on_signal(listener.stop)

            ended = threading.Event()

            def send():
                clock.wait_for_waits(1)
                # Again, in case that the first one came just before the thread began to block: then CPython runs the
                # handler only when the wait is over. Here it never is; a real one is, after loop_time at most.
                while not ended.is_set():
                    signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
                    ended.wait(0.2)

            sent = Running(send)
            assert list(listener) == []
            ended.set()
            sent.result()

    @pytest.mark.parametrize("method", ["lease", "next_due", "now"])
    def test_a_handler_may_stop_it_while_the_backend_holds_its_lock(self, clock, on_signal, method):
        class Interrupted(MemoryBackend):
            armed = False

            def _now_ms(self):
                # Within lease() and settle(): the room's lock is held by this very thread.
                if self.armed:
                    assert self._room.turn.inside or method != "lease"
                    self.raise_once()
                return super()._now_ms()

            def next_due(self):
                if method == "next_due":
                    with self._room.lock:
                        self.raise_once()
                return super().next_due()

            def now(self):
                if method == "now":
                    with self._room.lock:
                        self.raise_once()
                return super().now()

            def raise_once(self):
                if self.armed:
                    self.armed = False
                    signal.raise_signal(signal.SIGUSR1)

        store = backend(Interrupted, clock)
        with pitstop.init({"type": store}) as pit, pit.listen(prefetch=2) as listener:
            pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
            assert ids([listener.get(), listener.get(), listener.get()]) == ["0", "1", "2"]
            pit.store({"id": "3"}, timedelta(minutes=1))
            on_signal(listener.stop)
            store.armed = True
            assert listener.get(None) is None
            assert listener.stopped
            assert not store.armed

    def test_a_handler_that_interrupts_an_ack_leaves_giving_back_to_the_listener(self, pit, store, on_signal):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
        with pit.listen(prefetch=3) as listener:
            on_signal(listener.stop)
            for delivery in listener:
                store.during["settle"] = lambda: (store.during.clear(), signal.raise_signal(signal.SIGUSR1))
                delivery.ack(wait=True)
        assert {entry.id: (entry.state, entry.attempts) for entry in pit.entries()} == {
            "1": ("due", 0),
            "2": ("due", 0),
        }

    def test_a_handler_that_interrupts_code_with_the_locks_does_not_wait_for_them_for_ever(self, pit, store, on_signal):
        """The application's own code may hold a lock of the driver's, which giving back needs."""
        lock = threading.Lock()
        pit.store_many([({"id": id}, timedelta(0)) for id in "abc"])
        listener = pit.listen(prefetch=3)
        assert listener.get().id == "a"
        store.during["settle"] = lambda: lock.acquire(timeout=60) and lock.release()
        on_signal(listener.stop)
        with lock:
            signal.raise_signal(signal.SIGUSR1)
            assert listener.stopped
            assert pit.stats().leased == 3
        listener.close()
        while pit.stats().leased > 1:
            threading.Event().wait(0.001)

    def test_a_handler_that_interrupts_the_users_code_gives_back_at_once(self, pit, on_signal):
        pit.store_many([({"id": str(number)}, timedelta(0)) for number in range(3)])
        with pit.listen(prefetch=3) as listener:
            on_signal(listener.stop)
            for delivery in listener:
                signal.raise_signal(signal.SIGUSR1)
                assert pit.stats().due == 2
                delivery.ack()

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
    @pytest.mark.parametrize("where", ["blocked", "handling"])
    def test_a_process_ends_cleanly_on_a_real_signal(self, number, where):
        script = """
            import queue, signal, sys
            from datetime import timedelta
            import pitstop
            from pitstop.abc import SystemClock

            class Telling(SystemClock):
                def wait(self, bell, seconds):
                    print("blocked", flush=True)
                    return super().wait(bell, seconds)

            pit = pitstop.init({"type": "memory", "clock": Telling(), "loop_time": "1h"})
            listener = pit.listen(prefetch=2)
            signalled = queue.SimpleQueue()
            for each in (signal.SIGINT, signal.SIGTERM):
                signal.signal(each, lambda *_: (listener.stop(), signalled.put(None)))
            if sys.argv[1] == "handling":
                pit.store_many([({"id": "a"}, timedelta(0)), ({"id": "b"}, timedelta(0))])
            for delivery in listener:
                print("handling", flush=True)
                signalled.get()
                delivery.ack()
            print("stopped with", pit.stats().due, "due,", pit.stats().leased, "leased", flush=True)
            pit.close()
        """
        command = [sys.executable, "-c", textwrap.dedent(script), where]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            assert process.stdout.readline() == f"{where}\n"
            try:
                for _ in range(10):
                    # Again, for the reason that is given above.
                    os.kill(process.pid, number)
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        out, err = process.communicate(timeout=3)
                        break
            finally:
                process.kill()
        assert (process.returncode, err) == (0, "")
        assert out == f"stopped with {1 if where == 'handling' else 0} due, 0 leased\n"


class TestLeaseTime:
    def test_a_claim_that_took_longer_than_its_lease_emits_nothing(self, pit, store, clock, caplog):
        pit.store({"id": "a"}, timedelta(0))
        store.during["lease"] = lambda: clock.advance(LOCK)
        with pit.listen() as listener:
            assert listener.get() is None
            assert "a claim took about as long as its lease of 900.0 s" in caplog.text
            store.during.clear()
            # Its lease ran, so it counts: nobody can tell whether it was seen.
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
            assert "1 claimed messages come back only when their lease runs out" in caplog.text
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
        """A wrong password does not get right by itself: whoever just began to listen is told."""
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
        """It has worked, so somebody is changing something: it may work again."""
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


class TestClosed:
    def test_no_listener_is_made_on_a_closed_pitstop(self, pit):
        pit.close()
        with pytest.raises(BackendUnavailable) as caught:
            pit.listen()
        assert str(caught.value) == "This Pitstop was closed. Make a new one with pitstop.init()."
        assert repr(pit) == "<Pitstop on memory:// (closed)>"

    def test_every_call_says_so(self, pit):
        pit.close()
        pit.close()
        for call in (
            lambda: pit.store({}, timedelta(0)),
            lambda: pit.store_many([]),
            lambda: pit.remove("a"),
            lambda: pit.get("a"),
            pit.entries,
            pit.stats,
            lambda: pit.redrive("a"),
            pit.now,
        ):
            with pytest.raises(BackendUnavailable, match=r"^This Pitstop was closed\."):
                call()

    def test_a_listener_that_blocks_ends(self, pit, clock):
        got = Running(lambda: ids(pit.listen()))
        clock.wait_for_waits(1)
        pit.close()
        assert got.result() == []

    def test_a_listener_that_was_made_while_it_closed_ends_too(self, pit):
        listener = pit.listen()
        pit._session.discard(listener)
        pit.close()
        assert listener.get(None) is None

    def test_a_delivery_cannot_be_settled_any_more(self, pit):
        pit.store({"id": "a"}, timedelta(0))
        delivery = pit.listen().get()
        pit.close()
        with pytest.raises(BackendUnavailable, match="closed"):
            delivery.ack()

    def test_a_listener_that_was_dropped_is_not_kept_alive(self, pit):
        pit.store({"id": "a"}, timedelta(0))
        listener = pit.listen()
        delivery = listener.get()
        dropped = weakref.ref(listener)
        del listener
        gc.collect()
        assert dropped() is None
        pit.store({"id": "b"}, timedelta(0))
        delivery.ack()


class TestWatch:
    @pytest.fixture
    def store(self, clock):
        return backend(Watched, clock)

    @pytest.fixture(autouse=True)
    def earlier(self):
        # A thread of an earlier test in this process may still be in its last poll.
        self.before = set(watch_threads())

    def threads(self) -> list[threading.Thread]:
        return [thread for thread in watch_threads() if thread not in self.before]

    def ended(self) -> bool:
        for thread in self.threads():
            thread.join(10)
        return not self.threads()

    def test_begins_with_the_first_sleeper_and_ends_with_the_last(self, pit, store, clock):
        one, two = pit.listen(), pit.listen()
        assert self.threads() == []
        sleeping = [Running(lambda: ids(one)), Running(lambda: ids(two))]
        assert store.began.acquire(timeout=10)
        (watch,) = store.watches
        assert watch.polls.acquire(timeout=10)
        assert clock.wait_for_sleepers(2)
        one.close()
        watch.news.put(None)
        assert watch.polls.acquire(timeout=10), "the other listener still sleeps on it"
        assert len(self.threads()) == 1
        two.close()
        watch.news.put(None)
        assert self.ended()
        assert watch.closed.is_set()
        assert len(store.watches) == 1
        assert [each.result() for each in sleeping] == [[], []]

    def test_ends_with_a_listener_that_was_stopped_and_not_closed(self, pit, store):
        listener = pit.listen()
        got = Running(lambda: ids(listener))
        assert store.began.acquire(timeout=10)
        (watch,) = store.watches
        assert watch.polls.acquire(timeout=10)
        listener.stop()
        assert got.result() == []
        watch.news.put(None)
        assert self.ended()

    def test_wakes_those_who_sleep(self, pit, store, clock):
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            assert store.began.acquire(timeout=10)
            (watch,) = store.watches
            assert watch.polls.acquire(timeout=10)
            other = pitstop.init({"type": backend(Scripted, clock)})
            other._session._backend._room = store._room
            other.store({"id": "a"}, timedelta(0))
            assert not got.done
            watch.news.put(0)
            assert got.result().id == "a"
        watch.news.put(None)
        assert self.ended()

    def test_lets_those_sleep_on_who_would_look_before_that_anyway(self, pit, store, clock):
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            assert store.began.acquire(timeout=10)
            (watch,) = store.watches
            assert watch.polls.acquire(timeout=10)
            # The first look, and the one because nobody knows what was written before the watch began.
            clock.wait_for_waits(2)
            other = pitstop.init({"type": backend(Scripted, clock)})
            other._session._backend._room = store._room
            other.store({"id": "a"}, timedelta(0))
            now = store.now() // 1000
            for due in (now + 90_000, now + 86_400_000, None):
                watch.news.put(due)
                assert watch.polls.acquire(timeout=10)
                assert listener._intake.waiting.waiters[0].bell.wait(0) is False
            assert store.calls.count("lease") == 2
            watch.news.put(now + 20_000)
            assert got.result().id == "a"
        watch.news.put(None)
        assert self.ended()

    def test_one_who_joins_while_it_still_polls_for_one_who_left_shares_it(self, pit, store, clock):
        leaving, joining = pit.listen(), pit.listen()
        left = Running(lambda: ids(leaving))
        assert store.began.acquire(timeout=10)
        (watch,) = store.watches
        assert watch.polls.acquire(timeout=10)
        leaving.close()
        assert left.result() == []
        joined = Running(lambda: next(joining))
        clock.wait_for_waits(2)
        assert clock.wait_for_sleepers(1)
        watch.news.put(None)
        assert watch.polls.acquire(timeout=10), "somebody sleeps on it"
        other = pitstop.init({"type": backend(Scripted, clock)})
        other._session._backend._room = store._room
        other.store({"id": "a"}, timedelta(0))
        watch.news.put(0)
        assert joined.result().id == "a"
        assert len(store.watches) == 1
        joining.close()
        watch.news.put(None)
        assert self.ended()

    def test_nobody_asks_again_where_there_is_none_to_be_had(self, pit, store, clock, monkeypatch):
        monkeypatch.setattr(store, "watch", store.began.release)
        for _ in range(2):
            with pit.listen() as listener:
                moving = Running(lambda: (clock.wait_for_sleepers(1), clock.advance(1)))
                assert listener.get(timeout=1) is None
                moving.result()
        assert self.ended()
        assert store.began.acquire(timeout=10)
        assert not store.began.acquire(timeout=0)

    def test_a_close_does_not_wait_for_a_poll(self, pit, store, caplog):
        got = Running(lambda: ids(pit.listen()))
        assert store.began.acquire(timeout=10)
        (watch,) = store.watches
        assert watch.polls.acquire(timeout=10)
        closing = Running(pit.close)
        closing.result()
        assert got.result() == []
        assert len(self.threads()) == 1, "it still sits in its poll"
        watch.news.put(0)
        assert self.ended()
        assert watch.closed.is_set()
        assert caplog.records == []

    @pytest.mark.parametrize("error", [BackendUnavailable("gone"), RuntimeError("a bug")])
    def test_survives_a_poll_that_raises(self, pit, store, clock, caplog, error):
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            assert store.began.acquire(timeout=10)
            (watch,) = store.watches
            watch.news.put(error)
            # Two threads wait by the clock now: the listener, and the watch for its next try.
            assert watch.closed.wait(10)
            assert clock.wait_for_sleepers(2)
            clock.advance(0.1)
            assert store.began.acquire(timeout=10)
            # Of a store that is away the listener tells, and a watch that begins anew has mended itself.
            assert ("trying again: a bug" in caplog.text) == isinstance(error, RuntimeError)
            assert isinstance(error, RuntimeError) or caplog.records == []
            watch = store.watches[1]
            watch.news.put(None)
            assert watch.polls.acquire(timeout=10)
            assert not got.done
            pit.store({"id": "a"}, timedelta(0))
            assert got.result().id == "a"
        watch.news.put(None)
        assert self.ended()

    def test_a_watch_that_fails_for_a_minute_is_told(self, pit, store, clock, caplog):
        with pit.listen() as listener:
            got = Running(lambda: next(listener))
            for number in range(14):
                assert store.began.acquire(timeout=10)
                assert ("the watch for messages of other processes does not answer" in caplog.text) == (number >= 13)
                watch = store.watches[-1]
                watch.news.put(BackendUnavailable("gone"))
                assert watch.closed.wait(10)
                assert clock.wait_for_sleepers(2)
                clock.advance(5)
            assert store.began.acquire(timeout=10)
            pit.store({"id": "a"}, timedelta(0))
            assert got.result().id == "a"
        store.watches[-1].news.put(None)
        assert self.ended()

    def test_a_watch_that_fails_because_of_the_close_is_no_news(self, pit, store, caplog):
        got = Running(lambda: ids(pit.listen()))
        assert store.began.acquire(timeout=10)
        (watch,) = store.watches
        assert watch.polls.acquire(timeout=10)
        pit.close()
        watch.news.put(BackendUnavailable("closed under my feet"))
        assert self.ended()
        assert got.result() == []
        assert caplog.records == []

    def test_ends_after_a_listener_that_was_dropped_without_close(self, pit, store, clock):
        listener = pit.listen()
        moving = Running(lambda: (clock.wait_for_waits(1), clock.advance(1)))
        assert listener.get(timeout=1) is None
        moving.result()
        assert store.began.acquire(timeout=10)
        dropped = weakref.ref(listener)
        (watch,) = store.watches
        del listener
        gc.collect()
        assert dropped() is None
        watch.news.put(None)
        watch.news.put(None)
        assert self.ended()

    def test_begins_anew_after_it_ended(self, pit, store, clock):
        for number in range(2):
            listener = pit.listen()
            got = Running(lambda listener=listener: ids(listener))
            assert store.began.acquire(timeout=10)
            listener.close()
            store.watches[number].news.put(None)
            assert self.ended()
            assert got.result() == []


def pit_start(clock: Clock) -> float:
    return Clock().monotonic()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
class TestFork:
    def test_what_was_claimed_ahead_is_the_parents_alone(self, tmp_path):
        """One message is never out twice under live leases, also when a process splits in two."""
        script = textwrap.dedent(
            """
            import os, sys, threading
            from datetime import timedelta
            import pitstop

            pit = pitstop.init({"type": "sqlite", "path": "fork.db"})
            pit.store_many([({"id": id}, timedelta(0)) for id in "abcd"])
            listener = pit.listen(prefetch=4)
            print("parent", listener.get().id, flush=True)
            if os.fork() == 0:
                pit.store({"id": "e"}, timedelta(0))
                print("child", *(each.id for each in iter(listener.get, None)), flush=True)
                pit.close()
                os._exit(0)
            os.wait()
            print("parent", *(each.id for each in iter(listener.get, None)), flush=True)
            pit.close()
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.splitlines() == ["parent a", "child e", "parent b c d"]

    def test_the_watch_is_begun_anew_in_the_child(self, tmp_path):
        script = textwrap.dedent(
            """
            import os, threading
            from datetime import timedelta
            import pitstop

            pit = pitstop.init({"type": "sqlite", "path": "fork.db", "loop_time": "10m"})
            listener = pit.listen()
            assert listener.get(timeout=0.05) is None
            names = [thread.name for thread in threading.enumerate()]
            assert "pitstop-watch" in names, names
            if os.fork() == 0:
                print("child", listener.get(timeout=30).id, flush=True)
                os._exit(0)
            pit.store({"id": "a"}, timedelta(0))
            os.wait()
            pit.close()
            """
        )
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True
        )
        assert done.stdout.splitlines() == ["child a"]


class TestGivingBack:
    def test_close_waits_for_another_thread_that_is_at_it(self, pit, store):
        pit.store_many([({"id": id}, timedelta(0)) for id in "abc"])
        listener = pit.listen(prefetch=3)
        listener.get()
        order, begun = [], threading.Event()

        def settle():
            begun.set()
            # Long enough for who does not wait.
            threading.Event().wait(0.05)
            order.append("given back")

        store.during["settle"] = settle
        giving_back = Running(listener._intake.give_back_all)
        assert begun.wait(10)
        pit.close()
        order.append("closed")
        giving_back.result()
        assert order == ["given back", "closed"]

    def test_a_thread_that_comes_after_the_end_gets_nothing_and_leaves_nothing(self, pit):
        pit.store_many([({"id": id}, timedelta(0)) for id in "abc"])
        with pit.listen(prefetch=3) as listener:
            listener.get().ack()
            # Between the end and the giving back that belongs to it.
            listener._intake.end()
            assert listener._intake.take_at_hand() is None
            assert pit.stats().due == 2
