"""Watch: waits for the notifications of other handles, on a connection of its own.

They are only hints. If the connection is lost, a new watch begins at the present. The listeners look at the store then.
"""

from __future__ import annotations

import contextlib

import psycopg

from pitstop import BackendUnavailable
from pitstop.abc import SystemClock, Watch
from pitstop_postgres._database import Database
from pitstop_postgres._failures import translate
from pitstop_postgres._hints import PAUSED, Hints


__all__ = ["PostgresWatch"]

#: Seconds of one wait.
_WAIT = 5.0
#: Seconds for an answer of the server.
_PATIENCE = 4.0
#: Seconds without a notification after which the server is asked whether it is there.
_IDLE = 30.0
_clock = SystemClock()


class PostgresWatch(Watch):
    """Follows one channel."""

    #: The poll itself waits.
    pause: float = 0.0

    def __init__(self, database: Database, hints: Hints) -> None:
        self._database = database
        self._hints = hints
        self.paused = False
        try:
            self._session = database.pool.open(_clock.monotonic() + _PATIENCE)
            self._session.deadline = _clock.monotonic() + _PATIENCE
            self._session.change(f'LISTEN "{hints.channel}"')
        except psycopg.Error as error:
            raise translate(error, database.location) from None
        self._heard = _clock.monotonic()

    def poll(self) -> int | None:
        self.paused = False
        if self._database.pool.is_closed:
            raise BackendUnavailable(
                f"The watch of PostgreSQL at {self._database.location} has ended: this backend was closed."
            )
        try:
            payloads = self._session.notifications(_WAIT)
            if not payloads and _clock.monotonic() - self._heard > _IDLE:
                self._session.deadline = _clock.monotonic() + _PATIENCE
                self._session.fetch("SELECT 1")
                self._heard = _clock.monotonic()
        except psycopg.Error as error:
            raise translate(error, self._database.location) from None
        if payloads:
            self._heard = _clock.monotonic()
        return self._least(payloads)

    def close(self) -> None:
        with contextlib.suppress(psycopg.Error):
            self._session.close()

    def _least(self, payloads: list[str]) -> int | None:
        least: int | None = None
        for payload in payloads:
            text = self._hints.heard(payload)
            if text is None:
                continue
            if text == PAUSED:
                self.paused = True
                least = 0
            else:
                # A text that is no number is a hint of an unknown kind: something may have changed.
                due = int(text) if text.isdecimal() else 0
                least = due if least is None else min(least, due)
        return least
