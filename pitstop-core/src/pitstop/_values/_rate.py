"""Rates as people write them: text such as ``"50/s"``."""

from __future__ import annotations

import re

from datetime import timedelta

import attrs

from pitstop._errors import ConfigError
from pitstop._values._duration import LONGEST_SECONDS, read_duration
from pitstop._values._quoting import quoted


__all__ = ["Rate", "parse_rate"]

#: The greatest number of messages.
_MOST = 2**63 - 1
#: The most characters of a text that can be a rate.
_LONGEST_TEXT = 100
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_UNIT = re.compile(r"ms|[smhdw]")
_LEAST = timedelta(milliseconds=1)
_EXAMPLES = "Give text such as '50/s', '100/m' or '1000/15m'."


@attrs.frozen
class Rate:
    """At most ``messages`` in any ``period``."""

    messages: int
    period: timedelta


def parse_rate(value: object, field: str) -> Rate:
    """Return a rate.

    :param value: text: a whole number of messages, ``/``, and a unit (``"50/s"``) or a duration with units
        (``"1000/15m"``, ``"1/1h30m"``).
    :param field: the name under which the value was given, for the error.
    :raises ConfigError: if it is not such a text, has no message or a fraction of one, or a period that is no use.
    """
    given = f"{field}={quoted(value)}"
    text = str.__str__(value) if isinstance(value, str) and str.__len__(value) <= _LONGEST_TEXT else ""
    count, slash, span = (each.strip().lower() for each in text.partition("/"))
    if not slash or not _NUMBER.fullmatch(count) or not text.isascii():
        raise ConfigError(f"{given} is not a rate. {_EXAMPLES}")
    if "." in count:
        raise ConfigError(
            f"{given} has a fraction of a message. Give a whole number in a longer time, as in '1/2s' for a message every two seconds."
        )
    messages = int(count)
    if messages == 0:
        raise ConfigError(
            f"{given} would let no message through. Give at least one message, as in '1/h'; or do not consume."
        )
    if messages > _MOST:
        raise ConfigError(f"{given} cannot be used. Give at most {_MOST} messages, or no rate.")
    if _UNIT.fullmatch(span):
        span = f"1{span}"
    # A number alone would be seconds. Beside a number of messages, that reads like a fraction.
    period = None if _NUMBER.fullmatch(span) else read_duration(span)
    if period is None:
        raise ConfigError(
            f"{given} has no duration after the slash. Give a unit (ms, s, m, h, d, w), or a number with one, as in '50/s' or '1000/15m'."
        )
    if not _LEAST <= period <= timedelta(seconds=LONGEST_SECONDS):
        raise ConfigError(f"{given} cannot be used. Give a duration from one millisecond to 100 years.")
    return Rate(messages, period)
