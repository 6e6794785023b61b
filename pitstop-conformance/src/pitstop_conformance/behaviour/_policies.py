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


_NOW = at(START)
_SECOND, _MINUTE, _HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


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
