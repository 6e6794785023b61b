"""RRule: the recurrence rules of calendars (RFC 5545) on a wall clock."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from datetime import MAXYEAR, date, datetime, time, timedelta, tzinfo
from functools import lru_cache
from itertools import chain, groupby, product, takewhile
from typing import Any, ClassVar, Self

import attrs

from pitstop._errors import ScheduleError
from pitstop._recurrence._base import Recurrence
from pitstop._recurrence._rrule_parts import RuleParts, read_rrule
from pitstop._recurrence._wall import wall_of, zone_name
from pitstop._values._plain import shown
from pitstop._values._quoting import quoted


__all__ = ["RRule"]

#: The most days that one search examines, and the number of days that a year counts for by itself: 1,000 years, or some
#: 20 ms. No useful rule needs a tenth of it.
_MOST_EXAMINED = 5_000
_COST_OF_YEAR = 5
_WEEK = 7


@attrs.frozen(init=False, repr=False)
class RRule(Recurrence):
    """A recurrence rule of RFC 5545, as calendar programs write it, on the wall clock of a zone.

    The start of the series is the rule's DTSTART: a rule without days or times takes them from there. Frequencies are YEARLY,
    MONTHLY, WEEKLY and DAILY. A time that the clock skips is left out, as the RFC asks; a time that the clock shows twice comes
    in the first pass.

    >>> from datetime import datetime
    >>> from zoneinfo import ZoneInfo
    >>> berlin = ZoneInfo("Europe/Berlin")
    >>> rule = RRule("FREQ=MONTHLY;BYDAY=-1FR", tz="Europe/Berlin")
    >>> str(next(rule.occurrences(datetime(2031, 5, 4, 9, tzinfo=berlin))).astimezone(berlin))
    '2031-05-30 09:00:00+02:00'
    """

    kind: ClassVar[str] = "rrule"

    rule: str
    tz: str

    def __init__(self, rule: str, tz: str | tzinfo = "UTC") -> None:
        """Make a rule.

        :param tz: the name of the zone whose wall clock is meant, or a ``ZoneInfo``.
        :raises ScheduleError: if the rule cannot be read, has parts that a schedule cannot have, or the zone is unknown.
        """
        if not isinstance(rule, str):
            raise ScheduleError(f"RRule({shown(rule)}) is no text. Give a rule, such as 'FREQ=MONTHLY;BYDAY=-1FR'.")
        text = str.__str__(rule)
        read_rrule(text)
        self.__attrs_init__("".join(text.split()).upper().removeprefix("RRULE:"), zone_name(tz))

    def after(self, instant: int, start: int) -> int | None:
        wall = wall_of(self.tz)
        after = max(instant, start - 1)
        anchor, reading = wall.read(start), wall.read(after)
        if anchor is None or reading is None:
            return None
        anchor = anchor.replace(fold=0)
        # A reading of the second pass is the same as in the first, and what it names has come then.
        for found in _readings(self.rule, anchor, reading.replace(fold=0)):
            if wall.is_skipped(found):
                continue
            at = wall.instant(found)
            if at > after:
                return at
        return None

    def dump(self) -> dict[str, Any]:
        return {"rule": self.rule, "tz": self.tz}

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> Self:
        rule, tz = fields.get("rule"), fields.get("tz")
        if len(fields) != 2 or type(rule) is not str or type(tz) is not str:
            raise ScheduleError(
                "A stored recurrence of kind 'rrule' must have the two texts 'rule' and 'tz'. Store the message again, or remove it."
            )
        return cls(rule, tz)

    def __repr__(self) -> str:
        return f"RRule({self.rule!r}, tz={self.tz!r})"


@lru_cache(maxsize=512)
def _anchored(rule: str, anchor: datetime) -> tuple[RuleParts, list[time]]:
    """Return the parts of a rule, completed by the start of the series, and the times of a day in order."""
    parts = read_rrule(rule)
    added: dict[str, Any] = {}
    if not (parts.week_numbers or parts.year_days or parts.month_days or parts.weekdays):
        if parts.frequency == "YEARLY":
            added["months"] = parts.months or (anchor.month,)
        if parts.frequency in ("YEARLY", "MONTHLY"):
            added["month_days"] = (anchor.day,)
        if parts.frequency == "WEEKLY":
            added["weekdays"] = ((anchor.weekday(), 0),)
    for name, of_anchor in (("hours", anchor.hour), ("minutes", anchor.minute), ("seconds", anchor.second)):
        added[name] = getattr(parts, name) or (of_anchor,)
    # Microseconds of the start are kept unless the rule names seconds, so that the start itself can be an occurrence.
    fraction = 0 if parts.seconds else anchor.microsecond
    clocks = product(added["hours"], added["minutes"], added["seconds"])
    return attrs.evolve(parts, **added), [time(*clock, fraction) for clock in clocks]


def _readings(rule: str, anchor: datetime, after: datetime) -> Iterator[datetime]:
    """Yield the readings not before ``after`` and ``anchor``, in order.

    :raises ScheduleError: if there is none for so long that the rule must be wrong.
    """
    parts, times = _anchored(rule, anchor)
    least = max(anchor, after)
    examined = 0
    # The week of the first days of a year may begin in the year before.
    first = least.year - (parts.frequency == "WEEKLY")
    step = parts.interval if parts.frequency == "YEARLY" else 1
    since = _period_of(parts, least.date())
    for year in range(first + (anchor.year - first) % step, MAXYEAR + 1, step):
        for days in _periods(parts, anchor.date(), year, since):
            if days[-1] < least.date():
                continue
            for reading in _chosen(days, times, parts.positions, least):
                examined = 0
                yield reading
        examined += _COST_OF_YEAR + len(_days_of(parts, year))
        if examined > _MOST_EXAMINED:
            raise ScheduleError(
                f"RRule({quoted(rule)}) has no occurrence in the years {least.year} to {year}, so it would never come. "
                f"Give other days or another INTERVAL."
            )


def _chosen(days: list[date], times: list[time], positions: tuple[int, ...], least: datetime) -> Iterator[datetime]:
    """Yield the readings of one period that are not before ``least``: all of them, or those that BYSETPOS names."""
    count = len(days) * len(times)
    indices: Sequence[int] = range(count)
    if positions:
        named = {position - 1 if position > 0 else count + position for position in positions}
        indices = sorted(each for each in named if 0 <= each < count)
    # A year may have many readings before `least`.
    first_day = bisect_left(days, least.date())
    first = first_day * len(times)
    if first_day < len(days) and days[first_day] == least.date():
        first += bisect_left(times, least.time())
    for index in indices[bisect_left(indices, first) :]:
        day, clock = divmod(index, len(times))
        yield datetime.combine(days[day], times[clock])


def _period_of(parts: RuleParts, day: date) -> int:
    """Return the ordinal of the first day of a day's period. Days before it need not be looked at."""
    if parts.frequency == "YEARLY":
        return day.replace(month=1, day=1).toordinal()
    if parts.frequency == "MONTHLY":
        return day.replace(day=1).toordinal()
    return day.toordinal() if parts.frequency == "DAILY" else _week_of(day, parts.week_start)


