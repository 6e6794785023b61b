"""The monthly report, on the last day of each month at six in the evening, by the clock of the company.

Months are no ``every``: they differ in length. So each report is a message that stores the next one, under an id that says
which month it is: to store it twice is the same as once.
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
    # Before anything that may fail: whatever becomes of this month's report, there is a next one. By the nominal time, so
    # that a late report stores the month after its own, be that over, too.
    schedule_report(pit, delivery.scheduled_for, zone)
    end = delivery.scheduled_for.astimezone(zone)
    start = month_end(end.date().replace(day=1) - timedelta(days=1), zone)
    counts = journal.count(start, end)
    text = "\n".join(f"{what}: {counts.get(what, 0)}" for what in ("asked", "answered", "escalated"))
    post.send(delivery, KIND, Mail((manager,), f"Reminders in {end:%Y-%m}", text))


def month_end(day: date, zone: ZoneInfo) -> datetime:
    """When the month with this day closes."""
    last = calendar.monthrange(day.year, day.month)[1]
    return datetime(day.year, day.month, last, 18, tzinfo=zone)
