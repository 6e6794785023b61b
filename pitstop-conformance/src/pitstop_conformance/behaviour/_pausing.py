"""``pause`` and ``resume``: messages that are kept, and not emitted until a person or a time ends their pause."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import combinations
from typing import Any, ClassVar

import pytest

import pitstop

from pitstop.abc import Backend, Capability, floor_instant
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Handles, Kit, needs
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._delivery import next_of
from pitstop_conformance.behaviour._if_revision import Run, Stepping, entry_of


_MINUTE, _HOUR, _DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
_LOCK = timedelta(minutes=15)
_NOW = at(START)


class _Stepping(Stepping):
    """A connection of :class:`Stepping` to a backend that keeps policies."""

    capabilities: ClassVar[Capability] = Stepping.capabilities | Capability.POLICIES


class Pausing(Kit):
    """A paused message is not emitted, and nothing else of it changes."""

    rule = 'docs/changing-messages.md, "Pause and resume"'

    @pytest.fixture
    def pausing(self, backend: Backend) -> None:
        """End the test if the backend has no paused messages."""
        needs(backend, Capability.CONDITIONAL)
        needs(backend, Capability.POLICIES)

    def test_a_pause_that_the_store_cannot_keep_is_refused(self, pit: pitstop.Pitstop, backend: Backend) -> None:
        pit.store({"id": "a"}, _NOW)
        if Capability.CONDITIONAL | Capability.POLICIES in backend.capabilities:
            assert pit.pause("a") is True
            return
        with pytest.raises(pitstop.Unsupported, match="capability"):
            pit.pause("a")
        assert entry_of(pit, "a").state == "due"

    @pytest.mark.usefixtures("pausing")
    @pytest.mark.parametrize("when", [_NOW, _NOW + 2 * _HOUR], ids=["due", "scheduled"])
    @pytest.mark.parametrize("every", [None, _DAY], ids=["one_shot", "series"])
    def test_a_paused_message_comes_after_its_resume_and_not_before(
        self,
        make_pit: Callable[..., pitstop.Pitstop],
        listener: pitstop.Listener,
        clock: ManualClock,
        when: Any,
        every: timedelta | None,
    ) -> None:
        pit = make_pit()
        pit.store({"id": "a", "n": 1}, when, None, every)

        assert pit.pause("a") is True

        entry = entry_of(pit, "a")
        assert (entry.state, entry.due, entry.paused_until) == ("paused", None, None)
        assert (entry.scheduled_for, entry.attempts, entry.message["n"]) == (when, 0, 1)
        assert [each.id for each in pit.entries("paused")] == ["a"]
        assert (pit.stats().paused, pit.stats().scheduled, pit.stats().due, pit.stats().dead) == (1, 0, 0, 0)
        clock.advance(_HOUR)
        assert listener.get() is None
        assert pit.resume("a") is True
        entry = entry_of(pit, "a")
        assert entry.due == max(when, _NOW + _HOUR), "it has its own time, or comes now if that has passed"
        clock.advance(entry.due - pit.now())
        delivery = next_of(listener)
        assert (delivery.key, delivery.attempt) == (f"a:{floor_instant(when)}", 1)
        delivery.ack()
        assert pit.stats().paused == 0

    @pytest.mark.usefixtures("pausing")
    @pytest.mark.parametrize("until", [_HOUR, "1h", _NOW + _HOUR], ids=["timedelta", "text", "datetime"])
    @pytest.mark.parametrize("own", [0, 30, 90], ids=["due", "before its end", "after its end"])
    def test_a_pause_with_an_end_ends_by_itself(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock, until: Any, own: int
    ) -> None:
        pit.store({"id": "a"}, _NOW + own * _MINUTE)

        assert pit.pause("a", until) is True

        assert (entry_of(pit, "a").state, entry_of(pit, "a").paused_until) == ("paused", _NOW + _HOUR)
        come = max(own, 60) * _MINUTE
        clock.advance(come - timedelta(milliseconds=1))
        assert listener.get() is None
        clock.advance(timedelta(milliseconds=1))
        delivery = next_of(listener)
        assert (delivery.attempt, delivery.scheduled_for) == (1, _NOW + own * _MINUTE)
        assert pit.resume("a") is False, "the pause is over"
        delivery.nack("failed", _MINUTE)
        clock.advance(_MINUTE)
        again = next_of(listener)
        assert again.attempt == 2
        again.ack()

    @pytest.mark.usefixtures("pausing")
    @pytest.mark.parametrize(
        ("catch_up", "grace", "expected"),
        [("latest", None, [3]), ("skip", 10 * _MINUTE, []), ("skip", _HOUR, [3]), ("all", None, [0, 1, 2, 3])],
    )
    @pytest.mark.parametrize("until", [None, _NOW + 3 * _HOUR + 30 * _MINUTE], ids=["by hand", "by itself"])
    def test_occurrences_that_pass_during_a_pause_are_caught_up_with(
        self,
        pit: pitstop.Pitstop,
        listener: pitstop.Listener,
        clock: ManualClock,
        catch_up: Any,
        grace: timedelta | None,
        expected: list[int],
        until: Any,
    ) -> None:
        pit.store({"id": "a"}, _NOW, None, _HOUR, catch_up=catch_up, grace=grace)
        pit.pause("a", until)
        clock.advance(3 * _HOUR + 30 * _MINUTE)
        if until is None:
            assert listener.get() is None
            pit.resume("a")

        seen = []
        for each in iter(listener.get, None):
            seen.append((each.scheduled_for - _NOW) // _HOUR)
            each.ack()

        assert seen == expected
        entry = entry_of(pit, "a")
        assert (entry.state, entry.due) == ("scheduled", _NOW + 4 * _HOUR)

    @pytest.mark.usefixtures("pausing")
    def test_expires_counts_during_a_pause(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store_many([({"id": "late"}, _NOW), ({"id": "waiting"}, _NOW)], expires=_HOUR)
        assert pit.pause("late") is pit.pause("waiting") is True
        clock.advance(2 * _HOUR)
        assert entry_of(pit, "waiting").expires == _HOUR
        pit.resume("late")
        assert listener.get() is None
        assert [each.id for each in pit.entries()] == ["waiting"], "a paused message is not deleted"

    @pytest.mark.usefixtures("pausing")
    @pytest.mark.parametrize("until", [None, _DAY], ids=["without end", "with an end"])
    def test_the_ack_of_a_message_that_is_paused_meanwhile_counts(
        self, make_pit: Callable[..., pitstop.Pitstop], listener: pitstop.Listener, clock: ManualClock, until: Any
    ) -> None:
        pit = make_pit()
        pit.store_many([({"id": "one"}, _NOW), ({"id": "series"}, _NOW, None, _HOUR)])
        deliveries = {each.id: each for each in (next_of(listener), next_of(listener))}
        for id in deliveries:
            assert pit.pause(id, until) is True
            entry = entry_of(pit, id)
            assert (entry.state, entry.paused_until) == ("leased", None if until is None else _NOW + until)

        for each in deliveries.values():
            each.extend()
            each.ack()

        assert pit.get("one") is None
        assert entry_of(pit, "series").state == "paused"
        clock.advance(3 * _HOUR)
        assert listener.get() is None, "the next occurrence is not emitted"
        entry = entry_of(pit, "series")
        assert (entry.state, entry.attempts, entry.scheduled_for) == ("paused", 0, _NOW + _HOUR)
        assert pit.stats() == pitstop.Stats(scheduled=0, due=0, leased=0, dead=0, oldest_due=None, paused=1)
        assert pit.resume("series") is True
        delivery = next_of(listener)
        assert (delivery.scheduled_for, delivery.attempt, delivery.missed) == (_NOW + 3 * _HOUR, 1, 2)

    @pytest.mark.usefixtures("pausing")
    @pytest.mark.parametrize("prefetch", [1, 5])
    def test_a_retry_of_a_message_that_is_paused_meanwhile_waits(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock, prefetch: int
    ) -> None:
        pit = make_pit(retry={"max_attempts": 2, "delay": 60})
        pit.store({"id": "a"}, _NOW)
        with pit.listen(prefetch=prefetch) as listener:
            delivery = next_of(listener)
            pit.pause("a")
            delivery.nack("failed")
            for _ in range(3):
                clock.advance(_HOUR)
                assert listener.get() is None
                entry = entry_of(pit, "a")
                assert (entry.state, entry.attempts, entry.last_error) == ("paused", 1, "failed")
            pit.resume("a")
            again = next_of(listener)
            assert (again.attempt, again.key) == (2, delivery.key)
            again.ack()

    @pytest.mark.usefixtures("pausing")
    @pytest.mark.parametrize("meanwhile", [False, True], ids=["after its lease", "during its lease"])
    def test_a_pause_is_no_crash(
        self, make_pit: Callable[..., pitstop.Pitstop], clock: ManualClock, meanwhile: bool
    ) -> None:
        """One lease has run out. Claims that find the message paused, and the end of the pause, count for nothing."""
        pit = make_pit(retry={"max_attempts": 2})
        pit.store({"id": "a"}, _NOW)
        with make_pit().listen(prefetch=1) as crashed:
            next_of(crashed)
            if meanwhile:
                pit.pause("a")
            clock.advance(_LOCK)
            if not meanwhile:
                pit.pause("a")
            with pit.listen(prefetch=1) as listener:
                for _ in range(3):
                    assert listener.get() is None
                    pit.pause("a", _HOUR)
                    clock.advance(_HOUR - _MINUTE)
                assert pit.resume("a") is True
                delivery = next_of(listener)
                assert delivery.attempt == 2
                delivery.ack()
        assert pit.entries() == []

    @pytest.mark.usefixtures("pausing")
    def test_a_message_that_was_claimed_ahead_here_is_not_emitted_once_it_is_paused(self, pit: pitstop.Pitstop) -> None:
        pit.store_many([({"id": id}, _NOW) for id in "ab"])
        with pit.listen(prefetch=2) as listener:
            first = next_of(listener)
            (other,) = {"a", "b"} - {first.id}
            assert pit.pause(other) is True
            assert listener.get() is None
            entry = entry_of(pit, other)
            assert (entry.state, entry.attempts) == ("paused", 0)
            pit.resume(other)
            assert next_of(listener).attempt == 1

    @pytest.mark.usefixtures("pausing")
    def test_a_second_pause_changes_its_end_alone(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, clock: ManualClock
    ) -> None:
        pit.store({"id": "a"}, _NOW + 3 * _HOUR)
        for until in (_NOW + _DAY, None, _NOW + 2 * _DAY, _NOW + _HOUR):
            assert pit.pause("a", until) is True
            entry = entry_of(pit, "a")
            assert (entry.state, entry.paused_until) == ("paused", until)
        pit.pause("a", _NOW + _DAY)
        assert pit.resume("a") is True
        assert entry_of(pit, "a").due == _NOW + 3 * _HOUR
        clock.advance(3 * _HOUR)
        next_of(listener).ack()

    @pytest.mark.usefixtures("pausing")
    def test_a_message_that_is_not_there_or_dead_is_not_paused(self, make_pit: Callable[..., pitstop.Pitstop]) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        assert (pit.pause("a"), pit.resume("a")) == (False, False)
        assert pit.get("a") is None
        pit.store({"id": "a"}, _NOW)
        assert pit.resume("a") is False
        with pit.listen() as listener:
            next_of(listener).nack("failed")
        before = pit.get("a")
        assert (pit.pause("a"), pit.resume("a")) == (False, False)
        assert pit.get("a") == before

    @pytest.mark.usefixtures("pausing")
    @pytest.mark.parametrize("until", [None, _DAY], ids=["without end", "with an end"])
    def test_a_store_ends_a_pause_and_an_edit_keeps_it(
        self, pit: pitstop.Pitstop, listener: pitstop.Listener, until: Any
    ) -> None:
        for id in ("stored", "kept", "same", "edited", "edited body"):
            pit.store({"id": id, "n": 1}, _NOW, lock_time="2h")
            pit.pause(id, until)
        kept = entry_of(pit, "kept")
        edited, body = entry_of(pit, "edited"), entry_of(pit, "edited body")

        pit.store({"id": "kept", "n": 2}, _NOW + _HOUR, keep_schedule=True)
        assert pit.store({"id": "same", "n": 2}, _NOW, lock_time="2h", if_exists="keep").outcome == "kept"
        pit.store({"id": "edited", "n": 2}, _NOW - _HOUR, lock_time="3h", if_revision=edited.revision)
        pit.store({"id": "edited body", "n": 2}, _NOW, keep_schedule=True, if_revision=body.revision)

        assert listener.get() is None
        for id in ("kept", "same", "edited", "edited body"):
            entry = entry_of(pit, id)
            assert (entry.state, entry.paused_until) == ("paused", kept.paused_until), id
            assert entry.message["n"] == (1 if id == "same" else 2)
        assert entry_of(pit, "edited").lock_time == timedelta(hours=3)
        pit.store({"id": "stored", "n": 2}, _NOW)
        assert next_of(listener).id == "stored"
        for id in ("kept", "same", "edited", "edited body"):
            pit.resume(id)
        assert {each.id for each in iter(listener.get, None)} == {"kept", "same", "edited", "edited body"}

    @pytest.mark.usefixtures("pausing")
    @pytest.mark.parametrize("until", [None, _DAY], ids=["without end", "with an end"])
    @pytest.mark.parametrize("every", [None, _HOUR], ids=["one_shot", "series"])
    def test_a_paused_message_stays_paused_whatever_moves_it(
        self,
        pit: pitstop.Pitstop,
        listener: pitstop.Listener,
        clock: ManualClock,
        every: timedelta | None,
        until: Any,
    ) -> None:
        pit.store({"id": "a"}, _NOW, None, every)
        pit.pause("a", until)
        before = pit.get("a")
        assert (pit.emit_now("a"), pit.release("a"), pit.redrive("a")) == (False, False, False)
        assert pit.redrive_many(["a"]) == 0
        assert pit.redrive_many(prefix="a") == 0
        assert pit.get("a") == before

        assert pit.reschedule("a", _MINUTE) is True

        assert entry_of(pit, "a").state == "paused"
        clock.advance(_MINUTE / 2)
        assert listener.get() is None
        assert pit.resume("a") is True
        assert entry_of(pit, "a").due == _NOW + _MINUTE
        clock.advance(_MINUTE / 2)
        next_of(listener).ack()

    @pytest.mark.usefixtures("pausing")
    def test_a_message_that_dies_during_a_pause_is_paused_after_its_redrive(
        self, make_pit: Callable[..., pitstop.Pitstop]
    ) -> None:
        pit = make_pit(retry={"max_attempts": 1})
        pit.store({"id": "a"}, _NOW)
        with pit.listen() as listener:
            delivery = next_of(listener)
            pit.pause("a")
            delivery.nack("failed")
            assert entry_of(pit, "a").state == "dead"
            before = pit.get("a")
            assert pit.resume("a") is False, "it is dead, and not paused"
            assert pit.get("a") == before
            assert pit.redrive("a") is True
            assert entry_of(pit, "a").state == "paused"
            assert listener.get() is None
            pit.resume("a")
            assert next_of(listener).attempt == 1

    @pytest.mark.usefixtures("pausing")
    def test_a_paused_message_can_be_removed(self, pit: pitstop.Pitstop, listener: pitstop.Listener) -> None:
        pit.store({"id": "a"}, _NOW)
        pit.pause("a")
        assert pit.remove("a") is True
        assert pit.resume("a") is False
        assert pit.get("a") is None
        assert listener.get() is None

    @pytest.mark.usefixtures("pausing")
    @pytest.mark.parametrize("fails", [False, True], ids=["acked", "nacked"])
    def test_no_interleaving_of_a_pause_and_a_run_loses_or_repeats_a_message(
        self, open_backend: Handles, fails: bool
    ) -> None:
        """A message is handled, or paused. One that was acknowledged is not created again."""
        wire = _Stepping(open_backend())
        with pitstop.init({"type": wire}) as pit, pitstop.init({"type": open_backend.peer()}) as other:
            for order in combinations(range(4), 2):
                pit.store({"id": "a", "n": 1}, _NOW)
                with other.listen() as listener:
                    run = Run(listener, fails=fails)
                    with wire.stepping(order, run.step):
                        paused = pit.pause("a")
                    run.finish()
                    entry = pit.get("a")
                    if entry is None:
                        assert len(run.sent) == 1, f"the calls {order} are of the run"
                        continue
                    assert entry.state == "paused", f"the calls {order} are of the run"
                    assert paused
                    assert len(run.sent) <= 1
                    assert pit.resume("a")
                    again = next_of(listener)
                    assert again.attempt == entry.attempts + 1
                    again.ack()
