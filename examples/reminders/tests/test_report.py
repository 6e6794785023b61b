"""The monthly report, on the last day of the month at six, for months of any length."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest

from reminders.escalation import answer, remind
from reminders.report import schedule_reports

from .conftest import BERLIN


@pytest.mark.parametrize(
    ("after", "due"),
    [
        ("2024-01-15 12:00", "2024-01-31 18:00"),
        ("2024-01-31 17:59", "2024-01-31 18:00"),
        ("2024-01-31 18:00", "2024-01-31 18:00"),
        ("2024-01-31 18:01", "2024-02-29 18:00"),
        ("2023-01-31 23:00", "2023-02-28 18:00"),
        ("2100-02-01 00:00", "2100-02-28 18:00"),
        ("2024-12-31 18:01", "2025-01-31 18:00"),
        ("2024-03-30 12:00", "2024-03-31 18:00"),
    ],
)
@pytest.mark.pitstop(start="2023-01-01T00:00Z")
def test_it_is_due_at_the_next_end_of_a_month(pitstop, pitstop_clock, at, after, due):
    pitstop_clock.advance_to(at(after))

    schedule_reports(pitstop, BERLIN)

    pitstop.assert_stored({"kind": "reports"}, due=at(due))


def test_a_day_is_a_day_of_the_company(pitstop, pitstop_clock):
    pitstop_clock.advance_to(datetime(2024, 4, 1, 0, 30, tzinfo=UTC))  # in Los Angeles it is half past five in March

    schedule_reports(pitstop, ZoneInfo("America/Los_Angeles"))

    pitstop.assert_stored({"kind": "reports"}, due_in="30m")


@pytest.mark.pitstop(start="2024-01-01T09:00+01:00")
def test_for_two_years_each_month_has_one(pitstop, run_for, mails):
    schedule_reports(pitstop, BERLIN)

    run_for("731d")

    assert [sent.partition(" boss: ")[0] for sent in mails.sent[:5]] == [
        "Wed 31 Jan 18:00",
        "Thu 29 Feb 18:00",
        "Sun 31 Mar 18:00",  # the day on which the clocks were set
        "Tue 30 Apr 18:00",
        "Fri 31 May 18:00",
    ]
    months = [f"{year}-{month:02}" for year in (2024, 2025) for month in range(1, 13)]
    assert [sent.rpartition(" ")[2] for sent in mails.sent] == months


def test_it_counts_the_events_since_the_last_report(pitstop, run_for, mails, journal, at):
    schedule_reports(pitstop, BERLIN)
    remind(pitstop, "a", "ada", "offer 1", at("2024-03-05 09:00"))
    done = remind(pitstop, "b", "bob", "offer 2", at("2024-03-05 09:00"))
    run_for("26h")  # until ten o'clock
    answer(pitstop, journal, done)
    for _ in range(2):
        answer(pitstop, journal, remind(pitstop, "b", "bob", "offer 2, once more", at("2024-04-02 09:00")))
    remind(pitstop, "c", "ada", "offer 3", at("2024-04-02 09:00"))

    run_for("60d")

    reports = [text for sent, text in zip(mails.sent, mails.texts, strict=True) if "Reminders in" in sent]
    assert reports == ["asked: 4\nanswered: 3\nescalated: 1", "asked: 3\nanswered: 0\nescalated: 1"]


def test_workers_that_start_in_between_make_no_second_one(pitstop, run_for, mails, at):
    outcomes = []
    for _ in range(20):
        outcomes.append(schedule_reports(pitstop, BERLIN).outcome)
        run_for("2d")

    assert outcomes == ["created"] + ["kept"] * 19
    assert mails.sent == ["Sun 31 Mar 18:00 boss: Reminders in 2024-03"]
    pitstop.assert_stored({"kind": "reports"}, due=at("2024-04-30 18:00"))


def test_a_company_that_moves_gets_its_report_by_the_new_clock(pitstop, at):
    schedule_reports(pitstop, BERLIN)

    assert schedule_reports(pitstop, ZoneInfo("America/Los_Angeles")).outcome == "replaced"

    pitstop.assert_stored({"kind": "reports"}, due=at("2024-04-01 03:00"))
