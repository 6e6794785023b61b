"""Show the next occurrences of a rule as the clock of its zone shows them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice

import attrs

from pitstop._errors import PitstopError, ScheduleError
from pitstop._recurrence._base import Recurrence, asked, following
from pitstop._recurrence._wall import Wall, wall_of, zone_name
from pitstop._values._instant import from_instant
from pitstop._values._quoting import quoted


__all__ = ["Upcoming", "check_count", "upcoming"]

#: The most occurrences that are shown at once.
_MOST_SHOWN = 10_000


@attrs.frozen
class Upcoming:
    """An occurrence that is to come. Its text is a line for people.

    >>> from pitstop import Cron
    >>> rule = Cron("30 2 * * *", tz="Europe/Berlin")
    >>> for each in upcoming(rule, 1774652400000, None, 2):
    ...     print(each)
    Sat 2026-03-28 02:30:00 +01:00 Europe/Berlin
    Sun 2026-03-29 03:00:00 +02:00 Europe/Berlin (moved: the clock skips its time)
    """

    #: The occurrence, in UTC.
    at: datetime
    #: The same in the zone of its rule. Rules without a zone have UTC.
    local: datetime
    #: The name of the zone.
    zone: str
    #: The effect of daylight saving time on this occurrence; None if there is none.
    note: str | None = None

    def __str__(self) -> str:
        text = f"{self.local:%a %Y-%m-%d %H:%M:%S} {self.offset} {self.zone}"
        return text if self.note is None else f"{text} ({self.note})"

    @property
    def offset(self) -> str:
        """The offset from UTC, as in ``+02:00``."""
        offset = self.local.utcoffset() or timedelta(0)
        minutes = round(abs(offset) / timedelta(minutes=1))
        return f"{'-' if offset < timedelta(0) else '+'}{minutes // 60:02}:{minutes % 60:02}"


def upcoming(
    recurrence: Recurrence, start: int, end: int | None, count: int, *, since: int | None = None
) -> list[Upcoming]:
    """Return the first occurrences of a series, at ``since`` or later.

    :raises pitstop.ScheduleError: if the rule is broken.
    """
    begin = start if since is None else max(since, start)
    wall = _wall_of_rule(recurrence)
    return [_shown(recurrence, each, start, wall) for each in islice(_instants(recurrence, start, end, begin), count)]


def check_count(n: object) -> None:
    """Check a number of occurrences to show.

    :raises pitstop.PitstopError: if it is no whole number, or out of range.
    """
    if type(n) is not int or not 1 <= n <= _MOST_SHOWN:
        raise PitstopError(f"n={quoted(n)} cannot be used. Give a whole number from 1 to {_MOST_SHOWN}.")


def _wall_of_rule(recurrence: Recurrence) -> Wall:
    try:
        return wall_of(zone_name(getattr(recurrence, "tz", "UTC")))
    except ScheduleError:
        # A kind of another author may mean something else by the name.
        return wall_of("UTC")


def _instants(recurrence: Recurrence, start: int, end: int | None, begin: int) -> Iterator[int]:
    found = following(recurrence, begin - 1, start)
    while found is not None and (end is None or found < end):
        yield found
        found = following(recurrence, found, start)


def _shown(recurrence: Recurrence, occurrence: int, start: int, wall: Wall) -> Upcoming:
    utc = from_instant(occurrence)
    try:
        local = utc.astimezone(wall.zone)
    except OverflowError:
        # The zone's own clock is beyond the year 9999.
        return Upcoming(utc, utc, "UTC")
    note = None
    reading = wall.read(occurrence)
    if wall.zone is not UTC and reading is not None:
        if asked(recurrence, occurrence, recurrence.is_moved, occurrence, start):
            note = "moved: the clock skips its time"
        elif wall.fold_around(reading) is not None:
            note = f"the clock shows this time twice: {'second' if reading.fold else 'first'} pass"
    return Upcoming(utc, local, wall.name, note)
