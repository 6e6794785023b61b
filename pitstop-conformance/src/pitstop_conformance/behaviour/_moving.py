"""``reschedule``, ``emit_now`` and ``release``: messages that are moved in time by hand."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import combinations
from typing import Any

import pytest

import pitstop

from pitstop.abc import floor_instant
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of
from pitstop_conformance.behaviour._if_revision import Run, Stepping, entry_of


_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_MINUTE = timedelta(minutes=1)
_LOCK = timedelta(minutes=15)
_NOW = at(START)


class Moving(Kit):
    """Messages that come at another time than the one for which they were stored."""

    rule = "docs/changing-messages.md"

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("when", [2 * _HOUR, "2h", _NOW + 2 * _HOUR], ids=["timedelta", "text", "datetime"])
    @pytest.mark.parametrize("before", [_HOUR, 3 * _HOUR], ids=["later", "earlier"])
    def test_a_one_shot_that_is_rescheduled_is_for_that_time(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, before: timedelta, when: Any
    ) -> None:
        pit.store({"id": "a", "n": 1}, before)

        assert pit.reschedule("a", when) is True

        entry = entry_of(pit, "a")
        assert (entry.due, entry.scheduled_for, entry.message["n"]) == (_NOW + 2 * _HOUR, _NOW + 2 * _HOUR, 1)
        clock.advance(2 * _HOUR - _MINUTE)
        assert listener.get() is None
        clock.advance(_MINUTE)
        delivery = next_of(listener)
        assert delivery.key == f"a:{floor_instant(_NOW + 2 * _HOUR)}"
        delivery.ack()
        assert pit.get("a") is None

    @pytest.mark.usefixtures("conditional")
    def test_a_message_that_is_rescheduled_without_a_time_comes_now(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        pit.store({"id": "a"}, _HOUR)
        assert pit.reschedule("a") is True
        next_of(listener).ack()

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("catch_up", ["latest", "all", "skip"])
    @pytest.mark.parametrize("minutes", [-30, 30], ids=["earlier", "later"])
    def test_the_current_occurrence_of_a_series_is_moved_and_the_others_stay(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, minutes: int, catch_up: Any
    ) -> None:
        """Also if the grace of the occurrence is over by then."""
        grace = _MINUTE if catch_up == "skip" else None
        pit.store({"id": "a"}, _NOW + _HOUR, None, _HOUR, catch_up=catch_up, grace=grace)

        assert pit.reschedule("a", _NOW + _HOUR + minutes * _MINUTE) is True

        assert entry_of(pit, "a").scheduled_for == _NOW + _HOUR
        clock.advance(_HOUR + minutes * _MINUTE - _MINUTE)
        assert listener.get() is None
        clock.advance(_MINUTE)
        delivery = next_of(listener)
        assert (delivery.key, delivery.missed) == (f"a:{floor_instant(_NOW + _HOUR)}", 0)
        delivery.ack()
        entry = entry_of(pit, "a")
        assert (entry.due, entry.start) == (_NOW + 2 * _HOUR, _NOW + _HOUR)

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize(
        ("catch_up", "grace", "expected"),
        [
            ("latest", None, [(3, 2)]),
            ("skip", _MINUTE, [(1, 0)]),
            ("all", None, [(1, 0), (2, 0), (3, 0)]),
            ("all", _MINUTE, [(1, 0)]),
        ],
    )
    def test_occurrences_that_pass_until_then_are_caught_up_with(
        self,
        pit: pitstop.Pitstop,
        listener: pitstop.Listener,
        clock: ManualClock,
        catch_up: Any,
        grace: timedelta | None,
        expected: list[tuple[int, int]],
    ) -> None:
        pit.store({"id": "a"}, _NOW + _HOUR, None, _HOUR, catch_up=catch_up, grace=grace)
        pit.reschedule("a", _NOW + 3 * _HOUR + 30 * _MINUTE)
        clock.advance(3 * _HOUR + 30 * _MINUTE)

        seen = []
        for each in iter(listener.get, None):
            seen.append(((each.scheduled_for - _NOW) // _HOUR, each.missed))
            each.ack()

        assert seen == expected
        assert entry_of(pit, "a").due == _NOW + 4 * _HOUR

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("catch_up", ["skip", "all"])
    @pytest.mark.parametrize(
        ("moves", "come"),
        [
            ([23 * _HOUR], 26 * _HOUR),
            ([25 * _HOUR], 28 * _HOUR),
            ([240 * _HOUR, _HOUR], _HOUR),
            ([240 * _HOUR, None], timedelta(0)),
            ([None], 30 * _HOUR),
        ],
        ids=["earlier", "later", "twice", "then now", "now"],
    )
    def test_the_grace_does_not_count_for_an_occurrence_that_was_moved(
        self,
        pit: pitstop.Pitstop,
        listener: pitstop.Listener,
        clock: ManualClock,
        catch_up: Any,
        moves: list[timedelta | None],
        come: timedelta,
    ) -> None:
        """Its time is chosen by a person. The listener comes late, too."""
        pit.store({"id": "a"}, _NOW + _DAY, None, _DAY, catch_up=catch_up, grace=_HOUR)
        for move in moves:
            assert pit.emit_now("a") if move is None else pit.reschedule("a", move)
            assert entry_of(pit, "a").scheduled_for == _NOW + _DAY
        assert entry_of(pit, "a").due == _NOW + (moves[-1] or timedelta(0))
        clock.advance(come)
        delivery = next_of(listener)
        assert (delivery.key, delivery.missed) == (f"a:{floor_instant(_NOW + _DAY)}", 0)
        delivery.ack()
        assert entry_of(pit, "a").due == _NOW + 2 * _DAY

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("catch_up", ["skip", "all"])
    def test_a_message_that_is_due_and_older_than_its_grace_comes_now(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, catch_up: Any
    ) -> None:
        pit.store({"id": "a"}, _NOW, None, _DAY, catch_up=catch_up, grace=_HOUR)
        clock.advance(4 * _HOUR)
        assert pit.emit_now("a") is True
        next_of(listener).ack()
        assert entry_of(pit, "a").due == _NOW + _DAY

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("every", [None, _HOUR], ids=["one_shot", "series"])
    def test_a_reschedule_ends_a_lease(
        self,
        make_pit: Callable[..., pitstop.Pitstop],
        listener: pitstop.Listener,
        pit: pitstop.Pitstop,
        clock: ManualClock,
        every: timedelta | None,
    ) -> None:
        pit.store({"id": "a"}, _NOW, None, every)
        delivery = next_of(listener)

        assert make_pit().reschedule("a", _MINUTE) is True

        entry = entry_of(pit, "a")
        assert (entry.state, entry.due) == ("scheduled", _NOW + _MINUTE)
        for settle in (delivery.extend, delivery.ack):
            with pytest.raises(pitstop.LeaseLost):
                settle()
        clock.advance(_MINUTE)
        next_of(listener).ack()

    @pytest.mark.usefixtures("conditional")
    def test_a_handler_may_reschedule_its_own_message(self, pit: pitstop.Pitstop, clock: ManualClock) -> None:
        """As a handler does that puts its work off."""
        pit.store({"id": "a"}, _NOW)
        summary = pit.consume(lambda message: pit.reschedule("a", _HOUR), until_idle=True)
        assert (summary.superseded, summary.lost) == (1, 0)
        clock.advance(_HOUR)
        assert pit.consume(lambda message: None, until_idle=True).acked == 1

    @pytest.mark.usefixtures("conditional")
    def test_attempts_before_a_reschedule_are_not_held_against_a_series(
        self, make_pit: Callable[..., pitstop.Pitstop]
    ) -> None:
        pit = make_pit(retry={"max_attempts": 2, "delay": 60})
        pit.store({"id": "a"}, _NOW, _NOW + _HOUR, _HOUR)
        attempts = []
        with pit.listen() as listener:
            for _ in range(3):
                delivery = next_of(listener)
                attempts.append(delivery.attempt)
                delivery.nack("failed")
                assert pit.reschedule("a") is True
            assert attempts == [1, 2, 3], "the key stays, so the attempts are counted on"
            entry = entry_of(pit, "a")
            assert (entry.attempts, entry.last_error) == (3, "failed")
            for _ in range(2):
                next_of(listener).nack("failed", timedelta(0))
            assert entry_of(pit, "a").state == "dead"

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("every", [None, _HOUR], ids=["one_shot", "series"])
    def test_a_dead_message_that_is_rescheduled_comes_to_life(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock, every: timedelta | None
    ) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        pit.store({"id": "a"}, _NOW, None if every is None else _NOW + _HOUR, every)
        with pit.listen() as listener:
            next_of(listener).nack("failed")
            assert entry_of(pit, "a").state == "dead"

            assert pit.reschedule("a", _HOUR) is True

            assert listener.get() is None
            clock.advance(_HOUR)
            delivery = next_of(listener)
            assert delivery.last_error == "failed"
            delivery.ack()
            assert pit.get("a") is None

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("every", [None, _HOUR], ids=["one_shot", "series"])
    def test_a_message_comes_now_and_all_else_stays(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, every: timedelta | None
    ) -> None:
        pit.store({"id": "a"}, _NOW + _DAY, None, every)

        assert pit.emit_now("a") is True

        entry = entry_of(pit, "a")
        assert (entry.state, entry.due, entry.scheduled_for) == ("due", _NOW, _NOW + _DAY)
        delivery = next_of(listener)
        assert (delivery.key, delivery.attempt, delivery.missed) == (f"a:{floor_instant(_NOW + _DAY)}", 1, 0)
        delivery.nack("failed", _HOUR)
        clock.advance(_HOUR)
        again = next_of(listener)
        assert (again.key, again.attempt) == (delivery.key, 2)
        again.ack()
        after = pit.get("a")
        assert (None if after is None else after.due) == (None if every is None else _NOW + _DAY + every)

    @pytest.mark.usefixtures("conditional")
    def test_a_message_that_waits_for_its_retry_comes_now(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, _NOW, None, _DAY)
        first = next_of(listener)
        clock.advance(_MINUTE)
        first.nack("failed", _HOUR)

        assert pit.emit_now("a") is True

        again = next_of(listener)
        assert (again.key, again.attempt, again.last_error) == (first.key, 2, "failed")
        again.ack()
        assert entry_of(pit, "a").due == _NOW + _DAY

    @pytest.mark.usefixtures("conditional")
    def test_a_message_that_is_leased_or_dead_does_not_come_now(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        pit.store({"id": "a"}, _NOW)
        with pit.listen() as listener:
            delivery = next_of(listener)
            before = pit.get("a")
            assert pit.emit_now("a") is False
            assert pit.get("a") == before
            delivery.nack("failed")
            before = pit.get("a")
            assert pit.emit_now("a") is False
            assert pit.get("a") == before

    @pytest.mark.usefixtures("conditional")
    def test_a_message_that_is_due_stays_as_it_is_and_comes_now(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, _NOW)
        before = pit.get("a")
        assert pit.emit_now("a") is True
        assert pit.get("a") == before
        next_of(listener)
        clock.advance(_LOCK)
        assert pit.emit_now("a") is True, "its lease has run out"
        assert next_of(listener).attempt == 2

    def test_a_lease_that_is_released_is_over(
        self, make_pit: Callable[..., pitstop.Pitstop], pit: pitstop.Pitstop, listener: pitstop.Listener
    ) -> None:
        pit.store({"id": "a"}, _NOW, None, _HOUR)
        delivery = next_of(listener)

        assert make_pit().release("a") is True

        entry = entry_of(pit, "a")
        assert (entry.state, entry.due, entry.attempts) == ("due", _NOW, 1)
        again = next_of(listener)
        assert (again.key, again.attempt) == (delivery.key, 2)
        for settle in (delivery.extend, delivery.ack):
            with pytest.raises(pitstop.LeaseLost):
                settle()
        again.ack()
        assert entry_of(pit, "a").due == _NOW + _HOUR

    def test_a_message_that_is_not_leased_is_not_released(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock
    ) -> None:
        pit = make_pit(retry={"max_attempts": 2, "delay": 60})
        pit.store({"id": "a"}, _MINUTE)
        with pit.listen() as listener:
            for _ in range(2):
                before = pit.get("a")
                assert pit.release("a") is False
                assert pit.get("a") == before
                clock.advance(_MINUTE)
            next_of(listener).nack("failed")
            assert pit.release("a") is False, "it waits for its retry"
            clock.advance(_MINUTE)
            next_of(listener)
            clock.advance(_LOCK)
            assert pit.release("a") is False, "its lease has run out"
            assert listener.get() is None
            assert entry_of(pit, "a").state == "dead"
            assert pit.release("a") is False

    def test_a_message_that_kills_its_worker_dies_although_its_leases_are_released(
        self, make_pit: Callable[..., pitstop.Pitstop]
    ) -> None:
        pit = make_pit(retry={"max_attempts": 2})
        pit.store({"id": "a"}, _NOW)
        for _ in range(2):
            with make_pit(retry={"max_attempts": 2}).listen(prefetch=1) as listener:
                next_of(listener)
                assert pit.release("a") is True
        with pit.listen(prefetch=1) as listener:
            assert listener.get() is None
        assert entry_of(pit, "a").state == "dead"

    def test_a_message_that_was_claimed_ahead_and_released_comes_once(self, pit: pitstop.Pitstop) -> None:
        pit.store_many([({"id": id}, _NOW) for id in "ab"])
        with pit.listen(prefetch=2) as listener:
            first = next_of(listener)
            (other,) = {"a", "b"} - {first.id}

            assert pit.release(other) is True

            seen = list(iter(listener.get, None))
            assert [each.id for each in seen] == [other]
            first.ack()
            seen[0].ack()
        assert pit.entries() == []

    @pytest.mark.usefixtures("conditional")
    def test_a_message_that_is_not_there_is_not_moved(self, pit: pitstop.Pitstop) -> None:
        assert (pit.reschedule("a", _HOUR), pit.emit_now("a"), pit.release("a")) == (False, False, False)
        assert pit.get("a") is None

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("change", ["reschedule", "emit_now"])
    @pytest.mark.parametrize("fails", [False, True], ids=["acked", "nacked"])
    def test_no_interleaving_of_a_move_and_a_run_brings_a_message_back(
        self, open_backend: Handles, fails: bool, change: str
    ) -> None:
        """A message that was acknowledged is not created again."""
        wire = Stepping(open_backend())
        with pitstop.init({"type": wire}) as pit, pitstop.init({"type": open_backend.peer()}) as other:
            for order in combinations(range(4), 2):
                pit.store({"id": "a", "n": 1}, _NOW)
                with other.listen() as listener:
                    run = Run(listener, fails=fails)
                    with wire.stepping(order, run.step):
                        getattr(pit, change)("a")
                    run.finish()
                # A reschedule may take the message from its handler, as a store does. It comes again then.
                assert len(run.sent) == 1 + run.lost, f"the calls {order} are of the run"
                assert not run.lost or change == "reschedule"
                assert pit.get("a") is None
