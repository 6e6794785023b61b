"""The thread of a listener, and the one of several waiting threads that looks at the store for all."""

from __future__ import annotations

import _thread
import gc
import threading
import time
import weakref

from collections import Counter
from datetime import timedelta

import pytest

import pitstop

from core.kit import LOOP, Running, take


DUE = timedelta(0)


def fill(pit, count, first=0):
    pit.store_many([({"id": f"{number:04}"}, DUE) for number in range(first, first + count)])


def background_threads():
    return [thread for thread in threading.enumerate() if thread.name == "pitstop-background"]


def ended(threads):
    for each in threads:
        each.join(10)
    return not any(each.is_alive() for each in threads)


class TestThread:
    def test_there_is_none_without_waiting(self, pit):
        before = set(background_threads())
        fill(pit, 20)
        with pit.listen() as listener:
            for _ in range(20):
                listener.get().ack()
            assert set(background_threads()) <= before

    def test_one_that_could_not_begin_is_begun_when_there_is_something_to_do_again(self, pit, monkeypatch):
        fill(pit, 3)
        before = set(background_threads())

        def refuse(self):
            raise RuntimeError("can't start new thread")

        with pit.listen() as listener:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                take(listener, 3)
            assert not listener._intake.wakeup.awake
            take(listener, 1).ack()
            assert set(background_threads()) - before

    def test_a_stop_for_which_no_thread_can_begin_ends_the_listener_and_the_close_gives_back(self, pit, monkeypatch):
        fill(pit, 3)

        def refuse(*_):
            raise RuntimeError("can't start new thread")

        with pit.listen(prefetch=3) as listener:
            listener.get(0).ack()
            take(listener, 3).ack()
            with monkeypatch.context() as patch:
                patch.setattr(_thread, "start_new_thread", refuse)
                listener.stop()
            assert listener.stopped
            assert listener.get(0) is None
        assert pit.stats().leased == 0

    def test_there_is_one_for_each_listener_that_has_several_messages_in_hand(self, pit):
        before = set(background_threads())
        fill(pit, 40)
        with pit.listen() as one, pit.listen() as other:
            for listener in (one, other):
                take(listener, 10)
                take(listener, 1).ack()
                take(listener, 1).ack()
            begun = [each for each in background_threads() if each not in before]
            assert len(begun) == 2
        assert ended(begun)

    def test_it_ends_with_a_listener_that_was_dropped_and_gives_back_what_that_held(self, pit, store):
        before = set(background_threads())
        fill(pit, 5)
        listener = pit.listen()
        take(listener, 5)
        begun = [each for each in background_threads() if each not in before]
        assert len(begun) == 1
        gone = weakref.ref(listener)
        del listener
        gc.collect()
        assert gone() is None
        assert ended(begun)
        assert [store.get(f"{number:04}").progress.attempts for number in range(5)] == [1, 0, 0, 0, 0]

    def test_it_goes_on_trying_to_write_the_acks_of_a_listener_that_was_dropped(self, pit, store):
        fill(pit, 5)
        written = threading.Event()
        listener = pit.listen()
        delivery = take(listener, 5)
        store.down = True
        delivery.ack()
        background = listener._intake.background
        del listener
        gc.collect()
        assert background._ended
        store.during["settle"] = written.set
        store.down = False
        assert written.wait(10)
        assert ended([background._thread])
        assert store.get("0000") is None

    def test_it_sleeps_when_there_is_nothing_to_do(self, pit, alone):
        fill(pit, 3)
        with pit.listen() as listener:
            take(listener, 3).ack()
            assert listener._intake.wakeup.awake
            while listener._intake.buffer:
                next(listener).ack()
            turns = 0
            while listener._intake.background.turn() is not None:
                turns += 1
            assert turns < 5

    def test_an_error_that_nobody_expected_does_not_end_it(self, pit, store):
        fill(pit, 3)
        written = threading.Event()
        # A number that is pinned: else what is in hand might be given back meanwhile, and the ack be written here.
        with pit.listen(prefetch=3) as listener:
            first, second = take(listener, 3), take(listener)
            failed = threading.Event()
            store.during["settle"] = lambda: (failed.set(), store.during.update(settle=written.set), fail())
            first.ack()
            assert failed.wait(10)
            second.ack()
            assert written.wait(10)


