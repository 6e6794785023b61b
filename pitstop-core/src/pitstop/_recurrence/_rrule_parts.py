"""Read the parts of an RRULE (RFC 5545), and refuse those that a schedule cannot have."""

from __future__ import annotations

import re

from functools import lru_cache

import attrs

from pitstop._errors import ScheduleError
from pitstop._values._quoting import quoted
from pitstop._values._suggestion import did_you_mean


__all__ = ["Frequency", "RuleParts", "read_rrule"]

Frequency = str
_LONGEST = 1000
_FREQUENCIES = ("YEARLY", "MONTHLY", "WEEKLY", "DAILY")
_TOO_OFTEN = ("HOURLY", "MINUTELY", "SECONDLY")
_MOST_INTERVAL = 1000
#: The most times of one day. Each search makes a list of them.
_MOST_TIMES = 24 * 60
_WEEKDAYS = ("MO", "TU", "WE", "TH", "FR", "SA", "SU")
_BY_DAY = re.compile(r"([+-]?[0-9]{1,2})?(MO|TU|WE|TH|FR|SA|SU)")
_INTEGER = re.compile(r"[+-]?[0-9]{1,4}")
#: The parts that are lists of numbers: the least and the greatest absolute value, and whether a negative one counts from the end.
_LISTS = {
    "BYMONTH": (1, 12, False),
    "BYMONTHDAY": (1, 31, True),
    "BYYEARDAY": (1, 366, True),
    "BYWEEKNO": (1, 53, True),
    "BYSETPOS": (1, 366, True),
    "BYHOUR": (0, 23, False),
    "BYMINUTE": (0, 59, False),
    "BYSECOND": (0, 59, False),
}
_KNOWN = ("FREQ", "INTERVAL", "WKST", "BYDAY", *_LISTS)
#: Parts that are said by other arguments, or not at all.
_ELSEWHERE = {
    "DTSTART": "The start of the series is the 'when' of store().",
    "UNTIL": "The end of the series is the 'end' of store(), and it is exclusive.",
    "COUNT": "Give an end in place of it: store(..., end=...).",
    "EXRULE": "Store a Recurrence of your own, or let the handler skip these times.",
    "EXDATE": "Store a Recurrence of your own, or let the handler skip these times.",
    "RDATE": "Store a second message with Times([...]).",
    "TZID": "The zone is the argument tz.",
}


@attrs.frozen
class RuleParts:
    """The parts of a rule. An empty tuple: the part is not given."""

    frequency: Frequency
    interval: int = 1
    week_start: int = 0
    months: tuple[int, ...] = ()
    month_days: tuple[int, ...] = ()
    year_days: tuple[int, ...] = ()
    week_numbers: tuple[int, ...] = ()
    #: Weekdays (Monday is 0), each with its number within the month or year; 0: each such day.
    weekdays: tuple[tuple[int, int], ...] = ()
    positions: tuple[int, ...] = ()
    hours: tuple[int, ...] = ()
    minutes: tuple[int, ...] = ()
    seconds: tuple[int, ...] = ()


@lru_cache(maxsize=512)
def read_rrule(rule: str) -> RuleParts:
    """Return the parts of a rule.

    :raises ScheduleError: if it cannot be read, or has parts that a schedule cannot have.
    """
    if len(rule) > _LONGEST:
        raise ScheduleError(f"RRule: the rule has {len(rule)} characters. Give at most {_LONGEST}.")
    shown = f"RRule({quoted(rule)})"
    text = rule.strip().upper()
    if "\n" in text or "\r" in text:
        raise ScheduleError(f"{shown} has several lines. Give one rule, as in 'FREQ=MONTHLY;BYDAY=-1FR'.")
    given = _split(text.removeprefix("RRULE:"), shown)
    frequency = given.get("FREQ")
    if frequency in _TOO_OFTEN:
        raise ScheduleError(f"{shown}: FREQ={frequency} is not taken here. Give Every('1h') or a Cron in place of it.")
    if frequency not in _FREQUENCIES:
        missing = "FREQ is missing" if frequency is None else f"FREQ={quoted(frequency)} is unknown"
        raise ScheduleError(f"{shown}: {missing}. Give FREQ= and one of: {', '.join(_FREQUENCIES)}.")
    numbers = {name: _numbers(name, given[name], shown) for name in _LISTS if name in given}
    parts = RuleParts(
        frequency,
        _interval(given.get("INTERVAL", "1"), shown),
        _week_start(given.get("WKST", "MO"), shown),
        numbers.get("BYMONTH", ()),
        numbers.get("BYMONTHDAY", ()),
        numbers.get("BYYEARDAY", ()),
        numbers.get("BYWEEKNO", ()),
        _weekdays(given["BYDAY"], shown) if "BYDAY" in given else (),
        numbers.get("BYSETPOS", ()),
        numbers.get("BYHOUR", ()),
        numbers.get("BYMINUTE", ()),
        numbers.get("BYSECOND", ()),
    )
    _check(parts, shown)
    return parts


