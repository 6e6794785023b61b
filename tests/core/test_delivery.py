"""Deliveries: settled once, fenced, quiet when they come too late."""

from __future__ import annotations

import contextvars
import logging
import threading

from datetime import timedelta

import pytest

import pitstop

from core.kit import LOCK, Running, backend
from pitstop import BackendUnavailable, LeaseLost, OutcomeUnknown, ScheduleError


@pytest.fixture
def listener(pit):
    with pit.listen() as listener:
        yield listener


@pytest.fixture
def delivery(pit, listener):
    pit.store({"id": "a", "foo": [1]}, timedelta(0))
    return listener.get()


OVER = (
    "The lease of 'a' (attempt 1) is over: it ran out, or the message was stored anew or removed. It was not {what}. "
    "Extend leases in long handlers, or configure a longer lock_time."
)


class TestWhatItSays:
    def test_of_a_one_shot(self, pit, delivery):
        assert (delivery.id, delivery.attempt, delivery.missed, delivery.last_error) == ("a", 1, 0, None)
        assert delivery.msg == {"id": "a", "foo": [1]}
        assert delivery.scheduled_for == pit.now()
        assert delivery.leased_until == pit.now() + LOCK
        assert delivery.key == "a:1577836800000"
        assert repr(delivery) == "<Delivery 'a' attempt 1 scheduled for 2020-01-01T00:00:00+00:00>"

    def test_its_message_is_a_copy(self, pit, delivery):
        delivery.msg["foo"].append(2)
        delivery.msg["id"] = "b"
        assert pit.get("a").message == {"id": "a", "foo": [1]}
        assert delivery.id == "a"
        delivery.ack()
        assert pit.get("a") is None

    def test_the_key_of_an_occurrence_stays_over_its_retries(self, pit, listener, clock):
        pit.store({"id": "s"}, timedelta(0), None, timedelta(hours=1))
        clock.advance(5 * 3600 + 7)
        first = listener.get()
        assert (first.missed, first.attempt) == (5, 1)
        first.nack(ValueError("boom"), delay=timedelta(hours=3))
        clock.advance(3 * 3600)
        second = listener.get()
        assert (second.key, second.missed, second.attempt) == (first.key, 5, 2)
        assert second.last_error == "ValueError: boom"
        second.ack()
        assert listener.get().scheduled_for == first.scheduled_for + timedelta(hours=3)


class TestSettlingOnce:
    def test_a_second_ack_is_refused(self, delivery):
        delivery.ack()
        with pytest.raises(LeaseLost) as caught:
            delivery.ack()
        assert str(caught.value) == "The delivery of 'a' was acknowledged before. It cannot be acknowledged now."

    def test_an_ack_after_a_nack_and_a_nack_after_an_ack_are_refused(self, pit, listener, delivery):
        delivery.nack(delay=timedelta(0))
        with pytest.raises(LeaseLost) as caught:
            delivery.ack()
        assert str(caught.value) == "The delivery of 'a' was nacked before. It cannot be acknowledged now."
        again = listener.get()
        again.ack()
        with pytest.raises(LeaseLost, match=r"^The delivery of 'a' was acknowledged before\. It cannot be nacked now"):
            again.nack()
        assert pit.get("a") is None

    def test_nothing_can_be_extended_after_it_was_settled(self, delivery):
        delivery.ack()
        with pytest.raises(LeaseLost, match="It cannot be extended now"):
            delivery.extend()

    def test_that_is_no_lost_lease_of_the_store(self, pit, delivery):
        delivery.ack()
        with pytest.raises(LeaseLost):
            delivery.ack()
        assert pit._session.events.counters["lease_lost"] == 0

    def test_an_ack_that_the_store_did_not_answer_can_be_repeated(self, pit, store, delivery):
        store.down = True
        with pytest.raises(BackendUnavailable):
            delivery.ack()
        store.down = False
        delivery.ack()
        assert pit.get("a") is None

    def test_of_several_threads_one_succeeds(self, pit, delivery):
        def ack():
            try:
                delivery.ack()
            except LeaseLost:
                return 0
            return 1

        threads = [Running(ack) for _ in range(8)]
        assert sum(thread.result() for thread in threads) == 1


