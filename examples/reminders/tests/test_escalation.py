"""A person is asked, asked again, and then the manager is asked, until the answer comes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from pitstop import LeaseLost, MessageError
from reminders.escalation import answer, remind


@pytest.fixture
def offer(pitstop, at):
    """The id of a reminder for nine o'clock."""
    return remind(pitstop, "offer-17", "ada", "offer 17", at("2024-03-04 09:00"))


def test_it_is_stored_for_its_time_and_names_the_person(pitstop, offer):
    pitstop.assert_stored({"who": "ada", "about": "offer 17"}, id=offer, due_in="1h", state="scheduled")


def test_without_an_answer_the_person_is_asked_three_times_and_then_the_manager(pitstop, offer, run_for, mails):
    run_for("1d")

    assert mails.sent == [
        "Mon 04 Mar 09:00 ada: Reminder 1 of 3: offer 17",
        "Mon 04 Mar 11:00 ada: Reminder 2 of 3: offer 17",
        "Mon 04 Mar 13:00 ada: Reminder 3 of 3: offer 17",
        "Mon 04 Mar 15:00 boss + ada: Not answered: offer 17",
    ]
    pitstop.refute_stored()


def test_after_the_answer_there_are_no_more_mails(pitstop, offer, run_for, mails, journal):
    run_for("4h")

    assert answer(pitstop, journal, offer)
    pitstop.refute_stored()
    run_for("1d")

    assert mails.sent == [
        "Mon 04 Mar 09:00 ada: Reminder 1 of 3: offer 17",
        "Mon 04 Mar 11:00 ada: Reminder 2 of 3: offer 17",
    ]


def test_an_answer_while_a_mail_is_being_sent_counts(pitstop, offer, run_for, mails, journal):
    mails.meanwhile = lambda: answer(pitstop, journal, offer)

    report = run_for("1d")

    assert report.outcomes == ["superseded"]  # no message is left to acknowledge
    assert len(mails.sent) == 1
    pitstop.refute_stored()


def test_a_worker_that_fails_after_the_answer_does_not_bring_the_reminder_back(pitstop, offer, pitstop_clock, journal):
    pitstop_clock.advance("1h")
    with pitstop.listen() as listener:
        delivery = listener.get()
        assert answer(pitstop, journal, offer)

        with pytest.raises(LeaseLost):
            delivery.nack("the mail server is away")

    pitstop.refute_stored()


def test_a_second_answer_finds_no_open_reminder(pitstop, offer, journal):
    assert answer(pitstop, journal, offer)
    assert not answer(pitstop, journal, offer)
    assert not answer(pitstop, journal, "reminder:never-stored")


def test_a_reminder_of_the_same_name_takes_the_place_of_the_first(pitstop, offer, run_for, mails, at):
    run_for("2h")  # one mail went out

    assert remind(pitstop, "offer-17", "bob", "offer 17", at("2024-03-05 09:00")) == offer
    run_for("26h")

    assert mails.sent == [
        "Mon 04 Mar 09:00 ada: Reminder 1 of 3: offer 17",
        "Tue 05 Mar 09:00 bob: Reminder 1 of 3: offer 17",
        "Tue 05 Mar 11:00 bob: Reminder 2 of 3: offer 17",
    ]
    pitstop.assert_stored({"who": "bob"})


def test_a_time_without_a_zone_is_refused(pitstop):
    with pytest.raises(MessageError, match="first"):
        remind(pitstop, "offer-17", "ada", "offer 17", datetime(2024, 3, 4, 9))

    pitstop.refute_stored()


@pytest.mark.parametrize("evening", ["2024-03-30 22:00", "2024-10-26 22:00"], ids=["to summer", "to winter"])
def test_two_hours_are_two_hours_in_the_night_when_the_clocks_are_set(pitstop, pitstop_clock, run_for, at, evening):
    first = at(evening)
    pitstop_clock.advance_to(first)
    remind(pitstop, "night-shift", "ada", "the furnace", first)

    report = run_for("1d")

    hours = [(time - first.astimezone(UTC)).total_seconds() / 3600 for time in report.times]
    assert hours == [0, 2, 4, 6]
