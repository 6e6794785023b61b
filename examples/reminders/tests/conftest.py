"""The service around the fixture ``pitstop``, with a mail server that the test controls, and the company's wall clock."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from pitstop.testing import ManualClock, Report
from reminders.journal import Journal
from reminders.mail import Mail
from reminders.service import OPTIONS, handler


BERLIN = ZoneInfo("Europe/Berlin")


class MailServer:
    """Takes mails, or is away. It records which mails went out and when, as the people see them."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._away_until = clock.now()
        self.sent: list[str] = []
        self.texts: list[str] = []
        #: Called while a mail is being sent, for events that happen in between.
        self.meanwhile: Callable[[], object] = lambda: None

    def is_away_for(self, span: timedelta) -> None:
        self._away_until = self._clock.now() + span

    def send(self, mail: Mail) -> None:
        now = self._clock.now()
        if now < self._away_until:
            raise ConnectionError("the mail server is away")
        self.meanwhile()
        self.texts.append(mail.text)
        self.sent.append(f"{now.astimezone(BERLIN):%a %d %b %H:%M} {' + '.join(mail.to)}: {mail.subject}")


@pytest.fixture
def pitstop_config():
    """In memory, and otherwise as in production, with the same leases and retries."""
    return OPTIONS


@pytest.fixture
def pitstop_start_time():
    return "2024-03-04T08:00+01:00"  # a Monday


@pytest.fixture
def journal():
    journal = Journal()
    yield journal
    journal.close()


@pytest.fixture
def mails(pitstop_clock):
    return MailServer(pitstop_clock)


@pytest.fixture
def handle(pitstop, mails, journal):
    return handler(pitstop, mails, journal, manager="boss", zone=BERLIN)


@pytest.fixture
def run_for(pitstop, handle):
    """Let time pass while a worker runs. A failed message comes back, as in production, and is in the report."""

    def run_for(span: str) -> Report:
        return pitstop.run_for(span, handle, deliveries=True, raise_errors=False)

    return run_for


@pytest.fixture
def at():
    """Return a time on the company's wall clock: ``at("2024-03-04 09:00")``."""
    return lambda text: datetime.fromisoformat(text).replace(tzinfo=BERLIN)
