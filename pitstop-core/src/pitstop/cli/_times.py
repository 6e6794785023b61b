"""Times and durations as arguments of commands."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click

from pitstop import ConfigError
from pitstop._values._duration import format_duration, parse_duration


__all__ = ["DURATION", "MOMENT", "MOMENT_OR_DURATION", "ago", "iso"]


class _Duration(click.ParamType):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        try:
            return parse_duration(value, "")
        except ConfigError as error:
            # The text begins with the field's name and "=", which click has said already.
            self.fail(str(error).removeprefix("="), param, ctx)


class _Moment(click.ParamType):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        try:
            moment = value if isinstance(value, datetime) else datetime.fromisoformat(value)
        except ValueError:
            self.fail(f"{value!r} is no ISO-8601 time. Write it as in '2031-05-04T12:00:00+02:00'.", param, ctx)
        if moment.utcoffset() is None:
            whole = moment.isoformat(timespec="minutes") if not moment.second else moment.isoformat()
            self.fail(
                f"{value!r} does not say in which zone. Add it: '{whole}Z' is UTC, '{whole}+02:00' two hours east of it.",
                param,
                ctx,
            )
        return moment


class _MomentOrDuration(click.ParamType):
    name = "time or duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime | timedelta:
        if isinstance(value, datetime | timedelta):
            return value
        try:
            return parse_duration(value, "")
        except ConfigError:
            return MOMENT.convert(value, param, ctx)


#: ``15m``, ``1h30m``, ``250ms``; a number alone is seconds.
DURATION = _Duration()
#: ISO-8601 with a zone.
MOMENT = _Moment()
#: Either; a duration counts from now.
MOMENT_OR_DURATION = _MomentOrDuration()


def iso(moment: datetime | None) -> str | None:
    """An aware UTC datetime as text with milliseconds, as in ``2031-05-04T10:00:00.000Z``."""
    return None if moment is None else moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def ago(moment: datetime, now: datetime) -> str:
    """How far ``moment`` is from ``now``, for people: ``in 3h12m``, ``5s ago``."""
    distance = abs(moment - now)
    for unit, coarse in ((timedelta(minutes=1), timedelta(hours=2)), (timedelta(seconds=1), timedelta(seconds=10))):
        if distance >= coarse:
            distance -= distance % unit
            break
    text = format_duration(distance)
    return f"in {text}" if moment > now else f"{text} ago"
