"""Every: an interval of elapsed time."""

from __future__ import annotations

import re

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, ClassVar, Self

import attrs

from pitstop._errors import ConfigError, ScheduleError
from pitstop._recurrence._base import Recurrence
from pitstop._values._duration import format_duration, parse_duration, read_duration
from pitstop._values._instant import span_of_time
from pitstop._values._plain import shown


__all__ = ["Every"]

_MILLISECOND = timedelta(milliseconds=1)
#: Milliseconds of the longest ``timedelta``.
_LONGEST = timedelta.max // _MILLISECOND
_LONGEST_TEXT = 1000
_MONTHS_OR_YEARS = re.compile(r"(EVERY )?[0-9]{0,9} ?(MO|MONTHS?|MONTHLY|Y|YEARS?|YEARLY)")


@attrs.frozen(init=False, repr=False)
class Every(Recurrence):
    """A fixed interval of elapsed time: the k-th occurrence is ``start + k * every``.

    >>> from datetime import UTC, datetime
    >>> [each.hour for each in Every("8h").occurrences(datetime(2031, 5, 4, tzinfo=UTC), datetime(2031, 5, 5, tzinfo=UTC))]
    [0, 8, 16]

    A day is 24 hours here, so after a change to daylight saving time the wall clock shows another hour.
    :class:`pitstop.Calendar` keeps the hour.
    """

    kind: ClassVar[str] = "every"

    ms: int

    def __init__(self, every: timedelta | str) -> None:
        """Make a rule from a ``timedelta``, or from text such as ``"1h30m"``.

        :raises ScheduleError: if the interval is not positive, or not a whole number of milliseconds.
        """
        span = _span_of_text(every) if isinstance(every, str) else span_of_time(every, "every")
        if span is None:
            raise ScheduleError(f"every={shown(every)} is no interval. Give a timedelta, or text such as '1h30m'.")
        if span <= timedelta(0):
            raise ScheduleError(f"every={shown(every)} is not positive. Give the time from one occurrence to the next.")
        ms, rest = divmod(span, _MILLISECOND)
        if rest:
            raise ScheduleError(
                f"every={shown(every)} is not a whole number of milliseconds. Round it, or it would drift."
            )
        self.__attrs_init__(ms)

    @classmethod
    def of_ms(cls, ms: int) -> Self:
        """Return the rule with an interval of that many milliseconds."""
        every = cls.__new__(cls)
        every.__attrs_init__(ms)
        return every

    def first(self, start: int) -> int:
        return start

    def after(self, instant: int, start: int) -> int:
        return start + ((instant - start) // self.ms + 1) * self.ms if instant >= start else start

    def latest(self, instant: int, start: int) -> int | None:
        return start + (instant - start) // self.ms * self.ms if instant >= start else None

    def count(self, since: int, until: int, start: int) -> int:
        return (until - since) // self.ms

    def dump(self) -> dict[str, Any]:
        return {"ms": self.ms}

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> Self:
        ms = fields.get("ms")
        if len(fields) != 1 or type(ms) is not int or not 1 <= ms <= _LONGEST:
            raise ScheduleError(
                "A stored recurrence of kind 'every' must have the one field 'ms', a positive int. Store the message again, or "
                "remove it."
            )
        return cls.of_ms(ms)

    @property
    def timedelta(self) -> timedelta:
        """The interval as it was given."""
        return timedelta(milliseconds=self.ms)

    def __repr__(self) -> str:
        return f"Every({format_duration(self.timedelta)!r})"


def _span_of_text(text: str) -> timedelta:
    if read_duration(text) is None:
        raise ScheduleError(f"every={shown(text)} is no interval. {_advice_on(text)}")
    try:
        return parse_duration(text, "every")
    except ConfigError as error:
        raise ScheduleError(str(error)) from None


def _advice_on(text: str) -> str:
    """Return the remedy for a text that may be meant as another rule."""
    meant = text[:_LONGEST_TEXT].strip().upper()
    if "FREQ=" in meant:
        return "For a rule of RFC 5545, give RRule('FREQ=DAILY')."
    if meant.startswith("@") or len(meant.split()) >= 5:
        return "For a cron expression, give Cron('0 9 * * *')."
    if _MONTHS_OR_YEARS.fullmatch(meant):
        return "For months and years, give Calendar(months=1)."
    return "Give a timedelta, or text such as '15m', '1h30m' or '250ms'."
