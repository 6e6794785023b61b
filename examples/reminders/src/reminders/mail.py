"""Mails, and the ways on which they go out."""

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
        """Send it, or raise: then the message that asked for it comes back."""


class Console:
    """For looking at it without a mail server."""

    def send(self, mail: Mail) -> None:
        print(f"To: {', '.join(mail.to)}\nSubject: {mail.subject}\n{mail.text}\n", flush=True)


class Smtp:
    def __init__(self, host: str, sender: str) -> None:
        self._host, self._sender = host, sender

    def send(self, mail: Mail) -> None:
        message = EmailMessage()
        message["From"], message["To"], message["Subject"] = self._sender, ", ".join(mail.to), mail.subject
        message.set_content(mail.text)
        # Much shorter than the lease: a handler that hangs would lose its message to another worker.
        with smtplib.SMTP(self._host, timeout=20) as server:
            server.send_message(message)


class Post:
    """Sends one mail for each delivery, however often that comes.

    At least once means that a message may come again although its mail went out: the worker died before the ack, or the
    ack got lost. Then it has the same ``key``. A crash between the next two lines is all that is left: that mail goes out twice.
    """

    def __init__(self, mailer: Mailer, journal: Journal, now: Callable[[], datetime]) -> None:
        self._mailer, self._journal, self._now = mailer, journal, now

    def send(self, delivery: Delivery, what: str, mail: Mail) -> None:
        if delivery.key not in self._journal:
            self._mailer.send(mail)
            self._journal.note(delivery.key, what, self._now())
