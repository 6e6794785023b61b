"""A slow, plain reading of the rules for cron: go through the minutes of UTC, and look at the wall clock at each.

Nothing of the library is used here. Expressions are not parsed: they are made together with their meaning.
"""

from __future__ import annotations

import calendar
import random

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo


MINUTE = timedelta(minutes=1)
#: Zones, and years in which their clocks change in a way that is worth a test.
PLACES = {
    "America/New_York": (2025, 2026),
    "Europe/Berlin": (1996, 2025),
    "Australia/Lord_Howe": (2025, 2026),
    "Pacific/Chatham": (2025, 2026),
    "Antarctica/Troll": (2025,),
    "America/Santiago": (2026,),
    "Africa/Cairo": (2024, 2027),
    "Asia/Beirut": (2026,),
    "America/Nuuk": (2023, 2024, 2025),
    "Pacific/Apia": (2011,),
    "America/St_Johns": (2010,),
    # The clock changed at the first moment of 1986, which is in 1985 by UTC.
    "Asia/Kathmandu": (1985,),
    "America/Sao_Paulo": (2018,),
    "Africa/Casablanca": (2026,),
    "America/Havana": (2026,),
    "Europe/London": (1971, 2026),
}


@dataclass(frozen=True)
class Expression:
    text: str
    seconds: tuple[int, ...]
    minutes: frozenset[int]
    hours: frozenset[int]
    months: frozenset[int]
    is_day: Callable[[date], bool]
    is_wildcard: bool

    def names(self, reading: datetime) -> bool:
        return (
            reading.minute in self.minutes
            and reading.hour in self.hours
            and reading.month in self.months
            and self.is_day(reading.date())
        )


@lru_cache(maxsize=512)
def changes(zone: str, year: int) -> list[datetime]:
    """Return the first minute after each change of a zone's clock in a year."""
    tz = ZoneInfo(zone)
    found = []
    for step in range(366 * 6):
        at = datetime(year, 1, 1, tzinfo=UTC) + timedelta(hours=4 * step)
        if at.astimezone(tz).utcoffset() != (at + timedelta(hours=4)).astimezone(tz).utcoffset():
            before = at.astimezone(tz).utcoffset()
            while at.astimezone(tz).utcoffset() == before:
                at += MINUTE
            found.append(at)
    return found


@lru_cache(maxsize=512)
def readings(zone: str, begin: datetime, end: datetime) -> list[tuple[datetime, datetime, bool, datetime]]:
    """Return the minutes of UTC with the reading of the clock, whether it was shown before, and the reading before it."""
    tz = ZoneInfo(zone)
    at = begin - timedelta(days=1)
    latest = before = at.astimezone(tz).replace(tzinfo=None) - MINUTE
    found = []
    while at < end:
        local = at.astimezone(tz)
        # Made anew, without a fold.
        reading = datetime(local.year, local.month, local.day, local.hour, local.minute)
        if at >= begin:
            found.append((at, reading, reading <= latest, before))
        latest, before = max(latest, reading), reading
        at += MINUTE
    return found


def scan(expression: Expression, zone: str, begin: datetime, end: datetime) -> list[datetime]:
    """Return the times of an expression in ``[begin, end)``."""
    found = []
    for at, reading, shown_before, before in readings(zone, begin, end):
        times = set()
        if not expression.is_wildcard:
            skipped = before + MINUTE
            while skipped < reading:
                if expression.names(skipped):
                    times.add(at)
                skipped += MINUTE
        if expression.names(reading) and (expression.is_wildcard or not shown_before):
            times.update(at + timedelta(seconds=second) for second in expression.seconds)
        if times:
            found += sorted(times)
    return found


def expressions(random: random.Random, zone: str, change: datetime) -> Expression:
    """Return a random expression whose times are likely to fall near a change of the clock."""
    near = [(change + timedelta(minutes=each)).astimezone(ZoneInfo(zone)) for each in (-61, -1, 0, 45)]
    local = random.choice(near)
    second, seconds = ("", (0,)) if random.random() < 0.75 else random.choice(SECONDS)
    minute, minutes = field(random, 0, 59, random.choice([local.minute, 0, 30, 15, 59]))
    hour, hours = field(random, 0, 23, local.hour)
    month, months = ("*", range(1, 13)) if random.random() < 0.8 else field(random, 1, 12, local.month, names=MONTHS)
    day, of_month = day_field(random, local.date())
    weekday, of_week = weekday_field(random, local.date())
    both = day[0] in "*?" or weekday[0] in "*?"
    return Expression(
        f"{second} {minute} {hour} {day} {month} {weekday}".strip(),
        seconds,
        frozenset(minutes),
        frozenset(hours),
        frozenset(months),
        (lambda each: of_month(each) and of_week(each)) if both else (lambda each: of_month(each) or of_week(each)),
        minute.startswith("*") or hour.startswith("*"),
    )


MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
WEEKDAYS = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")
SECONDS = (("0", (0,)), ("30", (30,)), ("*/20", (0, 20, 40)), ("5,10-12", (5, 10, 11, 12)))


def field(random, least, most, likely, names=None):
    def name(number):
        return names[number - least].title() if names and random.random() < 0.5 else str(number)

    kind = random.randrange(8)
    step = random.choice([2, 3, 5, 6, 7, 10, 15, 20])
    step = min(step, most - least)
    low, high = max(least, likely - random.randrange(3)), min(most, likely + random.randrange(4))
    if kind == 0:
        return "*", frozenset(range(least, most + 1))
    if kind == 1:
        return f"*/{step}", range(least, most + 1, step)
    if kind == 2:
        return f"{name(low)}-{name(high)}", range(low, high + 1)
    if kind == 3:
        return f"{low}/{step}", range(low, most + 1, step)
    if kind == 4:
        return f"{low}-{most}/{step}", range(low, most + 1, step)
    if kind == 5:
        other = random.randint(least, most)
        return f"{name(other)},{name(likely)},{name(low)}-{name(high)}", {other, likely, *range(low, high + 1)}
    return name(likely), {likely}


def length_of(day):
    return calendar.monthrange(day.year, day.month)[1]


def is_nearest_weekday(day, wanted):
    """Whether a day is the one from Monday to Friday that is nearest to the wanted day, in the same month."""
    if wanted > length_of(day):
        return False
    candidates = [each for each in range(1, length_of(day) + 1) if day.replace(day=each).weekday() < 5]
    return min(candidates, key=lambda each: abs(each - wanted)) == day.day


def day_field(random, likely):
    kind = random.randrange(14)
    wanted = random.choice([likely.day, likely.day, random.randint(1, 31)])
    if kind == 0:
        return "L", lambda each: each.day == length_of(each)
    if kind == 1:
        return "LW", lambda each: is_nearest_weekday(each, length_of(each))
    if kind == 2:
        return f"{wanted}W", lambda each: is_nearest_weekday(each, wanted)
    if kind == 3:
        return f"{wanted},L", lambda each: each.day == wanted or each.day == length_of(each)
    if kind < 6:
        text, days = field(random, 1, 31, wanted)
        return text, lambda each: each.day in days
    return random.choice("**?"), lambda each: True


def weekday_field(random, likely):
    # Sunday is 0 in cron, and 6 in Python.
    number = (likely.weekday() + 1) % 7
    kind = random.randrange(14)
    if kind == 0:
        return f"{number}L", lambda each: cron_weekday(each) == number and each.day + 7 > length_of(each)
    if kind == 1:
        count = random.choice([(likely.day - 1) // 7 + 1, random.randint(1, 5)])
        text = random.choice([str(number), WEEKDAYS[number].lower()])
        return f"{text}#{count}", lambda each: cron_weekday(each) == number and (each.day - 1) // 7 + 1 == count
    if kind == 2:
        return "7", lambda each: each.weekday() == 6
    if kind == 3:
        return "5-7", lambda each: each.weekday() >= 4
    if kind < 6:
        text, days = field(random, 0, 6, number, names=WEEKDAYS)
        # A range with a step ends at 7 in cron.
        days = set(days) | ({0} if text.endswith("/7") and 7 in days else set())
        if "/" in text and not text.startswith("*"):
            return weekday_field(random, likely)
        return text, lambda each: cron_weekday(each) in days
    return random.choice("**?"), lambda each: True


def cron_weekday(day):
    return (day.weekday() + 1) % 7


def cases(count: int, seed: int) -> Iterator[tuple[Expression, str, datetime, datetime]]:
    """Yield random expressions with their zone, and a time around a change of its clock."""
    rng = random.Random(seed)
    zones = [(zone, year) for zone, years in PLACES.items() for year in years]
    for _ in range(count):
        zone, year = rng.choice(zones)
        change = rng.choice(changes(zone, year))
        begin = change.replace(second=0) - timedelta(hours=26)
        yield expressions(rng, zone, change), zone, begin, begin + timedelta(hours=54)
