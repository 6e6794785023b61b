"""Acks and nacks that are written together: when, how many at once, and what their handlers are told."""

from __future__ import annotations

import gc
import os
import threading

from datetime import timedelta
from typing import ClassVar

import pytest

import pitstop

from core.kit import LOCK, Running, ack_later, backend, nack_later, take
from core.writer_kit import DUE, away, fill, held, lose_reply, settled
from pitstop import BackendUnavailable, LeaseLost, OutcomeUnknown
from pitstop._engine._delivery import lease_of
from pitstop._engine._lease import Purpose, State


class TestBatches:
    def test_acks_are_written_together_when_nothing_more_is_in_hand(self, pit, store, alone):
        fill(pit, 20)
        with pit.listen() as listener:
            for delivery in held(listener, 20, 20):
                if listener._intake.buffer or delivery.id != "0019":
                    delivery.ack()
            # Nothing is in hand since the twentieth was handed out: each of them is written at once.
            assert settled(store) == [1] * 19

    def test_acks_wait_for_more_while_there_is_something_in_hand(self, pit, store, alone):
        fill(pit, 20)
        with pit.listen() as listener:
            taken = held(listener, 1, 20)
            for _ in range(19):
                taken[-1].ack()
                taken.append(take(listener))
            assert settled(store) == []
            taken[-1].ack()
            assert settled(store) == [20]
            assert pit.stats().due + pit.stats().leased == 0

    def test_no_more_than_five_hundred_are_written_at_once(self, pit, store, alone):
        fill(pit, 1100)
        with pit.listen(prefetch=1100) as listener:
            for delivery in held(listener, 1099, 1100):
                delivery.ack()
            assert settled(store) == [500, 500]
            listener._intake.flush()
            assert settled(store) == [500, 500, 99]

    def test_few_calls_of_the_store_settle_many_messages(self, pit, store):
        fill(pit, 2000)
        with pit.listen() as listener:
            for count, delivery in enumerate(listener, 1):
                delivery.ack()
                if count == 2000:
                    break
            assert sum(settled(store)) == 2000
            # Eleven claims of up to 500; the background thread may have written in between.
            assert len(settled(store)) < 200

    def test_what_is_pending_is_written_soon_without_anybodys_doing(self, pit, store):
        fill(pit, 3)
        written = threading.Event()
        with pit.listen() as listener:
            first = held(listener, 1, 3)[0]
            store.during["settle"] = written.set
            first.ack()
            assert written.wait(10)

    def test_an_ack_is_not_written_before_a_look_of_the_pump_has_passed(self, pit, store, alone):
        fill(pit, 3)
        with pit.listen() as listener:
            held(listener, 1, 3)[0].ack()
            listener._intake.background.turn()
            assert settled(store) == []
            listener._intake.background.turn()
            assert settled(store) == [1]


class TestFlush:
    @pytest.fixture
    def acked(self, pit, store, alone):
        """A listener with one ack pending, and one message in hand."""
        fill(pit, 2)
        with pit.listen() as listener:
            held(listener, 1, 2)[0].ack()
            assert settled(store) == []
            yield listener

    def test_stop_writes_what_is_pending(self, pit, acked):
        acked.stop()
        acked._intake.writer.flush()
        assert [entry.id for entry in pit.entries()] == ["0001"]

    def test_close_writes_what_is_pending(self, store, pit, acked):
        acked.close()
        assert store.get("0000") is None
        assert store.get("0001").progress.attempts == 0

    def test_the_close_of_the_pitstop_writes_what_is_pending(self, clock, alone):
        config = {"type": "memory", "name": "closed-with-acks", "clock": clock}
        with pitstop.init(config) as other:
            with pitstop.init(config) as pit:
                fill(pit, 2)
                listener = pit.listen()
                held(listener, 1, 2)[0].ack()
            assert [(entry.id, entry.state) for entry in other.entries()] == [("0001", "due")]

    def test_so_does_who_finds_nothing_in_hand(self, store, acked):
        assert take(acked, 1).id == "0001"
        assert acked.get() is None
        assert store.get("0000") is None

    @pytest.mark.parametrize(
        "look",
        [
            lambda pit: pit.get("0000") is None,
            lambda pit: pit.stats().leased == 1,
            lambda pit: [entry.id for entry in pit.entries()] == ["0001"],
            lambda pit: pit.remove("0000") is False,
        ],
        ids=["get", "stats", "entries", "remove"],
    )
    def test_looks_of_this_process_see_its_acks(self, pit, acked, look):
        assert look(pit)

    @pytest.mark.parametrize("many", [False, True])
    def test_a_store_after_an_ack_is_not_undone_by_it(self, pit, store, acked, told, many):
        if many:
            pit.store_many([({"id": "0000", "new": True}, DUE)])
        else:
            pit.store({"id": "0000", "new": True}, DUE)
        acked._intake.flush()
        assert pit.get("0000").message["new"]
        assert told == {"acked": 1}

    def test_a_look_waits_for_an_ack_that_another_thread_is_writing(self, pit, store, acked):
        asked, may_go = threading.Event(), threading.Event()
        store.during["settle"] = lambda: (store.during.clear(), asked.set(), may_go.wait(10))
        writing = Running(acked._intake.flush)
        assert asked.wait(10)
        looking = Running(lambda: pit.get("0000"))
        assert not looking.done
        may_go.set()
        assert looking.result() is None
        writing.result()

    def test_a_look_does_not_miss_an_ack_that_is_being_taken_up_meanwhile(self, pit, store, acked):
        asked, may_go = threading.Event(), threading.Event()
        store.during["settle"] = lambda: (store.during.clear(), asked.set(), may_go.wait(10))
        writer, lock = acked._intake.writer, acked._intake.writer._writing

        def write():
            with lock:
                writer._write_all()

        class Overtaken:
            """The lock. Right after the first look whether it is held, another thread takes it, and writes."""

            writers: ClassVar[list[Running]] = []

            def locked(self):
                held = lock.locked()
                if not self.writers:
                    self.writers.append(Running(write))
                    assert asked.wait(10)
                return held

            def __enter__(self):
                may_go.set()
                return lock.__enter__()

            def __exit__(self, *about):
                lock.__exit__(*about)

            def acquire(self, timeout):
                return lock.acquire(timeout=timeout)

            def release(self):
                lock.release()

        writer._writing = Overtaken()
        assert pit.get("0000") is None
        may_go.set()


