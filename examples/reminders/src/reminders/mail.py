"""Mails, and the ways in which they are sent."""

from __future__ import annotations

import smtplib

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from email.message import EmailMessage
from typing import Protocol

from pitstop import Delivery
from reminders.journal import Journal


@dataclass(frozen=True)
class Mail:
    to: tuple[str, ...]
    subject: str
    text: str = ""


class Mailer(Protocol):
    def send(self, mail: Mail) -> None:
        """Send the mail, or raise: the message of the mail then comes back."""


class Console:
    """Prints mails, to try the application without a mail server."""

    def send(self, mail: Mail) -> None:
        print(f"To: {', '.join(mail.to)}\nSubject: {mail.subject}\n{mail.text}\n", flush=True)


class Smtp:
    def __init__(self, host: str, sender: str) -> None:
        self._host, self._sender = host, sender

    def send(self, mail: Mail) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, ", ".join(mail.to), mail.subject
        message.set_content(mail.text)
        # The timeout is much shorter than the lease: a handler that hangs would lose its message to another worker.
        with smtplib.SMTP(self._host, timeout=20) as server:
            server.send_message(message)


class Post:
    """Sends one mail for each delivery, however often the delivery comes.

    At least once means that a message may come again although its mail went out: the worker died before the ack, or the ack
    got lost. The message then has the same ``key``. Only a crash between the two lines in :meth:`send` sends a mail twice.
    """

    def __init__(self, mailer: Mailer, journal: Journal, now: Callable[[], datetime]) -> None:
        self._mailer, self._journal, self._now = mailer, journal, now

    def send(self, delivery: Delivery, what: str, mail: Mail) -> None:
        if delivery.key not in self._journal:
            self._mailer.send(mail)
            self._journal.note(delivery.key, what, self._now())