class TestTooLate:
    @pytest.mark.parametrize(
        ("settle", "what"),
        [
            (lambda delivery: delivery.ack(), "acknowledged"),
            (lambda delivery: delivery.nack("boom", delay=timedelta(0)), "nacked"),
            (lambda delivery: delivery.extend(), "extended"),
        ],
        ids=["ack", "nack", "extend"],
    )
    @pytest.mark.parametrize("cause", ["ran out", "claimed again", "stored anew", "removed"])
    def test_nothing_is_changed_and_it_is_counted(self, pit, listener, delivery, clock, caplog, settle, what, cause):
        caplog.set_level(logging.DEBUG)
        if cause == "removed":
            assert pit.remove("a")
        elif cause == "stored anew":
            pit.store({"id": "a", "foo": 2}, timedelta(hours=1))
        else:
            clock.advance(LOCK)
            if cause == "claimed again":
                assert listener.get().attempt == 2
        before = pit.get("a")
        with pytest.raises(LeaseLost) as caught:
            settle(delivery)
        assert str(caught.value) == OVER.format(what=what)
        assert pit.get("a") == before
        assert pit._session.events.counters["lease_lost"] == 1
        (record,) = caplog.records
        if cause in {"ran out", "claimed again"}:
            # An operator has to know: the lease was too short.
            assert record.levelno == logging.WARNING
            assert record.message.startswith("the lease of 'a' (attempt 1) ran out before")
        else:
            assert (record.levelno, record.message) == (logging.DEBUG, "lease lost: 'a' attempt 1")


class TestNack:
    def test_comes_back_when_its_lease_runs_out(self, pit, listener, delivery, clock):
        clock.advance(60)
        delivery.nack(KeyError("x"))
        entry = pit.get("a")
        assert (entry.state, entry.last_error) == ("scheduled", "KeyError: 'x'")
        assert entry.due == delivery.leased_until
        clock.advance(LOCK - timedelta(seconds=60))
        assert listener.get().attempt == 2

    @pytest.mark.parametrize("delay", [timedelta(-1), 5, "soon", "-5s"])
    def test_a_delay_that_is_none_is_refused_and_the_delivery_stays_usable(self, pit, delivery, delay):
        with pytest.raises(ScheduleError) as caught:
            delivery.nack(delay=delay)
        assert (
            str(caught.value)
            == f"delay={delay!r} cannot be used. Give a timedelta of zero or more, or text such as '15m'."
        )
        delivery.ack()
        assert pit.get("a") is None

    @pytest.mark.parametrize(
        ("delay", "span"), [("5s", timedelta(seconds=5)), ("0s", timedelta(0)), ("1h30m", timedelta(hours=1.5))]
    )
    def test_a_delay_may_be_text(self, pit, delivery, delay, span):
        delivery.nack(delay=delay)
        assert pit.get("a").due == pit.now() + span


