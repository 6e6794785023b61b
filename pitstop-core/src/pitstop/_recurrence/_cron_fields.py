"""Read a cron expression into the values of its fields.

::

    second  minute  hour  day-of-month  month  day-of-week
    0-59    0-59    0-23  1-31, L, LW,  1-12,  0-7, SUN-SAT, 5L, FRI#2
    (left           n, nW, ?            JAN-   ?
    out: 0)                             DEC
"""

from __future__ import annotations

import re

from calendar import monthrange
from functools import lru_cache

import attrs

from pitstop._errors import ScheduleError
from pitstop._values._quoting import quoted


__all__ = ["CronFields", "read_cron"]

_LONGEST = 1000
_NICKNAMES = {
    "@YEARLY": "0 0 1 1 *",
    "@ANNUALLY": "0 0 1 1 *",
    "@MONTHLY": "0 0 1 * *",
    "@WEEKLY": "0 0 * * 0",
    "@DAILY": "0 0 * * *",
    "@MIDNIGHT": "0 0 * * *",
    "@HOURLY": "0 * * * *",
}
_NUMBER = re.compile(r"[0-9]{1,4}")
_WORD = re.compile(r"[A-Z]{3}")


@attrs.frozen
class _Kind:
    """The kind of a field: its name for people, its range, and the names of its values."""

    name: str
    least: int
    most: int
    names: tuple[str, ...] = ()

    @property
    def range(self) -> str:
        named = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return f"{self.least}-{self.most}{named}"


