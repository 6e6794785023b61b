"""Failed messages: ``nack``, retries, the last attempt, dead messages and ``redrive``."""

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


_LOCK = timedelta(minutes=15)
_ALMOST = timedelta(microseconds=1)


class Failures(Kit):
    """Messages that were nacked, or whose lease ran out."""

    rule = 'docs/semantics.md, "Life of a message"'

    @pytest.fixture
    def delivery(self, pit: pitstop.Pitstop, listener: pitstop.Listener) -> pitstop.Delivery:
        """A delivery of the one-shot message "a", leased for 15 minutes."""
        pit.store({"id": "a", "n": 1}, timedelta(0))
        return next_of(listener)

    def test_a_nacked_message_comes_back_when_its_lease_runs_out(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, delivery: pitstop.Delivery
    ) -> None:
        clock.advance(timedelta(minutes=1))
        delivery.nack("not now")
        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.last_error, entry.attempts) == ("scheduled", "not now", 1)
        assert entry.due == delivery.leased_until
        assert entry.leased_until is None
        clock.advance(_LOCK - timedelta(minutes=1) - _ALMOST)
        assert listener.get() is None

        clock.advance(_ALMOST)

        again = next_of(listener)
        assert (again.attempt, again.last_error, again.key) == (2, "not now", delivery.key)

    @pytest.mark.parametrize(
        ("delay", "instant"),
        [
            (timedelta(0), START),
            (timedelta(seconds=5), START + 5000),
            (timedelta(hours=5), START + 5 * 3_600_000),
            (timedelta(microseconds=1), START + 1),
            (timedelta(microseconds=1001), START + 2),
        ],
        ids=str,
    )
    def test_a_nack_with_a_delay_comes_back_after_it(
        self,
        pit: pitstop.Pitstop,
        listener: pitstop.Listener,
        clock: ManualClock,
        delivery: pitstop.Delivery,
        delay: Any,
        instant: Any,
    ) -> None:
        delivery.nack("x", delay=delay)

        entry = pit.get("a")
        assert entry is not None
        assert entry.due == at(instant)
        if delay:
            clock.advance_to(at(instant) - _ALMOST)
            assert listener.get() is None
            clock.advance_to(at(instant))
        assert next_of(listener).attempt == 2

    @pytest.mark.parametrize("delay", [timedelta(seconds=-1), 5, "soon"], ids=str)
    def test_a_bad_delay_is_refused_and_the_lease_goes_on(
        self, pit: pitstop.Pitstop, delivery: pitstop.Delivery, delay: Any
    ) -> None:
        with pytest.raises(pitstop.ScheduleError, match="delay="):
            delivery.nack("x", delay=delay)

        delivery.ack()
        assert pit.get("a") is None

    @pytest.mark.parametrize(
        ("error", "kept"),
        [
            (ValueError("boom"), "ValueError: boom"),
            ("plain text \u00fc \U0001f3ce", "plain text \u00fc \U0001f3ce"),
            ("nul \0 and \ud800", "nul \\0 and \\ud800"),
            ("x" * 5000, "x" * 1999 + "\u2026"),
            ("$set {'a.b': 1}", "$set {'a.b': 1}"),
            (None, None),
        ],
        ids=["exception", "text", "not_text", "long", "operators", "none"],
    )
    def test_the_error_of_a_nack_is_kept(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, delivery: pitstop.Delivery, error: Any, kept: Any
    ) -> None:
        delivery.nack(error, delay=timedelta(0))

        entry = pit.get("a")
        assert entry is not None
        assert entry.last_error == kept
        assert next_of(listener).last_error == kept

    def test_a_nack_without_an_error_keeps_the_one_before(
        self, listener: pitstop.Listener, delivery: pitstop.Delivery
    ) -> None:
        delivery.nack("first", delay=timedelta(0))
        next_of(listener).nack(delay=timedelta(0))

        assert next_of(listener).last_error == "first"

    def test_retries_grow_by_the_factor_up_to_the_longest_delay(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit = make_pit(retry={"delay": "5s", "factor": 2, "max_delay": "15s"})
        pit.store({"id": "a"}, timedelta(0))
        listener = pit.listen()
        delays = []
        for attempt in range(1, 6):
            delivery = next_of(listener)
            assert delivery.attempt == attempt
            delivery.nack("x")
            entry = pit.get("a")
            assert entry is not None
            assert entry.due is not None
            delays.append((entry.due - clock.now()).total_seconds())
            clock.advance_to(entry.due - _ALMOST)
            assert listener.get() is None
            clock.advance(_ALMOST)

        assert delays == [5, 10, 15, 15, 15]

    def test_a_delay_that_is_said_goes_before_the_configured_one(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit = make_pit(retry={"delay": "5s"})
        pit.store({"id": "a"}, timedelta(0))

        next_of(pit.listen()).nack("x", delay=timedelta(seconds=1))

        entry = pit.get("a")
        assert entry is not None
        assert entry.due == at(START + 1000)

    def test_jitter_spreads_within_its_fraction(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit = make_pit(retry={"delay": "100s", "factor": 1, "jitter": 0.1})
        pit.store_many([({"n": n}, timedelta(0)) for n in range(20)])
        listener = pit.listen()
        for each in iter(listener.get, None):
            each.nack("x")

        delays = [(each.due - clock.now()).total_seconds() for each in pit.entries() if each.due is not None]

        assert len(set(delays)) > 10
        assert all(90 <= each <= 110.001 for each in delays)

    @pytest.mark.parametrize("retry", [{"max_attempts": 3}, {"max_attempts": 3, "delay": "1s"}], ids=str)
    def test_past_its_attempts_a_one_shot_is_dead_and_kept(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock, retry: dict[str, Any]
    ) -> None:
        pit = make_pit(retry=retry)
        pit.store({"id": "a", "n": [1]}, timedelta(0))
        listener = pit.listen()
        for attempt in (1, 2, 3):
            next_of(listener).nack(f"failure {attempt}")
            clock.advance(_LOCK)
            assert (pit.stats().dead == 1) == (attempt == 3)

        clock.advance(timedelta(days=1000))

        assert listener.get() is None
        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.due, entry.leased_until) == ("dead", None, None)
        assert (entry.last_error, entry.attempts) == ("failure 3", 3)
        assert entry.message == {"id": "a", "n": [1]}
        assert pit.entries("dead") == [entry]
        stats = pit.stats()
        assert (stats.scheduled, stats.due, stats.leased, stats.dead, stats.oldest_due) == (0, 0, 0, 1, None)

    def test_the_last_attempt_says_so_even_without_an_error(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        pit.store({"id": "a"}, timedelta(0))
        next_of(pit.listen()).nack()

        entry = pit.get("a")
        assert entry is not None
        assert entry.last_error == "Given up after 1 attempt."

    def test_a_delay_that_is_said_does_not_make_another_attempt(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        pit.store({"id": "a"}, timedelta(0))
        next_of(pit.listen()).nack("x", delay=timedelta(0))

        assert pit.stats().dead == 1

    def test_leases_that_run_out_count_as_attempts(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        """A message that kills its handler is therefore given up at some point."""
        pit = make_pit(retry={"max_attempts": 2})
        pit.store({"id": "a"}, timedelta(0))
        listener = pit.listen()
        for attempt in (1, 2):
            assert next_of(listener).attempt == attempt
            clock.advance(_LOCK)

        assert listener.get() is None

        entry = pit.get("a")
        assert entry is not None
        assert entry.state == "dead"
        assert "Given up after 2 attempts" in (entry.last_error or "")

    def test_the_delivery_of_a_dead_message_is_settled(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        pit.store({"id": "a"}, timedelta(0))
        delivery = next_of(pit.listen())
        delivery.nack("x")
        before = pit.get("a")

        with pytest.raises(pitstop.LeaseLost):
            delivery.ack()

        assert pit.get("a") == before

    def test_a_redriven_message_is_due_now_with_its_id_error_and_key(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        pit.store({"id": "a", "n": [1]}, timedelta(0))
        listener = pit.listen()
        first = next_of(listener)
        first.nack("boom")
        clock.advance(timedelta(days=3))

        assert pit.redrive("a") is True

        entry = pit.get("a")
        assert entry is not None
        assert (entry.state, entry.due, entry.last_error) == ("due", clock.now(), "boom")
        again = next_of(listener)
        assert again.msg == {"id": "a", "n": [1]}
        assert (again.attempt, again.key, again.last_error) == (1, first.key, "boom")
        assert again.scheduled_for == first.scheduled_for
        again.nack("boom again")
        assert pit.stats().dead == 1
        assert pit.redrive("a") is True
        next_of(listener).ack()
        assert pit.get("a") is None

    def test_only_a_dead_message_is_redriven(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        assert pit.redrive("never-stored") is False
        pit.store({"id": "a"}, timedelta(minutes=1))
        pit.store({"id": "b"}, timedelta(0))
        assert pit.redrive("a") is False
        assert pit.redrive("b") is False
        delivery = next_of(pit.listen())
        assert pit.redrive("b") is False
        delivery.nack("x")

        assert pit.redrive("b") is True
        assert pit.redrive("b") is False

    def test_a_dead_message_can_be_removed_or_stored_anew(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        listener = pit.listen()
        for id in "ab":
            pit.store({"id": id}, timedelta(0))
            next_of(listener).nack("x")

        assert pit.remove("a") is True
        pit.store({"id": "b", "new": True}, timedelta(0))

        assert pit.stats().dead == 0
        new = next_of(listener)
        assert (new.msg, new.attempt, new.last_error) == ({"id": "b", "new": True}, 1, None)
