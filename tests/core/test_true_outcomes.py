"""An error of a settlement or of an extension is true: a message that the store may have settled is not reported as lost."""

from __future__ import annotations

from datetime import timedelta

import attrs
import pytest

from core.kit import LOCK, ack_later, backend, take
from core.writer_kit import DUE, away, fill, forget_outcome, held, lose_reply, settled
from pitstop import BackendUnavailable, LeaseLost, OutcomeUnknown, PitstopError
from pitstop._consume._course import Course
from pitstop._consume._lanes import Lane
from pitstop._consume._source import Source
from pitstop._decisions._settle import settlement
from pitstop._engine._heartbeat import Heartbeat
from pitstop._engine._lifecycle import Component
from pitstop._engine._listener import intake_of
from pitstop.abc import Doorbell, Outcome, Progress, Record


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

    def notice(self, due, kinds=None):
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
        lane = Lane(intake_of(listener), print, False, 1)
        source = Source([lane], Course(None, 1.0), until_idle=True, on_idle=lambda: None)
        bell = Doorbell()
        source._parked = ((lane, bell),)
        store.now = away
        source.notice(1)
        del store.now
        assert bell.wait(0)


class TestAnOutcomeThatTheStoreCannotSay:
    """Its reply was lost, and another user changed the message before the store could be asked."""

    @pytest.fixture
    def other(self, store):
        """Changes the message as another process would."""

        def other(id):
            store.put([Record(id, {"id": id}, None, "another", Progress(2**41, 2**41))])

        return other

    def test_an_ack_of_a_batch_is_in_doubt_and_the_others_are_done(self, pit, store, alone, other):
        fill(pit, 3)
        with pit.listen(prefetch=3) as listener:
            deliveries = held(listener, 3, 3)
            for each in deliveries[1:]:
                ack_later(listener, each)
            forget_outcome(store, "0000", then=lambda: other("0000"))
            with pytest.raises(OutcomeUnknown) as caught:
                deliveries[0].ack(wait=True)
            assert (caught.value.ids, len(settled(store)), deliveries[0].lost) == (("0000",), 1, False)
            assert (intake_of(listener).counts.acked, lost(listener)) == (2, 0)

    def test_an_ack_is_done_if_the_message_is_gone(self, pit, store):
        fill(pit, 1)
        with pit.listen() as listener:
            forget_outcome(store, "0000")
            listener.get().ack(wait=True)
            assert (intake_of(listener).counts.acked, lost(listener)) == (1, 0)

    def test_an_ack_is_lost_if_the_same_version_is_there(self, pit, store, clock):
        """It was not deleted: another consumer has claimed it after the lease ran out."""
        fill(pit, 1)
        with pit.listen() as listener:
            delivery, settle = listener.get(), store.settle

            def late(settlements):
                store.settle = settle
                clock.advance(LOCK)
                store.lease(1, 60_000)
                return [None for _ in settle(settlements)]

            store.settle = late
            with pytest.raises(LeaseLost):
                delivery.ack(wait=True)
            assert lost(listener) == 1

    def test_it_is_found_out_later_if_the_store_is_away_then(self, pit, store, alone):
        fill(pit, 2)
        with pit.listen(prefetch=2) as listener:
            for each in held(listener, 2, 2):
                ack_later(listener, each)
            forget_outcome(store, "0000")
            get, store.get = store.get, away
            writer = intake_of(listener).writer
            with pytest.raises(BackendUnavailable):
                writer.flush()
            assert len(writer) == 1
            store.get = get
            writer.flush()
            assert (intake_of(listener).counts.acked, lost(listener)) == (2, 0)

    def test_a_handler_that_stores_its_own_message_is_told_nothing(self, pit, store):
        fill(pit, 1)
        with pit.listen() as listener:
            with listener.get():
                pit.store({"id": "0000"}, timedelta(hours=9))
                forget_outcome(store, "0000")
            assert intake_of(listener).counts.superseded == 1

    def test_a_listener_that_closes_gives_back_the_others(self, pit, store):
        fill(pit, 3)
        listener = pit.listen(prefetch=3)
        listener.get()
        forget_outcome(store, "0001")
        listener.close()
        assert {each.id: each.state for each in pit.entries()} == {"0000": "leased", "0001": "due", "0002": "due"}

    @pytest.mark.parametrize("move", ["redrive", "release"])
    def test_a_change_says_so(self, pit, store, other, move):
        fill(pit, 1)
        with pit.listen() as listener:
            delivery = listener.get()
            if move == "redrive":
                store.settle([bury(delivery)])
            forget_outcome(store, "0000", then=lambda: other("0000"))
            with pytest.raises(OutcomeUnknown, match=r"Call get\(\) to see its state") as caught:
                getattr(pit, move)("0000")
            assert caught.value.ids == ("0000",)


def bury(delivery):
    record = delivery._lease.record
    return settlement(record, Outcome.BURY, attrs.evolve(record.progress, due=None, last_error="gave up"))


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