class TestExtend:
    def test_by_the_lock_time_from_now_if_nothing_is_said(self, pit, delivery, clock):
        clock.advance(600)
        delivery.extend()
        assert delivery.leased_until == pit.get("a").leased_until == pit.now() + LOCK

    def test_by_the_lock_time_of_its_listener(self, pit, clock):
        with pit.listen(lock_time=10) as listener:
            pit.store({"id": "a"}, timedelta(0))
            delivery = listener.get()
            clock.advance(5)
            delivery.extend()
            assert delivery.leased_until == pit.now() + timedelta(seconds=10)

    def test_longer_or_shorter(self, pit, delivery, listener, clock):
        delivery.extend(timedelta(hours=1))
        clock.advance(3599)
        delivery.extend(timedelta(seconds=2))
        assert delivery.leased_until == pit.now() + timedelta(seconds=2)
        clock.advance(2)
        assert listener.get().attempt == 2

    def test_then_a_nack_comes_back_at_the_new_end(self, pit, delivery):
        delivery.extend(timedelta(hours=1))
        delivery.nack()
        assert pit.get("a").due == pit.now() + timedelta(hours=1)

    def test_never_beyond_the_calendar(self, delivery):
        delivery.extend(timedelta.max)
        assert delivery.leased_until.year == 9999
        delivery.ack()

    @pytest.mark.parametrize("duration", [timedelta(-1), 5, "soon", timedelta(0), timedelta(microseconds=999), "0s"])
    def test_a_duration_that_is_none_or_too_short_is_refused(self, delivery, duration):
        with pytest.raises(ScheduleError) as caught:
            delivery.extend(duration)
        assert str(caught.value) == (
            f"duration={duration!r} cannot be used. Give a timedelta of at least 1ms, or text such as '15m'."
        )

    def test_a_duration_may_be_text(self, pit, delivery):
        delivery.extend("5m")
        assert delivery.leased_until == pit.now() + timedelta(minutes=5)


class TestWith:
    def test_acks_at_the_end_of_its_body(self, pit, delivery):
        with delivery as same:
            assert same is delivery
            assert pit.get("a").state == "leased"
        assert pit.get("a") is None

    @pytest.mark.parametrize("error", [ValueError("boom"), TypeError("boom")])
    def test_nacks_and_raises_again_what_its_body_raised(self, pit, delivery, error):
        with pytest.raises(type(error)) as caught, delivery:
            raise error
        assert caught.value is error
        assert pit.get("a").state == "scheduled"
        assert pit.get("a").last_error == f"{type(error).__name__}: boom"

    def test_an_error_whose_text_cannot_be_had_is_raised_all_the_same(self, pit, delivery):
        class Mute(Exception):
            def __str__(self):
                raise RuntimeError

        with pytest.raises(Mute), delivery:
            raise Mute
        assert pit.get("a").last_error == "Mute: (its text is unavailable: RuntimeError)"

    def test_leaves_alone_what_its_body_settled(self, pit, delivery, listener):
        with delivery:
            delivery.nack("not now", delay=timedelta(hours=1))
        assert pit.get("a").last_error == "not now"
        pit.store({"id": "b"}, timedelta(0))
        acked = listener.get()

        def handle():
            acked.ack()
            raise ValueError("afterwards")

        with pytest.raises(ValueError, match="afterwards"), acked:
            handle()
        assert pit.get("b") is None

    def test_a_lease_that_was_lost_meanwhile_is_told_at_the_end(self, pit, delivery):
        with pytest.raises(LeaseLost), delivery:
            Running(lambda: pit.store({"id": "a", "foo": 2}, timedelta(hours=1))).result()
        assert pit.get("a").message == {"id": "a", "foo": 2}
        assert pit._session.events.counters == {"lease_lost": 1}

    def test_the_loop_of_the_readme_goes_on_after_a_lost_lease(self, pit, delivery):
        """Its ack comes too late, which its except clause nacks: that has been told already."""
        pit.store({"id": "a", "foo": 2}, timedelta(hours=1))
        with pytest.raises(LeaseLost) as lost:
            delivery.ack()
        delivery.nack(lost.value)
        assert pit.get("a").last_error is None
        assert pit._session.events.counters["lease_lost"] == 1
        with pytest.raises(LeaseLost):
            delivery.nack(ValueError("another"))

    def test_the_loop_of_the_readme_goes_on_after_an_ack_that_the_store_did_not_answer(
        self, pit, store, delivery, clock
    ):
        """The handler did not fail, so nothing is noted as its failure; the message comes back when its lease ends."""
        store.down = True
        with pytest.raises(BackendUnavailable) as away:
            delivery.ack()
        delivery.nack(away.value)
        store.down = False
        entry = pit.get("a")
        assert (entry.state, entry.last_error) == ("leased", None)
        delivery.nack(ValueError("another"))
        assert pit.get("a").last_error == "ValueError: another"

    def test_a_handler_that_could_not_extend_is_nacked(self, pit, store, delivery):
        store.down = True
        with pytest.raises(BackendUnavailable) as away:
            delivery.extend()
        store.down = False
        delivery.nack(away.value)
        assert pit.get("a").last_error == "BackendUnavailable: The test took the store away."

    @pytest.mark.parametrize("cause", ["away", "lost"])
    def test_the_error_of_its_body_is_not_hidden_by_a_nack_that_failed(self, pit, store, delivery, cause):
        def handle():
            if cause == "away":
                store.down = True
            else:
                pit.remove("a")
            raise ValueError("boom")

        with pytest.raises(ValueError, match="boom"), delivery:
            handle()
        store.down = False
        assert (pit.get("a") is None) == (cause == "lost")


