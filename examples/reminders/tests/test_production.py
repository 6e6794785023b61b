"""The service as it runs in production: on SQLite, by the command, in a loop that a signal ends."""

from __future__ import annotations

import os
import signal

import pytest

from pitstop import init, testing
from reminders.__main__ import main
from reminders.escalation import answer, remind
from reminders.mail import Console
from reminders.service import OPTIONS


class TestOnSqlite:
    @pytest.fixture
    def pitstop_config(self, tmp_path):
        return {"type": "sqlite", "path": tmp_path / "reminders.db", **OPTIONS}

    def test_a_reminder_escalates_there_as_it_does_in_memory(self, pitstop, run_for, mails, at):
        remind(pitstop, "offer-17", "ada", "offer 17", at("2024-03-04 09:00"))

        run_for("1d")

        assert len(mails.sent) == 4
        assert mails.sent[-1] == "Mon 04 Mar 15:00 boss + ada: Not answered: offer 17"

    def test_what_is_stored_outlives_a_restart(self, pitstop, pitstop_config, pitstop_clock, run_for, journal, at):
        offer = remind(pitstop, "offer-17", "ada", "offer 17", at("2024-03-04 09:00"))
        run_for("2h")
        pitstop.close()

        with testing.init(pitstop_config, clock=pitstop_clock) as restarted:
            restarted.assert_stored({"who": "ada"}, id=offer, due_in="1h")
            assert answer(restarted, journal, offer)


class TestTheWorker:
    def test_goes_on_after_a_failure_and_after_an_answer_in_between(self, pitstop, journal, caplog):
        fails, answered, last = (remind(pitstop, name, "ada", "an offer", pitstop.now()) for name in "abc")

        def handle(delivery):
            if delivery.id == fails:
                raise ConnectionError("the mail server is away")
            if delivery.id == answered:
                answer(pitstop, journal, answered)

        summary = pitstop.consume(handle, until_idle=True)

        assert (summary.acked, summary.nacked, summary.superseded) == (1, 1, 1)
        pitstop.assert_stored(id=fails, due_in="1m", last_error="ConnectionError: the mail server is away")
        pitstop.refute_stored(id=answered)
        pitstop.assert_stored(id=last, due_in="2h")
        assert [record.levelname for record in caplog.records] == ["ERROR"]


class TestTheCommand:
    @pytest.fixture(autouse=True)
    def files(self, tmp_path, monkeypatch):
        monkeypatch.setenv("REMINDERS_URL", f"sqlite:///{tmp_path}/reminders.db")
        monkeypatch.setenv("REMINDERS_JOURNAL", f"{tmp_path}/journal.db")
        for name in ("REMINDERS_SMTP", "REMINDERS_MANAGER", "REMINDERS_ZONE"):
            monkeypatch.delenv(name, raising=False)

    @pytest.fixture
    def stops_after_a_mail(self, monkeypatch):
        """A `kill` while the first mail is being sent."""
        send = Console.send

        def send_and_stop(self, mail):
            os.kill(os.getpid(), signal.SIGTERM)
            send(self, mail)

        monkeypatch.setattr(Console, "send", send_and_stop)

    def test_sends_due_mails_and_ends_at_a_signal(self, stops_after_a_mail, capsys):
        main(["remind", "offer-17", "ada", "offer 17", "2024-03-04T09:00"])

        main([])

        with init(os.environ["REMINDERS_URL"]) as pit:
            assert [entry.message["kind"] for entry in pit.entries()] == ["reports"]
        printed = capsys.readouterr().out
        assert printed.startswith("reminder:offer-17\n")
        assert printed.count("Subject: Not answered: offer 17") == 1
        main(["answer", "reminder:offer-17"])
        assert capsys.readouterr().out == "no open reminder has this id\n"

    def test_takes_an_answer(self, capsys):
        main(["remind", "offer-17", "ada", "offer 17", "2100-03-04T09:00+01:00"])
        main(["answer", "reminder:offer-17"])
        main(["answer", "reminder:offer-17"])

        assert capsys.readouterr().out.splitlines()[1:] == ["done", "no open reminder has this id"]
