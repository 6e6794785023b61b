"""A clock that stands still until a test moves it."""

from __future__ import annotations

import os

from datetime import UTC, datetime, timedelta
from threading import TIMEOUT_MAX, Condition
from weakref import WeakSet

from pitstop._errors import PitstopError, ScheduleError
from pitstop._values._arguments import seconds_of, whole_number
from pitstop._values._duration import parse_duration
from pitstop._values._instant import LAST_INSTANT, aware, microseconds, span_of_time
from pitstop._values._plain import shown
from pitstop.abc import Doorbell


__all__ = ["ManualClock", "span_of"]


_clocks: WeakSet[ManualClock] = WeakSet()


def _after_fork() -> None:
    for clock in list(_clocks):
        clock.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ManualClock:
    """A clock that a test moves: give it as ``clock`` to the configuration of a backend. Thread-safe.

    A wait ends when the clock is moved past its time, not before. So the thread that moves the clock must not wait by it. In a
    test of one thread, call ``listener.get()``, which does not wait, and not ``listener.get(timeout=3)``.
    """

    def __init__(self, start: datetime | None = None) -> None:
        """Start at ``start``, an aware datetime; by default at 2020-01-01T00:00Z, the same in every run.

        The start is cut to a whole millisecond, so that "in an hour" is due in an hour: stores keep milliseconds.

        :raises pitstop.ScheduleError: if ``start`` is naive, or before 1970.
        """
        begin = datetime(2020, 1, 1, tzinfo=UTC) if start is None else aware(start, "start")
        self._now_us = microseconds(begin) // 1000 * 1000
        if self._now_us < 0:
            raise ScheduleError(f"start={shown(start)} is before 1970. Give a later one: stores count from there.")
        self._moved = Condition()
        self._sleepers: list[tuple[int, Doorbell]] = []
        _clocks.add(self)

    def now(self) -> datetime:
        """Return the time of the clock."""
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=self._now_us)

    def advance(self, by: timedelta | float | str) -> datetime:
        """Move the clock by a ``timedelta``, seconds, or text such as ``"1h30m"``. Return its new time.

        :raises pitstop.PitstopError: if ``by`` is negative, because clocks do not go back, or is not a duration.
        """
        delta = span_of(by, "by")
        if delta < timedelta(0):
            raise PitstopError(f"by={shown(by)} is negative. The clock does not go back.")
        # Read and moved under one lock: two threads that advance the clock by a second each make two seconds.
        with self._moved:
            self._move(self._now_us + delta // timedelta(microseconds=1))
            return self.now()

    def advance_to(self, when: datetime) -> datetime:
        """Move the clock to ``when``, an aware datetime that is not before its time. Return its new time.

        :raises pitstop.PitstopError: if ``when`` is before its time.
        """
        target = microseconds(aware(when, "when"))
        with self._moved:
            if target < self._now_us:
                raise PitstopError(f"when={shown(when)} is before {self.now()!r}. The clock does not go back.")
            self._move(target)
            return self.now()

    def move_to(self, to_us: int) -> None:
        """Move the clock to this microsecond since the epoch, unless it is there already or further."""
        if to_us > self._now_us:
            self._move(to_us)

    def time_us(self) -> int:
        return self._now_us

    def monotonic(self) -> float:
        return self._now_us / 1e6

    def wait(self, bell: Doorbell, seconds: float | None) -> bool:
        if seconds is None:
            return bell.wait(None)
        with self._moved:
            until = self._now_us + round(seconds * 1e6)
            if until <= self._now_us:
                return bell.wait(0)
            place = (until, bell)
            self._sleepers.append(place)
            self._moved.notify_all()
        try:
            bell.wait(None)
            return self._now_us < until
        finally:
            with self._moved:
                if place in self._sleepers:
                    self._sleepers.remove(place)

    def wait_for_sleepers(self, count: int, timeout: float = 10.0) -> bool:
        """Block, in real time, until ``count`` threads wait by this clock. Return False if ``timeout`` seconds went by.

        For tests that move the clock under a listener in another thread, and need the listener to be asleep first.

        :raises pitstop.ConfigError: if an argument cannot be used.
        """
        whole_number(count, "count", least=0)
        seconds = min(seconds_of(timeout), TIMEOUT_MAX)
        with self._moved:
            return self._moved.wait_for(lambda: len(self._sleepers) >= count, seconds)

    def __repr__(self) -> str:
        return f"ManualClock({self.now().isoformat()})"

    def after_fork(self) -> None:
        """In the child of a fork, forget the threads that wait or hold the lock: they are threads of the parent."""
        self._moved, self._sleepers = Condition(), []

    def _move(self, to_us: int) -> None:
        if to_us // 1000 > LAST_INSTANT:
            raise PitstopError("That is after the year 9999. The clock does not go that far.")
        with self._moved:
            self._now_us = max(self._now_us, to_us)
            woken = [place for place in self._sleepers if place[0] <= self._now_us]
            # They no longer count as sleepers, although their threads may take a moment to notice.
            self._sleepers = [place for place in self._sleepers if place[0] > self._now_us]
            for _, bell in woken:
                bell.ring()


def span_of(value: timedelta | float | str, field: str) -> timedelta:
    """Return a ``timedelta``, seconds, or text such as ``"1h30m"`` as a ``timedelta``, which may be negative.

    :raises pitstop.PitstopError: if the value is none of these.
    """
    span = span_of_time(value, field)
    if span is not None:
        return span
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            seconds = int.__int__(value) if isinstance(value, int) else float.__float__(value)
            return timedelta(seconds=seconds)
        except (ValueError, OverflowError):
            raise PitstopError(f"{field}={shown(value)} is no length of time. Give seconds, or a timedelta.") from None
    return parse_duration(value, field)
