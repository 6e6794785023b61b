"""Times and durations as arguments of commands."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from pitstop import ConfigError
from pitstop._values._duration import distance as ago
from pitstop._values._duration import format_duration, parse_duration
from pitstop._values._rate import Rate, parse_rate


__all__ = ["ago", "duration", "iso", "moment", "moment_or_distance", "moment_or_duration", "rate_of", "spelled"]


def duration(text: str) -> timedelta:
    """Return the duration of a text: ``15m``, ``1h30m``, ``250ms``. A number alone is seconds.

    :raises click.BadParameter: if the text is not a duration.
    """
    try:
        return parse_duration(text, "")
    except ConfigError:
        raise click.BadParameter(f"{text!r} is no duration. Write it as in '15m', '1h30m' or '250ms'.") from None


def rate_of(text: str) -> Rate:
    """Return the rate of a text: ``50/s``, ``100/m``, ``1000/15m``.

    :raises click.BadParameter: if the text is not a rate.
    """
    try:
        return parse_rate(text, "--rate")
    except ConfigError as error:
        raise click.BadParameter(str(error)) from None


def moment(text: str) -> datetime:
    """Return the time of an ISO-8601 text with its zone.

    :raises click.BadParameter: if the text is not a time, or has no zone.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no ISO-8601 time. Write it as in '2031-05-04T12:00:00+02:00'.") from None
    if found.utcoffset() is None:
        whole = found.isoformat() if found.second or found.microsecond else found.isoformat(timespec="minutes")
        raise click.BadParameter(
            f"{text!r} does not say in which zone. Add it: '{whole}Z' is UTC, '{whole}+02:00' two hours east of it."
        )
    return found


def moment_or_duration(text: str) -> datetime | timedelta:
    """Return the time of a text, or the duration from now.

    :raises click.BadParameter: if the text is neither.
    """
    try:
        return parse_duration(text, "")
    except ConfigError:
        pass
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a time nor a duration. Write it as in '2031-05-04T12:00:00+02:00' or '1h30m'."
        ) from None
    return moment(text)


def moment_or_distance(text: str) -> datetime | timedelta:
    """Return the time of a text, or the distance from now, which is in the past if it begins with a minus sign.

    :raises click.BadParameter: if the text is neither.
    """
    return -duration(text[1:]) if text.startswith("-") else moment_or_duration(text)


def spelled(option: str, value: datetime | timedelta) -> str:
    """Return an option with a time or a duration as a user writes them, for errors."""
    if isinstance(value, datetime):
        return f"{option} {value.isoformat()}"
    # The usual form has no place for a fraction of a millisecond, which core refuses.
    exact = value % timedelta(milliseconds=1) == timedelta(0)
    return f"{option} {format_duration(value) if exact else f'{value / timedelta(milliseconds=1)}ms'}"


def iso(when: datetime | None) -> str | None:
    """Return an aware UTC datetime as text with milliseconds, as in ``2031-05-04T10:00:00.000Z``."""
    return None if when is None else when.isoformat(timespec="milliseconds").replace("+00:00", "Z")
