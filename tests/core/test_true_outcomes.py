"""An error of a settlement or of an extension is true: a message that the store may have settled is not reported as lost."""

from __future__ import annotations

from datetime import timedelta

import pytest

from core.kit import LOCK, ack_later, backend, take
from core.writer_kit import DUE, away, fill, held, lose_reply
from pitstop import BackendUnavailable, OutcomeUnknown, PitstopError
from pitstop._consume._course import Course
from pitstop._consume._lanes import Lane
from pitstop._consume._source import Source
from pitstop._engine._heartbeat import Heartbeat
from pitstop._engine._lifecycle import Component
from pitstop._engine._listener import intake_of
from pitstop.abc import Doorbell


def lost(listener):
    return intake_of(listener).counts.lost


class TestAfterALostReply:
    """The store has done the ack, and its reply was lost."""

    @pytest.fixture
    def doubted(self, pit, store):
        fill(pit, 1)
        with pit.listen() as listener:
            delivery = listener.get()
            lose_reply(store)
            with pytest.raises(OutcomeUnknown):
                delivery.ack()
            yield listener, delivery

    def test_a_refused_extension_does_not_say_that_the_message_was_not_settled(self, doubted):
        listener, delivery = doubted
        with pytest.raises(OutcomeUnknown):
            delivery.extend()
        assert (lost(listener), delivery.lost) == (0, False)

    def test_another_ack_finds_out_that_it_was_done(self, doubted):
        listener, delivery = doubted
        with pytest.raises(OutcomeUnknown):
            delivery.extend()
        delivery.ack()
        assert (intake_of(listener).counts.acked, lost(listener)) == (1, 0)

    def test_a_handler_that_lets_out_the_error_of_its_extension_has_not_failed(self, doubted):
        _, delivery = doubted
        with pytest.raises(OutcomeUnknown) as caught:
            delivery.extend()
        delivery.nack(caught.value)

    @pytest.mark.parametrize("late", [False, True], ids=["in time", "late"])
    def test_the_heartbeat_leaves_it_to_the_next_ack(self, pit, doubted, clock, late):
        listener, delivery = doubted
        intake = intake_of(listener)
        heartbeat = Heartbeat(pit._session, LOCK, None, intake._settler.lose)
        heartbeat._begin = lambda: None
        heartbeat.hold(delivery._lease, delivery)
        clock.advance(LOCK if late else LOCK / 2)
        heartbeat._beat()
        assert lost(listener) == 0
        if late:
            with pytest.raises(OutcomeUnknown):
                delivery.ack()
        else:
            delivery.ack()
        assert lost(listener) == 0


class TestAfterANackThatMayHaveGivenUp:
    """A series goes on after an ack, and after a nack that gave up. Its reply was lost."""

    @pytest.fixture
    def store(self, clock):
        return backend(clock=clock, retry={"max_attempts": 1})

    def test_an_ack_is_not_reported_as_done(self, pit, store):
        pit.store({"id": "a"}, pit.now(), None, timedelta(hours=1))
        with pit.listen() as listener:
            delivery = listener.get()
            lose_reply(store)
            with pytest.raises(OutcomeUnknown):
                delivery.nack("failed")
            with pytest.raises(OutcomeUnknown):
                delivery.ack()
            assert (intake_of(listener).counts.acked, lost(listener)) == (0, 0)
        assert pit.get("a").last_error == "failed"


class TestAfterANackWhoseReplyWasLost:
    """The store has done the nack. Another nack changes nothing any more."""

    @pytest.fixture
    def doubted(self, pit, store):
        fill(pit, 1)
        with pit.listen() as listener:
            delivery = listener.get()
            lose_reply(store)
            with pytest.raises(OutcomeUnknown):
                delivery.nack("failed", timedelta(seconds=1))
            yield listener, delivery

    @pytest.mark.parametrize("delay", [timedelta(seconds=1), "1s"])
    def test_the_same_nack_is_done(self, doubted, delay):
        listener, delivery = doubted
        delivery.nack("failed", delay)
        assert (intake_of(listener).counts.nacked, lost(listener)) == (1, 0)

    @pytest.mark.parametrize(
        "other", [("failed", None), ("failed", timedelta(hours=1)), ("again", timedelta(seconds=1))]
    )
    def test_a_nack_with_another_delay_or_error_is_not_reported_as_done(self, pit, doubted, other):
        listener, delivery = doubted
        with pytest.raises(OutcomeUnknown):
            delivery.nack(*other)
        assert (intake_of(listener).counts.nacked, lost(listener)) == (0, 0)
        assert pit.get("0000").last_error == "failed"


