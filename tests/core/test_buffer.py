"""The messages that a listener holds: handed out once, in time, and not if they were stored anew or removed."""

from __future__ import annotations

import threading

from collections import Counter
from datetime import timedelta

import pytest

from core.kit import LOCK, Running, take
from pitstop._engine._background import Background


DUE = timedelta(0)


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    monkeypatch.setattr(Background, "begin", lambda self: True)


def fill(pit, count):
    pit.store_many([({"id": f"{number:04}"}, DUE) for number in range(count)])


def rest(listener):
    return [lease.id for lease in listener._intake.buffer.unseen]


def drain(listener):
    """The size of each claim, until nothing is there any more."""
    sizes = []
    put = listener._intake.buffer.put

    def noted(leases, seconds):
        # A claim that found nothing brings nothing.
        sizes.extend([len(leases)] if leases else [])
        put(leases, seconds)

    listener._intake.buffer.put = noted
    while listener._intake.buffer or listener._session.backend.next_due() is not None:
        delivery = next(listener)
        yield sizes, delivery
        delivery.ack()
        listener._intake.flush()


class TestClaims:
    def test_a_listener_begins_with_one_message_and_takes_twice_as_many_each_time(self, pit):
        fill(pit, 31)
        with pit.listen() as listener:
            sizes = [list(sizes) for sizes, _ in drain(listener)][-1]
        assert sizes == [1, 2, 4, 8, 16]

    def test_a_slow_consumer_has_one_message_at_once(self, pit, clock):
        fill(pit, 10)
        with pit.listen() as listener:
            told = []
            for sizes, _ in drain(listener):
                told = sizes
                clock.advance(1)
                assert len(listener._intake.buffer) == 0
        assert told == [1] * 10

    def test_one_that_gets_slow_gives_the_others_a_chance_after_one_batch(self, pit, clock):
        fill(pit, 40)
        with pit.listen() as listener:
            for sizes, _ in drain(listener):
                if len(sizes) >= 4:
                    clock.advance(1)
        assert sizes[:5] == [1, 2, 4, 8, 1]

    def test_a_claim_goes_on_when_another_thread_slows_the_consumer_down_at_that_moment(self, pit, monkeypatch):
        fill(pit, 5)
        with pit.listen() as listener:
            next(listener).ack()
            hand, real = listener._intake.buffer, listener._intake.buffer._monotonic

            def between():
                now = real()
                hand.slow_down()
                return now

            with monkeypatch.context() as patch:
                patch.setattr(hand, "_monotonic", between)
                hand.measure(0.0)
            assert next(listener).id == "0001"

    def test_a_pinned_number_is_kept_to(self, pit):
        fill(pit, 9)
        with pit.listen(prefetch=3) as listener:
            assert [list(sizes) for sizes, _ in drain(listener)][-1] == [3, 3, 3]

    def test_a_get_with_a_timeout_claims_one(self, pit):
        fill(pit, 9)
        with pit.listen() as listener:
            for timeout in (0, 1) * 4:
                listener.get(timeout).ack()
                assert not listener._intake.buffer


class TestHandedOut:
    def test_what_this_process_stores_anew_is_not_handed_out_as_it_was(self, pit):
        fill(pit, 3)
        with pit.listen() as listener:
            assert take(listener, 3).id == "0000"
            pit.store({"id": "0001", "new": True}, timedelta(hours=1))
            assert rest(listener) == ["0002"]
            assert next(listener).id == "0002"
            assert listener.get() is None

    def test_nor_when_many_are(self, pit):
        fill(pit, 4)
        with pit.listen() as listener:
            take(listener, 4)
            pit.store_many([({"id": "0001"}, timedelta(hours=1)), ({"id": "0003"}, timedelta(hours=1))])
            assert rest(listener) == ["0002"]

    def test_what_this_process_removes_is_not_handed_out(self, pit):
        fill(pit, 3)
        with pit.listen() as listener:
            take(listener, 3)
            assert pit.remove("0001")
            assert rest(listener) == ["0002"]

    def test_what_waited_until_its_lease_is_nearly_over_is_given_back(self, pit, clock):
        fill(pit, 3)
        with pit.listen() as listener:
            take(listener, 3)
            clock.advance(LOCK * 0.95)
            delivery = next(listener)
            assert (delivery.id, delivery.attempt) == ("0001", 1)
            assert delivery.leased_until == clock.now() + LOCK

    def test_nothing_is_handed_out_after_a_stop(self, pit, store):
        fill(pit, 3)
        with pit.listen() as listener:
            take(listener, 3)
            listener.stop()
            assert list(listener) == []
        assert [store.get(id).progress.attempts for id in ("0001", "0002")] == [0, 0]

    def test_each_is_handed_out_once_to_threads_that_take_at_once(self, pit):
        fill(pit, 1500)
        seen = Counter()
        start = threading.Barrier(4)

        def take():
            start.wait(10)
            got = []
            for _ in range(375):
                delivery = next(listener)
                delivery.ack()
                got.append(delivery.id)
            return got

        with pit.listen() as listener:
            threads = [Running(take) for _ in range(4)]
            for each in threads:
                seen.update(each.result())
            listener._intake.flush()
            assert listener._intake.writer.counts.acked == 1500
        assert set(seen.values()) == {1}
        assert len(seen) == 1500

    @pytest.mark.parametrize("away", [False, True])
    def test_what_is_given_back_is_due_again_as_if_it_had_not_been_claimed(self, pit, store, away):
        fill(pit, 3)
        before = store.get("0002").progress
        with pit.listen() as listener:
            take(listener, 3)
            store.down = away
            listener._intake.leftovers.give_back_all()
            store.down = False
            assert not listener._intake.buffer
            assert (store.get("0002").progress == before) is not away
