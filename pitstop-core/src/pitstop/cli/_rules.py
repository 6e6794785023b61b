"""The rule of a series as options of a command, and as one argument."""

from __future__ import annotations

import re

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import click

from pitstop import Calendar, ConfigError, Cron, RRule, ScheduleError
from pitstop._values._duration import parse_duration
from pitstop._values._schedule import Interval


__all__ = ["rule_of", "rule_of_argument", "rule_options"]

_Command = TypeVar("_Command", bound=Callable[..., Any])

_UNITS = {"d": "days", "w": "weeks", "mo": "months", "y": "years"}
_CALENDAR = re.compile(r"([0-9]{1,6})(d|w|mo|y)")
_EVERY = re.compile(r"Every\('([^']*)'\)")
#: The arguments in errors about a rule, and the options in their place.
_OPTIONS = {
    "the 'when' of store()": "given by --at",
    "the 'end' of store()": "given by --until",
    "store(..., end=...)": "--until",
    "jitter=... to store()": "--jitter",
    "a Cron in place": "a cron expression in place",
}
#: Units that no duration has.
_OF_CALENDARS_ALONE = ("mo", "y")


def rule_options(command: _Command) -> _Command:
    """Add the options that give a rule."""
    for option in (
        click.option("--tz", metavar="ZONE", help="The zone of the rule, as in Europe/Berlin. Default: UTC."),
        click.option("--rrule", metavar="RULE", help="Emit it by a rule of RFC 5545, as in FREQ=MONTHLY;BYDAY=-1FR."),
        click.option("--cron", metavar="EXPRESSION", help="Emit it by a cron expression, as in '0 9 * * MON-FRI'."),
        click.option(
            "--every",
            metavar="INTERVAL",
            help="Emit it again and again: 90s, 1h30m; 1mo or 1y by the calendar; with --tz also 1d and 1w by the calendar.",
        ),
    ):
        command = option(command)
    return command


def rule_of(every: str | None, cron: str | None, rrule: str | None, tz: str | None) -> Interval | None:
    """Return the rule that options give; None if they give none.

    :raises click.UsageError: if they give several, or a zone without a rule that has one.
    """
    if sum(each is not None for each in (every, cron, rrule)) > 1:
        raise click.UsageError("--every, --cron and --rrule each give the rule. Give one of them.")
    try:
        if cron is not None:
            return Cron(cron, tz="UTC" if tz is None else tz)
        if rrule is not None:
            return RRule(rrule, tz="UTC" if tz is None else tz)
        if every is not None:
            return _of_interval(every, tz)
    except ScheduleError as error:
        raise click.UsageError(_in_terms_of_options(str(error), "--every {}")) from error
    if tz is not None:
        raise click.UsageError("--tz is the zone of a rule. Give --cron, --rrule or --every, too.")
    return None


def rule_of_argument(text: str, tz: str | None) -> Interval:
    """Return the rule that a text means: an interval, a cron expression, or an RRULE.

    :raises click.UsageError: if it means none.
    """
    stripped = text.strip()
    zone = "UTC" if tz is None else tz
    try:
        if "FREQ=" in stripped.upper():
            return RRule(stripped, tz=zone)
        if stripped.startswith("@") or len(stripped.split()) > 1:
            return Cron(stripped, tz=zone)
        return _of_interval(stripped, tz)
    except ScheduleError as error:
        raise click.UsageError(_in_terms_of_options(str(error), "'{}'")) from error


def _in_terms_of_options(text: str, interval: str) -> str:
    """Reword an error about a rule, which names the arguments of the library.

    :param interval: how an interval is given in the place of the rule.
    """
    for argument, option in _OPTIONS.items():
        text = text.replace(argument, option)
    return _EVERY.sub(lambda match: interval.format(match[1]), text)


def _of_interval(text: str, tz: str | None) -> timedelta | Calendar:
    match = _CALENDAR.fullmatch(text.strip().lower())
    if match is not None and (tz is not None or match[2] in _OF_CALENDARS_ALONE):
        # A day of the calendar, unlike one of 24 hours, needs a zone.
        return Calendar(**{_UNITS[match[2]]: int(match[1])}, tz="UTC" if tz is None else tz)
    try:
        duration = parse_duration(text, "")
    except ConfigError:
        raise click.UsageError(
            f"{text!r} is no interval. Write it as in '90s', '1h30m', '1d' or '1mo'. A cron expression has five fields."
        ) from None
    if tz is not None:
        raise click.UsageError(
            f"{text!r} is elapsed time, which has no zone. Leave --tz out, or give days, weeks, months or years, as in '1d'."
        )
    return duration
