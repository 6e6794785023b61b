"""Failures of the mail server, the worker and the store, for moments, days and weeks. No mail goes out twice."""

from __future__ import annotations

from datetime import timedelta

import pytest

from pitstop import BackendUnavailable, OutcomeUnknown
from reminders.digest import start_digest
from reminders.escalation import answer, remind
from reminders.report import schedule_reports

from .conftest import BERLIN


@pytest.fixture
def offer(pitstop, at):
    """The id of a reminder for nine o'clock."""
    return remind(pitstop, "offer-17", "ada", "offer 17", at("2024-03-04 09:00"))


ALL_FOUR = [
    "ada: Reminder 1 of 3: offer 17",
    "ada: Reminder 2 of 3: offer 17",
    "ada: Reminder 3 of 3: offer 17",
    "boss + ada: Not answered: offer 17",
]


def without_times(sent):
    return [each[len("Mon 04 Mar 09:00 ") :] for each in sent]


class TestTheMailServerIsAway:
    def test_for_a_quarter_of_an_hour(self, offer, pitstop_clock, mails, run_for):
        pitstop_clock.advance("55m")
        mails.is_away_for(timedelta(minutes=15))

        report = run_for("2h")

        assert [step.at.minute for step in report.steps[:5]] == [0, 1, 3, 7, 15]
        assert report[0].error == "ConnectionError: the mail server is away"
        assert mails.sent == ["Mon 04 Mar 09:15 ada: Reminder 1 of 3: offer 17"]

    def test_for_a_day(self, pitstop, offer, mails, journal, run_for, at):
        answered = remind(pitstop, "offer-18", "bob", "offer 18", at("2024-03-04 10:00"))
        mails.is_away_for(timedelta(days=1))
        run_for("23h")
        answer(pitstop, journal, answered)  # on the phone

        report = run_for("1d")

        # At most an hour late. The last mail names all the mails that ada did not get in between.
        assert mails.sent == [
            "Tue 05 Mar 08:03 ada: Reminder 1 of 3: offer 17",
            "Tue 05 Mar 08:03 boss + ada: Not answered: offer 17",
        ]
        assert report.skipped == 2
        pitstop.refute_stored()

    def test_for_three_days(self, pitstop, mails, run_for, pitstop_clock, at):
        schedule_reports(pitstop, BERLIN)
        pitstop_clock.advance_to(at("2024-03-31 17:00"))
        mails.is_away_for(timedelta(days=3))

        run_for("4d")

        dead = pitstop.assert_dead({"kind": "report"}, error="the mail server is away", attempts=30)
        assert mails.sent == []

        assert pitstop.redrive(dead.id)
        run_for("30d")

        assert mails.sent == [
            "Thu 04 Apr 17:00 boss: Reminders in 2024-03",
            "Tue 30 Apr 18:00 boss: Reminders in 2024-04",
        ]

    def test_a_report_that_is_redriven_in_autumn_sends_that_month_and_no_other_again(
        self, pitstop, mails, run_for, pitstop_clock, at
    ):
        schedule_reports(pitstop, BERLIN)
        pitstop_clock.advance_to(at("2024-03-31 17:00"))
        mails.is_away_for(timedelta(days=3))
        run_for("180d")
        assert len(mails.sent) == 5  # from April to August

        pitstop.redrive(pitstop.assert_dead().id)
        run_for("1d")

        assert without_times(mails.sent)[5:] == ["boss: Reminders in 2024-03"]
        pitstop.assert_stored({"kind": "reports"}, due=at("2024-09-30 18:00"))