_SECOND = _Kind("second", 0, 59)
_MINUTE = _Kind("minute", 0, 59)
_HOUR = _Kind("hour", 0, 23)
_DAY = _Kind("day-of-month", 1, 31)
_MONTH = _Kind("month", 1, 12, ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"))
_WEEKDAY = _Kind("day-of-week", 0, 7, ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT"))
_SUNDAY, _SUNDAY_TOO = 0, 7


@attrs.frozen
class CronFields:
    """The fields of a cron expression. Each set of values is sorted."""

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    months: tuple[int, ...]
    by_date: _Days
    by_weekday: _Days
    #: Whether both day fields must match, because one of them begins with ``*`` or is ``?``. Otherwise one of them must.
    both: bool
    #: Whether the minute or the hour begins with ``*``. Such an expression follows each reading of the wall clock.
    is_wildcard: bool
    #: The matching days of the months that were asked for so far. Equal keys have equal values, so threads cannot disagree.
    _known_days: dict[tuple[int, int], tuple[int, ...]] = attrs.field(factory=dict, eq=False)

    def days(self, first: int, length: int) -> tuple[int, ...]:
        """Return the matching days of a month of that length that begins on the weekday ``first`` (Monday is 0)."""
        found = self._known_days.get((first, length))
        if found is None:
            found = self._known_days[first, length] = _matching_days(self, first, length)
        return found


@attrs.frozen
class _Days:
    """The two day fields as they were written."""

    numbers: frozenset[int] = frozenset()
    #: The days n of ``nW``: the weekday nearest to the n-th, within the month.
    nearest: frozenset[int] = frozenset()
    last: bool = False
    last_weekday: bool = False
    weekdays: frozenset[int] = frozenset()
    #: Weekdays of ``nL``: the last such day of the month.
    last_of: frozenset[int] = frozenset()
    #: Pairs of ``n#k``: the k-th such day of the month.
    nth_of: frozenset[tuple[int, int]] = frozenset()


@lru_cache(maxsize=512)
def read_cron(expression: str) -> CronFields:
    """Return the fields of an expression.

    :raises ScheduleError: if it cannot be read, or can never match.
    """
    shown = f"Cron({quoted(expression)})"
    if len(expression) > _LONGEST:
        raise ScheduleError(f"Cron: the expression has {len(expression)} characters. Give at most {_LONGEST}.")
    text = expression.strip().upper()
    if text.startswith("@"):
        text = _of_nickname(text, shown)
    words = text.split()
    if len(words) not in (5, 6):
        raise ScheduleError(f"{shown} has {len(words)} fields. {_advice_on_fields(words)}")
    second, minute, hour, day, month, weekday = words if len(words) == 6 else ["0", *words]
    seconds, minutes, hours, months = (
        _values(kind, field, shown)
        for kind, field in ((_SECOND, second), (_MINUTE, minute), (_HOUR, hour), (_MONTH, month))
    )
    fields = CronFields(
        seconds,
        minutes,
        hours,
        months,
        by_date=_read_days(day, shown),
        by_weekday=_read_weekdays(weekday, shown),
        both=day[0] in "*?" or weekday[0] in "*?",
        is_wildcard=minute[0] == "*" or hour[0] == "*",
    )
    if not _is_possible(fields):
        weekdays = "" if weekday[0] in "*?" else f" on {weekday}"
        raise ScheduleError(
            f"{shown} can never match: day {day}{weekdays} never occurs in month {month}. Give other days or months."
        )
    return fields


def _of_nickname(text: str, shown: str) -> str:
    found = _NICKNAMES.get(text)
    if found is not None:
        return found
    if text == "@REBOOT":
        raise ScheduleError(f"{shown} names no time. Store a message when the program starts, in place of it.")
    if text.startswith("@EVERY"):
        raise ScheduleError(f"{shown} is an interval. Give Every({text[6:].strip().lower() or '1h'!r}) in place of it.")
    known = ", ".join(each.lower() for each in _NICKNAMES)
    raise ScheduleError(f"{shown} is unknown. Give five fields, or one of: {known}.")


def _advice_on_fields(words: list[str]) -> str:
    if len(words) == 7:
        return "The year of Quartz is not known here: leave it out, and give an end to the series in place of it."
    return "Give five: minute, hour, day of the month, month, day of the week. A sixth, in front, gives the seconds."


def _values(kind: _Kind, field: str, shown: str) -> tuple[int, ...]:
    found: set[int] = set()
    for item in field.split(","):
        found.update(_range(kind, item, field, shown))
    return tuple(sorted(found))


def _range(kind: _Kind, item: str, field: str, shown: str) -> range:
    """Return the values of ``*``, ``a``, ``a-b``, and of these with a step: ``*/n``, ``a/n``, ``a-b/n``."""
    span, slash, step_text = item.partition("/")
    step = 1
    if slash:
        if not _NUMBER.fullmatch(step_text) or int(step_text) == 0:
            raise _bad(kind, field, shown, f"the step {step_text!r} is no number of at least 1")
        step, count = int(step_text), kind.most - kind.least + (kind is not _WEEKDAY)
        if step > count:
            raise _bad(
                kind, field, shown, f"a step of {step} leaves one value, because each {kind.name} begins anew at {kind.least}",
                f"Give a step of at most {count}, or an interval, as in Every('90m').",
            )  # fmt: skip
    if span == "*":
        return range(kind.least, kind.most + (kind is not _WEEKDAY), step)
    low_text, dash, high_text = span.partition("-")
    low = _value(kind, low_text, field, shown)
    if not dash:
        return range(low, (kind.most if slash else low) + 1, step)
    high = _value(kind, high_text, field, shown)
    if low > high:
        wrapped = f"{kind.least}-{high}" if high > kind.least else str(high)
        rewrite = f"{low}-{kind.most},{wrapped}"
        if kind is _WEEKDAY and high == _SUNDAY:
            rewrite = f"{low}-{_SUNDAY_TOO}"
        advice = f"Write {rewrite}." if not slash else "List the values, as in 22,0,2."
        raise _bad(kind, field, shown, f"the range {low}-{high} runs backwards", advice)
    return range(low, high + 1, step)


def _value(kind: _Kind, text: str, field: str, shown: str) -> int:
    if text in kind.names:
        return kind.names.index(text) + kind.least
    if _NUMBER.fullmatch(text) and kind.least <= int(text) <= kind.most:
        return int(text)
    if text == "?":
        raise _bad(kind, field, shown, "'?' is only for the two day fields")
    if text == "H":
        raise _bad(kind, field, shown, "'H' of Jenkins is not known", "Give a number, and jitter=... to store().")
    raise _bad(kind, field, shown, f"{quoted(text)} is not in {kind.range}")


def _read_days(field: str, shown: str) -> _Days:
    numbers: set[int] = set()
    nearest: set[int] = set()
    for item in field.split(","):
        if item == "?" and field == "?":
            numbers.update(range(1, 32))
        elif item in ("L", "LW"):
            continue
        elif item.endswith("W") and _NUMBER.fullmatch(item[:-1]):
            nearest.add(_value(_DAY, item[:-1], field, shown))
        else:
            numbers.update(_range(_DAY, item, field, shown))
    items = field.split(",")
    return _Days(frozenset(numbers), frozenset(nearest), "L" in items, "LW" in items)


def _read_weekdays(field: str, shown: str) -> _Days:
    weekdays: set[int] = set()
    last: set[int] = set()
    nth: set[tuple[int, int]] = set()
    for item in field.split(","):
        name, hash_sign, count = item.partition("#")
        if item == "?" and field == "?":
            weekdays.update(range(7))
        elif hash_sign:
            if count not in ("1", "2", "3", "4", "5"):
                raise _bad(_WEEKDAY, field, shown, f"'#{count[:20]}' names no week of a month", "Give #1 to #5.")
            nth.add((_value(_WEEKDAY, name, field, shown), int(count)))
        elif item == "L":
            raise _bad(
                _WEEKDAY, field, shown, "'L' alone means Saturday to some programs and the last day to others",
                "Give a day before it, as in 5L for the last Friday.",
            )  # fmt: skip
        elif item.endswith("L") and (_NUMBER.fullmatch(item[:-1]) or _WORD.fullmatch(item[:-1])):
            last.add(_value(_WEEKDAY, item[:-1], field, shown))
        else:
            weekdays.update(_range(_WEEKDAY, item, field, shown))
    # As Python counts: Monday is 0. Sunday is 0 and 7 in cron.
    return _Days(
        weekdays=frozenset((each - 1) % 7 for each in weekdays),
        last_of=frozenset((each - 1) % 7 for each in last),
        nth_of=frozenset(((each - 1) % 7, count) for each, count in nth),
    )


def _matching_days(fields: CronFields, first: int, length: int) -> tuple[int, ...]:
    """Return the matching days of a month. As in Vixie's cron, the two day fields are alternatives unless one is ``*``."""
    date, week = fields.by_date, fields.by_weekday
    of_dates = {day for day in date.numbers if day <= length}
    of_dates.update(_nearest_weekday(day, first, length) for day in date.nearest if day <= length)
    if date.last:
        of_dates.add(length)
    if date.last_weekday:
        of_dates.add(_nearest_weekday(length, first, length))
    of_weeks = set()
    for day in range(1, length + 1):
        weekday = (first + day - 1) % 7
        if (
            weekday in week.weekdays
            or (weekday in week.last_of and day + 7 > length)
            or (weekday, (day + 6) // 7) in week.nth_of
        ):
            of_weeks.add(day)
    return tuple(sorted(of_dates & of_weeks if fields.both else of_dates | of_weeks))


def _nearest_weekday(day: int, first: int, length: int) -> int:
    """Return the day from Monday to Friday that is nearest to ``day``, in the same month."""
    weekday = (first + day - 1) % 7
    if weekday == 5:
        return day - 1 if day > 1 else day + 2
    if weekday == 6:
        return day + 1 if day < length else day - 2
    return day


def _is_possible(fields: CronFields) -> bool:
    # 2024 is a leap year. In the course of 400 years a month of each length begins on each weekday.
    lengths = {monthrange(year, month)[1] for month in fields.months for year in (2023, 2024)}
    return any(fields.days(first, length) for length in lengths for first in range(7))


def _bad(kind: _Kind, field: str, shown: str, what: str, advice: str = "") -> ScheduleError:
    return ScheduleError(f"{shown}: {kind.name} field {quoted(field)}: {what}. {advice or f'Give {kind.range}.'}")