def _split(text: str, shown: str) -> dict[str, str]:
    given: dict[str, str] = {}
    for part in text.split(";"):
        name, equals, value = (each.strip() for each in part.partition("="))
        if not equals or not value:
            raise ScheduleError(
                f"{shown}: {quoted(part)} is no part of a rule. Give parts as in 'FREQ=MONTHLY;BYDAY=-1FR'."
            )
        if name in _ELSEWHERE:
            raise ScheduleError(f"{shown}: {name} is not taken here. {_ELSEWHERE[name]}")
        if name not in _KNOWN:
            raise ScheduleError(
                f"{shown}: {quoted(name)} is unknown. {did_you_mean(name, _KNOWN)}Known: {', '.join(_KNOWN)}."
            )
        if name in given:
            raise ScheduleError(f"{shown}: {name} is given twice. Give one list, as in {name}=1,2.")
        given[name] = value
    return given


def _interval(value: str, shown: str) -> int:
    if not _INTEGER.fullmatch(value) or not 1 <= int(value) <= _MOST_INTERVAL:
        raise ScheduleError(
            f"{shown}: INTERVAL={value[:20]} cannot be used. Give a whole number from 1 to {_MOST_INTERVAL}."
        )
    return int(value)


def _week_start(value: str, shown: str) -> int:
    if value not in _WEEKDAYS:
        raise ScheduleError(
            f"{shown}: WKST={quoted(value)} is no day of the week. Give one of: {', '.join(_WEEKDAYS)}."
        )
    return _WEEKDAYS.index(value)


def _numbers(name: str, value: str, shown: str) -> tuple[int, ...]:
    least, most, signed = _LISTS[name]
    found = set()
    for item in value.split(","):
        number = int(item) if _INTEGER.fullmatch(item) else None
        if number is None or not least <= (abs(number) if signed else number) <= most:
            negative = f", or -{most} to -{least}" if signed else ""
            raise ScheduleError(f"{shown}: {name} has {quoted(item)}. Give numbers from {least} to {most}{negative}.")
        found.add(number)
    return tuple(sorted(found))


def _weekdays(value: str, shown: str) -> tuple[tuple[int, int], ...]:
    found = set()
    for item in value.split(","):
        match = _BY_DAY.fullmatch(item)
        number = int(match[1] or 0) if match else 0
        if match is None or abs(number) > 53 or (match[1] and not number):
            raise ScheduleError(f"{shown}: BYDAY has {quoted(item)}. Give days as in MO,FR or -1FR or 2TU.")
        found.add((_WEEKDAYS.index(match[2]), number))
    return tuple(sorted(found))


def _check(parts: RuleParts, shown: str) -> None:
    """Refuse combinations that RFC 5545 forbids, because programs disagree about them."""
    numbered = any(number for _, number in parts.weekdays)
    if numbered and (parts.frequency not in ("YEARLY", "MONTHLY") or parts.week_numbers):
        raise ScheduleError(
            f"{shown}: a number before a day of the week needs FREQ=MONTHLY or YEARLY, and no BYWEEKNO. Give the day alone."
        )
    if parts.week_numbers and parts.frequency != "YEARLY":
        raise ScheduleError(f"{shown}: BYWEEKNO needs FREQ=YEARLY. Give that, or leave BYWEEKNO out.")
    if parts.year_days and parts.frequency != "YEARLY":
        raise ScheduleError(f"{shown}: BYYEARDAY needs FREQ=YEARLY. Give that, or leave BYYEARDAY out.")
    if parts.month_days and parts.frequency == "WEEKLY":
        raise ScheduleError(f"{shown}: BYMONTHDAY is not for FREQ=WEEKLY. Give FREQ=DAILY or MONTHLY.")
    listed = (
        parts.months, parts.month_days, parts.year_days, parts.week_numbers, parts.weekdays,
        parts.hours, parts.minutes, parts.seconds,
    )  # fmt: skip
    if parts.positions and not any(listed):
        raise ScheduleError(f"{shown}: BYSETPOS chooses from a list, and there is none. Give BYDAY or another list.")
    times = max(len(parts.hours), 1) * max(len(parts.minutes), 1) * max(len(parts.seconds), 1)
    if times > _MOST_TIMES:
        raise ScheduleError(
            f"{shown} has {times} times a day. Give at most {_MOST_TIMES}, or Every('1s') or a Cron in place of it."
        )