class TestDead:
    def test_past_max_attempts_it_is_kept_listed_and_redrivable(self, clock, caplog):
        store = backend(clock=clock, retry={"delay": "1s", "max_attempts": 2})
        with pitstop.init({"type": store}) as pit, pit.listen() as listener:
            pit.store({"id": "a", "pin": "hunter2"}, timedelta(0))
            for attempt in (1, 2):
                delivery = listener.get()
                assert delivery.attempt == attempt
                delivery.nack(ValueError(f"no {attempt}"))
                clock.advance(1)
            assert listener.get() is None
            assert pit.stats().dead == 1
            (entry,) = pit.entries("dead")
            assert (entry.id, entry.due, entry.attempts, entry.last_error) == ("a", None, 2, "ValueError: no 2")
            assert "message 'a' is dead" in caplog.text
            assert "ValueError" not in caplog.text, "an exception's text may hold a secret"
            assert "hunter2" not in caplog.text
            assert pit.redrive("a")
            assert not pit.redrive("a"), "it is due now"
            again = listener.get()
            assert (again.attempt, again.last_error) == (1, "ValueError: no 2")
            again.ack()
            assert not pit.redrive("a")


ACTS = {
    "store": lambda pit: pit.store({"id": "a", "foo": 2}, timedelta(hours=1)),
    "store_many": lambda pit: pit.store_many([({"id": "a", "foo": 2}, timedelta(hours=1))]),
    "remove": lambda pit: pit.remove("a"),
}


class TestItsOwnMessage:
    """A handler that stores or removes the message that it handles ends quietly, and always alike."""

    @pytest.mark.parametrize("others", [0, 3])
    @pytest.mark.parametrize("timeout", [0, None], ids=["get", "iteration"])
    @pytest.mark.parametrize("act", ACTS)
    def test_its_body_ends_without_an_error(self, pit, act, timeout, others):
        pit.store_many([({"id": id}, timedelta(0)) for id in ("a", "b", "c", "d")[: others + 1]])
        with pit.listen(prefetch=4) as listener, listener.get(timeout) as delivery:
            ACTS[act](pit)
        entry = pit.get("a")
        assert (entry is None) == (act == "remove")
        assert entry is None or (entry.state, entry.message["foo"]) == ("scheduled", 2)
        assert pit._session.events.counters == {"superseded": 1}
        assert not delivery.lost

    @pytest.mark.parametrize("act", ACTS)
    def test_the_new_version_stands_when_its_body_fails_afterwards(self, pit, delivery, act):
        def handle():
            ACTS[act](pit)
            raise ValueError("boom")

        with pytest.raises(ValueError, match="boom"), delivery:
            handle()
        entry = pit.get("a")
        assert entry is None or (entry.last_error, entry.attempts) == (None, 0)
        assert pit._session.events.counters == {"superseded": 1}

    @pytest.mark.parametrize("settle", ["ack", "nack"])
    def test_its_body_may_settle_it_afterwards(self, pit, delivery, settle):
        with delivery:
            pit.remove("a")
            getattr(delivery, settle)()
        assert pit._session.events.counters == {"superseded": 1}

    def test_so_may_a_thread_that_runs_in_its_context(self, pit, delivery):
        with delivery:
            context = contextvars.copy_context()
            Running(lambda: context.run(pit.remove, "a")).result()
        assert pit._session.events.counters == {"superseded": 1}

    def test_a_store_of_another_message_or_after_the_body_changes_nothing(self, pit, listener, delivery):
        with delivery:
            pit.store({"id": "b"}, timedelta(0))
        pit.store({"id": "a"}, timedelta(0))
        other = listener.get()
        pit.store({"id": other.id}, timedelta(hours=1))
        with pytest.raises(LeaseLost):
            other.ack()

    def test_the_body_of_another_delivery_inside_counts_too(self, pit, listener, delivery):
        pit.store({"id": "b"}, timedelta(0))
        with delivery:
            with listener.get():
                pit.remove("a")
            pit.store({"id": "a"}, timedelta(hours=1))
        assert pit._session.events.counters == {"superseded": 1}


