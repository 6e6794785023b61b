"""Instants: whole milliseconds since 1970-01-01T00:00:00Z, as ``int``.

Pitstop computes with these alone. A store that keeps milliseconds (BSON does) and one that keeps microseconds would
otherwise disagree about what is due. A clock is finer, it says microseconds, so that "in 1.5 ms" can be rounded up:
nothing comes early.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from pitstop._errors import ScheduleError


__all__ = [
    "LAST_INSTANT",
    "aware",
    "end_of",
    "exactly",
    "floor_instant",
    "from_instant",
    "instant_of",
    "microseconds",
]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

#: 9999-12-31T23:59:59.999Z, the last millisecond that a ``datetime`` can name.
LAST_INSTANT = 253_402_300_799_999


def aware(value: datetime, field: str) -> datetime:
    """Return ``value`` when it knows its zone.

    :raises ScheduleError: when it is no datetime, or naive, since nobody can say which instant a naive datetime means.
    """
    if not isinstance(value, datetime):
        raise ScheduleError(f"{field}={value!r} is no datetime. Give an aware one, such as datetime.now(UTC).")
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


def from_instant(instant: int) -> datetime:
    """The aware UTC datetime of an instant."""
    return _EPOCH + timedelta(milliseconds=instant)


def instant_of(when: datetime | timedelta, now_us: int, field: str = "when") -> int:
    """The instant that a caller means by ``when``: a point in time, or a distance from ``now_us`` (microseconds).

    Rounded up, so that nothing comes early. A time that has come already is never put into the next millisecond: it
    would not be due yet although it is.

    :raises ScheduleError: when ``when`` is of another type, naive, or outside the years 1970 to 9999.
    """
    wanted = exactly(when, now_us, field)
    instant = -(-wanted // 1000)
    if wanted <= now_us:
        instant = min(instant, now_us // 1000)
    return _checked(instant, when, field)


def end_of(end: datetime | timedelta, when: datetime | timedelta, now_us: int) -> int:
    """The instant that a caller means by the end of a series that begins at ``when``.

    Rounded the way the start is: with a start that was not rounded up and an end that was, "every hour for a day,
    beginning now" would occur 25 times.

    :raises ScheduleError: as :func:`instant_of`.
    """
    started = instant_of(when, now_us) * 1000 < exactly(when, now_us, "when")
    wanted = exactly(end, now_us, "end")
    return _checked(wanted // 1000 if started else -(-wanted // 1000), end, "end")


def exactly(when: datetime | timedelta, now_us: int, field: str) -> int:
    """The microsecond that a caller means by ``when``.

    :raises ScheduleError: when ``when`` is of another type or naive.
    """
    if isinstance(when, timedelta):
        return now_us + when // _MICROSECOND
    if isinstance(when, datetime):
        return microseconds(aware(when, field))
    raise ScheduleError(
        f"{field}={when!r} is a {type(when).__name__}. "
        f"Give an aware datetime (a point in time) or a timedelta (from now)."
    )


def _checked(instant: int, when: object, field: str) -> int:
    if not 0 <= instant <= LAST_INSTANT:
        raise ScheduleError(f"{field}={when!r} is outside of the years 1970 to 9999.")
    return instant
