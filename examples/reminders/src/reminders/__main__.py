"""The command. `python -m reminders` works; a web page would call the functions of `... remind` and `... answer`."""

from __future__ import annotations

import argparse
import logging
import os

from collections.abc import Sequence
from contextlib import closing
from datetime import datetime
from zoneinfo import ZoneInfo

import pitstop

from reminders.escalation import answer, remind
from reminders.journal import Journal
from reminders.mail import Console, Smtp
from reminders.report import schedule_reports
from reminders.service import OPTIONS, handler


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="reminders", description="Reminds people by mail until they answer.")
    commands = parser.add_subparsers(dest="command", metavar="remind | answer")
    new = commands.add_parser("remind", help="ask a person at a time; without a command: work")
    new.add_argument("name")
    new.add_argument("who")
    new.add_argument("about")
    new.add_argument("at", type=datetime.fromisoformat, help="such as 2031-03-01T09:00, in the company's zone")
    commands.add_parser("answer", help="note that the task is done").add_argument("id")
    given = parser.parse_args(arguments)

    url = os.environ.get("REMINDERS_URL", "sqlite:///reminders.db")
    zone = ZoneInfo(os.environ.get("REMINDERS_ZONE", "Europe/Berlin"))
    path = os.environ.get("REMINDERS_JOURNAL", "journal.db")
    with pitstop.init({"url": url, **OPTIONS}) as pit, closing(Journal(path)) as journal:
        if given.command == "remind":
            at = given.at if given.at.tzinfo else given.at.replace(tzinfo=zone)
            print(remind(pit, given.name, given.who, given.about, at))
        elif given.command == "answer":
            print("done" if answer(pit, journal, given.id) else "no open reminder has this id")
        else:
            run(pit, journal, zone)


def run(pit: pitstop.Pitstop, journal: Journal, zone: ZoneInfo) -> None:
    """Work until SIGTERM or Ctrl-C comes. The messages in hand are finished then."""
    logging.basicConfig(level=logging.INFO)
    smtp = os.environ.get("REMINDERS_SMTP")
    manager = os.environ.get("REMINDERS_MANAGER", "manager@localhost")
    mailer = Smtp(smtp, sender=manager) if smtp else Console()
    # The series of reports begins at the first start of a worker.
    schedule_reports(pit, zone)
    pit.consume(handler(pit, mailer, journal, manager, zone))


if __name__ == "__main__":
    main()