class TestRepeated:
    """An ack or a nack whose reply got lost, and that its caller repeats."""

    @staticmethod
    def lose_reply(store):
        settle = store.settle

        def lost(settlements):
            store.settle = settle
            settle(settlements)
            raise OutcomeUnknown("The test lost the reply.")

        store.settle = lost

    @pytest.mark.parametrize("settle", ["ack", "nack"])
    def test_it_is_done_once(self, pit, store, delivery, settle):
        self.lose_reply(store)
        with pytest.raises(OutcomeUnknown):
            getattr(delivery, settle)()
        getattr(delivery, settle)()
        assert (pit.get("a") is None) == (settle == "ack")
        assert pit._session.events.counters == {}

    @pytest.mark.parametrize("first", ["ack", "nack"])
    @pytest.mark.parametrize("second", ["ack", "nack"])
    def test_it_is_not_told_as_lost_when_the_lease_is_over(self, store, delivery, clock, first, second):
        self.lose_reply(store)
        with pytest.raises(OutcomeUnknown):
            getattr(delivery, first)()
        clock.advance(LOCK)
        for _ in range(2):
            with pytest.raises(OutcomeUnknown):
                getattr(delivery, second)()
        assert not delivery.lost

    def test_nor_when_another_settlement_was_asked_for_first(self, store, delivery):
        self.lose_reply(store)
        with pytest.raises(OutcomeUnknown):
            delivery.ack()
        with pytest.raises(OutcomeUnknown):
            delivery.nack()

    def test_nor_when_the_store_is_away_meanwhile(self, store, delivery):
        self.lose_reply(store)
        with pytest.raises(OutcomeUnknown):
            delivery.nack()
        store.down = True
        with pytest.raises(OutcomeUnknown):
            delivery.nack()
        store.down = False
        delivery.nack()


def test_a_delay_beyond_the_calendar_is_refused_where_it_is_given(pit, store, delivery):
    calls = len(store.calls)
    with pytest.raises(ScheduleError, match="delay="):
        delivery.nack("later", delay=timedelta.max)
    assert len(store.calls) == calls, "the store is not asked"
    delivery.ack()
    assert pit.get("a") is None


def test_of_two_threads_that_settle_it_the_second_is_refused_while_the_first_is_being_written(pit, store, delivery):
    asked, may_go = threading.Event(), threading.Event()
    store.during["settle"] = lambda: (store.during.clear(), asked.set(), may_go.wait(10))
    nacking = Running(lambda: delivery.nack("no", timedelta(hours=1)))
    assert asked.wait(10)
    with pytest.raises(LeaseLost, match="was nacked before"):
        delivery.ack()
    may_go.set()
    nacking.result()
    assert pit.get("a").last_error == "no"
    assert pit._session.events.counters == {}
