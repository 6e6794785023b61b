"""Cron: the readings of a wall clock that match an expression."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from datetime import MAXYEAR, date, datetime, timedelta, tzinfo
from typing import Any, ClassVar, Self

import attrs

from pitstop._errors import ScheduleError
from pitstop._recurrence._base import Recurrence
from pitstop._recurrence._cron_fields import CronFields, read_cron
from pitstop._recurrence._wall import Wall, wall_of, zone_name
from pitstop._values._plain import shown


__all__ = ["Cron"]

_SECOND = timedelta(seconds=1)
_MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@attrs.frozen(init=False, repr=False)
class Cron(Recurrence):
    """A cron expression on the wall clock of a zone.

    Five fields: minute, hour, day of the month, month, day of the week; or six, with the seconds in front. Each field takes
    ``*``, numbers, names, lists, ranges and steps. The day of the month also takes ``L`` (the last day), ``LW`` (the last
    weekday) and ``15W`` (the weekday nearest to the 15th); the day of the week ``5L`` (the last Friday) and ``FRI#2`` (the
    second). ``?`` is ``*`` in these two. ``@yearly``, ``@monthly``, ``@weekly``, ``@daily`` and ``@hourly`` are known.

    If neither the minute nor the hour begins with ``*``, the expression names times of the day. Each comes once a day: a time
    that the clock skips comes at the first instant after the gap, and a time that it shows twice comes in the first pass.
    Otherwise the expression follows the clock as people see it: both passes of a fold, and nothing in a gap.

    >>> from datetime import UTC, datetime
    >>> rule = Cron("0 9 * * MON-FRI", tz="Europe/Berlin")
    >>> next(rule.occurrences(datetime(2031, 5, 3, tzinfo=UTC))).isoformat()
    '2031-05-05T07:00:00+00:00'
    """

    kind: ClassVar[str] = "cron"

    expression: str
    tz: str

    def __init__(self, expression: str, tz: str | tzinfo = "UTC") -> None:
        """Make a rule.

        :param tz: the name of the zone whose wall clock is meant, or a ``ZoneInfo``. It is never the zone of the machine.
        :raises ScheduleError: if the expression cannot be read or can never match, or the zone is unknown.
        """
        if not isinstance(expression, str):
            raise ScheduleError(f"Cron({shown(expression)}) is no text. Give an expression, such as '0 9 * * MON-FRI'.")
        text = str.__str__(expression)
        read_cron(text)
        canonical = " ".join(text.split())
        self.__attrs_init__(canonical.lower() if canonical.startswith("@") else canonical.upper(), zone_name(tz))

    def after(self, instant: int, start: int) -> int | None:
        wall = wall_of(self.tz)
        reading = wall.read(max(instant, start - 1))
        if reading is None:
            return None
        fields = read_cron(self.expression)
        find = _following_reading if fields.is_wildcard else _following_time
        try:
            return find(wall, fields, reading)
        except OverflowError:
            # The end of year 9999.
            return None

    def is_moved(self, occurrence: int, start: int) -> bool:
        fields, reading = read_cron(self.expression), wall_of(self.tz).read(occurrence)
        return not fields.is_wildcard and reading is not None and _search(fields, reading - _SECOND) != reading

    def dump(self) -> dict[str, Any]:
        return {"expr": self.expression, "tz": self.tz}

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> Self:
        expression, tz = fields.get("expr"), fields.get("tz")
        if len(fields) != 2 or type(expression) is not str or type(tz) is not str:
            raise ScheduleError(
                "A stored recurrence of kind 'cron' must have the two texts 'expr' and 'tz'. Store the message again, or remove it."
            )
        return cls(expression, tz)

    def __repr__(self) -> str:
        return f"Cron({self.expression!r}, tz={self.tz!r})"


def _following_time(wall: Wall, fields: CronFields, reading: datetime) -> int | None:
    """Return the next instant of an expression that names times of the day."""
    after = reading
    if reading.fold and (fold := wall.fold_around(reading)) is not None:
        # All times of the fold came in its first pass.
        after = fold[1] - _SECOND
    found = _search(fields, after)
    return None if found is None else wall.instant(found)


def _following_reading(wall: Wall, fields: CronFields, reading: datetime) -> int | None:
    """Return the next instant at which the clock shows a matching reading."""
    found = _search(fields, reading)
    fold = wall.fold_around(reading)
    if fold is not None:
        begin, end = fold
        if reading.fold == 0 and (found is None or found >= end):
            # The first pass has no more matches. The clock now shows the same readings again.
            found = _search(fields, begin - _SECOND)
            if found is not None and found < end:
                return wall.passes(found)[-1]
        elif found is not None and found < end:
            return wall.passes(found)[reading.fold]
    while found is not None:
        shown_at = wall.passes(found)
        if shown_at:
            return shown_at[0]
        gap_end = wall.gap_end(found)
        assert gap_end is not None, "a reading that is never shown lies in a gap"
        found = _search(fields, gap_end - timedelta(microseconds=1))
    return None


def _search(fields: CronFields, after: datetime) -> datetime | None:
    """Return the first matching reading later than ``after``."""
    year, month, day = after.year, after.month, after.day
    if month in fields.months and day in fields.days(*_shape(year, month)):
        found = _later_on_this_day(fields, after)
        if found is not None:
            return found
    return _on_a_later_day(fields, year, month, day)


def _later_on_this_day(fields: CronFields, after: datetime) -> datetime | None:
    hour, minute, second = after.hour, after.minute, after.second
    hours, minutes, seconds = fields.hours, fields.minutes, fields.seconds
    if hour in hours:
        if minute in minutes and seconds[-1] > second:
            return _at(after, hour, minute, seconds[bisect_left(seconds, second + 1)])
        if minutes[-1] > minute:
            return _at(after, hour, minutes[bisect_left(minutes, minute + 1)], seconds[0])
    if hours[-1] > hour:
        return _at(after, hours[bisect_left(hours, hour + 1)], minutes[0], seconds[0])
    return None


def _at(day: datetime, hour: int, minute: int, second: int) -> datetime:
    return datetime(day.year, day.month, day.day, hour, minute, second)  # noqa: DTZ001 - a reading


def _on_a_later_day(fields: CronFields, year: int, month: int, day: int) -> datetime | None:
    months = fields.months
    while year <= MAXYEAR:
        if month in months:
            for found in fields.days(*_shape(year, month)):
                if found > day:
                    return datetime(year, month, found, fields.hours[0], fields.minutes[0], fields.seconds[0])  # noqa: DTZ001
        # No day is left in this month.
        day = 0
        if months[-1] > month:
            month = months[bisect_left(months, month + 1)]
        else:
            year, month = year + 1, months[0]
    return None


def _shape(year: int, month: int) -> tuple[int, int]:
    """Return the weekday of the first day of a month, and its length."""
    length = _MONTH_LENGTHS[month - 1]
    if month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0):
        length = 29
    return date(year, month, 1).weekday(), length
