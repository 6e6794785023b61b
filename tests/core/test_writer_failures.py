"""Acks and nacks that a store does not answer, or that cannot be computed or written: each harms only itself."""

from __future__ import annotations

import gc
import threading

from contextlib import suppress
from datetime import timedelta
from weakref import ref

import attrs
import pytest

import pitstop

from core.kit import LOCK, ack_later, backend, nack_later, take
from core.writer_kit import DUE, away, fill, held, interrupt, interrupted_at, lose_reply, settled
from pitstop import BackendUnavailable, LeaseLost, PitstopError
from pitstop._engine._listener import intake_of


class TestFailures:
    @pytest.fixture
    def acked(self, pit, store, alone):
        fill(pit, 2)
        with pit.listen() as listener:
            yield listener, held(listener, 1, 2)[0]
            store.down = False

    def test_an_ack_that_found_no_store_is_tried_again(self, store, acked, told):
        listener, delivery = acked
        delivery.ack()
        store.down = True
        listener._intake.flush()
        assert len(listener._intake.writer) == 1
        store.down = False
        listener._intake.background.turn()
        listener._intake.background.turn()
        assert store.get("0000") is None
        assert (listener._intake.writer.counts.acked, told) == (1, {"acked": 1})

    def test_until_the_lease_ends_and_then_it_is_lost(self, store, clock, acked, told):
        listener, delivery = acked
        delivery.ack()
        store.down = True
        listener._intake.flush()
        clock.advance(LOCK)
        store.down = False
        calls = len(settled(store))
        listener._intake.flush()
        assert len(settled(store)) == calls, "sent after the end of its lease"
        assert (listener._intake.writer.counts.lost, told) == (1, {"lease_lost": 1})
        assert delivery.lost
        assert store.get("0000") is not None

    def test_one_whose_reply_got_lost_is_done_once(self, pit, store, acked, told):
        listener, delivery = acked
        delivery.ack()
        lose_reply(store)
        listener._intake.flush()
        assert len(listener._intake.writer) == 1
        listener._intake.flush()
        assert store.get("0000") is None
        assert (listener._intake.writer.counts.acked, listener._intake.writer.counts.lost, told) == (1, 0, {"acked": 1})

    def test_so_is_a_recurring_one(self, pit, store, clock, told, alone):
        pit.store({"id": "a"}, DUE, None, timedelta(hours=1))
        pit.store({"id": "b"}, DUE)
        with pit.listen() as listener:
            for each in held(listener, 2, 2):
                ack_later(listener, each)
            lose_reply(store)
            listener._intake.flush()
            listener._intake.flush()
            assert listener._intake.writer.counts.acked == 2
        assert told == {"acked": 2, "advanced": 1}
        assert pit.get("a").due == clock.now() + timedelta(hours=1)

    def test_so_is_a_nack_that_is_tried_again_later(self, clock, alone):
        store = backend(clock=clock, retry={"delay": "5s"})
        with pitstop.init({"type": store}) as pit:
            fill(pit, 2)
            with pit.listen() as listener:
                delivery = held(listener, 1, 2)[0]
                nack_later(listener, delivery, "no luck")
                lose_reply(store)
                listener._intake.flush()
                due = store.get("0000").progress.due
                clock.advance(1)
                listener._intake.flush()
                counts = listener._intake.writer.counts
                assert (counts.nacked, counts.lost) == (1, 0)
                assert (store.get("0000").progress.due, delivery.lost) == (due, False)

    def test_one_whose_reply_got_lost_is_not_told_as_lost_when_its_lease_is_over(self, store, clock, acked, told):
        """It was done. But a writer that finds it gone by then cannot know whose ack it was."""
        listener, delivery = acked
        delivery.ack()
        lose_reply(store)
        listener._intake.flush()
        clock.advance(LOCK)
        listener._intake.flush()
        assert store.get("0000") is None
        assert len(listener._intake.writer) == 0
        assert (listener._intake.writer.counts.acked, listener._intake.writer.counts.lost, told) == (0, 0, {})
        assert not delivery.lost

    def test_nor_when_the_message_was_stored_anew_since(self, store, acked, told):
        listener, delivery = acked
        delivery.ack()
        lose_reply(store)
        listener._intake.flush()
        # By another handle, which knows nothing of these acks.
        other = store.get("0001")
        store.put(
            [attrs.evolve(other, id="0000", revision="another", progress=attrs.evolve(other.progress, token=None))]
        )
        listener._intake.flush()
        assert (listener._intake.writer.counts.acked, listener._intake.writer.counts.lost, told) == (0, 0, {})
        assert store.get("0000") is not None

    def test_what_was_done_is_told_so_though_the_look_at_another_one_fails(self, pit, store, told, alone):
        fill(pit, 3)
        with pit.listen() as listener:
            first, second = held(listener, 2, 3)
            first.ack()
            lose_reply(store)
            listener._intake.flush()
            second.ack()
            get, store.get = store.get, away
            listener._intake.flush()
            store.get = get
            listener._intake.flush()
            counts = listener._intake.writer.counts
            assert (counts.acked, counts.lost, told) == (2, 0, {"acked": 2})

    def test_a_stale_ack_in_a_batch_is_lost_alone(self, pit, store, clock, told, alone):
        fill(pit, 4)
        with pit.listen() as listener:
            three = held(listener, 3, 4)
            for each in three:
                each.ack()
            # By another handle, which knows nothing of these acks.
            store.delete("0001")
            listener._intake.flush()
            counts = listener._intake.writer.counts
            assert (counts.acked, counts.lost) == (2, 1)
            assert told == {"acked": 2, "lease_lost": 1}
            assert [each.lost for each in three] == [False, True, False]

    def test_an_interruption_of_a_flush_loses_no_ack(self, pit, store, told, alone):
        fill(pit, 4)
        with pit.listen() as listener:
            for each in held(listener, 3, 4):
                each.ack()
            store.during["settle"] = lambda: (store.during.clear(), interrupt())
            with pytest.raises(KeyboardInterrupt):
                listener._intake.flush()
            assert len(listener._intake.writer) == 3
            listener._intake.flush()
            assert (listener._intake.writer.counts.acked, listener._intake.writer.counts.lost) == (3, 0)
        assert told == {"acked": 3}

    def test_one_that_came_after_the_store_did_it_neither(self, pit, store, told, alone):
        fill(pit, 4)
        with pit.listen() as listener:
            for each in held(listener, 3, 4):
                each.ack()
            settle = store.settle

            def interrupted(settlements):
                store.settle = settle
                settle(settlements)
                interrupt()

            store.settle = interrupted
            with pytest.raises(KeyboardInterrupt):
                listener._intake.flush()
            listener._intake.flush()
            assert (listener._intake.writer.counts.acked, listener._intake.writer.counts.lost) == (3, 0)
        assert told == {"acked": 3}

    def test_an_interruption_between_any_two_steps_of_a_flush_loses_no_ack(self, pit, store, alone):
        """Each line of it, one after the other."""
        for line in range(1, 80):
            fill(pit, 3)
            with pit.listen() as listener:
                for each in held(listener, 2, 3):
                    each.ack()
                writer = listener._intake.writer
                if not interrupted_at(line, writer.flush):
                    return
                writer.flush()
                assert (writer.counts.acked, writer.counts.lost) == (2, 0), f"interrupted at step {line}"
        pytest.fail("it never came to its end")


