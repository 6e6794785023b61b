"""The monthly report, on the last day of each month at six in the evening, by the wall clock of the company.

The report is a series that is stored at each start of a worker. If the same series is stored already, it stays as it is.
"""

from __future__ import annotations

import calendar

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from pitstop import Cron, Delivery, Pitstop, Stored
from reminders.journal import Journal
from reminders.mail import Mail, Post


KIND = "report"


def schedule_report(pit: Pitstop, zone: ZoneInfo) -> Stored:
    """Store the series of reports, unless it is stored with this schedule already."""
    every = Cron("0 18 L * *", tz=zone)
    # After a downtime each month still gets its report.
    return pit.store({"id": KIND, "kind": KIND}, every=every, catch_up="all", if_exists="keep")


def send_report(delivery: Delivery, post: Post, journal: Journal, manager: str, zone: ZoneInfo) -> None:
    # The nominal time names the month: a late report is that of its month, even if that month is over.
    end = delivery.scheduled_for.astimezone(zone)
    start = month_end(end.date().replace(day=1) - timedelta(days=1), zone)
    counts = journal.count(start, end)
    text = "\n".join(f"{what}: {counts.get(what, 0)}" for what in ("asked", "answered", "escalated"))
    post.send(delivery, KIND, Mail((manager,), f"Reminders in {end:%Y-%m}", text))


def month_end(day: date, zone: ZoneInfo) -> datetime:
    """Return the time at which the month of this day closes."""
    last = calendar.monthrange(day.year, day.month)[1]
    return datetime(day.year, day.month, last, 18, tzinfo=zone)
