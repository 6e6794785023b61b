"""The policies of single messages: retry, lock time and expiry, on one store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pytest

import pitstop

from pitstop.abc import Backend, Capability
from pitstop.testing import ManualClock
from pitstop_conformance._kit import Kit, needs
from pitstop_conformance._records import START, at
from pitstop_conformance.behaviour._if_revision import entry_of


_NOW = at(START)
_SECOND, _MINUTE, _HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
_DAY = timedelta(days=1)


class Policies(Kit):
    """Messages with a retry, a lock time or a limit of age of their own."""

    rule = 'docs/semantics.md, "Policies of a message"'

    @pytest.fixture
    def lenient_pit(self, pit: pitstop.Pitstop, backend: Backend) -> pitstop.Pitstop:
        needs(backend, Capability.POLICIES)
        return pit

    def test_a_policy_that_the_store_cannot_keep_is_refused(self, pit: pitstop.Pitstop, backend: Backend) -> None:
        if Capability.POLICIES in backend.capabilities:
            pit.store({"id": "a"}, lock_time="2h")
            entry = pit.get("a")
            assert entry is not None
            assert entry.lock_time == 2 * _HOUR
            return
        with pytest.raises(pitstop.Unsupported, match="capability POLICIES"):
            pit.store({"id": "a"}, lock_time="2h")
        assert pit.entries() == []

    def test_an_entry_has_everything_that_was_stored(self, lenient_pit: pitstop.Pitstop) -> None:
        lenient_pit.store({"id": "a"}, retry={"delay": "5s", "max_attempts": 3}, lock_time="2h", expires="10m")
        entry = lenient_pit.get("a")
        assert entry is not None
        assert entry.retry == {"delay": 5 * _SECOND, "max_attempts": 3}
        assert (entry.lock_time, entry.expires) == (2 * _HOUR, 10 * _MINUTE)

    def test_a_nack_follows_the_retry_of_the_message(self, lenient_pit: pitstop.Pitstop, clock: ManualClock) -> None:
        lenient_pit.store({"id": "a"}, _NOW, retry={"delay": "5s", "max_attempts": 2})
        for attempt in (1, 2):
            with lenient_pit.listen() as listener:
                delivery = listener.get()
                assert delivery is not None
                assert delivery.attempt == attempt
                delivery.nack("failed")
            entry = lenient_pit.get("a")
            assert entry is not None
            assert entry.due == (None if attempt == 2 else _NOW + 5 * _SECOND)
            clock.advance(5)

    @pytest.mark.parametrize("prefetch", [1, 5])
    @pytest.mark.parametrize("own", [2 * _HOUR, 30 * _SECOND], ids=["longer", "shorter"])
    def test_a_message_with_a_lock_time_does_not_come_back_before_it_is_over(
        self,
        make_pit: Callable[..., pitstop.Pitstop],
        backend: Backend,
        clock: ManualClock,
        own: timedelta,
        prefetch: int,
    ) -> None:
        """The listener's time is ten minutes."""
        needs(backend, Capability.POLICIES)
        first, second = make_pit(lock_time="10m"), make_pit(lock_time="10m")
        first.store_many([({"id": "a"}, _NOW), ({"id": "b"}, _NOW)], lock_time=own)
        with first.listen(prefetch=prefetch) as listener:
            got = [listener.get(), listener.get()]
            assert [each is not None and each.leased_until for each in got] == [_NOW + own] * 2
            clock.advance(own.total_seconds() - 1)
            with second.listen() as other:
                assert other.get() is None
                clock.advance(1)
                again = other.get()
                assert again is not None
                assert again.attempt == 2
                assert again.leased_until == _NOW + 2 * own

    def test_a_late_message_is_not_emitted_and_a_series_goes_on(
        self, lenient_pit: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        lenient_pit.store_many([({"id": f"late-{n}"}, _NOW) for n in range(3)], expires="10m")
        lenient_pit.store({"id": "series"}, _NOW, None, _HOUR, expires="10m")
        lenient_pit.store({"id": "in time"}, _NOW, expires="3h")
        clock.advance(2 * 3600 + 601)

        with lenient_pit.listen() as listener:
            handled = [each.id for each in iter(listener.get, None)]

        assert handled == ["in time"]
        assert lenient_pit.get("late-0") is lenient_pit.get("late-2") is None
        entry = lenient_pit.get("series")
        assert entry is not None
        assert (entry.state, entry.due, entry.expires) == ("scheduled", _NOW + 3 * _HOUR, 10 * _MINUTE)

    def test_a_retry_that_comes_too_late_is_not_emitted(self, lenient_pit: pitstop.Pitstop, clock: ManualClock) -> None:
        lenient_pit.store({"id": "a"}, _NOW, expires="10m")
        with lenient_pit.listen() as listener:
            delivery = listener.get()
            assert delivery is not None
            delivery.nack("failed", delay=11 * _MINUTE)
            clock.advance(11 * 60)
            assert listener.get() is None
        assert lenient_pit.get("a") is None

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("change", ["reschedule", "emit_now", "release", "redrive"])
    @pytest.mark.parametrize("every", [None, _HOUR], ids=["one_shot", "series"])
    def test_a_change_by_hand_leaves_the_policies(
        self, lenient_pit: pitstop.Pitstop, backend: Backend, change: str, every: timedelta | None
    ) -> None:
        kind = "mail" if Capability.KINDS in backend.capabilities else ""
        start = _NOW + _HOUR if change in {"reschedule", "emit_now"} else _NOW
        end = None if every is None else start + every
        retry = {"max_attempts": 1}
        lenient_pit.store({"id": "a"}, start, end, every, kind=kind, retry=retry, lock_time="2h", expires="3h")
        with lenient_pit.listen() as listener:
            delivery = listener.get()
            assert (delivery is None) == (start > _NOW)
            if delivery is not None and change == "redrive":
                delivery.nack("failed")

            assert getattr(lenient_pit, change)("a") is True

            entry = entry_of(lenient_pit, "a")
            assert (entry.state, entry.kind, entry.retry) == ("due", kind, retry)
            assert (entry.lock_time, entry.expires) == (2 * _HOUR, 3 * _HOUR)
            if change != "release":
                again = listener.get()
                assert again is not None
                assert again.leased_until == _NOW + 2 * _HOUR

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("change", ["reschedule", "emit_now", "redrive"])
    @pytest.mark.parametrize("every", [None, _DAY], ids=["one_shot", "series"])
    def test_a_message_that_a_person_moves_is_not_too_old(
        self, lenient_pit: pitstop.Pitstop, clock: ManualClock, change: str, every: timedelta | None
    ) -> None:
        """Its ``expires`` counts from the chosen time, and for the next occurrence from the nominal time again."""
        end = None if every is None else _NOW + 2 * every
        lenient_pit.store({"id": "a"}, _NOW, end, every, expires="10m", retry={"max_attempts": 1, "delay": "1h"})
        if change == "redrive":
            with lenient_pit.listen() as listener:
                failed = listener.get()
                assert failed is not None
                failed.nack("failed")
            if every is not None:
                # The series has gone on to its last occurrence.
                clock.advance(86400)
                with lenient_pit.listen() as listener:
                    failed = listener.get()
                    assert failed is not None
                    failed.nack("failed")
        before = entry_of(lenient_pit, "a")
        clock.advance(3600)

        assert getattr(lenient_pit, change)("a") is True

        moved = entry_of(lenient_pit, "a")
        assert (moved.state, moved.expires) == ("due", 10 * _MINUTE)
        clock.advance(600)
        with lenient_pit.listen() as listener:
            delivery = listener.get()
            assert delivery is not None, "ten minutes after the chosen time it is not too late"
            is_new = change == "reschedule" and every is None
            assert delivery.scheduled_for == (_NOW + _HOUR if is_new else before.scheduled_for)
            delivery.ack()
            clock.advance(86400)
            assert listener.get() is None, "there is no next occurrence, or it is too late for it"
        assert lenient_pit.get("a") is None

    @pytest.mark.usefixtures("conditional")
    def test_a_message_that_a_person_moved_expires_later(
        self, lenient_pit: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        lenient_pit.store({"id": "a"}, _NOW, None, _DAY, expires="10m")
        lenient_pit.reschedule("a", "2h")
        clock.advance(2 * 3600 + 601)
        with lenient_pit.listen() as listener:
            assert listener.get() is None
        assert entry_of(lenient_pit, "a").scheduled_for == _NOW + _DAY

    @pytest.mark.usefixtures("conditional")
    @pytest.mark.parametrize("terms", ["edit", "body", "keep"])
    @pytest.mark.parametrize("every", [None, _HOUR], ids=["one_shot", "series"])
    def test_an_entry_that_is_stored_again_with_all_its_fields_keeps_its_policies(
        self, lenient_pit: pitstop.Pitstop, every: timedelta | None, terms: str
    ) -> None:
        lenient_pit.store({"id": "a"}, _NOW, None, every, retry={"delay": "5s"}, lock_time="2h", expires="10m")
        lenient_pit.reschedule("a", "1h")
        before = entry_of(lenient_pit, "a")
        start = before.scheduled_for if before.start is None else before.start

        stored = lenient_pit.store(
            before.message,
            start,
            before.end,
            before.every,
            retry=before.retry,
            lock_time=before.lock_time,
            expires=before.expires,
            if_exists="keep" if terms == "keep" else "replace",
            if_revision=before.revision if terms == "edit" else None,
            keep_schedule=terms == "body",
        )

        assert stored.outcome == ("replaced" if terms == "edit" else "kept")
        after = entry_of(lenient_pit, "a")
        assert (after.retry, after.lock_time, after.expires) == (before.retry, before.lock_time, before.expires)
        if terms != "edit":
            assert after == before

    @pytest.mark.usefixtures("conditional")
    def test_a_policy_that_is_left_out_is_removed_and_a_move_stays_with_the_times(
        self, lenient_pit: pitstop.Pitstop, clock: ManualClock
    ) -> None:
        lenient_pit.store({"id": "a"}, _NOW, None, _DAY, lock_time="2h", expires="10m")
        lenient_pit.reschedule("a", "1h")
        lenient_pit.store({"id": "a"}, expires="5m", keep_schedule=True)
        entry = entry_of(lenient_pit, "a")
        assert (entry.lock_time, entry.expires, entry.due) == (None, 5 * _MINUTE, _NOW + _HOUR)
        clock.advance(3600 + 300)
        with lenient_pit.listen() as listener:
            delivery = listener.get()
            assert delivery is not None
            assert delivery.scheduled_for == _NOW