class TestBugs:
    """An error of a backend that is no failure of the store: a bug."""

    @pytest.fixture
    def odd(self, store):
        """The backend cannot write settlements of the message "0001"."""
        settle = store.settle

        def broken(settlements):
            if any(each.id == "0001" for each in settlements):
                raise ZeroDivisionError("s3cr3t")
            return settle(settlements)

        store.settle = broken

    def test_it_harms_only_the_settlement_that_it_is_about(self, pit, store, alone, odd, caplog):
        fill(pit, 6)
        with pit.listen(prefetch=6) as listener:
            for each in held(listener, 4, 6):
                each.ack()
            assert pit.stats().leased == 3
            counts = listener._intake.counts
            assert (counts.acked, counts.lost) == (3, 0)
        assert [each.id for each in pit.entries()] == ["0004", "0005", "0001"]

    def test_it_is_logged_with_its_traceback_and_not_as_an_outage(self, pit, store, alone, odd, caplog):
        fill(pit, 3)
        with pit.listen(prefetch=3) as listener:
            for each in held(listener, 2, 3):
                each.ack()
            pit.stats()
        (line,) = [each for each in caplog.records if each.levelname == "ERROR"]
        assert (
            "'0001' was not acknowledged: ZeroDivisionError was raised while its next state was written" in line.message
        )
        assert "This is a bug of the backend" in line.message
        assert "in TestBugs.odd.<locals>.broken" in line.message
        assert "s3cr3t" not in caplog.text
        assert "does not answer" not in caplog.text

    @pytest.mark.parametrize("timeout", [0, None], ids=["at once", "waiting"])
    def test_a_caller_that_waits_is_told_and_may_settle_it_in_another_way(self, pit, store, alone, odd, timeout):
        fill(pit, 2)
        with pit.listen() as listener:
            first, second = listener.get(timeout), listener.get(timeout)
            first.ack()
            with pytest.raises(PitstopError, match="was raised while its next state was written") as caught:
                second.ack(wait=True)
            assert isinstance(caught.value.__cause__, ZeroDivisionError)
            with pytest.raises(PitstopError, match="'0001' was not nacked"):
                second.nack()

    def test_a_look_at_a_record_in_doubt_that_raises_harms_only_that_one(self, pit, store, alone):
        fill(pit, 4)
        with pit.listen(prefetch=4) as listener:
            first, second = held(listener, 2, 4)
            first.ack()
            lose_reply(store)
            listener._intake.flush()
            second.ack()
            get = store.get
            store.get = lambda name: 1 / 0 if name == "0000" else get(name)
            listener._intake.flush()
            store.get = get
            assert (listener._intake.counts.acked, len(listener._intake.writer)) == (1, 0)


