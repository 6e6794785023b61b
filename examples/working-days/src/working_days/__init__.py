"""WorkingDays: a time on each day that is neither Saturday, nor Sunday, nor a holiday."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Any, ClassVar, Self
from zoneinfo import ZoneInfo

import attrs

from pitstop import Cron, Recurrence, ScheduleError


__all__ = ["WorkingDays"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIELDS = {"at", "tz", "holidays"}


@attrs.frozen(init=False)
class WorkingDays(Recurrence):
    """The days from Monday to Friday at a time of the clock, without the holidays."""

    kind: ClassVar[str] = "example.working-days"

    at: str
    tz: str
    holidays: tuple[str, ...]

    def __init__(self, at: str, tz: str | tzinfo, holidays: Iterable[str] = ()) -> None:
        """Make a rule.

        :param at: a time of the day in whole minutes, as in ``"09:00"``.
        :param holidays: dates, as in ``"2031-05-01"``.
        :raises pitstop.ScheduleError: if the time, the zone or a date cannot be read.
        """
        try:
            dates = sorted({date.fromisoformat(each).isoformat() for each in holidays})
            self.__attrs_init__(_minutes(at), Cron("@daily", tz=tz).tz, tuple(dates))
        except ScheduleError:
            raise
        except (TypeError, ValueError) as error:
            raise ScheduleError(f"WorkingDays: {error}. Give '09:00', and dates such as '2031-05-01'.") from error

    def after(self, instant: int, start: int) -> int | None:
        weekdays, zone, holidays = self._weekdays(), ZoneInfo(self.tz), frozenset(self.holidays)
        found = weekdays.after(instant, start)
        while found is not None and _day(found, zone) in holidays:
            found = weekdays.after(found, start)
        return found

    def dump(self) -> dict[str, Any]:
        return {"at": self.at, "tz": self.tz, "holidays": list(self.holidays)}

    @classmethod
    def load(cls, fields: Mapping[str, Any]) -> Self:
        # A field that a later version added must not be ignored: the message would come at the wrong times.
        if set(fields) != _FIELDS:
            raise ScheduleError(f"A stored {cls.kind} must have the fields {', '.join(sorted(_FIELDS))}.")
        return cls(**fields)

    def _weekdays(self) -> Cron:
        hour, minute = self.at.split(":")
        return Cron(f"{int(minute)} {int(hour)} * * MON-FRI", tz=self.tz)


def _minutes(at: str) -> str:
    clock = time.fromisoformat(at)
    if clock != time(clock.hour, clock.minute):
        raise ValueError(f"{at!r} has seconds or a zone")
    return clock.strftime("%H:%M")


def _day(instant: int, zone: ZoneInfo) -> str:
    return (_EPOCH + timedelta(milliseconds=instant)).astimezone(zone).date().isoformat()
