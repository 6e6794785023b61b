"""Errors that no one foresaw: a backend with a bug, a recurrence that panics, Ctrl-C, no more threads. Each harms only itself."""

from __future__ import annotations

import threading

import pytest

from core.base_exceptions import Panic
from core.kit import LOCK, Running, ack_later, take
from core.writer_kit import away, fill, held, interrupt, lose_reply
from pitstop import OutcomeUnknown
from pitstop._engine import _claimer, _lease
from pitstop._engine._heartbeat import Heartbeat
from pitstop._engine._listener import intake_of
from pitstop.abc import Outcome


def raise_bug(*_):
    raise ZeroDivisionError("s3cr3t")


def once(error, real):
    """A function that raises an error at its first call."""
    left = [error]

    def call(*args):
        if left:
            raise left.pop()
        return real(*args)

    return call


@pytest.fixture
def broken(store):
    """The backend raises when it settles the message "0001" with one of these outcomes."""
    outcomes, settle = set(), store.settle

    def broken(settlements):
        if any(each.id == "0001" and each.outcome in outcomes for each in settlements):
            raise ZeroDivisionError("s3cr3t")
        return settle(settlements)

    store.settle = broken
    return outcomes


def states(pit):
    return {each.id: each.state for each in pit.entries()}


class TestGivingBack:
    def test_one_message_that_cannot_be_given_back_keeps_no_other_one_and_no_ack(self, pit, alone, broken, caplog):
        fill(pit, 4)
        broken.add(Outcome.RELEASE)
        listener = pit.listen(prefetch=4)
        ack_later(listener, take(listener, 4))
        listener.close()
        assert states(pit) == {"0001": "leased", "0002": "due", "0003": "due"}
        assert "'0001' could not be given back: ZeroDivisionError" in caplog.text
        assert "s3cr3t" not in caplog.text

    def test_a_dropped_listener_writes_its_acks_although_the_store_could_not_tell_the_time(self, pit, store, alone):
        fill(pit, 1)
        listener = pit.listen()
        ack_later(listener, take(listener, 1))
        store.now = once(ZeroDivisionError("s3cr3t"), store.now)
        intake_of(listener).wakeup.bell.ring()
        intake_of(listener).background.finish()
        assert pit.entries() == []

    def test_a_message_that_cannot_be_handed_out_is_the_next_one_to_be(self, pit, monkeypatch):
        fill(pit, 2)
        with pit.listen(heartbeat=True, prefetch=2) as listener:
            with monkeypatch.context() as patched:
                patched.setattr(Heartbeat, "hold", lambda *_: interrupt())
                with pytest.raises(KeyboardInterrupt):
                    listener.get()
            assert [listener.get().id for _ in range(2)] == ["0000", "0001"]


class TestHeartbeat:
    def test_a_message_is_handed_out_although_the_store_goes_away_in_between(self, pit, store, clock):
        fill(pit, 1)
        with pit.listen(heartbeat=True, max_lease=LOCK * 2) as listener:
            now = store.now
            store.during["lease"] = lambda: setattr(store, "now", away)
            delivery = next(listener)
            store.now = now
            ((_, until),) = intake_of(listener)._heartbeat._held.values()
            assert until == round((clock.now() + LOCK * 2).timestamp() * 1000)
            delivery.ack()

    def test_a_message_is_handed_out_although_the_system_gives_no_thread(self, pit, monkeypatch, caplog):
        fill(pit, 2)

        def refuse(self):
            raise RuntimeError("can't start new thread")

        with pit.listen(heartbeat=True) as listener:
            with monkeypatch.context() as patch:
                patch.setattr(threading.Thread, "start", refuse)
                first = listener.get()
            heartbeat = intake_of(listener)._heartbeat
            assert heartbeat._thread is None
            assert "leases are not extended until the system gives a thread: can't start new thread" in caplog.text
            second = listener.get()
            assert heartbeat._thread is not None
            first.ack()
            second.ack()

    def test_one_lease_that_cannot_be_extended_does_not_end_the_others(self, pit, clock, broken):
        fill(pit, 3)
        with pit.listen() as listener:
            deliveries = [listener.get() for _ in range(3)]
            heartbeat = Heartbeat(pit._session, LOCK, None, intake_of(listener)._settler.lose)
            heartbeat._begin = lambda: None
            for each in deliveries:
                heartbeat.hold(each._lease, each)
            broken.add(Outcome.EXTEND)
            clock.advance(LOCK / 2)
            with pytest.raises(ZeroDivisionError):
                heartbeat._beat()
            assert [each.leased_until - clock.now() for each in deliveries] == [LOCK, LOCK / 2, LOCK]

    def test_a_bug_is_logged_without_its_text(self, pit, store, clock, caplog):
        fill(pit, 1)
        logged = threading.Event()
        with pit.listen(heartbeat=True) as listener:
            delivery = listener.get()
            assert clock.wait_for_sleepers(1)
            now = store.now
            store.now = lambda: (logged.set(), raise_bug())
            clock.advance(LOCK / 3)
            assert logged.wait(10)
            assert clock.wait_for_sleepers(1)
            store.now = now
            delivery.ack()
        assert "leases could not be extended: ZeroDivisionError; trying again\n  File" in caplog.text
        assert "s3cr3t" not in caplog.text