@pytest.fixture
def no_ack_of_one(monkeypatch):
    """The state after an ack of the message "0001" cannot be computed, as when a recurrence raises."""
    from pitstop._engine import _lease

    compute = _lease.ack

    def ack(emission):
        if emission.record.id == "0001":
            raise ZeroDivisionError("s3cr3t")
        return compute(emission)

    monkeypatch.setattr(_lease, "ack", ack)


def test_a_settlement_that_cannot_be_computed_does_not_keep_the_others_from_the_store(
    pit, store, alone, no_ack_of_one, caplog
):
    """A recurrence by another author may raise. The settlements after it in the outbox are written all the same."""
    fill(pit, 6)
    with pit.listen(prefetch=6) as listener:
        deliveries = held(listener, 4, 6)
        for each in deliveries:
            each.ack()
        assert sorted(each.id for each in pit.entries()) == ["0001", "0004", "0005"]
        pit.stats()
        with pytest.raises(LeaseLost, match="was acknowledged before"):
            deliveries[1].ack()
    assert "'0001' was not acknowledged: ZeroDivisionError was raised" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_a_settlement_that_cannot_be_computed_does_not_end_consume(pit, store, no_ack_of_one):
    handled = []
    fill(pit, 4)
    pit.consume(lambda msg: handled.append(msg["id"]), until_idle=True, prefetch=1)

    assert handled == ["0000", "0001", "0002", "0003"]
    assert [each.id for each in pit.entries()] == ["0001"]


def test_who_waits_for_a_settlement_that_cannot_be_computed_is_told(pit, store, monkeypatch):
    from pitstop._engine import _lease

    def nack(*args):
        raise ZeroDivisionError("s3cr3t")

    monkeypatch.setattr(_lease, "ack", nack)
    fill(pit, 1)
    with pit.listen() as listener:
        delivery = listener.get(None)
        with pytest.raises(pitstop.PitstopError, match="comes back when its lease runs out"):
            delivery.ack(wait=True)


@pytest.fixture
def no_nack(monkeypatch):
    """The state after a nack cannot be computed, as when a recurrence raises."""
    from pitstop._engine import _lease

    def nack(*args):
        raise ZeroDivisionError("s3cr3t")

    monkeypatch.setattr(_lease, "nack", nack)


@pytest.mark.parametrize("timeout", [0, None], ids=["at once", "with others"])
def test_a_nack_that_cannot_be_computed_does_not_hide_the_error_of_the_body(pit, no_nack, caplog, timeout):
    fill(pit, 1)
    with pit.listen() as listener:
        delivery = listener.get(timeout)
        with pytest.raises(ValueError, match="of the body"), delivery:
            raise ValueError("of the body")
        assert pit.get("0000").state == "leased"
    assert "'0000' was not nacked: ZeroDivisionError was raised" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_a_nack_that_cannot_be_computed_is_an_error_of_pitstops(pit, no_nack):
    fill(pit, 1)
    with pit.listen() as listener:
        delivery = listener.get()
        with pytest.raises(pitstop.PitstopError, match="'0000' was not nacked: ZeroDivisionError") as caught:
            delivery.nack("failed")
        # As of a lost lease: no second failure of the handler that let it out.
        delivery.nack(caught.value)


def test_a_late_nack_that_cannot_be_computed_ends_its_thread_in_order(pit, no_nack, caplog, monkeypatch):
    """A handler that ends after its listener was closed: a thread of its own writes the nack."""
    raised = []
    monkeypatch.setattr(threading, "excepthook", raised.append)
    fill(pit, 1)
    with pit.listen() as listener:
        delivery = next(listener)
    nack_later(listener, delivery, "failed")
    for each in threading.enumerate():
        if each.name == "pitstop-ack":
            each.join()
    assert raised == []
    assert "'0000' was not nacked: ZeroDivisionError was raised" in caplog.text


def test_a_write_without_an_answer_does_not_keep_a_listener_that_is_dropped(pit, store, alone, monkeypatch):
    # A thread gives back the messages of a dropped listener. Here they are given back at once.
    monkeypatch.setattr("pitstop._engine._intake._thread.start_new_thread", lambda function, args: function(*args))
    fill(pit, 2)

    def fail(listener):
        ack_later(listener, take(listener, 2))
        store.down = True
        with suppress(BackendUnavailable):
            intake_of(listener).writer.flush()
        store.down = False
        return ref(listener)

    dropped = fail(pit.listen(prefetch=2))
    gc.collect()
    assert dropped() is None
    assert [each.state for each in pit.entries()] == ["due"], "the ack is written, and the other message is given back"
