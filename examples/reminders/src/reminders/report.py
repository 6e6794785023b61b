"""The monthly report, on the last day of each month at six in the evening, by the wall clock of the company.

Months do not fit ``every``, because they differ in length. So each report is a message that stores the next one, under an id
that names the month. To store it twice is therefore the same as once.
"""

from __future__ import annotations

import calendar

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

from pitstop import Delivery, Pitstop
from reminders.journal import Journal
from reminders.mail import Mail, Post


KIND = "report"


def schedule_report(pit: Pitstop, after: datetime, zone: ZoneInfo) -> str:
    """Store the first report that is due after this time."""
    today = after.astimezone(zone).date()
    end = month_end(today, zone)
    if end <= after:
        end = month_end(today.replace(day=1) + timedelta(days=32), zone)
    return pit.store({"id": f"{KIND}:{end:%Y-%m}", "kind": KIND}, end)


def send_report(pit: Pitstop, delivery: Delivery, post: Post, journal: Journal, manager: str, zone: ZoneInfo) -> None:
    # This comes before anything that may fail, so that there is a next report in any case. It uses the nominal time: a late
    # report stores the report of the following month, even if that month is over, too.
    schedule_report(pit, delivery.scheduled_for, zone)
    end = delivery.scheduled_for.astimezone(zone)
    start = month_end(end.date().replace(day=1) - timedelta(days=1), zone)
    counts = journal.count(start, end)
    text = "\n".join(f"{what}: {counts.get(what, 0)}" for what in ("asked", "answered", "escalated"))
    post.send(delivery, KIND, Mail((manager,), f"Reminders in {end:%Y-%m}", text))


def month_end(day: date, zone: ZoneInfo) -> datetime:
    """Return the time at which the month of this day closes."""
    last = calendar.monthrange(day.year, day.month)[1]
    return datetime(day.year, day.month, last, 18, tzinfo=zone)
