"""``ack``, ``nack``, ``extend`` and the end of a lease: at least once, never early, and fenced."""

from __future__ import annotations

import logging

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

import pitstop

from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit
from pitstop_conformance._records import START, at


_LOCK = timedelta(minutes=15)
_ALMOST = timedelta(microseconds=1)


def next_of(listener: pitstop.Listener) -> pitstop.Delivery:
    """Return the next delivery. Fail if there is none."""
    delivery = listener.get()
    assert delivery is not None, "expected a delivery, but no message is due"
    return delivery


class Deliveries(Kit):
    """The life of a delivery."""

    rule = 'docs/semantics.md, "Life of a message"'

    @pytest.fixture
    def delivery(self, pit: pitstop.Pitstop, listener: pitstop.Listener) -> pitstop.Delivery:
        """A delivery of the one-shot message "a", leased for 15 minutes."""
        pit.store({"id": "a", "n": 1}, timedelta(0))
        return next_of(listener)

    def test_an_ack_deletes_a_one_shot(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, delivery: pitstop.Delivery
    ) -> None:
        delivery.ack()

        assert pit.get("a") is None
        clock.advance(_LOCK)
        assert listener.get() is None

    def test_a_leased_message_is_not_emitted_again_until_its_lease_ends(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, delivery: pitstop.Delivery
    ) -> None:
        assert delivery.leased_until == at(START) + _LOCK
        clock.advance(_LOCK - _ALMOST)
        assert listener.get() is None

        clock.advance(_ALMOST)

        again = next_of(listener)
        assert again.msg == delivery.msg
        assert (again.attempt, again.key, again.scheduled_for) == (2, delivery.key, delivery.scheduled_for)

    @pytest.mark.parametrize("how", ["ack", "nack", "extend"])
    def test_too_late_is_lease_lost_and_the_message_stays(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, delivery: pitstop.Delivery, how: str
    ) -> None:
        clock.advance(_LOCK)
        before = pit.get("a")

        with pytest.raises(pitstop.LeaseLost, match=r"The lease of 'a' \(attempt 1\) is over.*Extend leases"):
            getattr(delivery, how)()

        assert pit.get("a") == before
        assert next_of(listener).attempt == 2

    @pytest.mark.parametrize("how", ["ack", "nack", "extend"])
    def test_too_late_changes_nothing_of_the_next_lease(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, delivery: pitstop.Delivery, how: str
    ) -> None:
        clock.advance(_LOCK)
        again = next_of(listener)
        before = pit.get("a")

        with pytest.raises(pitstop.LeaseLost):
            getattr(delivery, how)()

        assert pit.get("a") == before
        again.ack()
        assert pit.get("a") is None

    @pytest.mark.parametrize("first", ["ack", "nack"])
    @pytest.mark.parametrize("second", ["ack", "nack", "extend"])
    def test_a_delivery_is_settled_once(
        self, pit: pitstop.Pitstop, delivery: pitstop.Delivery, first: str, second: str
    ) -> None:
        getattr(delivery, first)()
        before = pit.get("a")

        with pytest.raises(pitstop.LeaseLost, match=rf"'a' was (acknowledged|nacked) before. It cannot be {second}"):
            getattr(delivery, second)()

        assert pit.get("a") == before

    @pytest.mark.parametrize("how", ["ack", "nack", "extend"])
    def test_an_update_while_leased_holds_at_once_and_the_old_delivery_is_stale(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, delivery: pitstop.Delivery, how: str
    ) -> None:
        pit.store({"id": "a", "n": 2}, timedelta(0))
        before = pit.get("a")
        assert before is not None
        assert before.state == "due"

        with pytest.raises(pitstop.LeaseLost):
            getattr(delivery, how)()

        assert pit.get("a") == before
        new = next_of(listener)
        assert (new.msg, new.attempt) == ({"id": "a", "n": 2}, 1)
        with pytest.raises(pitstop.LeaseLost):
            getattr(delivery, how)()
        new.ack()
        assert pit.get("a") is None

    def test_an_update_while_leased_may_put_it_off(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, delivery: pitstop.Delivery
    ) -> None:
        pit.store({"id": "a", "n": 2}, timedelta(hours=1))
        assert listener.get() is None
        with pytest.raises(pitstop.LeaseLost):
            delivery.ack()
        clock.advance(timedelta(hours=1) - _ALMOST)
        assert listener.get() is None

        clock.advance(_ALMOST)

        assert next_of(listener).msg == {"id": "a", "n": 2}

    @pytest.mark.parametrize("how", ["ack", "nack", "extend"])
    def test_a_message_removed_while_leased_is_gone_and_never_comes_back(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, delivery: pitstop.Delivery, how: str
    ) -> None:
        assert pit.remove("a") is True
        assert pit.get("a") is None

        with pytest.raises(pitstop.LeaseLost):
            getattr(delivery, how)()

        assert pit.get("a") is None
        clock.advance(_LOCK * 2)
        assert listener.get() is None
        assert pit.entries() == []

    def test_a_message_removed_and_stored_anew_is_another_one(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, delivery: pitstop.Delivery
    ) -> None:
        pit.remove("a")
        pit.store({"id": "a", "n": 2}, timedelta(0))

        with pytest.raises(pitstop.LeaseLost):
            delivery.ack()

        assert next_of(listener).msg == {"id": "a", "n": 2}

    def test_an_extended_lease_runs_from_now(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, delivery: pitstop.Delivery
    ) -> None:
        clock.advance(timedelta(minutes=10))
        delivery.extend(timedelta(minutes=20))
        assert delivery.leased_until == at(START) + timedelta(minutes=30)
        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.leased_until) == ("leased", delivery.leased_until)
        clock.advance(timedelta(minutes=20) - _ALMOST)
        assert listener.get() is None

        clock.advance(_ALMOST)

        assert next_of(listener).attempt == 2

    def test_an_extension_is_the_lock_time_unless_said(
        self, pit: pitstop.Pitstop, clock: ManualClock, delivery: pitstop.Delivery
    ) -> None:
        clock.advance(timedelta(minutes=10))

        delivery.extend()

        assert delivery.leased_until == at(START) + timedelta(minutes=25)
        clock.advance(_LOCK - timedelta(milliseconds=1))
        delivery.ack()
        assert pit.get("a") is None

    def test_an_extension_may_shorten_the_lease(
        self, listener: pitstop.Listener, clock: ManualClock, delivery: pitstop.Delivery
    ) -> None:
        delivery.extend(timedelta(seconds=1))

        clock.advance(1)

        assert next_of(listener).attempt == 2
        with pytest.raises(pitstop.LeaseLost):
            delivery.ack()

    @pytest.mark.parametrize("duration", [timedelta(0), timedelta(seconds=-1), timedelta(microseconds=1), 5], ids=str)
    def test_a_bad_extension_is_refused_and_the_lease_goes_on(
        self, pit: pitstop.Pitstop, delivery: pitstop.Delivery, duration: Any
    ) -> None:
        with pytest.raises(pitstop.PitstopError, match="duration="):
            delivery.extend(duration)

        assert delivery.leased_until == at(START) + _LOCK
        delivery.ack()

    def test_a_nack_after_an_extension_comes_back_at_the_end_of_the_extended_lease(
        self, pit: pitstop.Pitstop, delivery: pitstop.Delivery
    ) -> None:
        delivery.extend(timedelta(hours=1))
        delivery.nack("x")

        entry = pit.get("a")
        assert entry is not None
        assert entry.due == at(START) + timedelta(hours=1)

    def test_a_lease_is_as_long_as_the_listener_says(self, pit: pitstop.Pitstop, clock: ManualClock) -> None:
        pit.store({"id": "a"}, timedelta(0))
        listener = pit.listen(lock_time="2s")

        assert next_of(listener).leased_until == at(START + 2000)

        clock.advance(2)
        assert next_of(listener).attempt == 2

    def test_a_lease_is_as_long_as_the_configuration_says(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit = make_pit(lock_time="90s")
        pit.store({"id": "a"}, timedelta(0))

        assert next_of(pit.listen()).leased_until == at(START + 90_000)

    def test_with_acks_at_the_end(self, pit: pitstop.Pitstop, delivery: pitstop.Delivery) -> None:
        with delivery as same:
            assert same is delivery
            assert pit.get("a") is not None

        assert pit.get("a") is None

    def test_with_nacks_an_exception_and_lets_it_through(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, delivery: pitstop.Delivery
    ) -> None:
        with pytest.raises(ValueError, match="boom"), delivery:
            raise ValueError("boom")

        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.last_error) == ("scheduled", "ValueError: boom")
        assert entry.due == at(START) + _LOCK
        clock.advance(_LOCK)
        assert next_of(listener).attempt == 2

    def test_with_leaves_alone_what_its_body_settled(self, pit: pitstop.Pitstop, delivery: pitstop.Delivery) -> None:
        with delivery:
            delivery.nack("by hand", delay=timedelta(minutes=1))

        entry = pit.get("a")
        assert entry is not None
        assert (entry.last_error, entry.due) == ("by hand", at(START + 60_000))

    def test_with_raises_lease_lost_when_it_took_too_long(
        self, pit: pitstop.Pitstop, clock: ManualClock, delivery: pitstop.Delivery
    ) -> None:
        with pytest.raises(pitstop.LeaseLost), delivery:
            clock.advance(_LOCK)

        assert pit.get("a") is not None

    def test_with_raises_what_its_body_raised_also_when_the_lease_is_lost(
        self, pit: pitstop.Pitstop, clock: ManualClock, delivery: pitstop.Delivery
    ) -> None:
        def handle() -> None:
            clock.advance(_LOCK)
            raise ValueError("boom")

        with pytest.raises(ValueError, match="boom"), delivery:
            handle()

        entry = pit.get("a")
        assert entry is not None
        assert entry.last_error is None

    @pytest.mark.parametrize("cause", ["it ran out", "the message was removed"])
    def test_a_lease_that_ran_out_is_a_warning_and_any_other_lost_lease_is_quiet(
        self,
        pit: pitstop.Pitstop,
        clock: ManualClock,
        delivery: pitstop.Delivery,
        caplog: pytest.LogCaptureFixture,
        cause: str,
    ) -> None:
        """A lost lease is a normal event of at-least-once delivery, but an operator has to know of a lease that is too short."""
        caplog.set_level(logging.DEBUG, "pitstop")
        if cause == "it ran out":
            clock.advance(_LOCK)
        else:
            pit.remove("a")

        with pytest.raises(pitstop.LeaseLost):
            delivery.ack()

        said = [each for each in caplog.records if each.name.startswith("pitstop") and "'a'" in each.getMessage()]
        assert {each.levelno for each in said} == {logging.WARNING if cause == "it ran out" else logging.DEBUG}

    def test_a_crash_of_the_listener_brings_the_message_back(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        """No message is settled or given back, as after a kill."""
        crashed = make_pit()
        crashed.store({"id": "a"}, timedelta(0))
        first = next_of(crashed.listen())

        other = make_pit().listen()
        clock.advance(_LOCK - _ALMOST)
        assert other.get() is None
        clock.advance(_ALMOST)

        again = next_of(other)
        assert (again.attempt, again.key) == (2, first.key)

    def test_a_repr_shows_no_body(self, pit: pitstop.Pitstop, listener: pitstop.Listener) -> None:
        pit.store({"id": "a", "password": "s3cr3t"}, timedelta(0))

        shown = [repr(pit), repr(listener), repr(next_of(listener)), repr(pit.get("a")), repr(pit.entries())]

        assert not [each for each in shown if "s3cr3t" in each]
