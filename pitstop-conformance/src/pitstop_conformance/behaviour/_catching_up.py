"""Missed occurrences of recurring messages: catch-up, grace, and the occurrence of a retry."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

import pitstop

from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of


_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_LOCK = timedelta(minutes=15)
_ALMOST = timedelta(microseconds=1)
_NOW = at(START)


class CatchingUp(Kit):
    """Series whose occurrences passed while no listener took them."""

    rule = "docs/semantics.md"

    @pytest.fixture
    def hourly(self, pit: pitstop.Pitstop) -> pitstop.Pitstop:
        """A series "a" that is due every hour from now on, without an end."""
        pit.store({"id": "a", "n": 1}, _NOW, None, _HOUR)
        return pit

    def test_a_message_stored_for_a_past_day_is_emitted_once(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        pit.store({"id": "a"}, _NOW - 2 * _DAY, _NOW - _DAY, _HOUR)

        delivery = next_of(listener)

        assert (delivery.scheduled_for, delivery.missed) == (_NOW - _DAY - _HOUR, 23)
        delivery.ack()
        assert pit.get("a") is None

    def test_catch_up_latest_emits_the_backlog_once_and_says_how_many_it_missed(
        self, hourly: Any, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        clock.advance(2.5 * _HOUR)

        delivery = next_of(listener)

        assert (delivery.scheduled_for, delivery.missed) == (_NOW + 2 * _HOUR, 2)
        delivery.ack()
        assert listener.get() is None
        entry = hourly.get("a")
        assert entry is not None
        assert entry.due == _NOW + 3 * _HOUR

    def test_the_backlog_counts_from_the_last_acknowledged_occurrence(
        self, hourly: Any, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        next_of(listener).ack()
        clock.advance(4 * _HOUR)

        delivery = next_of(listener)

        assert (delivery.scheduled_for, delivery.missed) == (_NOW + 4 * _HOUR, 3)

    def test_catch_up_all_emits_each_oldest_first(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, _NOW, _NOW + _DAY, _HOUR, catch_up="all")
        clock.advance(timedelta(days=3))

        emitted = []
        for delivery in iter(listener.get, None):
            emitted.append((delivery.scheduled_for, delivery.missed, delivery.attempt))
            delivery.ack()

        assert emitted == [(_NOW + k * _HOUR, 0, 1) for k in range(24)]
        assert pit.get("a") is None

    def test_catch_up_all_comes_to_the_present(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, _NOW, None, _HOUR, catch_up="all")
        clock.advance(2.5 * _HOUR)

        emitted = []
        for delivery in iter(listener.get, None):
            emitted.append(delivery.scheduled_for)
            delivery.ack()

        assert emitted == [_NOW, _NOW + _HOUR, _NOW + 2 * _HOUR]
        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.due) == ("scheduled", _NOW + 3 * _HOUR)

    @pytest.mark.parametrize("late", [timedelta(0), timedelta(minutes=10)], ids=str)
    def test_catch_up_skip_emits_the_last_one_within_its_grace(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, late: Any
    ) -> None:
        pit.store({"id": "a"}, _NOW, None, _HOUR, catch_up="skip", grace=timedelta(minutes=10))
        clock.advance(2 * _HOUR + late)

        delivery = next_of(listener)

        assert (delivery.scheduled_for, delivery.missed) == (_NOW + 2 * _HOUR, 2)

    def test_catch_up_skip_passes_over_what_is_older_than_its_grace(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, _NOW, None, _HOUR, catch_up="skip", grace=timedelta(minutes=10))
        clock.advance(2 * _HOUR + timedelta(minutes=10, milliseconds=1))

        assert listener.get() is None

        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.due) == ("scheduled", _NOW + 3 * _HOUR)
        clock.advance_to(_NOW + 3 * _HOUR)
        delivery = next_of(listener)
        assert (delivery.scheduled_for, delivery.attempt) == (_NOW + 3 * _HOUR, 1)

    def test_catch_up_skip_ends_a_series_of_which_nothing_is_young_enough(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, _NOW, _NOW + _DAY, _HOUR, catch_up="skip", grace=timedelta(minutes=10))
        clock.advance(2 * _DAY)

        assert listener.get() is None

        assert pit.get("a") is None

    def test_what_is_passed_over_holds_nobody_up(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        for n in range(5):
            pit.store({"id": f"old{n}"}, _NOW, None, _HOUR, catch_up="skip", grace=timedelta(minutes=1))
        pit.store({"id": "b"}, _NOW + timedelta(minutes=1))
        clock.advance(timedelta(minutes=30))

        assert next_of(listener).id == "b"
        assert listener.get() is None

    def test_a_retry_is_of_the_same_occurrence_also_when_later_ones_have_come(
        self, hourly: Any, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        first = next_of(listener)
        first.nack("x", delay=3.5 * _HOUR)
        clock.advance(3.5 * _HOUR - _ALMOST)
        assert listener.get() is None
        clock.advance(_ALMOST)

        second = next_of(listener)

        assert (second.scheduled_for, second.key, second.missed) == (_NOW, first.key, 0)
        assert (second.attempt, second.last_error) == (2, "x")
        second.ack()
        third = next_of(listener)
        assert (third.scheduled_for, third.missed, third.attempt) == (_NOW + 3 * _HOUR, 2, 1)
        assert third.last_error is None

    def test_an_expired_lease_is_of_the_same_occurrence_also_when_later_ones_have_come(
        self, hourly: Any, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        clock.advance(2.5 * _HOUR)
        first = next_of(listener)
        assert (first.scheduled_for, first.missed) == (_NOW + 2 * _HOUR, 2)
        clock.advance(10 * _HOUR)

        second = next_of(listener)

        assert (second.scheduled_for, second.key, second.missed) == (first.scheduled_for, first.key, 2)
        assert second.attempt == 2
        entry = hourly.get("a")
        assert entry is not None
        assert entry.scheduled_for == first.scheduled_for

    @pytest.mark.parametrize("attempts", [2, 5])
    def test_what_the_first_emission_chose_holds_for_all_retries(
        self, hourly: Any, listener: pitstop.Listener, clock: ManualClock, attempts: int
    ) -> None:
        clock.advance(1.25 * _HOUR)
        seen = set()
        for attempt in range(1, attempts + 1):
            delivery = next_of(listener)
            seen.add((delivery.scheduled_for, delivery.key, delivery.missed))
            assert delivery.attempt == attempt
            delivery.nack("x", delay=7 * _HOUR)
            clock.advance(7 * _HOUR)

        assert seen == {(_NOW + _HOUR, f"a:{START + 3_600_000}", 1)}

    def test_a_retry_within_skip_is_not_too_old(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """The grace applies to the first emission. A retry keeps the occurrence that the first emission chose."""
        pit.store({"id": "a"}, _NOW, None, _HOUR, catch_up="skip", grace=timedelta(minutes=10))
        next_of(listener).nack("x", delay=5 * _HOUR)
        clock.advance(5 * _HOUR)

        delivery = next_of(listener)

        assert (delivery.scheduled_for, delivery.attempt) == (_NOW, 2)

    def test_a_retry_of_the_oldest_goes_before_the_next_with_catch_up_all(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, _NOW, None, _HOUR, catch_up="all")
        clock.advance(2 * _HOUR)
        next_of(listener).nack("x", delay=_HOUR)
        assert listener.get() is None, "a series has one leased or waiting occurrence at a time"
        clock.advance(_HOUR)

        again = next_of(listener)

        assert (again.scheduled_for, again.attempt) == (_NOW, 2)
        again.ack()
        assert next_of(listener).scheduled_for == _NOW + _HOUR
