"""Durations as people write them: ``timedelta``, seconds, or text such as ``"1h30m"``."""

from __future__ import annotations

import math
import re

from datetime import datetime, timedelta

from pitstop._errors import ConfigError
from pitstop._values._plain import Unreadable, as_timedelta
from pitstop._values._quoting import quoted


__all__ = ["LONGEST_SECONDS", "distance", "format_duration", "parse_duration", "read_duration"]

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
#: Longer than any useful wait, and short enough to be added to any present date.
_LONGEST = timedelta(days=36_525)
LONGEST_SECONDS = _LONGEST.total_seconds()
#: The most characters of a text that can be a duration.
_LONGEST_TEXT = 100
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_TEXT = re.compile(rf"(?:{_PART.pattern})+")
_NUMBER = re.compile(r"\d+(?:\.\d+)?")


def parse_duration(value: object, field: str) -> timedelta:
    """Return a duration as a ``timedelta``.

    :param value: a ``timedelta``, a number of seconds, or text: a number of seconds (``"90"``) or numbers with units
        ``ms``, ``s``, ``m``, ``h``, ``d``, ``w`` (``"15m"``, ``"1h30m"``).
    :param field: the name under which the value was given, for the error.
    :raises ConfigError: if it is none of these, negative, not finite, or longer than 100 years.
    """
    duration = read_duration(value)
    if duration is None:
        raise ConfigError(
            f"{field}={quoted(value)} is not a duration. "
            f"Give a timedelta, a number of seconds, or text such as '15m', '1h30m' or '250ms'."
        )
    if duration < timedelta(0):
        raise ConfigError(f"{field}={quoted(value)} is negative. Give a duration of zero or more.")
    if duration > _LONGEST:
        raise ConfigError(f"{field}={quoted(value)} is longer than 100 years. Give a shorter duration.")
    return duration


def read_duration(value: object) -> timedelta | None:
    """Return a duration as :func:`parse_duration` does, without its bounds; None if the value is none."""
    try:
        span = as_timedelta(value)
        if span is not None or isinstance(value, bool):
            return span
        if isinstance(value, int):
            return timedelta(seconds=int.__int__(value))
        if isinstance(value, float):
            seconds = float.__float__(value)
            return timedelta(seconds=seconds) if math.isfinite(seconds) else None
        if isinstance(value, str) and str.__len__(value) <= _LONGEST_TEXT:
            return _read_text(str.__str__(value).strip().lower())
    except (OverflowError, Unreadable):
        return None
    return None


def _read_text(text: str) -> timedelta | None:
    if _NUMBER.fullmatch(text):
        return timedelta(seconds=float(text))
    if not _TEXT.fullmatch(text):
        return None
    return sum((float(number) * _UNITS[unit] for number, unit in _PART.findall(text)), timedelta(0))


def format_duration(duration: timedelta) -> str:
    """Return a duration in the form that :func:`parse_duration` reads, as in ``"1h30m"``."""
    rest = duration // _UNITS["ms"]
    sign, rest = ("-", -rest) if rest < 0 else ("", rest)
    parts = []
    for unit in ("d", "h", "m", "s", "ms"):
        count, rest = divmod(rest, _UNITS[unit] // _UNITS["ms"])
        if count:
            parts.append(f"{count}{unit}")
    return sign + ("".join(parts) or "0s")


def distance(when: datetime, now: datetime) -> str:
    """Return the distance of ``when`` from ``now``, for people: ``in 3h12m``, ``5s ago``."""
    span = abs(when - now)
    for unit, coarse in ((timedelta(minutes=1), timedelta(hours=2)), (timedelta(seconds=1), timedelta(seconds=10))):
        if span >= coarse:
            span -= span % unit
            break
    text = format_duration(span)
    return f"in {text}" if when > now else f"{text} ago"
