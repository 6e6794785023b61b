"""The weekly digest: what somebody has not answered yet."""

from __future__ import annotations

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from pitstop import Delivery, Pitstop
from reminders.escalation import open_reminders
from reminders.mail import Mail, Post


KIND = "digest"


def start_digest(pit: Pitstop, who: str, first: datetime, end: datetime) -> str:
    """Each week from ``first`` until ``end``, exclusive; one that is more than a day late is left out.

    A week is 168 hours: what came at eight in winter comes at nine in summer. Good enough for a digest; ``report`` shows
    what to do where it is not.
    """
    message = {"id": f"{KIND}:{who}", "kind": KIND, "who": who}
    return pit.store(message, first, end, timedelta(weeks=1), catch_up="skip", grace=timedelta(days=1))


def send_digest(pit: Pitstop, delivery: Delivery, post: Post, zone: ZoneInfo) -> None:
    who = delivery.msg["who"]
    # `scheduled_for`: `due` of one that a worker has is the end of its lease, and of a dead one there is none.
    lines = [
        f"{each.scheduled_for.astimezone(zone):%a %d %b %H:%M} {each.message['about']}"
        for each in open_reminders(pit, who)
        if each.scheduled_for is not None
    ]
    if lines:
        post.send(delivery, KIND, Mail((who,), f"{len(lines)} open", "\n".join(lines)))