def test_a_nack_that_was_done_after_an_ack_that_was_not_is_not_reported_as_lost(pit, store):
    fill(pit, 1)
    with pit.listen() as listener:
        delivery = listener.get()
        settle = store.settle

        def not_done(settlements):
            raise OutcomeUnknown("The test lost the write.", ids=tuple(each.id for each in settlements))

        store.settle = not_done
        with pytest.raises(OutcomeUnknown):
            delivery.ack()
        store.settle = settle
        lose_reply(store)
        with pytest.raises(OutcomeUnknown):
            delivery.nack("failed")
        delivery.nack("failed")
        assert (intake_of(listener).counts.nacked, lost(listener)) == (1, 0)


@pytest.mark.parametrize("wait", [False, True])
def test_an_extension_that_fails_beside_the_ack_of_a_handler_that_stored_its_own_message_is_not_raised_by_the_ack(
    pit, store, clock, alone, wait
):
    """``ack()`` returns without an error after the handler has stored its message, whatever the heartbeat finds out meanwhile."""
    fill(pit, 1)
    with pit.listen() as listener:
        delivery = take(listener, 1)
        intake = intake_of(listener)
        heartbeat = Heartbeat(pit._session, LOCK, None, intake._settler.lose)
        heartbeat._begin = lambda: None
        heartbeat.hold(delivery._lease, delivery)
        with delivery:
            pit.store({"id": "0000"}, timedelta(hours=9))
            clock.advance(LOCK / 2)
            settle = store.settle

            def beaten(settlements):
                # The thread of the heartbeat has decided to extend before the handler asked for the ack.
                store.settle = settle
                heartbeat._lost(delivery._lease, next(iter(heartbeat._held)))
                return settle(settlements)

            store.settle = beaten
            delivery.ack(wait=wait)
        assert intake.counts.superseded == 1


class Away(Component):
    """A component that needs the store, which is away, when it is told of a message."""

    def notice(self, due):
        away()


@pytest.fixture
def series(pit):
    pit.store_many([({"id": f"{number:04}"}, DUE, None, timedelta(days=1)) for number in range(3)])


def test_acks_that_were_done_are_not_lost_because_a_component_fails_when_it_is_told(pit, series, alone):
    with pit.listen(prefetch=3) as listener:
        deliveries = held(listener, 3, 3)
        for each in deliveries:
            ack_later(listener, each)
        component = Away()
        pit._session.add(component)
        intake = intake_of(listener)
        with pytest.raises(BackendUnavailable):
            intake.writer.flush()
        pit._session.discard(component)
        intake.flush()
        assert (intake.counts.acked, intake.counts.lost) == (3, 0)


def test_parked_workers_are_woken_although_the_store_cannot_say_the_time(pit, store):
    """The thread that has written something must not fail because a worker would like to know the time."""
    with pit.listen() as listener:
        source = Source(
            [Lane(intake_of(listener), print, False, 1)], Course(None, 1.0), until_idle=True, on_idle=lambda: None
        )
        bell = Doorbell()
        source._parked = (bell,)
        store.now = away
        source.notice(1)
        del store.now
        assert bell.wait(0)


@pytest.fixture
def raises_after(store):
    """A backend with a bug: its settle raises after it has done the work."""
    settle = store.settle

    def broken(settlements):
        store.settle = settle
        settle(settlements)
        raise ZeroDivisionError("s3cr3t")

    store.settle = broken


@pytest.mark.parametrize("timeout", [0, None], ids=["at once", "with others"])
def test_an_ack_that_was_done_before_the_backend_raised_is_not_lost_when_it_is_tried_again(
    pit, alone, raises_after, timeout
):
    fill(pit, 1)
    with pit.listen() as listener:
        delivery = listener.get(timeout)
        with pytest.raises(PitstopError, match="Unless the store did it all the same"):
            delivery.ack(wait=timeout is None)
        delivery.ack(wait=timeout is None)
        assert (intake_of(listener).counts.acked, lost(listener)) == (1, 0)
