"""The monthly report, on the last day of each month at six in the evening, by the wall clock of the company.

A series with a rule gives the times. Each of its occurrences stores one report as a message of its own, under an id that names
the month. A report that fails for too long is then dead, and can be redriven, while the series goes on.
"""

from __future__ import annotations

from datetime import timedelta
from zoneinfo import ZoneInfo

from pitstop import Cron, Delivery, Pitstop, Stored
from reminders.journal import Journal
from reminders.mail import Mail, Post


SERIES = "reports"
KIND = "report"


def schedule_reports(pit: Pitstop, zone: ZoneInfo) -> Stored:
    """Store the series of reports from now on, unless it is stored. No month is left out, even after a long downtime.

    Each worker calls this at its start. If the company has moved to another zone, the series is replaced.
    """
    every = Cron("0 18 L * *", tz=zone)
    return pit.store({"id": SERIES, "kind": SERIES}, every=every, catch_up="all", if_exists="keep")


def store_report(pit: Pitstop, delivery: Delivery, zone: ZoneInfo) -> None:
    """Store the report of one month. If it is stored twice, its mail still goes out once: see :meth:`reminders.mail.Post.send`."""
    month = delivery.scheduled_for.astimezone(zone)
    pit.store({"id": f"{KIND}:{month:%Y-%m}", "kind": KIND}, delivery.scheduled_for)


def send_report(delivery: Delivery, post: Post, journal: Journal, manager: str, zone: ZoneInfo) -> None:
    end = delivery.scheduled_for.astimezone(zone)
    start = end.replace(day=1) - timedelta(days=1)
    counts = journal.count(start, end)
    text = "\n".join(f"{what}: {counts.get(what, 0)}" for what in ("asked", "answered", "escalated"))
    post.send(delivery, KIND, Mail((manager,), f"Reminders in {end:%Y-%m}", text))