class TestHooks:
    def test_a_hook_that_is_told_of_an_ack_may_use_the_store(self, pit, store, alone):
        fill(pit, 4)
        with pit.listen() as listener:
            first, second, third = held(listener, 3, 4)
            seen = []

            class Hooks:
                leased = stored = lease_lost = handling = ()
                acked = "acked"
                strict = takes_lateness = False
                settled = store_failed = ()

                def notify(self, _, arguments):
                    (delivery,) = arguments
                    if delivery is first:
                        second.ack()
                        third.ack(wait=True)
                        seen.extend([pit.get(each.id) for each in (first, second, third)])
                        seen.append(pit.store({"id": second.id}, timedelta(hours=1)))

            pit._session.events.hooks = Hooks()
            first.ack()
            done = Running(listener._intake.flush)
            done.result()
            assert seen == [None, None, None, second.id]
            assert listener._intake.writer.counts.acked == 3


class TestWait:
    @pytest.fixture
    def one(self, pit, store, alone):
        fill(pit, 3)
        with pit.listen() as listener:
            yield listener, held(listener, 1, 3)[0]
            store.down = False

    def test_returns_when_it_is_written(self, store, one):
        _, delivery = one
        delivery.ack(wait=True)
        assert store.get("0000") is None

    def test_writes_what_else_is_pending(self, store, one):
        listener, delivery = one
        delivery.ack()
        take(listener).ack(wait=True)
        assert settled(store) == [2]

    def test_raises_when_the_lease_is_over(self, clock, one, told):
        _, delivery = one
        clock.advance(LOCK)
        with pytest.raises(LeaseLost):
            delivery.ack(wait=True)
        assert told == {"lease_lost": 1}

    def test_raises_when_the_message_was_stored_anew_elsewhere(self, store, one):
        _, delivery = one
        store.delete("0000")
        with pytest.raises(LeaseLost):
            delivery.ack(wait=True)

    def test_is_tried_until_the_lease_ends(self, store, clock, one):
        listener, delivery = one
        store.down = True
        acking = Running(lambda: delivery.ack(wait=True))
        # Its pauses grow to five seconds.
        for _ in range(3):
            clock.wait_for_sleepers(1)
            clock.advance(5)
        clock.wait_for_sleepers(1)
        clock.advance(LOCK - timedelta(seconds=15.01))
        with pytest.raises(BackendUnavailable) as caught:
            acking.result()
        assert not isinstance(caught.value, OutcomeUnknown)
        assert len(listener._intake.writer) == 0

    def test_says_that_the_outcome_is_unknown_when_a_reply_got_lost_before(self, store, clock, one):
        _, delivery = one
        lose_reply(store, then_away=True)
        acking = Running(lambda: delivery.ack(wait=True))
        clock.wait_for_sleepers(1)
        clock.advance(LOCK - timedelta(seconds=0.01))
        with pytest.raises(OutcomeUnknown) as caught:
            acking.result()
        assert caught.value.ids == ("0000",)

    def test_ends_when_the_store_is_closed_meanwhile(self, pit, store, clock, one):
        _, delivery = one
        store.down = True
        acking = Running(lambda: delivery.ack(wait=True))
        clock.wait_for_sleepers(1)
        pit.close()
        clock.advance(LOCK)
        with pytest.raises(BackendUnavailable):
            acking.result()

    def test_one_that_cannot_know_the_time_leaves_nothing_to_be_written(self, store, one):
        listener, delivery = one
        now, store.now = store.now, away
        with pytest.raises(BackendUnavailable):
            delivery.ack(wait=True)
        store.now = now
        listener._intake.flush()
        assert store.get("0000") is not None
        delivery.ack(wait=True)
        assert store.get("0000") is None

    def test_ends_when_the_store_refuses_for_good(self, store, one):
        _, delivery = one
        store.down = BackendUnavailable("The test changed the password.", permanent=True)
        with pytest.raises(BackendUnavailable, match="password"):
            delivery.ack(wait=True)
        # Its lease goes on, and so may its user.
        store.down = False
        delivery.ack(wait=True)
        assert store.get("0000") is None


