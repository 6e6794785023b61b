"""The weekly digest: the reminders that a person has not answered yet."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from pitstop import Calendar, Delivery, Pitstop
from reminders.escalation import open_reminders
from reminders.mail import Mail, Post


KIND = "digest"


def start_digest(pit: Pitstop, who: str, first: datetime, end: datetime, zone: ZoneInfo) -> str:
    """Store a digest for each week from ``first`` until ``end``, exclusive. One that is more than a day late is left out.

    A week is one of the calendar: the digest keeps its hour when the clocks change.
    """
    message = {"id": f"{KIND}:{who}", "kind": KIND, "who": who}
    return pit.store(message, first, end, Calendar(weeks=1, tz=zone), catch_up="skip", grace=timedelta(days=1))


def send_digest(pit: Pitstop, delivery: Delivery, post: Post, zone: ZoneInfo) -> None:
    who = delivery.msg["who"]
    # Why `scheduled_for`: if a worker has the reminder, its `due` is the end of the lease, and a dead one has no `due`.
    lines = [
        f"{each.scheduled_for.astimezone(zone):%a %d %b %H:%M} {each.message['about']}"
        for each in open_reminders(pit, who)
        if each.scheduled_for is not None
    ]
    if lines:
        post.send(delivery, KIND, Mail((who,), f"{len(lines)} open", "\n".join(lines)))