class TestBoredom:
    def test_what_nobody_asks_for_is_given_back_and_the_attempt_is_not_counted(self, pit, store, alone):
        fill(pit, 5)
        with pit.listen() as listener:
            take(listener, 5)
            for _ in range(12):
                listener._intake.background.turn()
            assert not listener._intake.buffer
            assert [store.get(f"{number:04}").progress.attempts for number in range(5)] == [1, 0, 0, 0, 0]
            # The next claim brings one message, again.
            next(listener)
            assert not listener._intake.buffer

    def test_it_comes_back_by_itself_while_the_first_is_handled(self, pit):
        fill(pit, 5)
        with pit.listen() as listener, pit.listen() as other:
            first = take(listener, 5)
            # The clock of the store stands still; the background thread goes by that of the machine.
            assert [Running(lambda: other.get(None)).result().id for _ in range(4)] == ["0001", "0002", "0003", "0004"]
            first.ack()

    def test_who_asks_now_and_then_keeps_what_is_in_hand(self, pit, alone):
        fill(pit, 5)
        with pit.listen() as listener:
            for left in (4, 3, 2, 1):
                take(listener, 5).ack()
                for _ in range(8):
                    listener._intake.background.turn()
                assert len(listener._intake.buffer) == left

    def test_a_pinned_number_is_kept(self, pit, alone):
        fill(pit, 5)
        with pit.listen(prefetch=5) as listener:
            next(listener)
            for _ in range(30):
                listener._intake.background.turn()
            assert len(listener._intake.buffer) == 4

    def test_what_is_being_handled_is_not_given_back(self, pit, store, alone):
        fill(pit, 5)
        with pit.listen() as listener:
            delivery = take(listener, 5)
            for _ in range(30):
                listener._intake.background.turn()
            delivery.ack(wait=True)
            assert store.get("0000") is None


class TestAhead:
    def test_the_next_messages_are_claimed_before_the_last_is_handed_out(self, pit, store, clock, alone):
        fill(pit, 200)
        with pit.listen() as listener:
            claims = []
            for _ in range(100):
                next(listener).ack()
                clock.advance(0.001)
                if listener._intake.wakeup.wanted:
                    claims.append(len(listener._intake.buffer))
                    listener._intake.background.turn()
            assert claims
            assert all(left > 0 for left in claims)

    def test_not_when_the_handler_is_slow(self, pit, clock, alone):
        fill(pit, 20)
        with pit.listen() as listener:
            for _ in range(20):
                next(listener).ack()
                clock.advance(1)
                assert not listener._intake.wakeup.wanted

    def test_with_the_last_one_when_a_claim_takes_longer_than_what_is_in_hand(self, pit, store, clock, alone):
        fill(pit, 100)
        store.during["lease"] = lambda: clock.advance(1)
        with pit.listen() as listener:
            for _ in range(100):
                delivery = next(listener)
                clock.advance(0.0001)
                if listener._intake.wakeup.wanted:
                    assert not listener._intake.buffer
                delivery.ack()

    def test_a_store_is_asked_for_the_next_messages_while_it_writes_the_acks_of_the_last(self, pit, store, clock):
        fill(pit, 200)
        writer, claimed, together = threading.get_ident(), threading.Event(), []

        def lease():
            if threading.get_ident() != writer:
                claimed.set()

        def settle():
            # One, two, four, eight and sixteen: enough to see that they go fast.
            if threading.get_ident() == writer and listener._intake.buffer.handed_out >= 31:
                together.append(claimed.wait(10))

        store.during |= {"lease": lease, "settle": settle}
        with pit.listen() as listener:
            while not together:
                next(listener).ack()
                clock.advance(0.00001)
        assert all(together)

    def test_not_with_a_pinned_number(self, pit, clock, alone):
        fill(pit, 100)
        with pit.listen(prefetch=10) as listener:
            for _ in range(100):
                next(listener).ack()
                clock.advance(0.001)
                assert not listener._intake.wakeup.wanted

    def test_one_that_fails_to_give_back_is_not_waited_for_ever_after(self, pit, monkeypatch):
        def break_down(*_, **__):
            raise ValueError("a backend with an error in it")

        listener = pit.listen()
        with monkeypatch.context() as patch:
            patch.setattr(listener._intake.claimer, "give_back", break_down)
            listener._intake.end()
            with pytest.raises(ValueError, match="error in it"):
                listener._intake.waiting.claim_ahead()
        assert listener._intake.waiting.waiters == ()
        listener.close()

    def test_a_stop_gives_back_what_a_claim_that_is_under_way_brings(self, pit, store, clock):
        fill(pit, 200)
        claiming, giving_back = threading.Event(), threading.Event()

        def claim():
            if threading.current_thread().name == "pitstop-background":
                claiming.set()
                giving_back.wait(10)
                # As a store does that is slow to answer: no event could say that stop() does not return meanwhile.
                time.sleep(0.05)

        store.during["lease"] = claim
        with pit.listen() as listener:
            while not claiming.is_set():
                next(listener).ack()
                clock.advance(0.001)
                if listener._intake.wakeup.wanted:
                    assert claiming.wait(10)
            store.during["settle"] = giving_back.set
            listener.stop()
            assert pit.stats().leased == 0

    def test_a_claim_that_failed_is_no_matter(self, pit, store, alone):
        fill(pit, 4)
        with pit.listen() as listener:
            next(listener)
            store.down = True
            listener._intake.wakeup.want()
            listener._intake.background.turn()
            store.down = False
            assert next(listener).id == "0001"


