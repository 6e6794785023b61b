"""The weekly digest, which has an end."""

from __future__ import annotations

import pytest

from reminders.digest import start_digest
from reminders.escalation import remind

from .conftest import BERLIN


@pytest.fixture
def digest(pitstop, at):
    """A digest for ada, on three Mondays."""
    return start_digest(pitstop, "ada", at("2024-03-04 08:30"), at("2024-03-25 08:30"), BERLIN)


def test_each_week_it_lists_open_reminders_until_its_end(pitstop, digest, run_for, mails, at):
    for name in ("a", "b"):
        remind(pitstop, name, "ada", f"offer {name}", at("2024-04-02 09:00"))
    remind(pitstop, "c", "bob", "offer c", at("2024-03-20 09:00"))

    run_for("29d")

    assert [sent for sent in mails.sent if "open" in sent] == [
        "Mon 04 Mar 08:30 ada: 2 open",
        "Mon 11 Mar 08:30 ada: 2 open",
        "Mon 18 Mar 08:30 ada: 2 open",
    ]
    pitstop.refute_stored(id=digest)


def test_all_that_is_open_is_in_it_however_much_it_is(pitstop, digest, run_for, mails, at):
    for number in range(250):
        remind(pitstop, f"task-{number}", "ada", "a task", at("2024-04-02 09:00"))

    run_for("1h")

    assert mails.sent == ["Mon 04 Mar 08:30 ada: 250 open"]


def test_a_person_without_open_reminders_gets_none(digest, run_for, mails):
    report = run_for("21d")

    assert report.acked == 3
    assert mails.sent == []


def test_a_week_is_one_of_the_calendar_also_when_the_clocks_are_set(pitstop, run_for, at):
    start_digest(pitstop, "ada", at("2024-03-25 08:30"), at("2024-04-02 00:00"), BERLIN)

    report = run_for("30d")

    assert report.times == [at("2024-03-25 08:30"), at("2024-04-01 08:30")]
