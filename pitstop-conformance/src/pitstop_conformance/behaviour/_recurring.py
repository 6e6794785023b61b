"""Recurring messages: anchored occurrences in ``[start, end)``, and the treatment of missed occurrences."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
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


class Recurring(Kit):
    """The life of a series."""

    rule = "docs/semantics.md"

    @pytest.fixture
    def hourly(self, pit: pitstop.Pitstop) -> pitstop.Pitstop:
        """A series "a" that is due every hour from now on, without an end."""
        pit.store({"id": "a", "n": 1}, _NOW, None, _HOUR)
        return pit

    def test_every_hour_for_a_day_is_24_emissions(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """The third example of the API: ``pit.store({"id": "def"}, start, end, every)``. The end is exclusive."""
        pit.store({"id": "def"}, _NOW, _NOW + _DAY, _HOUR)
        emitted = []
        for _ in range(24 * 2 + 10):
            for delivery in iter(listener.get, None):
                assert delivery.msg == {"id": "def"}
                assert (delivery.attempt, delivery.missed) == (1, 0)
                emitted.append(delivery.scheduled_for)
                delivery.ack()
            clock.advance(timedelta(minutes=30))

        assert emitted == [_NOW + k * _HOUR for k in range(24)]
        assert pit.get("def") is None

    @pytest.mark.parametrize(
        ("end", "count"),
        [(1, 1), (3_599_999, 1), (3_600_000, 1), (3_600_001, 2), (7_200_000, 2), (7_200_001, 3)],
    )
    def test_the_end_is_exclusive_to_the_millisecond(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, end: int, count: int
    ) -> None:
        pit.store({"id": "a"}, _NOW, _NOW + timedelta(milliseconds=end), _HOUR)

        for k in range(count):
            assert next_of(listener).scheduled_for == _NOW + k * _HOUR
            clock.advance(timedelta(milliseconds=1))
            delivery = pit.get("a")
            assert delivery is not None
            clock.advance(_LOCK - timedelta(milliseconds=1))
            next_of(listener).ack()
            clock.advance_to(_NOW + (k + 1) * _HOUR)

        assert pit.get("a") is None

    def test_an_ack_goes_on_to_the_next_occurrence(
        self, hourly: Any, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        clock.advance(timedelta(minutes=1))
        delivery = next_of(listener)
        delivery.ack()

        entry = hourly.get("a")
        assert entry is not None
        assert (entry.state, entry.due, entry.scheduled_for) == ("scheduled", _NOW + _HOUR, _NOW + _HOUR)
        assert (entry.attempts, entry.last_error, entry.leased_until) == (0, None, None)
        assert (entry.every, entry.end) == (_HOUR, None)
        assert listener.get() is None
        clock.advance_to(_NOW + _HOUR - _ALMOST)
        assert listener.get() is None
        clock.advance(_ALMOST)
        following = next_of(listener)
        assert (following.scheduled_for, following.attempt) == (_NOW + _HOUR, 1)
        assert following.key == f"a:{START + 3_600_000}" != delivery.key

    def test_occurrences_are_anchored_at_the_start_whenever_they_are_acked(
        self, hourly: Any, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """A late occurrence does not move the next one."""
        scheduled = []
        for k in range(10):
            clock.advance_to(_NOW + k * _HOUR + timedelta(minutes=3 * k, microseconds=7))
            delivery = next_of(listener)
            clock.advance(timedelta(minutes=7))
            delivery.ack()
            scheduled.append(delivery.scheduled_for)

        assert scheduled == [_NOW + k * _HOUR for k in range(10)]

    def test_a_start_between_two_milliseconds_is_rounded_up_once(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        clock.advance(timedelta(microseconds=300))
        pit.store({"id": "a"}, timedelta(microseconds=1), None, timedelta(milliseconds=7))

        scheduled = []
        for _ in range(5):
            clock.advance(timedelta(milliseconds=7))
            delivery = next_of(listener)
            scheduled.append(delivery.scheduled_for)
            delivery.ack()

        assert scheduled == [at(START + 1 + 7 * k) for k in range(5)]

    def test_a_series_that_began_long_ago_takes_no_longer(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        """20 years of occurrences a millisecond apart are skipped in one step."""
        pit.store({"id": "a"}, at(START - 20 * 365 * 86_400_000), None, timedelta(milliseconds=1))

        delivery = next_of(listener)

        assert delivery.scheduled_for == _NOW
        assert delivery.missed == 20 * 365 * 86_400_000
        delivery.ack()
        entry = pit.get("a")
        assert entry is not None
        assert entry.due == at(START + 1)

    def test_a_series_without_end_never_ends(self, hourly: Any, listener: pitstop.Listener, clock: ManualClock) -> None:
        clock.advance(timedelta(days=365 * 500))
        next_of(listener).ack()

        entry = hourly.get("a")
        assert entry is not None
        assert entry.due == clock.now() + _HOUR

    def test_the_last_occurrence_of_a_series_deletes_it(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, _NOW, _NOW + _HOUR, _HOUR)

        next_of(listener).ack()

        assert pit.get("a") is None
        clock.advance(_DAY)
        assert listener.get() is None

    def test_a_late_listener_gets_the_last_occurrence_after_the_end(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, _NOW, _NOW + _DAY, _HOUR)
        clock.advance(timedelta(days=30))

        delivery = next_of(listener)

        assert delivery.scheduled_for == _NOW + 23 * _HOUR
        assert delivery.missed == 23
        delivery.ack()
        assert pit.get("a") is None
        assert listener.get() is None

    def test_an_extended_occurrence_is_still_the_same(
        self, hourly: Any, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        delivery = next_of(listener)
        for _ in range(5):
            clock.advance(timedelta(minutes=14))
            delivery.extend()

        delivery.ack()

        assert delivery.scheduled_for == _NOW
        following = next_of(listener)
        assert (following.scheduled_for, following.missed) == (_NOW + _HOUR, 0)

    def test_an_occurrence_that_fails_too_often_parks_its_error_and_the_series_goes_on(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit = make_pit(retry={"max_attempts": 2, "delay": "1s"})
        pit.store({"id": "a"}, _NOW, None, _HOUR)
        listener = pit.listen()
        next_of(listener).nack("first")
        clock.advance(1)
        next_of(listener).nack("second")

        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.due, entry.attempts) == ("scheduled", _NOW + _HOUR, 0)
        assert entry.last_error == "second"
        clock.advance_to(_NOW + _HOUR)
        following = next_of(listener)
        assert (following.scheduled_for, following.attempt) == (_NOW + _HOUR, 1)
        assert following.last_error == "second"
        following.ack()
        entry = pit.get("a")
        assert entry is not None
        assert entry.last_error is None
        assert pit.stats().dead == 0

    def test_an_occurrence_whose_leases_run_out_too_often_is_given_up_too(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        pit.store({"id": "a"}, _NOW, None, _DAY)
        listener = pit.listen()
        next_of(listener)
        clock.advance(_LOCK)

        assert listener.get() is None

        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.due) == ("scheduled", _NOW + _DAY)
        assert "Given up after 1 attempt" in (entry.last_error or "")

    def test_the_last_occurrence_that_fails_too_often_is_dead(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        """The series has no next occurrence to go on to, and the message must not get lost."""
        pit = make_pit(retry={"max_attempts": 1})
        pit.store({"id": "a"}, _NOW, _NOW + _HOUR, _HOUR)
        listener = pit.listen()
        first = next_of(listener)
        first.nack("boom")
        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.last_error, entry.every) == ("dead", "boom", _HOUR)
        clock.advance(_DAY)

        assert pit.redrive("a") is True

        again = next_of(listener)
        assert (again.key, again.attempt) == (first.key, 1)
        again.ack()
        assert pit.get("a") is None

    def test_an_update_of_a_leased_series_begins_it_anew(
        self, hourly: Any, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        old = next_of(listener)
        hourly.store({"id": "a", "n": 2}, _NOW + timedelta(minutes=30), None, 2 * _HOUR)

        with pytest.raises(pitstop.LeaseLost):
            old.ack()

        entry = hourly.get("a")
        assert entry is not None
        assert (entry.due, entry.every, entry.attempts) == (_NOW + timedelta(minutes=30), 2 * _HOUR, 0)
        clock.advance(timedelta(minutes=30))
        assert next_of(listener).msg == {"id": "a", "n": 2}

    def test_a_removed_series_is_over(self, hourly: Any, listener: pitstop.Listener, clock: ManualClock) -> None:
        delivery = next_of(listener)
        assert hourly.remove("a") is True

        with pytest.raises(pitstop.LeaseLost):
            delivery.nack("x", delay=timedelta(0))

        clock.advance(_DAY)
        assert listener.get() is None
        assert hourly.entries() == []

    def test_a_late_ack_of_a_series_does_not_move_it_on(
        self, hourly: Any, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        delivery = next_of(listener)
        clock.advance(_LOCK)

        with pytest.raises(pitstop.LeaseLost):
            delivery.ack()

        again = next_of(listener)
        assert (again.key, again.attempt) == (delivery.key, 2)

    def test_many_series_keep_their_own_time(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        every = {f"s{n}": timedelta(milliseconds=37 + 10 * n) for n in range(10)}
        pit.store_many([({"id": id}, _NOW, None, each) for id, each in every.items()])
        seen: dict[str, list[datetime]] = {id: [] for id in every}
        for _ in range(400):
            for delivery in iter(listener.get, None):
                seen[delivery.id].append(delivery.scheduled_for)
                assert delivery.missed == 0
                delivery.ack()
            clock.advance(0.002)

        for id, each in every.items():
            assert seen[id] == [_NOW + k * each for k in range(len(seen[id]))]
            assert len(seen[id]) == -(-799 // (each // timedelta(milliseconds=1)))