def _periods(parts: RuleParts, anchor: date, year: int, since: int) -> Iterator[list[date]]:
    """Yield the matching days of each period that begins in a year, and that the interval does not pass over.

    The caller passes over whole years.
    """
    interval, frequency = parts.interval, parts.frequency
    if frequency == "YEARLY":
        days = list(_days(parts, year, since))
        if days:
            yield days
    elif frequency == "MONTHLY":
        for month, grouped in groupby(_days(parts, year, since), key=lambda day: day.month):
            if ((year - anchor.year) * 12 + month - anchor.month) % interval == 0:
                yield list(grouped)
    elif frequency == "DAILY":
        first = anchor.toordinal()
        for day in _days(parts, year, since):
            if (day.toordinal() - first) % interval == 0:
                yield [day]
    else:
        yield from _weeks(parts, anchor, year, since)


def _weeks(parts: RuleParts, anchor: date, year: int, since: int) -> Iterator[list[date]]:
    """Yield the matching days of each week that begins in a year, as :func:`_periods`."""
    first, begin = _week_of(anchor, parts.week_start), date(year, 1, 1).toordinal()
    after = _days(parts, year + 1, since) if year < MAXYEAR else iter(())
    early = takewhile(lambda day: day.month == 1 and day.day < _WEEK, after)
    days = chain(_days(parts, year, since), early)
    for week, grouped in groupby(days, key=lambda day: _week_of(day, parts.week_start)):
        if (week - first) // _WEEK % parts.interval == 0 and begin <= week < begin + _length(year):
            yield list(grouped)


