"""``pitstop preview``: the next occurrences of a rule, before anything is stored."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from pitstop import ScheduleError
from pitstop._decisions._store import preview as next_occurrences
from pitstop.abc import SystemClock
from pitstop.cli._output import needs_stdout, print_json, print_table
from pitstop.cli._rules import rule_of_argument
from pitstop.cli._settings import Settings, common_options
from pitstop.cli._times import iso, moment, moment_or_duration


__all__ = ["preview"]

_MOST = 10_000


@click.command()
@click.argument("rule")
@click.option("--tz", metavar="ZONE", help="The zone of the rule, as in Europe/Berlin. Default: UTC.")
@click.option("--at", type=moment, metavar="TIME", help="The start: ISO-8601 with its zone. Default: now.")
@click.option("--until", type=moment_or_duration, metavar="TIME|DURATION", help="The end of the series (exclusive).")
@click.option("-n", "count", type=click.IntRange(1, _MOST), default=5, show_default=True, help="How many to show.")
@common_options
@click.pass_obj
def preview(
    settings: Settings, rule: str, tz: str | None, at: datetime | None, until: datetime | timedelta | None, count: int
) -> None:
    """Show the next occurrences of RULE: an interval, a cron expression, or an RRULE. Nothing is stored.

    \b
    pitstop preview '0 9 * * MON-FRI' --tz Europe/Berlin
    pitstop preview 'FREQ=MONTHLY;BYDAY=-1FR' --tz America/New_York -n 12
    pitstop preview 1mo --at 2031-01-31T09:00+01:00 --tz Europe/Berlin
    """  # noqa: D301 - click needs the backspace itself, which a raw string does not hold
    needs_stdout("preview")
    every = rule_of_argument(rule, tz)
    try:
        found = next_occurrences(every, at, until, count, SystemClock().time_us())
    except ScheduleError as error:
        raise click.UsageError(str(error)) from error
    if settings.json:
        for each in found:
            print_json({"at": iso(each.at), "local": each.local.isoformat(), "zone": each.zone, "note": each.note})
        return
    rows = [(f"{each.local:%a %Y-%m-%d %H:%M:%S}", each.offset, each.zone, each.note) for each in found]
    print_table(("time", "offset", "zone", "note"), rows)
