"""A year of the company: on each working day a person is reminded, and answers sooner, later or never."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from random import Random

import pytest

from pitstop import BackendUnavailable
from reminders.digest import start_digest
from reminders.escalation import answer, remind
from reminders.report import schedule_reports

from .conftest import BERLIN


PEOPLE = ("ada", "bob", "cyd", "dan", "eve")
#: The hours after the first mail. The last number is too late: the manager was asked.
HOURS = (1, 3, 5, 7)

pytestmark = pytest.mark.pitstop(start="2024-01-01T08:00+01:00")


def a_year(pitstop, journal, run_for):
    """Live through 2024. Return how often each mail must have gone out, without its time."""
    dice, wanted = Random(1), Counter()
    # The days of the company begin at eight by its clock, also when the clocks are set and a day has 23 or 25 hours.
    mornings = [datetime(2024, 1, 1, 8, tzinfo=BERLIN) + timedelta(days=day) for day in range(367)]
    until_it_is_done(lambda: schedule_reports(pitstop, BERLIN))
    wanted.update(f"boss: Reminders in 2024-{month:02}" for month in range(1, 13))
    # On Mondays, when ada's task of the day is open.
    start_digest(pitstop, "ada", pitstop.now() + timedelta(minutes=30), pitstop.now() + timedelta(days=366), BERLIN)
    wanted["ada: 1 open"] = 53
    for day, next_morning in enumerate(mornings[1:]):
        if day % 7 >= len(PEOPLE):
            run_for(next_morning - pitstop.now())
            continue
        who, hours, about = PEOPLE[day % 7], dice.choice(HOURS), f"task {day}"
        id = until_it_is_done(lambda: remind(pitstop, f"task-{day}", who, about, pitstop.now() + timedelta(hours=1)))  # noqa: B023
        run_for(f"{1 + hours}h")
        until_it_is_done(lambda: answer(pitstop, journal, id))  # noqa: B023
        run_for(next_morning - pitstop.now())
        asked = min(3, 1 + hours // 2)
        wanted.update(f"{who}: Reminder {number} of 3: {about}" for number in range(1, asked + 1))
        wanted.update([f"boss + {who}: Not answered: {about}"] if hours > 6 else [])
    return wanted


def until_it_is_done(call):
    """Repeat a call until it succeeds, as a web page or its user does."""
    while True:
        try:
            return call()
        except BackendUnavailable:
            pass


def test_all_get_their_mails_and_the_reports_add_up(pitstop, journal, run_for, mails):
    wanted = a_year(pitstop, journal, run_for)

    assert Counter(sent[len("Mon 01 Jan 09:00 ") :] for sent in mails.sent) == wanted
    assert pitstop.now().astimezone(BERLIN).isoformat() == "2025-01-01T08:00:00+01:00"
    pitstop.assert_stored({"kind": "reports"}, due=datetime(2025, 1, 31, 18, tzinfo=BERLIN))
    pitstop.assert_no_leases()


@pytest.mark.parametrize("seed", range(2))
def test_in_a_year_of_faults_they_get_the_same_mails(pitstop, pitstop_faults, journal, handle, mails, seed):
    """One call of the store in twenty fails or loses its reply, and a worker dies at about each thirtieth message."""
    pitstop_faults.at_random(0.05, seed=seed, operations=("store", "remove", "lease", "settle"))
    dice = Random(seed)

    def dies_at_times(delivery):
        if dice.random() < 0.02:
            pitstop_faults.crash()
        handle(delivery)
        if dice.random() < 0.02:
            pitstop_faults.crash()

    def run_for(span):
        return pitstop.run_for(span, dies_at_times, deliveries=True, raise_errors=False)

    wanted = a_year(pitstop, journal, run_for)

    assert Counter(sent[len("Mon 01 Jan 09:00 ") :] for sent in mails.sent) == wanted
    assert len(pitstop_faults.log) > 100