def _week_of(day: date, week_start: int) -> int:
    """Return the ordinal of the first day of a day's week."""
    return day.toordinal() - (day.weekday() - week_start) % _WEEK


def _days(parts: RuleParts, year: int, since: int) -> Iterator[date]:
    """Yield the matching days of a year, from the day with the ordinal ``since`` on."""
    begin, indices = date(year, 1, 1).toordinal(), _days_of(parts, year)
    for index in indices[bisect_left(indices, since - begin) :]:
        yield date.fromordinal(begin + index)


def _days_of(parts: RuleParts, year: int) -> tuple[int, ...]:
    """Return the indices of the matching days of a year."""
    return _indices(parts, date(year, 1, 1).weekday(), _length(year), _length(year - 1))


@lru_cache(maxsize=1024)
def _indices(parts: RuleParts, first: int, length: int, before: int) -> tuple[int, ...]:
    """Return the indices of the matching days in a year of ``length`` days that begins on the weekday ``first``.

    :param before: the number of days of the year before.
    """
    months = _months(length)
    return tuple(index for index in range(length) if _matches(parts, index, months[index], (first, length, before)))


def _matches(parts: RuleParts, index: int, place: tuple[int, int, int], shape: tuple[int, int, int]) -> bool:
    (month, day, days_in_month), (first, length, _) = place, shape
    if parts.months and month not in parts.months:
        return False
    if parts.month_days and day not in parts.month_days and day - days_in_month - 1 not in parts.month_days:
        return False
    if parts.year_days and index + 1 not in parts.year_days and index - length not in parts.year_days:
        return False
    if parts.week_numbers and not _week_numbers(parts, index, shape) & set(parts.week_numbers):
        return False
    if not parts.weekdays:
        return True
    weekday = (first + index) % _WEEK
    of_month = parts.frequency == "MONTHLY" or bool(parts.months)
    position, size = (day - 1, days_in_month) if of_month else (index, length)
    numbers = {0, position // _WEEK + 1, -((size - 1 - position) // _WEEK) - 1}
    return any(each == weekday and number in numbers for each, number in parts.weekdays)


def _week_numbers(parts: RuleParts, index: int, shape: tuple[int, int, int]) -> set[int]:
    """Return the number of a day's week, counted from the first week of its year and from the last."""
    first, length, before = shape
    # The first week is the one with at least four days in the year.
    begin = _first_week(first, parts.week_start)
    if index < begin:
        begin_before = _first_week((first - before) % _WEEK, parts.week_start)
        weeks = (begin + before - begin_before) // _WEEK
        return {weeks, -1}
    begin_after = length + _first_week((first + length) % _WEEK, parts.week_start)
    if index >= begin_after:
        return {1}
    number, weeks = (index - begin) // _WEEK + 1, (begin_after - begin) // _WEEK
    return {number, number - weeks - 1}


def _first_week(first: int, week_start: int) -> int:
    """Return the index of the day on which the first week begins, in a year that begins on the weekday ``first``."""
    past = (first - week_start) % _WEEK
    return -past if past <= 3 else _WEEK - past


@lru_cache(maxsize=2)
def _months(length: int) -> tuple[tuple[int, int, int], ...]:
    """Return the month, the day and the number of days in the month, of each day of a year."""
    begin = date(2024 if length == 366 else 2023, 1, 1)
    days = [begin + timedelta(days=index) for index in range(length)]
    sizes = {month: sum(day.month == month for day in days) for month in range(1, 13)}
    return tuple((day.month, day.day, sizes[day.month]) for day in days)


def _length(year: int) -> int:
    return 366 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 365