class TestInterrupted:
    def test_a_thread_that_was_interrupted_while_it_left_is_not_waited_for(self, pit, monkeypatch):
        """It was the one that looks at the store for all: another one takes its place."""
        fill(pit, 2)
        with pit.listen(prefetch=1) as listener:
            waiting = intake_of(listener).waiting
            with monkeypatch.context() as patch:
                patch.setattr(waiting, "_leave", lambda _: interrupt())
                with pytest.raises(KeyboardInterrupt):
                    next(listener)
            assert not Running(lambda: waiting.others).result()
            assert Running(lambda: next(listener)).result().id == "0001"
            assert waiting.waiters == ()

    @pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
    def test_an_ack_whose_write_was_interrupted_is_left_to_the_background_thread(self, pit, store, alone, error):
        fill(pit, 1)
        with pit.listen() as listener:
            delivery = take(listener, 1)
            store.now = once(error("s3cr3t"), store.now)
            with pytest.raises(error):
                delivery.ack()
            intake = intake_of(listener)
            assert len(intake.writer) == 1
            assert intake.wakeup.awake


@pytest.fixture
def panics(monkeypatch):
    """The recurrence of the message "0001" panics, as one that is written in Rust may."""

    def panicking(real):
        def call(first, *args, **options):
            if getattr(first, "record", first).id == "0001":
                raise Panic("s3cr3t")
            return real(first, *args, **options)

        return call

    return lambda module, name: monkeypatch.setattr(module, name, panicking(getattr(module, name)))


def test_a_recurrence_that_panics_does_not_strand_the_rest_of_a_claim(pit, alone, panics, caplog):
    fill(pit, 3)
    panics(_claimer, "decide")
    with pit.listen(prefetch=3) as listener:
        assert [each.id for each in held(listener, 2, 3)] == ["0000", "0002"]
    assert "'0001' was not emitted: its recurrence raised Panic" in caplog.text
    assert "s3cr3t" not in caplog.text


def test_a_recurrence_that_panics_does_not_keep_other_acks_from_the_store(pit, alone, panics, caplog):
    fill(pit, 3)
    panics(_lease, "ack")
    with pit.listen(prefetch=3) as listener:
        for each in held(listener, 3, 3):
            ack_later(listener, each)
        intake_of(listener).flush()
    assert states(pit) == {"0001": "leased"}
    assert "'0001' was not acknowledged: Panic was raised" in caplog.text


def test_a_close_does_not_say_of_an_ack_in_doubt_that_it_was_not_written(pit, store, alone):
    fill(pit, 2)
    with pit.listen(prefetch=2) as listener:
        delivery = take(listener, 2)
        delivery.ack()
        lose_reply(store)
        writer = intake_of(listener).writer
        intake_of(listener).flush()
        assert writer.give_up() == 1
        with pytest.raises(OutcomeUnknown):
            delivery.ack()


def test_the_child_of_a_fork_does_not_wait_for_a_claim_of_its_parent(pit):
    with pit.listen() as listener:
        intake = intake_of(listener)
        intake.background.claiming = True
        intake.after_fork()
        assert not intake.claims_ahead