class TestDeliveries:
    def test_a_second_ack_raises_also_while_the_first_is_pending(self, pit, alone):
        fill(pit, 2)
        with pit.listen() as listener:
            (delivery,) = held(listener, 1, 2)
            delivery.ack()
            for again in (delivery.ack, lambda: delivery.ack(wait=True), delivery.nack, delivery.extend):
                with pytest.raises(LeaseLost, match="was acknowledged before"):
                    again()

    def test_the_last_one_in_hand_is_told_that_it_is_late(self, pit, clock):
        fill(pit, 1)
        with pit.listen() as listener:
            delivery = next(listener)
            clock.advance(LOCK)
            with pytest.raises(LeaseLost):
                delivery.ack()

    def test_each_outcome_is_told_once(self, pit, store, clock, told, alone):
        fill(pit, 2)
        pit.store({"id": "series"}, DUE, None, timedelta(hours=1))
        with pit.listen() as listener:
            for each in held(listener, 3, 3):
                if each.id == "0001":
                    nack_later(listener, each, None, timedelta(seconds=5))
                else:
                    ack_later(listener, each)
            listener._intake.flush()
            listener._intake.flush()
            counts = listener._intake.writer.counts
            assert (counts.acked, counts.nacked, counts.lost) == (2, 1, 0)
        assert told == {"acked": 2, "retried": 1, "advanced": 1}

    def test_a_message_that_dies_is_told_once(self, clock, alone):
        store = backend(clock=clock, retry={"max_attempts": 1})
        with pitstop.init({"type": store}) as pit, pit.listen() as listener:
            fill(pit, 2)
            nack_later(listener, held(listener, 1, 2)[0], "no")
            listener._intake.flush()
            listener._intake.flush()
            assert pit.get("0000").state == "dead"
            assert listener._intake.writer.counts.nacked == 1

    def test_an_ack_after_the_close_of_its_listener_is_written_at_once(self, pit, store, alone):
        fill(pit, 3)
        listener = pit.listen()
        (delivery,) = held(listener, 1, 3)
        listener.close()
        delivery.ack()
        assert store.get("0000") is None

    def test_an_ack_after_the_close_of_its_listener_tells_when_the_store_is_away(self, pit, store, alone):
        fill(pit, 3)
        listener = pit.listen()
        (delivery,) = held(listener, 1, 3)
        listener.close()
        store.down = True
        with pytest.raises(BackendUnavailable):
            delivery.ack()
        store.down = False

    def test_an_ack_after_the_close_of_the_pitstop_says_so(self, pit):
        fill(pit, 1)
        delivery = next(pit.listen())
        pit.close()
        with pytest.raises(BackendUnavailable, match="was closed"):
            delivery.ack()

    def test_an_ack_of_a_listener_that_was_dropped_is_written_at_once(self, pit, store):
        fill(pit, 5)
        (delivery,) = held(pit.listen(), 1, 5)
        gc.collect()
        delivery.ack()
        assert store.get("0000") is None

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
    def test_a_child_of_a_fork_writes_no_ack_of_its_parent(self, pit, store, alone):
        fill(pit, 3)
        with pit.listen() as listener:
            held(listener, 1, 3)[0].ack()
            # As in the child of a fork that came while another thread was writing.
            listener._intake.writer._writing.acquire()
            child = os.fork()
            if child == 0:
                listener._intake.flush()
                os._exit(len(listener._intake.writer) + len(listener._intake.buffer) + len(settled(store)))
            listener._intake.writer._writing.release()
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            listener._intake.flush()
            assert settled(store) == [1]


def test_a_message_that_its_handler_removes_while_its_ack_is_being_written_is_written_once(pit, store, alone):
    fill(pit, 3)
    with pit.listen(prefetch=3) as listener:
        first, second, third = (take(listener, 3) for _ in range(3))
        lease_of(third).supersede()
        for each in (first, second, third):
            listener._intake.writer.take_along(_asked(each))
        settle = store.settle

        def settle_and_remove(settlements):
            # The handlers of the others remove their messages while the third one is written by itself.
            lease_of(first).supersede()
            return settle(settlements)

        store.settle = settle_and_remove
        listener._intake.flush()
        assert [each.state for each in map(lease_of, (first, second, third))] == [State.DONE] * 3
    assert settled(store) == [1, 2]


def _asked(delivery):
    lease = lease_of(delivery)
    lease.ask(Purpose.ACK, delivery)
    return lease