class TestTheServiceWasDown:
    """No worker ran for a week: the clock moves, and nothing is handled."""

    def test_a_reminder_of_that_time_comes_once_for_both(self, pitstop, offer, pitstop_clock, run_for, mails):
        pitstop_clock.advance("7d")

        report = run_for("1h")

        assert mails.sent == ["Mon 11 Mar 08:00 boss + ada: Not answered: offer 17"]
        assert mails.texts == ["3 earlier mails could not be sent."]
        assert report.skipped == 3
        pitstop.refute_stored()

    def test_a_digest_of_that_time_is_left_out_and_the_series_goes_on(self, pitstop, pitstop_clock, run_for, mails, at):
        start_digest(pitstop, "ada", at("2024-03-04 08:30"), at("2024-06-01 00:00"), BERLIN)
        remind(pitstop, "a", "ada", "offer", at("2024-04-02 09:00"))
        pitstop_clock.advance("6d")

        run_for("2d")

        assert mails.sent == ["Mon 11 Mar 08:30 ada: 1 open"]

    def test_a_report_of_that_time_comes_late_and_the_next_one_in_time(
        self, pitstop, pitstop_clock, run_for, mails, at
    ):
        schedule_reports(pitstop, BERLIN)
        pitstop_clock.advance_to(at("2024-04-05 09:00"))

        run_for("30d")

        assert mails.sent == [
            "Fri 05 Apr 09:00 boss: Reminders in 2024-03",
            "Tue 30 Apr 18:00 boss: Reminders in 2024-04",
        ]

    def test_after_a_quarter_each_month_has_its_report_all_the_same(self, pitstop, pitstop_clock, run_for, mails, at):
        schedule_reports(pitstop, BERLIN)
        pitstop_clock.advance_to(at("2024-06-03 09:00"))

        run_for("1m")

        assert without_times(mails.sent) == [f"boss: Reminders in 2024-0{month}" for month in (3, 4, 5)]


class TestTheWorkerDies:
    def test_before_the_mail(self, pitstop, offer, pitstop_faults, handle, mails):
        def dies(delivery):
            if delivery.attempt == 1:
                pitstop_faults.crash()
            handle(delivery)

        report = pitstop.run_for("2h", dies, deliveries=True)

        assert report.outcomes == ["crashed", "acked"]
        assert mails.sent == ["Mon 04 Mar 09:02 ada: Reminder 1 of 3: offer 17"]  # when the lease ran out

    def test_after_the_mail(self, pitstop, offer, pitstop_faults, handle, mails):
        def dies(delivery):
            handle(delivery)
            if delivery.attempt == 1:
                pitstop_faults.crash()

        report = pitstop.run_for("1d", dies, deliveries=True)

        assert report.outcomes == ["crashed", "acked"] * 4
        assert without_times(mails.sent) == ALL_FOUR
        pitstop.assert_no_leases()


class TestTheStoreIsAwayForAMoment:
    def test_a_reminder_whose_reply_got_lost_is_stored_again(self, pitstop, pitstop_faults, run_for, mails, at):
        pitstop_faults.lose_reply("store")
        with pytest.raises(OutcomeUnknown):
            remind(pitstop, "offer-17", "ada", "offer 17", at("2024-03-04 09:00"))

        remind(pitstop, "offer-17", "ada", "offer 17", at("2024-03-04 09:00"))
        run_for("1d")

        assert without_times(mails.sent) == ALL_FOUR

    @pytest.mark.parametrize(("fault", "is_open"), [("fail_next", True), ("lose_reply", False)])
    def test_an_answer_whose_reply_got_lost_is_repeated(
        self, pitstop, offer, pitstop_faults, pitstop_clock, journal, fault, is_open
    ):
        start = pitstop.now()
        getattr(pitstop_faults, fault)("remove")
        with pytest.raises(BackendUnavailable):
            answer(pitstop, journal, offer)
        pitstop_clock.advance("1m")

        assert answer(pitstop, journal, offer) == is_open
        assert journal.count(start, pitstop.now()) == {"answered": 1}
        pitstop.refute_stored()

    @pytest.mark.parametrize("fault", ["fail_next", "lose_reply"])
    def test_when_a_mail_went_out_and_the_ack_is_due(self, offer, pitstop_faults, run_for, mails, fault):
        getattr(pitstop_faults, fault)("ack")

        report = run_for("1d")

        assert report[0].outcome == "unsettled"
        assert without_times(mails.sent) == ALL_FOUR

    @pytest.mark.parametrize(("fault", "minute"), [("fail_next", 1), ("lose_reply", 0)])
    def test_when_the_series_stores_a_report(self, pitstop, pitstop_faults, run_for, mails, fault, minute):
        """If the report was stored all the same, it is stored again, and comes twice. The mail goes out once."""
        schedule_reports(pitstop, BERLIN)
        getattr(pitstop_faults, fault)("store")

        report = run_for("60d")

        assert (report[0].id, report[0].outcome) == ("reports", "nacked")
        assert [step.id for step in report.steps].count("report:2024-03") == 2 - minute
        assert mails.sent == [
            f"Sun 31 Mar 18:0{minute} boss: Reminders in 2024-03",
            "Tue 30 Apr 18:00 boss: Reminders in 2024-04",
        ]
