"""Instants: whole milliseconds since 1970-01-01T00:00:00Z, as ``int``.

Pitstop computes with these alone. A store that keeps milliseconds (as BSON does) and a store that keeps microseconds would
otherwise disagree about due times. A clock gives microseconds, so that "in 1.5 ms" can be rounded up: no message comes
early.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pitstop._errors import ScheduleError
from pitstop._values._plain import Unreadable, as_microseconds, as_timedelta, shown, type_name


__all__ = [
    "LAST_INSTANT",
    "aware",
    "end_of",
    "exactly",
    "floor_instant",
    "from_instant",
    "instant_of",
    "microseconds",
    "span_of_time",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: 9999-12-31T23:59:59.999Z, the last millisecond that a ``datetime`` can name.
LAST_INSTANT = 253_402_300_799_999


def aware(value: datetime, field: str) -> datetime:
    """Return an aware datetime as a plain UTC datetime.

    :raises ScheduleError: if the value is not a datetime, is naive (its instant is unknown), cannot be read, or is a time that
        UTC does not have.
    """
    instant = _microseconds_of(value, field)
    if instant is None:
        raise ScheduleError(f"{field}={shown(value)} is no datetime. Give an aware one, such as datetime.now(UTC).")
    try:
        return _EPOCH + timedelta(microseconds=instant)
    except OverflowError:
        raise ScheduleError(f"{field}={shown(value)} is outside of the years 1 to 9999 in UTC.") from None


def microseconds(value: datetime) -> int:
    """Return the microseconds since the epoch of an aware datetime of Python's own type, exactly."""
    return (value - _EPOCH) // _MICROSECOND


def floor_instant(value: datetime) -> int:
    """Return the last whole millisecond that is not after ``value``."""
    return microseconds(value) // 1000


def from_instant(instant: int) -> datetime:
    """Return the aware UTC datetime of an instant."""
    return _EPOCH + timedelta(milliseconds=instant)


def instant_of(when: datetime | timedelta, now_us: int, field: str = "when") -> int:
    """Return the instant that a caller means by ``when``: a point in time, or a distance from ``now_us`` (microseconds).

    The instant is rounded up, so that no message comes early. A time that has come already is never moved into the next
    millisecond, because the message would then not be due yet.

    :raises ScheduleError: if ``when`` has another type, is naive, or is outside the years 1970 to 9999.
    """
    wanted = exactly(when, now_us, field)
    instant = -(-wanted // 1000)
    if wanted <= now_us:
        instant = min(instant, now_us // 1000)
    return _checked(instant, when, field)


def end_of(end: datetime | timedelta, when: datetime | timedelta, now_us: int) -> int:
    """Return the instant that a caller means by the end of a series that begins at ``when``.

    The end is rounded in the same direction as the start. If the end were rounded up and the start were not, "every hour for
    a day, beginning now" would occur 25 times.

    :raises ScheduleError: as :func:`instant_of`.
    """
    started = instant_of(when, now_us) * 1000 < exactly(when, now_us, "when")
    wanted = exactly(end, now_us, "end")
    return _checked(wanted // 1000 if started else -(-wanted // 1000), end, "end")


def exactly(when: datetime | timedelta, now_us: int, field: str) -> int:
    """Return the microsecond that a caller means by ``when``.

    :raises ScheduleError: if ``when`` has another type, is naive, or cannot be read.
    """
    span = when if type(when) is timedelta else span_of_time(when, field)
    if span is not None:
        return now_us + span // _MICROSECOND
    instant = _microseconds_of(when, field)
    if instant is not None:
        return instant
    raise ScheduleError(
        f"{field}={shown(when)} is a {type_name(when)}. "
        f"Give an aware datetime (a point in time) or a timedelta (from now)."
    )


def span_of_time(value: object, field: str) -> timedelta | None:
    """Return ``value`` as a plain ``timedelta``; None if it is not a ``timedelta``.

    :raises ScheduleError: if it cannot be read.
    """
    try:
        return as_timedelta(value)
    except Unreadable as error:
        raise ScheduleError(f"{field}={shown(value)} cannot be read: {error}. Give a datetime.timedelta.") from None


def _microseconds_of(value: object, field: str) -> int | None:
    """Return the microseconds since the epoch of a datetime; None if ``value`` is not a datetime."""
    try:
        instant = as_microseconds(value)
    except Unreadable as error:
        raise ScheduleError(
            f"{field}={shown(value)} cannot be read: {error}. Give an aware datetime, such as datetime.now(UTC)."
        ) from None
    if instant is None and isinstance(value, datetime):
        raise ScheduleError(
            f"{field}={shown(value)} is naive: it does not say in which zone. For a time of a place, add its zone: "
            f".replace(tzinfo=ZoneInfo('Europe/Berlin')). For a time in UTC, add that: .replace(tzinfo=UTC)."
        )
    return instant


def _checked(instant: int, when: object, field: str) -> int:
    if not 0 <= instant <= LAST_INSTANT:
        raise ScheduleError(f"{field}={shown(when)} is outside of the years 1970 to 9999.")
    return instant
