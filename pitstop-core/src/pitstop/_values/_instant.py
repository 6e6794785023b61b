"""Instants: whole milliseconds since 1970-01-01T00:00:00Z, as ``int``.

Pitstop computes with these alone. A store that keeps milliseconds (BSON does) and one that keeps microseconds would
otherwise disagree about what is due. A clock is finer, it says microseconds, so that "in 1.5 ms" can be rounded up:
nothing comes early.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pitstop._errors import ScheduleError


__all__ = ["LAST_INSTANT", "aware", "ceil_instant", "floor_instant", "from_instant", "instant_of", "microseconds"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: 9999-12-31T23:59:59.999Z, the last millisecond that a ``datetime`` can name.
LAST_INSTANT = 253_402_300_799_999


def aware(value: datetime, field: str) -> datetime:
    """Return ``value`` when it knows its zone.

    :raises ScheduleError: when it is naive, since nobody can say which instant a naive datetime means.
    """
    if value.utcoffset() is None:
        raise ScheduleError(
            f"{field}={value!r} is naive: it does not say in which zone. "
            f"Use datetime.now(UTC) or add the zone with .replace(tzinfo=UTC)."
        )
    return value


def microseconds(value: datetime) -> int:
    """Microseconds since the epoch of an aware datetime, exactly."""
    return (value - _EPOCH) // _MICROSECOND


def floor_instant(value: datetime) -> int:
    """The last whole millisecond that is not after ``value``."""
    return microseconds(value) // 1000


def ceil_instant(value: datetime) -> int:
    """The first whole millisecond that is not before ``value``."""
    return -(-microseconds(value) // 1000)


def from_instant(instant: int) -> datetime:
    """The aware UTC datetime of an instant."""
    return _EPOCH + timedelta(milliseconds=instant)


def instant_of(when: datetime | timedelta, now_us: int, field: str = "when") -> int:
    """The instant that a caller means by ``when``: a point in time, or a distance from ``now_us`` (microseconds).

    Rounded up, so that nothing comes early. A time that has come already is never put into the next millisecond: it
    would not be due yet although it is.

    :raises ScheduleError: when ``when`` is of another type, naive, or outside the years 1970 to 9999.
    """
    if isinstance(when, timedelta):
        wanted = now_us + when // _MICROSECOND
    elif isinstance(when, datetime):
        wanted = microseconds(aware(when, field))
    else:
        raise ScheduleError(
            f"{field}={when!r} is a {type(when).__name__}. "
            f"Give an aware datetime (a point in time) or a timedelta (from now)."
        )
    instant = -(-wanted // 1000)
    if wanted <= now_us:
        instant = min(instant, now_us // 1000)
    if not 0 <= instant <= LAST_INSTANT:
        raise ScheduleError(f"{field}={when!r} is outside of the years 1970 to 9999.")
    return instant
