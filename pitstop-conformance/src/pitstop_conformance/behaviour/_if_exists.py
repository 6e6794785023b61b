"""Stores that depend on the message that exists: ``if_exists`` and ``keep_schedule``."""

from __future__ import annotations

from collections.abc import Callable
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
_NOW = at(START)


class IfExists(Kit):
    """A store that keeps, refuses or updates the message that exists."""

    rule = 'docs/schedules.md, "A schedule in code"'

    @pytest.mark.usefixtures("conditional")
    def test_a_store_tells_what_it_has_done(self, pit: pitstop.Pitstop) -> None:
        def store(every: timedelta, n: int = 1, **options: Any) -> str:
            stored = pit.store({"id": "a", "n": n}, _NOW + _DAY, None, every, **options)
            assert stored == "a"
            return stored.outcome

        assert store(_HOUR, if_exists="keep") == "created"
        assert store(_HOUR, if_exists="keep") == "kept"
        assert store(_DAY, if_exists="keep") == "replaced"
        assert store(_DAY) == "stored"
        assert store(_HOUR, n=2, keep_schedule=True) == "updated"
        assert store(_HOUR, n=2, keep_schedule=True) == "kept"
        entry = pit.get("a")
        assert entry is not None
        assert (entry.message, entry.every) == ({"id": "a", "n": 2}, _DAY)

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("start", ["fixed", "from_now"])
    def test_twenty_deploys_of_a_schedule_emit_each_occurrence_once(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock, start: str
    ) -> None:
        """The deploys come each seven hours, and the message each day."""
        keys: list[str] = []
        for _ in range(20):
            pit = make_pit()
            pit.store({"id": "report"}, _NOW if start == "fixed" else timedelta(0), None, _DAY, if_exists="keep")
            for _ in range(7):
                with pit.listen() as listener:
                    for delivery in iter(listener.get, None):
                        keys.append(delivery.key)
                        delivery.ack()
                clock.advance(_HOUR)
            pit.close()

        assert keys == [f"report:{START + 86_400_000 * day}" for day in range(6)]

    @pytest.mark.usefixtures("conditional")
    def test_a_changed_rule_takes_effect_at_once(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "report"}, _NOW + _DAY, None, _DAY, if_exists="keep")
        clock.advance(_HOUR)

        assert pit.store({"id": "report"}, _NOW, None, _HOUR, if_exists="keep").outcome == "replaced"

        delivery = next_of(listener)
        assert (delivery.scheduled_for, delivery.missed) == (_NOW + _HOUR, 1)
        delivery.ack()
        clock.advance(_HOUR)
        next_of(listener).ack()

    @pytest.mark.usefixtures("conditional")
    def test_a_message_that_is_kept_stays_as_it_was(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        """Its body, its attempts and its error stay; a listener that has it is not disturbed."""
        pit.store({"id": "a", "n": 1}, _NOW, None, _HOUR)
        next_of(listener).nack("failed", timedelta(0))
        delivery = next_of(listener)
        before = pit.get("a")

        stored = pit.store({"id": "a", "n": 2}, _NOW, None, _HOUR, if_exists="keep")

        assert stored.outcome == "kept"
        assert pit.get("a") == before
        delivery.ack()
        clock.advance(_HOUR)
        again = next_of(listener)
        assert (again.msg, again.attempt) == ({"id": "a", "n": 1}, 1)
        again.ack()

    @pytest.mark.usefixtures("conditional")
    def test_if_exists_error_refuses_a_message_that_exists_and_changes_nothing(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        assert pit.store({"id": "a", "n": 1}, timedelta(0), if_exists="error").outcome == "created"
        delivery = next_of(listener)
        before = pit.get("a")

        with pytest.raises(pitstop.Conflict, match="'a' exists already: it is leased until") as caught:
            pit.store({"id": "a", "n": 2}, timedelta(0), if_exists="error")

        assert caught.value.id == "a"
        assert pit.get("a") == before
        delivery.ack()
        assert pit.store({"id": "a", "n": 2}, timedelta(0), if_exists="error").outcome == "created"

    @pytest.mark.usefixtures("conditional")
    def test_a_new_body_comes_with_the_next_occurrence_of_a_series_in_a_handler(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a", "n": 1}, _NOW, None, _HOUR)
        delivery = next_of(listener)

        assert pit.store({"id": "a", "n": 2}, keep_schedule=True).outcome == "updated"

        assert listener.get() is None, "the lease of the delivery still runs"
        delivery.ack()
        assert listener.get() is None
        clock.advance(_HOUR)
        following = next_of(listener)
        assert (following.msg, following.scheduled_for) == ({"id": "a", "n": 2}, _NOW + _HOUR)
        following.ack()

    @pytest.mark.usefixtures("conditional")
    def test_a_new_body_of_a_one_shot_in_a_handler_comes_once_more(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        pit.store({"id": "a", "n": 1}, _NOW)
        delivery = next_of(listener)

        assert pit.store({"id": "a", "n": 2}, keep_schedule=True).outcome == "updated"

        with pytest.raises(pitstop.LeaseLost):
            delivery.ack()
        again = next_of(listener)
        assert (again.msg, again.scheduled_for) == ({"id": "a", "n": 2}, _NOW)
        again.ack()
        assert pit.get("a") is None

    @pytest.mark.usefixtures("conditional")
    def test_a_new_body_leaves_time_attempts_and_error(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a", "n": 1}, _NOW)
        next_of(listener).nack("failed", _HOUR)
        before = pit.get("a")
        assert before is not None

        assert pit.store({"id": "a", "n": 2}, _DAY, keep_schedule=True).outcome == "updated"

        after = pit.get("a")
        assert after is not None
        assert (after.due, after.attempts, after.last_error) == (before.due, 1, "failed")
        assert after.revision != before.revision
        clock.advance(_HOUR)
        delivery = next_of(listener)
        assert (delivery.msg["n"], delivery.attempt, delivery.last_error) == (2, 2, "failed")
        delivery.ack()

    @pytest.mark.usefixtures("conditional")
    def test_a_message_that_was_claimed_ahead_comes_with_its_new_body(
        self, pit: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        pit.store_many([({"id": id, "n": 1}, _NOW, None, _HOUR) for id in ("a", "b")])
        with pit.listen(prefetch=2) as listener:
            first = next_of(listener)

            assert pit.store({"id": "b", "n": 2}, keep_schedule=True).outcome == "updated"

            second = next_of(listener)
            assert (first.id, second.id, second.msg["n"], second.attempt) == ("a", "b", 2, 1)
            first.ack()
            second.ack()
            clock.advance(_HOUR)
            for _ in range(2):
                next_of(listener).ack()

    @pytest.mark.usefixtures("conditional")
    def test_several_messages_are_stored_on_the_same_terms(self, pit: pitstop.Pitstop) -> None:
        pit.store({"id": "a", "n": 1}, _NOW, None, _HOUR)
        items = [({"id": id, "n": 2}, _NOW, None, _HOUR) for id in ("a", "b")]

        with pytest.raises(pitstop.Conflict, match="'a' exists already"):
            pit.store_many([*reversed(items), ({"n": 3}, _NOW)], if_exists="error")
        assert [each.id for each in pit.entries()] == ["a"]

        assert [each.outcome for each in pit.store_many(items, if_exists="keep")] == ["kept", "created"]
        assert [each.outcome for each in pit.store_many(items, keep_schedule=True)] == ["updated", "kept"]
        assert [each.message["n"] for each in pit.entries()] == [2, 2]
