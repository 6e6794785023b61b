"""A reminder: a person is asked, and asked again, and in the end the manager is asked.

All mails of a reminder are one recurring message. So there is one thing to remove when the answer comes. Removing it works at
any moment: if a worker has the message, its settlement has no effect, and it cannot bring the reminder back.
"""

from __future__ import annotations

import uuid

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from pitstop import Delivery, Entry, Pitstop
from reminders.journal import Journal
from reminders.mail import Mail, Post


KIND = "reminder"
AGAIN_AFTER = timedelta(hours=2)
#: How often the person is asked before the manager is asked.
TIMES = 3


def remind(pit: Pitstop, name: str, who: str, about: str, at: datetime) -> str:
    """Ask ``who`` at this time. A new reminder with the name of an open one replaces it. Return the id, for :func:`answer`."""
    # Reminders may have the same name one after the other. The case is one of them.
    case = uuid.uuid4().hex
    message = {"id": f"{KIND}:{name}", "kind": KIND, "case": case, "who": who, "about": about, "first": at}
    # In UTC, because in the night when the clocks are set, an hour is missing or comes twice on the wall clock.
    end = at.astimezone(UTC) + (TIMES + 1) * AGAIN_AFTER
    return pit.store(message, at, end, AGAIN_AFTER)


def answer(pit: Pitstop, journal: Journal, id: str) -> bool:
    """Note that the task is done, and send no more mails. Return False if no open reminder has the id."""
    entry = pit.get(id)
    if entry is None:
        return False
    # Noted first: if the process dies in between, or `remove` raises, the user answers again.
    journal.note(f"{id}:answered:{entry.message['case']}", "answered", pit.now())
    pit.remove(id)
    return True


def send_reminder(delivery: Delivery, post: Post, manager: str) -> None:
    who, about = delivery.msg["who"], delivery.msg["about"]
    number = (delivery.scheduled_for - delivery.msg["first"]) // AGAIN_AFTER + 1
    # After an outage one mail replaces several. The last mail goes to both, because they may have missed the others.
    text = f"{delivery.missed} earlier mails could not be sent." if delivery.missed else ""
    if number <= TIMES:
        post.send(delivery, "asked", Mail((who,), f"Reminder {number} of {TIMES}: {about}", text))
    else:
        post.send(delivery, "escalated", Mail((manager, who), f"Not answered: {about}", text))


def open_reminders(pit: Pitstop, who: str) -> Iterator[Entry]:
    """Yield the reminders that a person has not answered yet, by the time of the next mail."""
    last = None
    while page := pit.entries(after=last):
        yield from (each for each in page if each.message.get("kind") == KIND and each.message["who"] == who)
        last = page[-1]