class TestLeader:
    def test_of_many_threads_that_wait_one_looks_at_the_store(self, pit, store, clock):
        with pit.listen() as listener:
            threads = [Running(lambda: next(listener)) for _ in range(8)]
            clock.wait_for_waits(8)
            assert clock.wait_for_sleepers(8)
            # Each may have been the one for a moment, while it came.
            looks = store.calls.count("lease")
            assert looks <= 8
            for _ in range(5):
                waits = len(clock.waits)
                clock.advance(LOOP * 1.5)
                clock.wait_for_waits(waits + 8)
                assert clock.wait_for_sleepers(8)
            assert store.calls.count("lease") - looks <= 10
            listener.stop()
            for each in threads:
                with pytest.raises(StopIteration):
                    each.result()

    def test_one_that_leaves_hands_over(self, pit, clock):
        with pit.listen() as listener:
            first = Running(lambda: listener.get(timeout=1))
            clock.wait_for_waits(1)
            second = Running(lambda: next(listener))
            clock.wait_for_waits(2)
            assert clock.wait_for_sleepers(2)
            pit.store({"id": "a"}, timedelta(seconds=5))
            clock.wait_for_waits(3)
            clock.advance(1)
            assert first.result() is None
            clock.wait_for_waits(4)
            clock.advance(4)
            assert second.result().id == "a"

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
    def test_one_that_raises_hands_over(self, pit, store, clock, error):
        fail = threading.Event()

        def between():
            if fail.is_set():
                fail.clear()
                raise error

        with pit.listen() as listener:
            store.during["next_due"] = between
            first = Running(lambda: next(listener))
            clock.wait_for_waits(1)
            second = Running(lambda: next(listener))
            clock.wait_for_waits(2)
            assert clock.wait_for_sleepers(2)
            fail.set()
            waits = len(clock.waits)
            listener._intake.waiting._leader.bell.ring()
            with pytest.raises(error):
                first.result()
            clock.wait_for_waits(waits + 1)
            pit.store({"id": "a"}, DUE)
            assert second.result().id == "a"

    def test_what_another_thread_leaves_in_hand_wakes_the_one_that_looks(self, clock):
        config = {"type": "memory", "name": "left-in-hand", "clock": clock, "loop_time": LOOP}
        with pitstop.init(config) as pit, pitstop.init(config) as elsewhere, pit.listen(prefetch=3) as listener:
            waiting = Running(lambda: next(listener))
            clock.wait_for_waits(1)
            fill(elsewhere, 3)
            assert listener.get().id == "0000"
            assert waiting.result().id == "0001"

    def test_no_wake_up_is_lost(self):
        with pitstop.init({"type": "memory", "loop_time": "5m"}) as pit, pit.listen() as listener:
            seen = Counter()

            def consume():
                for delivery in listener:
                    seen[delivery.id] += 1
                    delivery.ack()
                    if delivery.id == "last":
                        listener.stop()

            threads = [Running(consume) for _ in range(6)]
            for number in range(300):
                fill(pit, number % 4, first=number * 4)
                if number % 7 == 0:
                    listener.get(timeout=0.0001)
            pit.store({"id": "last"}, timedelta(milliseconds=30))
            for each in threads:
                each.result()
        assert max(seen.values()) == 1
        assert seen["last"] == 1


def fail():
    raise ZeroDivisionError
