"""The parts put together: one handler for all messages."""

from __future__ import annotations

from collections.abc import Callable
from zoneinfo import ZoneInfo

from pitstop import Delivery, Pitstop
from reminders import digest, escalation, report
from reminders.journal import Journal
from reminders.mail import Mailer, Post


#: The options of this application, for any store. With these retries a mail server may be away for a day. After that, a
#: message without a next occurrence is dead until a person redrives it.
OPTIONS = {"lock_time": "2m", "retry": {"delay": "1m", "factor": 2, "max_delay": "1h", "max_attempts": 30}}

Handler = Callable[[Delivery], None]


def handler(pit: Pitstop, mailer: Mailer, journal: Journal, manager: str, zone: ZoneInfo) -> Handler:
    """Return the handler of all deliveries, for the loop of a worker and for tests."""
    # The time is Pitstop's here as everywhere, so that a test has one clock to move.
    post = Post(mailer, journal, pit.now)
    by_kind: dict[str, Handler] = {
        escalation.KIND: lambda delivery: escalation.send_reminder(delivery, post, manager),
        report.SERIES: lambda delivery: report.store_report(pit, delivery, zone),
        report.KIND: lambda delivery: report.send_report(delivery, post, journal, manager, zone),
        digest.KIND: lambda delivery: digest.send_digest(pit, delivery, post, zone),
    }
    return lambda delivery: by_kind[delivery.msg["kind"]](delivery)
