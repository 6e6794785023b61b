"""Calendar: days, weeks, months or years on a wall clock, counted from the start."""

from __future__ import annotations

from calendar import monthrange
from collections.abc import Mapping
from datetime import MAXYEAR, datetime, timedelta, tzinfo
from typing import Any, ClassVar, Self

import attrs

from pitstop._errors import ScheduleError
from pitstop._recurrence._base import Recurrence
from pitstop._recurrence._wall import Wall, wall_of, zone_name
from pitstop._values._quoting import quoted


__all__ = ["Calendar"]

_UNITS = ("days", "weeks", "months", "years")
_MOST = 100_000
_DAYS = {"days": 1, "weeks": 7}
_MONTHS = {"months": 1, "years": 12}


@attrs.frozen(init=False, repr=False)
class Calendar(Recurrence):
    """A number of days, weeks, months or years on the wall clock of a zone, counted from the start of the series.

    Each occurrence keeps the hour of the start. In a month that is too short, the last day is taken. The day is counted from
    the start and not from the previous occurrence: 31 January, 28 February, 31 March. A reading that the clock skips means
    the first instant after the gap, and a reading that it shows twice means the first pass.

    >>> from datetime import datetime
    >>> from zoneinfo import ZoneInfo
    >>> berlin = ZoneInfo("Europe/Berlin")
    >>> rule = Calendar(months=1, tz="Europe/Berlin")
    >>> begin, end = datetime(2031, 1, 31, 9, tzinfo=berlin), datetime(2031, 5, 1, tzinfo=berlin)
    >>> [str(each.astimezone(berlin)) for each in rule.occurrences(begin, end)]  # doctest: +NORMALIZE_WHITESPACE
    ['2031-01-31 09:00:00+01:00', '2031-02-28 09:00:00+01:00', '2031-03-31 09:00:00+02:00',
     '2031-04-30 09:00:00+02:00']
    """

    kind: ClassVar[str] = "calendar"

    unit: str
    number: int
    tz: str

    def __init__(
        self,
        *,
        days: int | None = None,
        weeks: int | None = None,
        months: int | None = None,
        years: int | None = None,
        tz: str | tzinfo = "UTC",
    ) -> None:
        """Make a rule of one unit.

        :param tz: the name of the zone whose wall clock is meant, or a ``ZoneInfo``.
        :raises ScheduleError: if there is not one unit, its number cannot be used, or the zone is unknown.
        """
        values = {"days": days, "weeks": weeks, "months": months, "years": years}
        given = {unit: value for unit, value in values.items() if value is not None}
        if len(given) != 1:
            listed = ", ".join(f"{unit}={quoted(value)}" for unit, value in given.items())
            raise ScheduleError(
                f"Calendar({listed}) has {len(given) or 'no'} units. Give one of: days, weeks, months, years. "
                f"A month and some days have no fixed length."
            )
        ((unit, number),) = given.items()
        if type(number) is not int or not 1 <= number <= _MOST:
            raise ScheduleError(
                f"Calendar({unit}={quoted(number)}) cannot be used. Give a whole number from 1 to {_MOST}."
            )
        self.__attrs_init__(unit, number, zone_name(tz))

    def first(self, start: int) -> int:
        return start

    def after(self, instant: int, start: int) -> int | None:
        if instant < start:
            return start
        wall = wall_of(self.tz)
        index = self._index(instant, start, wall)
        return None if index is None else self._occurrence(index + 1, start, wall)

    def latest(self, instant: int, start: int) -> int | None:
        if instant < start:
            return None
        wall = wall_of(self.tz)
        index = self._index(instant, start, wall)
        return None if index is None else self._occurrence(index, start, wall)

    def count(self, since: int, until: int, start: int) -> int:
        wall = wall_of(self.tz)
        first, last = self._index(since, start, wall), self._index(until, start, wall)
        return 0 if first is None or last is None else last - first

    def is_moved(self, occurrence: int, start: int) -> bool:
        wall = wall_of(self.tz)
        anchor, reading = wall.read(start), wall.read(occurrence)
        return anchor is not None and reading is not None and anchor.time() != reading.time()

    def dump(self) -> dict[str, Any]:
        return {self.unit: self.number, "tz": self.tz}

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> Self:
        units = [each for each in fields if each != "tz"]
        tz = fields.get("tz")
        if len(units) != 1 or units[0] not in _UNITS or type(tz) is not str:
            raise ScheduleError(
                "A stored recurrence of kind 'calendar' must have one unit and the text 'tz'. Store the message again, or remove it."
            )
        return cls(**{units[0]: fields[units[0]]}, tz=tz)

    def _index(self, instant: int, start: int, wall: Wall) -> int | None:
        """Return the greatest k for which the k-th occurrence is not later than ``instant``."""
        anchor, reading = wall.read(start), wall.read(instant)
        if anchor is None or reading is None:
            return None
        if self.unit in _DAYS:
            index = (reading.toordinal() - anchor.toordinal()) // (self.number * _DAYS[self.unit])
        else:
            months = (reading.year - anchor.year) * 12 + reading.month - anchor.month
            index = months // (self.number * _MONTHS[self.unit])
        # The estimate counts dates alone. So the occurrence before it is not later, but for a gap of a day.
        index = max(index, 0)
        while index > 0 and self._is_later(index, instant, anchor, wall):
            index -= 1
            if not self._is_later(index, instant, anchor, wall):
                return index
        while not self._is_later(index + 1, instant, anchor, wall):
            index += 1
        return index

    def _is_later(self, index: int, instant: int, anchor: datetime, wall: Wall) -> bool:
        if index == 0:
            return False
        reading = _shifted(anchor, self.unit, index * self.number)
        return reading is None or wall.instant(reading) > instant

    def _occurrence(self, index: int, start: int, wall: Wall) -> int | None:
        """Return the k-th occurrence; None if it is beyond the year 9999."""
        if index == 0:
            return start
        anchor = wall.read(start)
        reading = None if anchor is None else _shifted(anchor, self.unit, index * self.number)
        return None if reading is None else wall.instant(reading)

    def __repr__(self) -> str:
        return f"Calendar({self.unit}={self.number}, tz={self.tz!r})"


def _shifted(reading: datetime, unit: str, number: int) -> datetime | None:
    if unit in _DAYS:
        try:
            return reading + timedelta(days=number * _DAYS[unit])
        except OverflowError:
            return None
    months = reading.year * 12 + reading.month - 1 + number * _MONTHS[unit]
    year, month = divmod(months, 12)
    if year > MAXYEAR:
        return None
    month += 1
    return reading.replace(year=year, month=month, day=min(reading.day, monthrange(year, month)[1]))
