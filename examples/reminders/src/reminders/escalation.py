"""A reminder: somebody is asked, and asked again; in the end their manager is.

All mails of a reminder are one recurring message. So there is one thing to remove when the answer comes, and it works at
any moment: what a worker has in its hands then comes to nothing, and it cannot bring the reminder back.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from pitstop import Delivery, Entry, Pitstop
from reminders.journal import Journal
from reminders.mail import Mail, Post


KIND = "reminder"
AGAIN_AFTER = timedelta(hours=2)
#: How often they are asked before the manager is.
TIMES = 3


def remind(pit: Pitstop, name: str, who: str, about: str, at: datetime) -> str:
    """Ask ``who`` at this time; with the name of one that is open, in its place. Returns the id, for :func:`answer`."""
    message = {"id": f"{KIND}:{name}", "kind": KIND, "who": who, "about": about, "first": at}
    # In UTC, because by the clock on a wall there is an hour more or less in the night when it is set.
    end = at.astimezone(UTC) + (TIMES + 1) * AGAIN_AFTER
    return pit.store(message, at, end, AGAIN_AFTER)


def answer(pit: Pitstop, journal: Journal, id: str) -> bool:
    """It is done: no more mails. False when nobody waits for that, or no longer."""
    entry = pit.get(id)
    if entry is None:
        return False
    # Noted first: when the process dies in between, or `remove` raises, whoever answers does so again.
    journal.note(f"{id}:answered:{entry.revision}", "answered", pit.now())
    pit.remove(id)
    return True


def send_reminder(delivery: Delivery, post: Post, manager: str) -> None:
    who, about = delivery.msg["who"], delivery.msg["about"]
    number = (delivery.scheduled_for - delivery.msg["first"]) // AGAIN_AFTER + 1
    # After an outage there is one mail in place of several. The last is for both, as they may not have had the others.
    text = f"{delivery.missed} earlier mails could not be sent." if delivery.missed else ""
    if number <= TIMES:
        post.send(delivery, "asked", Mail((who,), f"Reminder {number} of {TIMES}: {about}", text))
    else:
        post.send(delivery, "escalated", Mail((manager, who), f"Not answered: {about}", text))


def open_reminders(pit: Pitstop, who: str) -> Iterator[Entry]:
    """What they have not answered yet, by the time of the next mail."""
    last = None
    while page := pit.entries(after=last):
        yield from (each for each in page if each.message.get("kind") == KIND and each.message["who"] == who)
        last = page[-1]
